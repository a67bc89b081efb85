"""Collecting results: the thread that reads the result streams of open jobs.

One blocking read covers all jobs of an Executor; each entry settles its futures at once.
"""

from __future__ import annotations

import logging
import pickle
import threading
from collections.abc import Iterable
from typing import Any

from qsub_py.client import Client
from qsub_py.errors import QsubError
from qsub_py.failures import RemoteError, load_value
from qsub_py.futures import Future, fail, settle
from qsub_py.results import (
    BLOCK_S,
    FOREVER_S,
    Row,
    as_row,
    fetcher,
    is_value,
    open_entry,
    row_outcome,
    silent_ends,
)
from qsub_py.sending import OpenJob
from qsub_py.store import ResultEntry
from qsub_py.tracing import Causes

_log = logging.getLogger("qsub_py")


class Collector:
    """Settles the futures of open jobs from a thread of its own."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._fetch = fetcher(client)
        self._causes = Causes(client)
        self._waiter = client.waiter()
        self._jobs: dict[int, OpenJob] = {}
        #: Number of the last entry seen, by job.
        self._after: dict[int, int] = {}
        self._is_stopped = False
        self._thread: threading.Thread | None = None

    def watch(self, job: OpenJob) -> None:
        """Collect the results of one job more."""
        self._jobs[job.id] = job
        self._after = {**self._after, job.id: 0}
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="qsub_py results", daemon=True)
            self._thread.start()
        else:
            self._waiter.wake()

    def stop(self) -> None:
        """End when every future has ended, now that no job will come; returns at once."""
        self._is_stopped = True
        if self._thread is None:
            self._waiter.close()
        else:
            self._waiter.wake()

    def join(self) -> None:
        """Wait until every future has ended; only after `stop`."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._is_stopped or any(job.futures for job in self._jobs.values()):
                self._read()
        except Exception as error:  # nobody would read any more: those who wait must hear it
            _log.exception("results can no longer be read")
            for job in self._jobs.values():
                for future in list(job.futures.values()):
                    fail(future, error)
        finally:
            self._waiter.close()

    def _read(self) -> None:
        after = dict(self._after)
        found = self._client.retry(lambda: self._waiter.wait(after, BLOCK_S))
        for job, entries in found.items():
            self._take(self._jobs[job], entries)

    def _take(self, job: OpenJob, entries: list[ResultEntry]) -> None:
        self._after[job.id] = entries[-1].number
        try:
            for entry in entries:
                self._settle(job, open_entry(self._client, job.uid, entry))
            if any(entry.is_notice for entry in entries) and job.futures:
                self._look(job)
        except QsubError as error:
            # What is signed wrongly is no result; the futures go on waiting for a right one.
            _log.warning("job %d: %s", job.id, error)

    def _settle(self, job: OpenJob, rows: Iterable[tuple[int, Row]]) -> None:
        futures, values, others = job.futures, [], []
        for position, row in rows:
            future = futures.pop(position, None)
            if future is None:
                continue
            if is_value(row):
                try:
                    values.append((future, pickle.loads(row[0].result[row[1]])))
                    continue
                except Exception as error:
                    fail(future, _unreadable(error))
            else:
                others.append((future, row))
        settle(values)
        for future, row in others:
            self._conclude(job.id, future, row)

    def _conclude(self, job: int, future: Future[Any], row: Row) -> None:
        """Settle a future that failed, or whose value must be fetched."""
        outcome = row_outcome(row)
        try:
            failure = self._causes.failure(job, outcome)
            if failure is None:
                settle([(future, load_value(outcome, self._fetch))])
                return
        except Exception as error:
            failure = _unreadable(error)
        fail(future, failure)

    def _look(self, job: OpenJob) -> None:
        """Settle futures of tasks that ended without a result, after all that have one."""
        info = self._client.ask(lambda store: store.job(job.id), patience_s=FOREVER_S)
        waiting = sorted(list(job.futures))
        ends = self._client.ask(
            lambda store: silent_ends(store, info, waiting), patience_s=FOREVER_S
        )
        if not ends:
            return
        while True:
            after = {job.id: self._after[job.id]}
            entries = self._waiter.wait(after, 0).get(job.id, [])
            if not entries:
                break
            self._after[job.id] = entries[-1].number
            for entry in entries:
                self._settle(job, open_entry(self._client, job.uid, entry))
        self._settle(job, ((position, as_row(outcome)) for position, outcome in ends.items()))


def _unreadable(error: Exception) -> RemoteError:
    if isinstance(error, QsubError):
        return RemoteError(str(error), hint=error.hint)
    return RemoteError(f"the result cannot be unpickled here: {type(error).__name__}: {error}")
