"""Sending calls: open jobs, and the thread that adds tasks to them.

A submit only puts its pickled call into a queue. The sender's thread takes all that is
there: at once when it is idle, and whatever came meanwhile after each round trip, so a burst
travels in few. Nothing here knows how results come back (`collecting.py`).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from qsub_py.chunks import PackedCall, chunked
from qsub_py.client import Chunk, Client
from qsub_py.config import user_name
from qsub_py.errors import JobError, JobNotFound, QsubError, StoreBusy, StoreError, StoreUnavailable
from qsub_py.failures import DependencyFailed
from qsub_py.futures import Future, fail
from qsub_py.inputs import Place
from qsub_py.model import JobSpec, State
from qsub_py.payload import Needy

if TYPE_CHECKING:
    from qsub_py.shipping import Parcel
    from qsub_py.store import Store

Call = tuple[PackedCall, Future[Any]]
Item = tuple["OpenJob", PackedCall, Future[Any]]

_log = logging.getLogger("qsub_py")
#: An open job that grew to this is closed, and a new one begun.
_MOST_TASKS = 1_000_000
#: The server closes an open job after ten minutes of silence (of its own running time).
_KEEP_OPEN_S = 150.0
#: How long calls wait for a server that is away or full before their futures fail.
_PATIENCE_S = 600.0


class OpenJob:
    """A job of calls of one function that takes more; the home of their futures."""

    def __init__(
        self,
        client: Client,
        spec: JobSpec,
        function: bytes,
        *,
        priority: int,
        limit: int,
        lock: threading.Condition,
        takes_function: bool = False,
        parcels: Sequence[Parcel] = (),
    ) -> None:
        self.client = client
        self.spec, self.function = spec, function
        self.priority, self.limit = priority, limit
        #: The files that it ships.
        self.parcels = parcels
        #: Its calls bring the function along as their first argument.
        self.takes_function = takes_function
        #: 0 until the first call is sent.
        self.id = 0
        self.uid = ""
        #: How many tasks have a position, and how many of these the server has.
        self.count = self.sent = 0
        #: By position: those that have no result yet.
        self.futures: dict[int, Future[Any]] = {}
        #: The one that took over where this one was closed.
        self.successor: OpenJob | None = None
        self._lock = lock

    def open(self) -> None:
        """Create the job on the server."""
        sub = self.client.submission(
            self.spec, 0, function=self.function, priority=self.priority, limit=self.limit,
            is_open=True,
        )  # fmt: skip
        self.id, _ = self.client.open_job(sub, self.parcels, patience_s=_PATIENCE_S)
        self.uid = sub.uid

    def renewed(self) -> OpenJob:
        """Return a new job of the same kind, which takes this one's place."""
        self.successor = OpenJob(
            self.client, self.spec, self.function, priority=self.priority, limit=self.limit,
            lock=self._lock, takes_function=self.takes_function, parcels=self.parcels,
        )  # fmt: skip
        return self.successor

    # -- what futures ask (futures.Home) ---------------------------------------------------

    def locate(self, future: Future[Any]) -> tuple[int, int]:
        """Return (job id, position) of a future's task, once the server has it."""
        with self._lock:
            while not (future.done() or _is_sent(future)):
                self._lock.wait(1.0)
        place = self.place(future)
        return place.job, place.position

    def place(self, future: Future[Any]) -> Place:
        """Return which task a future's will be, once that is decided."""
        with self._lock:
            while future._position is None:
                if future.done():
                    raise future.exception() or JobError("the call was never sent")
                self._lock.wait()
        home = future._home
        assert isinstance(home, OpenJob)
        return Place(home.id, home.uid, future._position)

    def withdraw(self, future: Future[Any]) -> bool:
        """Cancel a call; one that was not sent yet is never sent."""
        with self._lock:
            if future._position is None:
                return True
        job, position = self.locate(future)
        reply = self.client.ask(
            lambda store: store.cancel(job, [(position, position)], by=user_name())
        )
        return reply.cancelled + reply.running > 0

    def is_running(self, future: Future[Any]) -> bool:
        """Whether a call runs now."""
        if future._position is None:
            return False
        job, position = self.locate(future)
        ((state, _),) = self.client.ask(lambda store: store.states(job, position, 1))
        return state in (State.RUNNING, State.COMPLETING)

    def tail(self, future: Future[Any]) -> bytes:
        """Return the last output of a call."""
        job, position = self.locate(future)
        return self.client.ask(lambda store: store.tail(job, position))


class Sender:
    """Sends calls from a thread of its own, in order, many in one round trip."""

    def __init__(self, on_open: Callable[[OpenJob], None], on_end: Callable[[], None]) -> None:
        #: Guards positions and the queue's end; told after each trip.
        self.lock = threading.Condition(mutex := threading.Lock())
        #: The same lock: a condition's `with` is Python, and a submit has 5 us in all.
        self._mutex = mutex
        self._on_open, self._on_end = on_open, on_end
        self._queue: deque[Item] = deque()
        self._bell = threading.Event()
        self._is_asleep = False
        self._is_stopped = False
        self._jobs: list[OpenJob] = []
        self._thread: threading.Thread | None = None

    def put(self, item: Item) -> None:
        """Queue a call; RuntimeError after `stop`."""
        with self._mutex:
            if self._is_stopped:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._queue.append(item)
            if self._thread is None:
                self._start()
        if self._is_asleep:
            self._is_asleep = False
            self._bell.set()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="qsub_py sender", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send what is queued, close the jobs and end; returns at once."""
        with self.lock:
            was_stopped, self._is_stopped = self._is_stopped, True
        self._bell.set()
        if self._thread is None and not was_stopped:
            self._on_end()

    def join(self, timeout: float | None = None) -> None:
        """Wait until all is sent and closed."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def jobs(self) -> list[OpenJob]:
        """Return the jobs that were opened, oldest first."""
        return list(self._jobs)

    def _run(self) -> None:
        while True:
            batch = self._take()
            if batch:
                self._send(batch)
            elif self._is_stopped:
                break
            else:
                self._sleep()
        for job in self._jobs:
            self._close(job)
        self._on_end()

    def _take(self) -> list[Item]:
        queue, batch = self._queue, []
        for _ in range(len(queue)):
            batch.append(queue.popleft())
        return batch

    def _sleep(self) -> None:
        self._bell.clear()
        self._is_asleep = True
        # A put between `_take` and here saw nobody asleep; it is seen now.
        if self._queue or self._is_stopped or self._bell.wait(_KEEP_OPEN_S):
            return
        for job in self._jobs:
            if job.successor is None:
                self._quietly(job, lambda store, j: store.keep_open(j.id, j.uid))

    def _close(self, job: OpenJob) -> None:
        if job.successor is None:
            self._quietly(job, lambda store, j: store.close_job(j.id))

    def _quietly(self, job: OpenJob, request: Callable[[Store, OpenJob], None]) -> None:
        try:
            job.client.ask(lambda store: request(store, job))
        except QsubError as error:
            _log.warning("job %d: %s", job.id, error)

    def _send(self, batch: Sequence[Item]) -> None:
        groups: dict[OpenJob, list[Call]] = {}
        for job, data, future in batch:
            if isinstance(data, Needy):
                groups = self._before(job, data, groups)
            groups.setdefault(job, []).append((data, future))
        self._send_groups(groups)

    def _before(
        self, job: OpenJob, call: Needy, groups: dict[OpenJob, list[Call]]
    ) -> dict[OpenJob, list[Call]]:
        """Give all that a call needs its place, but for earlier calls of its own job.

        What was submitted earlier is sent first: senders that wait for each other wait for
        calls submitted before, so never in a circle.
        """
        unplaced = [
            one for one in call.inputs
            if isinstance(one, Future) and one._position is None and one._home is not job
        ]  # fmt: skip
        if groups and unplaced:
            self._send_groups(groups)
            groups = {}
        for one in unplaced:
            if isinstance(one._home, OpenJob) and one._home._lock is not self.lock:
                with contextlib.suppress(Exception):  # it failed: `_never_sent` sees it
                    one.place()
        return groups

    def _send_groups(self, groups: dict[OpenJob, list[Call]]) -> None:
        for job, calls in groups.items():
            try:
                self._send_calls(job, calls)
            except Exception as error:
                for _, future in calls:
                    if future._home.__class__ is OpenJob and not future.done():
                        self._lost(future, error)
            with self.lock:
                self.lock.notify_all()

    def _lost(self, future: Future[Any], error: Exception) -> None:
        home = future._home
        if isinstance(home, OpenJob) and future._position is not None:
            home.futures.pop(future._position, None)
        fail(future, error)

    def _send_calls(self, job: OpenJob, calls: list[Call]) -> None:
        """Add calls to a job, or to the one that followed it."""
        while job.successor is not None:
            job = job.successor
        if job.count >= _MOST_TASKS:
            self._close(job)
            job = job.renewed()
        try:
            self._add(job, calls)
        except (StoreUnavailable, StoreBusy):
            raise
        except (StoreError, JobNotFound):
            # Closed by someone, or because this process was stopped for ten minutes; or lost.
            self._add(job.renewed(), self._taken_back(job, calls))

    def _add(self, job: OpenJob, calls: list[Call]) -> None:
        is_new = not job.id
        if is_new:
            job.open()
            self._jobs.append(job)
            self._on_open(job)
        self._append(job, calls)
        if is_new:
            self._quietly(job, lambda _, j: j.client.warn_if_stuck(j.id))

    def _taken_back(self, job: OpenJob, calls: list[Call]) -> list[Call]:
        """Return the calls that a job did not accept, their futures without a position."""
        try:
            accepted = job.client.ask(lambda store: store.job(job.id)).total
        except JobNotFound:
            accepted = 0
        rest = []
        with self.lock:
            for data, future in calls:
                position = future._position
                if position is not None and position >= accepted and not future.done():
                    job.futures.pop(position, None)
                    future._position = None
                if future._position is None:
                    rest.append((data, future))
        return rest

    def _append(self, job: OpenJob, calls: list[Call]) -> None:
        chunks: list[Chunk] = []
        at = 0
        for part in chunked([data for data, _ in calls]):
            sent = self._place(job, calls[at : at + len(part)])
            at += len(part)
            if sent:
                chunks.append(job.client.signed_chunk(job.uid, job.count, sent))
                job.count += len(sent)
        _patiently(lambda: job.client.append(job.id, job.uid, chunks, patience_s=_PATIENCE_S))
        job.sent = job.count

    def _place(self, job: OpenJob, part: list[Call]) -> list[PackedCall]:
        """Give futures their positions; those cancelled before are left out."""
        sent: list[PackedCall] = []
        hopeless: list[tuple[Future[Any], Future[Any]]] = []
        position, futures = job.count, job.futures
        with self.lock:
            for data, future in part:
                if future.done():
                    continue
                if isinstance(data, Needy) and (bad := _never_sent(data)) is not None:
                    hopeless.append((future, bad))
                    continue
                future._home = job
                future._position = position
                futures[position] = future
                position += 1
                sent.append(data)
        for future, bad in hopeless:
            fail(future, DependencyFailed.of("a call whose result it needs was never sent", bad))
        return sent


def _is_sent(future: Future[Any]) -> bool:
    home, position = future._home, future._position
    return isinstance(home, OpenJob) and position is not None and position < home.sent


def _never_sent(call: Needy) -> Future[Any] | None:
    """Return an input that will never be there: it failed, or was cancelled, before it was sent."""
    for one in call.inputs:
        if isinstance(one, Future) and one._position is None:
            return one
    return None


def _patiently(request: Callable[[], None]) -> None:
    """Repeat a request while the server has no room for it."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return request()
        except StoreBusy as error:
            if time.monotonic() > deadline:
                raise
            _log.warning("%s", error)
        time.sleep(1.0)
