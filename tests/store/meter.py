"""How long scripts hold the server by their own work, however busy the machine is.

Times alone do not tell: other processes, a virtual machine's host and cold caches stretch any of
them several times. How many commands a script gives does not depend on that. So: the most commands
that a call gave, times what a command took in the quick ones of the calls with half as many at
least.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import qsub_py
from qsub_py.store_link import Link

#: Promise 10 of the design.
MOST_MS = 5.0
#: What a command takes at the most, where too few calls are alike to tell.
_COMMAND_MS, _TOO_FEW = 0.02, 3
_STATS = re.compile(r"^cmdstat_([a-z|_-]+):calls=(\d+),usec=(\d+)", re.MULTILINE)


class Meter:
    """Measures scripts on a server of a test's own, on this machine, that nobody else uses."""

    def __init__(self, link: Link) -> None:
        self._link, self._ask = link, link.command
        found = re.search(r"process_id:(\d+)", self._ask("INFO", "server").decode())
        assert found
        #: The processor time of another process: clock_getcpuclockid(3).
        self._clock = ~int(found[1]) << 3 | 2
        #: Commands and milliseconds of each call, by script.
        self.calls: dict[str, list[tuple[int, float]]] = defaultdict(list)
        #: What the server said last; None: it did something else since.
        self._known: tuple[int, int] | None = None
        link.load(*(path.stem for path in Path(qsub_py.__file__).parent.glob("lua/*.lua")))

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Measure all scripts that links run from now on."""
        run, command, pipeline = Link.calls, Link.command, Link.pipeline

        def calls(link: Link, requests: Sequence[Sequence[Any]]) -> list[Any]:
            return self._measure([str(r[0]) for r in requests], lambda: run(link, requests))

        def forget(method: Any) -> Any:
            def other(*args: Any, **more: Any) -> Any:
                self._known = None
                return method(*args, **more)

            return other

        self._ask = lambda *words: command(self._link, *words)
        monkeypatch.setattr(Link, "calls", calls)
        monkeypatch.setattr(Link, "command", forget(command))
        monkeypatch.setattr(Link, "pipeline", forget(pipeline))

    def _stats(self) -> tuple[int, int]:
        """Return how many commands the server did, and for how many microseconds scripts ran."""
        rows = _STATS.findall(self._ask("INFO", "commandstats").decode())
        scripts = sum(int(usec) for name, _, usec in rows if name.startswith("eval"))
        return sum(int(calls) for _, calls, _ in rows), scripts

    def _measure(self, names: Sequence[str], call: Callable[[], list[Any]]) -> list[Any]:
        commands, usec = self._known or self._stats()
        before = time.clock_gettime(self._clock)
        replies = call()
        # Of the processor's time some goes to words that come and leave, of a script's other
        # processes take some.
        spent_ms = (time.clock_gettime(self._clock) - before) * 1000
        self._known = self._stats()
        if len(names) == 1:
            own_ms = min(spent_ms, (self._known[1] - usec) / 1000)
            self.calls[names[0]].append((self._known[0] - commands, own_ms))
        return replies

    def own_ms(self, name: str) -> float:
        """Return how long a call of the script takes by itself at the most."""
        most = max(commands for commands, _ in self.calls[name])
        alike = [ms / commands for commands, ms in self.calls[name] if 2 * commands >= most]
        command_ms = sorted(alike)[len(alike) // 10]
        return most * (min(command_ms, _COMMAND_MS) if len(alike) < _TOO_FEW else command_ms)

    def slow(self) -> dict[str, float]:
        """Return the scripts that take more than they may, and how much."""
        found = {name: self.own_ms(name) for name in self.calls}
        return {name: ms for name, ms in found.items() if ms > MOST_MS}
