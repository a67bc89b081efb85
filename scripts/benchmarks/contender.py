"""What contenders have in common: how calls, round trips and commands are timed."""

from __future__ import annotations

import cProfile
import io
import pstats
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.figures import percentile

#: Between round trips, so that the system is idle before each.
_IDLE_S = 0.005
_PROFILE_LINES = 30


class Contender:
    """Something that is measured; a subclass has a method for each group it takes part in.

    Such a method takes n and returns its figures by key.
    """

    def start(self) -> None:
        """Start what is needed, and run it until it is warm."""

    def stop(self) -> None:
        """End all that was started."""

    def pids(self) -> dict[str, list[int]]:
        """Return its processes by role, for profiles."""
        return {}

    def profiled(self, group: str, n: int) -> str:
        """Measure a group under cProfile (this thread alone) and return the dearest functions."""
        profile = cProfile.Profile()
        profile.runcall(getattr(self, group), n)
        text = io.StringIO()
        pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(_PROFILE_LINES)
        return text.getvalue()


class Caller(Contender):
    """A contender that runs calls of `work.add`."""

    def begin(self, n: int) -> Any:
        """Submit n calls and return what `results` needs."""
        return self.begin_all([(i, 1) for i in range(n)])

    def begin_all(self, calls: Sequence[Sequence[float]]) -> Any:
        """Submit calls one by one and return what `results` needs."""
        raise NotImplementedError

    def results(self, handles: Any) -> Sequence[Any]:
        """Return the values of all calls."""
        raise NotImplementedError

    def one(self, i: int) -> Any:
        """Submit one call and return its value."""
        raise NotImplementedError

    def submit(self, n: int) -> dict[str, float]:
        """Time n calls from the first submit to the last result."""
        return {"submit": rate(n, lambda: self._checked(n))}

    def _checked(self, n: int) -> None:
        found = self.results(self.begin(n))
        if len(found) != n:
            raise RuntimeError(f"{len(found)} results of {n} calls")

    def roundtrip(self, n: int) -> dict[str, float]:
        """Time single calls of an idle system."""
        times = []
        for i in range(n):
            time.sleep(_IDLE_S)
            times.append(1000 * seconds(lambda: self.one(i)))  # noqa: B023
        return {"roundtrip_p50": percentile(times, 0.5), "roundtrip_p95": percentile(times, 0.95)}


def seconds(action: Callable[[], object]) -> float:
    """Return how long an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def rate(n: int, action: Callable[[], object]) -> float:
    """Return n divided by the time of an action."""
    return n / seconds(action)


def median_ms(n: int, action: Callable[[], object], *, pause_s: float = 0.0) -> float:
    """Return the median time of n actions."""
    times = []
    for _ in range(n):
        times.append(seconds(action))
        time.sleep(pause_s)
    return 1000 * statistics.median(times)


def process_ms(n: int, argv: Sequence[str], *, pause_s: float = 0.05) -> float:
    """Return the median time of a whole process; raises where it fails."""
    return median_ms(n, lambda: run(argv), pause_s=pause_s)


def run(argv: Sequence[str]) -> str:
    """Run a command to its end and return what it printed."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{argv[-1]} exited {done.returncode}: {done.stderr[-200:].strip()}")
    return done.stdout
