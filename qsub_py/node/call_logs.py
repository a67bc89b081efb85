"""Where the output of calls that run now is: a part of their runner's log.

A runner marks each call before it begins it, with the place in its log. So what is in the log from
there on is the call's as long as the mark is; after that, up to the end that the keeper tells.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from qsub_py.node.tickets import MARK_LAYOUT
from qsub_py.node.wire import Item

_Task = tuple[str, int]


@dataclass(frozen=True, slots=True)
class _Running:
    """The runner of a call: its log, its mark file, what the mark says while it runs the call."""

    log: str
    mark: str
    serial: int
    index: int

    def start(self) -> int | None:
        """Return where the call's part of the log begins, None when the call is not marked."""
        try:
            with open(self.mark, "rb", buffering=0) as file:
                serial, index, _, start = MARK_LAYOUT.unpack(file.read(MARK_LAYOUT.size))
        except (OSError, ValueError):
            return None
        return start if (serial, index) == (self.serial, self.index) else None


class CallLogs:
    """The parts of runners' logs that belong to calls which somebody follows."""

    def __init__(self) -> None:
        self._running: dict[_Task, _Running] = {}
        self._followed: set[_Task] = set()
        #: Followed calls that ended: log, begin, end.
        self._parts: dict[_Task, tuple[str, int, int]] = {}

    def begun(self, header: dict[str, Any]) -> None:
        """Hear from the keeper that a call has run for a while."""
        log = header.get("log")
        if log:
            where = _Running(log["path"], log["mark"], log["serial"], log["index"])
            self._running[header["key"][1], header["pos"]] = where

    def ended(self, uid: str, items: Iterable[tuple[Item, bytes]]) -> None:
        """Hear how calls ended, and which part of the log was theirs."""
        if not self._running and not self._followed:
            return
        for item, _ in items:
            task = uid, item.pos
            self._running.pop(task, None)
            if task in self._followed:
                begin, size = item.out_at or (0, item.out_size)
                self._parts[task] = (item.out, begin, begin + size)

    def left(self, uid: str, positions: Iterable[int]) -> None:
        """Hear that calls run here no more."""
        for position in positions:
            self._running.pop((uid, position), None)

    def follow(self, uid: str, position: int) -> None:
        """Keep the part of this call when it ends."""
        self._followed.add((uid, position))

    def forget(self, uid: str, position: int) -> None:
        """Nobody follows this call any more."""
        self._followed.discard((uid, position))
        self._parts.pop((uid, position), None)

    def read(self, uid: str, position: int, offset: int, most: int) -> bytes:
        """Return up to `most` bytes of the call's output from `offset`, counted from its begin."""
        part = self._parts.get((uid, position))
        if part is not None:
            log, begin, end = part
            return _read(log, begin + offset, min(most, end - begin - offset))
        where = self._running.get((uid, position))
        start = where.start() if where else None
        if where is None or start is None:
            return b""
        data = _read(where.log, start + offset, most)
        # Looked at after: what was read may be of a call that came next.
        return data if where.start() == start else b""


def _read(path: str, offset: int, most: int) -> bytes:
    if not path or most <= 0:
        return b""
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(offset)
            return file.read(most)
    except OSError:
        return b""
