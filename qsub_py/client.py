"""A user's connection to the cluster: submit jobs, wait for them, read verified outcomes.

The one place where a lost connection is mended: everything a client asks may be asked twice
(submissions carry a token), so it is asked again for a while. Safe to use from any thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from qsub_py import config as configuration
from qsub_py import payload, reach
from qsub_py.chunks import PackedCall, chunked, pack
from qsub_py.config import Config
from qsub_py.errors import PayloadError, StoreBusy, StoreUnavailable
from qsub_py.model import JobInfo, JobSpec, Outcome, Segments, State, Submission
from qsub_py.proof import sign_schedule
from qsub_py.reasons import explain, fitting_nodes, need_of
from qsub_py.results import FOREVER_S, ended_outcomes
from qsub_py.signing import Keyring, sign
from qsub_py.store import Store
from qsub_py.store_files import ShipLost
from qsub_py.store_wait import ResultWaiter
from qsub_py.waits import NOTHING, Waits

if TYPE_CHECKING:
    from qsub_py.shipping import Parcel

T = TypeVar("T")
#: First position, number of calls, packed arguments, signature, what the calls wait for.
Chunk = tuple[int, int, bytes, bytes, str]

_log = logging.getLogger("qsub_py")

#: How many chunks go in one round trip.
_CHUNKS_A_TRIP = 8
#: How long a request is repeated while the server cannot be reached.
PATIENCE_S = 30.0
_POLL_S = 1.0
#: How long a tunnel or an SSH connection that is lost may take to be back.
_WAY_BACK_S = 5.0
#: Files that were just sent may be gone again: another's refusal or purge deleted them.
_SHIP_TRIES = 3
_UNKNOWN = "run it again with --key K (the same K each time) to be sure of one job"


def _connected(config: Config) -> tuple[Store, str]:
    """Return a store that is connected, and the password.

    A tunnel that is lost is back in a moment, with another port: a job that submits jobs need
    not fail for that.
    """
    is_far = not config.url and config.upstream_path().exists()
    deadline = time.monotonic() + (_WAY_BACK_S if is_far else 0.0)
    while True:
        url, password = reach.endpoint(config)
        try:
            return Store.connect(url, password=password, cluster=config.cluster), password
        except StoreUnavailable:
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.1)


class Client:
    """A connection to one cluster."""

    def __init__(self, config: Config, store: Store, ring: Keyring, password: str = "") -> None:
        self.config = config
        self.store = store
        self.ring = ring
        self._password = password
        self._lock = threading.RLock()

    @classmethod
    def connect(cls, config: Config | None = None) -> Client:
        """Connect to the configured server; the embedded one is started when none is named.

        Raises ConfigError, StoreUnavailable, StoreBusy, StoreMismatch.
        """
        config = config or configuration.load()
        configuration.load_key(config.cluster, create=True)
        ring = Keyring.of(configuration.load_keys(config.cluster))
        store, password = _connected(config)
        store.check()
        return cls(config, store, ring, password)

    @property
    def cluster(self) -> str:
        """The cluster's name."""
        return self.config.cluster

    def close(self) -> None:
        """Close the connection."""
        self.store.close()

    def waiter(self) -> ResultWaiter:
        """Return a connection of its own to wait on; close it after use."""
        return ResultWaiter(self._where, cluster=self.cluster)

    def _where(self) -> tuple[str, str]:
        return self.store.link.url, self._password

    def ask(self, request: Callable[[Store], T], *, patience_s: float = PATIENCE_S) -> T:
        """Return `request(store)`, repeated for `patience_s` while the server is away.

        Only for what may be done twice. Raises StoreUnavailable at the end, StoreBusy at once.
        """

        def locked() -> T:
            with self._lock:
                return request(self.store)

        return self.retry(locked, patience_s=patience_s)

    def retry(self, request: Callable[[], T], *, patience_s: float = FOREVER_S) -> T:
        """Return `request()`, which uses another connection, repeated like those of `ask`.

        Who waits for ever also waits for a server that is still reading its files.
        """
        deadline = time.monotonic() + patience_s
        pause = 0.05
        while True:
            try:
                return request()
            except (StoreUnavailable, StoreBusy) as error:
                is_over = time.monotonic() + pause > deadline
                if is_over or (isinstance(error, StoreBusy) and patience_s < FOREVER_S):
                    raise
            time.sleep(pause)
            pause = min(pause * 2, 1.0)
            self._revive()

    def _revive(self) -> None:
        """Start the embedded server again if it is gone; follow a tunnel to its new port.

        That the server is away is noticed by `ask`.
        """
        try:
            url, password = reach.endpoint(self.config)
        except (StoreUnavailable, StoreBusy):
            return
        with self._lock:
            self._password = password
            self.store.link.retarget(url, password)

    def spec(self, job: JobInfo) -> JobSpec:
        """Return the verified spec of a job, a sweep's with all its tasks as they are now.

        Raises JobNotFound, SignatureError, PayloadError.
        """
        data = self.ask(lambda store: store.signed_spec(job.id)).check(self.ring, self.cluster)
        try:
            spec = JobSpec.from_bytes(data)
        except (TypeError, ValueError, KeyError) as error:
            raise PayloadError(f"job {job.id} was made by another version of qsub_py") from error
        if spec.sweep:
            spec = replace(spec, segments=Segments(((0, max(job.total - 1, 0), 1),)))
        return spec

    # -- submitting ------------------------------------------------------------------------

    def submit(
        self,
        spec: JobSpec,
        *,
        function: bytes = b"",
        calls: Iterable[payload.Call] | None = None,
        priority: int = 0,
        limit: int = 0,
        is_held: bool = False,
        begin_at: float = 0.0,
        key: str = "",
        parcels: Sequence[Parcel] = (),
        plan: tuple[bytes, int, int, str] | None = None,
        max_fails: str = "",
        pages: Sequence[bytes] = (),
        waits: Waits = NOTHING,
        deadline_at: float = 0.0,
    ) -> int:
        """Create a job and return its id; with `key`, at most once for this user and key.

        `calls`: a task each, pickled and sent as they come; None: the tasks are those of
        `spec.segments`. `parcels`: the files that the spec ships; `waits`: what must end before;
        `max_fails`, `pages`, `deadline_at`: see Submission; `plan`: make a schedule instead.
        Raises JobNotFound (one it waits for), PayloadError, SpecError (a file has changed),
        StoreBusy (memory; or it is not known whether the job was accepted).
        """
        count = spec.segments.count if calls is None else 0
        sub = self.submission(
            spec, count, function=function, priority=priority, limit=limit, is_held=is_held,
            begin_at=begin_at, is_open=calls is not None, waits=waits, plan=plan,
            token=f"key:{spec.owner}:{key}" if key else "",
        )  # fmt: skip
        sub = replace(sub, max_fails=max_fails, pages=tuple(pages), deadline_at=deadline_at)
        job, is_new = self.open_job(sub, parcels)
        if calls is not None:
            uid = sub.uid if is_new else self.ask(lambda store: store.spec(job)[2])
            if is_new or self.ask(lambda store: store.job(job)).is_open:
                self.append_calls(job, uid, (payload.dumps_call(*call) for call in calls))
        return job

    def submission(
        self,
        spec: JobSpec,
        count: int,
        *,
        function: bytes = b"",
        priority: int = 0,
        limit: int = 0,
        is_held: bool = False,
        is_open: bool = False,
        begin_at: float = 0.0,
        token: str = "",
        plan: tuple[bytes, int, int, str] | None = None,
        waits: Waits = NOTHING,
    ) -> Submission:
        """Return a signed submission with a uid and (unless given) a token of its own."""
        uid, spec_bytes = os.urandom(8).hex(), spec.to_bytes()
        if plan:
            signature = sign_schedule(self.ring.current, self.cluster, uid, plan[0], spec_bytes)
        else:
            signature = sign(self.ring.current, "spec", self.cluster, uid, spec_bytes)
        return Submission(
            spec, uid, token or uid, spec_bytes, signature, count, function=function,
            priority=priority, limit=limit, is_held=is_held, is_open=is_open, begin_at=begin_at,
            plan=plan, waits=waits.fields(),
        )  # fmt: skip

    def open_job(
        self, sub: Submission, parcels: Sequence[Parcel] = (), *, patience_s: float = PATIENCE_S
    ) -> tuple[int, bool]:
        """Submit and return (id, whether it is new); a lost reply is asked for again."""
        try:
            for _ in range(_SHIP_TRIES):
                with contextlib.suppress(ShipLost):
                    return self.ask(lambda store: store.submit(sub), patience_s=patience_s)
                from qsub_py.shipping import upload  # here: few jobs ship

                upload(self, parcels)
            return self.ask(lambda store: store.submit(sub), patience_s=patience_s)
        except StoreUnavailable as error:
            raise StoreBusy(
                f"{error}; it is not known whether the job was accepted", hint=_UNKNOWN
            ) from error

    def append_calls(self, job: int, uid: str, calls: Iterable[PackedCall]) -> int:
        """Send pickled calls as the tasks 0, 1, ... of an open job, then close it.

        Returns how many. What the iterable raises is raised after the job was cancelled.
        """
        count = 0
        try:
            batch: list[Chunk] = []
            for part in chunked(calls):
                batch.append(self.signed_chunk(uid, count, part))
                count += len(part)
                if len(batch) == _CHUNKS_A_TRIP:
                    self.append(job, uid, batch)
                    batch = []
            self.append(job, uid, batch)
        except BaseException:
            self.ask(lambda store: store.cancel(job, None, by="the submitting program"))
            raise
        self.ask(lambda store: store.close_job(job))
        return count

    def signed_chunk(self, uid: str, first: int, calls: Sequence[PackedCall]) -> Chunk:
        """Return calls as a chunk with the signature that a node asks for."""
        (chunk, inputs), count = pack(calls, first), len(calls)
        signature = sign(
            self.ring.current, "args", self.cluster, uid, b"%d" % first, b"%d" % count, chunk
        )
        return first, count, chunk, signature, inputs

    def append(
        self, job: int, uid: str, chunks: Sequence[Chunk], *, patience_s: float = PATIENCE_S
    ) -> None:
        """Add chunks to an open job."""
        if chunks:
            self.ask(lambda store: store.append_many(job, uid, chunks), patience_s=patience_s)

    def warn_if_stuck(self, job: int) -> None:
        """Log a warning when no running node can ever run this job as things are."""
        info, nodes = self.ask(lambda store: (store.job(job), store.nodes()))
        if not fitting_nodes(need_of(info), nodes):
            why = explain(info, nodes, now=info.begin_at)
            if why is not None:
                _log.warning("job %d waits: %s", job, why.sentence)

    # -- waiting and reading ---------------------------------------------------------------

    def wait(
        self,
        job: int,
        *,
        timeout: float | None = None,
        poll: Callable[[JobInfo], None] | None = None,
    ) -> JobInfo:
        """Return the job when all its tasks have ended, or as it is after `timeout` seconds.

        `poll` is called with the job at each change, and at least once a second. A server
        that goes away is waited for. Raises JobNotFound.
        """
        start = time.monotonic()
        waiter = self.waiter()
        try:
            while True:
                seen = self.retry(lambda: waiter.newest(job))
                info = self.ask(lambda store: store.job(job), patience_s=FOREVER_S)
                if poll:
                    poll(info)
                spent = time.monotonic() - start
                left = _POLL_S if timeout is None else timeout - spent
                if info.has_ended or left <= 0:
                    return info
                # A job that ends 10,000 tasks a second is not looked at as often.
                time.sleep(min(0.1, spent / 20, left))
                self.retry(lambda: waiter.wait({job: seen}, min(left, _POLL_S)))  # noqa: B023
        finally:
            waiter.close()

    def outcomes(self, job: int, positions: Sequence[int] | None = None) -> Iterator[Outcome]:
        """Yield the verified outcomes of tasks that have ended, by position.

        `positions`: which tasks (None: all of the job). Raises JobNotFound, SignatureError.
        """
        info = self.ask(lambda store: store.job(job))
        return ended_outcomes(self, info, range(info.total) if positions is None else positions)

    def exit_code(self, info: JobInfo) -> int:
        """Return the exit code of `qsub --wait` and `qwait` for an ended job."""
        if info.state is State.COMPLETED:
            return 0
        if info.exit_code:
            return info.exit_code
        return {State.CANCELLED: 3, State.TIMEOUT: 124, State.OUT_OF_MEMORY: 137}.get(info.state, 1)


_shared: tuple[int, Client] | None = None
_shared_lock = threading.Lock()


def shared() -> Client:
    """Return this process's client of the configured cluster, connected at the first use."""
    global _shared
    with _shared_lock:
        if _shared is None or _shared[0] != os.getpid():
            _shared = (os.getpid(), Client.connect())
        return _shared[1]


def _forget_after_fork() -> None:
    global _shared, _shared_lock
    _shared, _shared_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_after_fork)
