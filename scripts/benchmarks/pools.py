"""Process pools of one host, without a server: concurrent.futures and loky."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks import grid, work
from benchmarks.contender import Caller, rate

_WORKERS = 2


class Pool(Caller):
    """concurrent.futures in one process: no server, no other host, nothing kept."""

    executor: Any

    def start(self) -> None:
        """Start two processes."""
        from concurrent.futures import ProcessPoolExecutor

        self.executor = ProcessPoolExecutor(_WORKERS)
        self.results(self.begin(100))

    def stop(self) -> None:
        """End them."""
        self.executor.shutdown()

    def begin_all(self, calls: Sequence[Sequence[float]]) -> Any:
        """Submit calls one by one."""
        return [self.executor.submit(work.add, *args) for args in calls]

    def results(self, handles: Any) -> Any:
        """Return all values."""
        return [future.result() for future in handles]

    def one(self, i: int) -> Any:
        """Run one call."""
        return self.executor.submit(work.add, i, 1).result()

    def map(self, n: int) -> dict[str, float]:
        """Time a map in chunks of 100."""

        def action() -> None:
            sum(1 for _ in self.executor.map(work.add, range(n), [1] * n, chunksize=100))

        return {"map": rate(n, action)}


class Loky(Pool):
    """loky, as joblib uses it."""

    def start(self) -> None:
        """Start two processes."""
        import loky

        self.executor = loky.get_reusable_executor(_WORKERS)
        self.results(self.begin(100))

    def grid(self, n: int) -> dict[str, float]:
        """Time grid searches through joblib's own backend."""
        return grid.grid(n, "loky")
