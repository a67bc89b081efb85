"""How many pieces of a file to move in one turn of a loop that has other things to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: A turn should take about this long: short against a renewal (2 s), long against a round trip.
_AIM_S = 0.1
_MOST = 32


class Pace:
    """A number that fits itself to how long the last turn took."""

    def __init__(self, most: int = _MOST) -> None:
        self._count, self._most = 1, most

    def run(self, step: Callable[[int], T]) -> T:
        """Return `step(count)`; the next count is larger after a short time, smaller after long."""
        start = time.monotonic()
        result = step(self._count)
        took = time.monotonic() - start
        if took < _AIM_S / 2:
            self._count = min(2 * self._count, self._most)
        elif took > _AIM_S:
            self._count = max(1, self._count // 2)
        return result
