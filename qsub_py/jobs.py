"""Job: come back to a job by its id, from any process on any machine of the cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import TimeoutError as FuturesTimeoutError
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsub_py import client as clients
from qsub_py.client import Client
from qsub_py.config import user_name
from qsub_py.errors import SpecError
from qsub_py.failures import load_value
from qsub_py.globs import check_glob
from qsub_py.model import JobInfo, Outcome, State
from qsub_py.results import OrderedRows, fetcher, row_outcome
from qsub_py.store import CancelReply
from qsub_py.tracing import Causes

if TYPE_CHECKING:
    from qsub_py.result_rows import Row


class Job:
    """A job that exists, by its id: `Job(12)`. Raises JobNotFound when it does not."""

    def __init__(self, id: int | str, *, client: Client | None = None) -> None:
        text = str(id)
        if not (text.isascii() and text.isdigit()):
            raise SpecError(f"a job's id is a number such as 12, not {id!r}")
        self.id = int(text)
        self._client = client or clients.shared()
        self.info()

    def __repr__(self) -> str:
        return f"Job({self.id})"

    def __len__(self) -> int:
        """Return how many tasks it has."""
        return self.info().total

    def info(self) -> JobInfo:
        """Return the job as the server has it now."""
        return self._client.ask(lambda store: store.job(self.id))

    @property
    def state(self) -> State:
        """RUNNING if any task runs, else PENDING if any waits, else the worst end."""
        return self.info().state

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until every task has ended; False when `timeout` seconds were not enough."""
        return self._client.wait(self.id, timeout=timeout).has_ended

    def results(self, timeout: float | None = None) -> Iterator[Any]:
        """Yield each task's value in order, waiting for it; a failure is an exception object.

        Raises TimeoutError when not every task has ended after `timeout` seconds.
        """
        import time

        deadline = None if timeout is None else time.monotonic() + timeout
        fetch, causes = fetcher(self._client), Causes(self._client)
        for outcome in self._ordered(deadline):
            failure = causes.failure(self.id, outcome)
            yield load_value(outcome, fetch) if failure is None else failure

    def _ordered(self, deadline: float | None) -> Iterator[Outcome]:
        rows = OrderedRows(self._client, self.info())
        while True:
            try:
                yield row_outcome(rows.next(deadline))
            except StopIteration:
                return

    def outcomes(self, positions: Sequence[int] | None = None) -> Iterator[Outcome]:
        """Yield how the tasks that have ended did so (state, node, times, memory); no waiting."""
        return self._client.outcomes(self.id, positions)

    def result(self, position: int = 0, timeout: float | None = None) -> Any:
        """Return the value of one task or raise its failure; TimeoutError."""
        if not self.wait(timeout):
            raise FuturesTimeoutError(f"job {self.id} has not ended yet")
        fetch = fetcher(self._client)
        for outcome in self.outcomes([position]):
            failure = Causes(self._client).failure(self.id, outcome)
            if failure is not None:
                raise failure
            return load_value(outcome, fetch)
        raise IndexError(f"job {self.id} has no task at position {position}")

    def cancel(self) -> CancelReply:
        """Cancel all its tasks, running ones too; no harm when it has ended."""
        return self._client.ask(lambda store: store.cancel(self.id, None, by=user_name()))

    def hold(self) -> bool:
        """Let no more of its tasks start; False when it has ended."""
        return self._client.ask(lambda store: store.hold(self.id))

    def release(self) -> bool:
        """Let its tasks start again; False when it has ended."""
        return self._client.ask(lambda store: store.release(self.id))

    def logs(self, position: int = 0) -> str:
        """Return the end of what a task printed, as the server has it."""
        tail = self._client.ask(lambda store: store.tail(self.id, position))
        return tail.decode(errors="replace")

    def files(self) -> list[tuple[int, str, int]]:
        """Return (position, path, bytes) of the files that tasks which have ended brought back."""
        from qsub_py.gathering import ended_sources, files_of

        sources = ended_sources(self._client, self.info(), range(len(self)))
        return [(s.position, path, size) for s in sources for path, size, _ in files_of(s)]

    def fetch(self, folder: str | os.PathLike[str] = ".", *globs: str, force: bool = False,
              ) -> list[Path]:  # fmt: skip
        """Write the files that ended tasks brought back below `folder`; return their paths.

        Those of an array's task go to a folder with its index. `globs`: only what matches.
        A file that is here and differs is a FetchError, unless `force`; it is raised when all
        others are written, and so is what else went wrong with a task's files.
        """
        from qsub_py.fetching import FetchError
        from qsub_py.gathering import fetch_all

        wanted = [check_glob(pattern) for pattern in globs]
        paths, errors = fetch_all(self._client, self.info(), os.fspath(folder), wanted, force)
        if errors:
            raise FetchError("; ".join(errors))
        return [Path(path) for path in paths]

    def rows(self) -> Iterator[Row]:
        """Yield a row for each task: parameters, state, exit code, result; no waiting."""
        from qsub_py.result_rows import rows

        info = self.info()
        return rows(self._client, info, self._client.spec(info))

    def to_frame(self) -> Any:
        """Return the tasks that have ended as a pandas DataFrame, a row each.

        Columns: task, the parameters, state, exit_code, wall_s, the items of a result that is a
        dictionary (another is `value`), error, node, attempt, started_at, ended_at (epoch
        seconds), cpu_s, max_rss_bytes. Raises ImportError without pandas.
        """
        import pandas

        found = (_frame_row(row) for row in self.rows())
        return pandas.DataFrame([row for row in found if row is not None])


def _frame_row(row: Row) -> dict[str, Any] | None:
    end = row.outcome
    if end is None:
        return None
    results = row.results()
    if row.has_value and not isinstance(row.value, dict):
        results = {"value": row.value}
    return {
        "task": row.index, **row.params, "state": row.state.name, "exit_code": row.exit_code,
        "wall_s": row.wall_s, **results, "error": row.error, "node": end.node,
        "attempt": end.attempt, "started_at": end.started_at, "ended_at": end.ended_at,
        "cpu_s": end.cpu_s, "max_rss_bytes": end.max_rss_bytes,
    }  # fmt: skip
