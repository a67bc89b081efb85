"""Executor: a concurrent.futures.Executor whose calls run on the cluster's nodes."""

from __future__ import annotations

import concurrent.futures
import hashlib
import logging
import os
import threading
import time
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from qsub_py import client as clients
from qsub_py.callspec import Resources, call_spec, pack_files, read_resources, shown_name
from qsub_py.client import Client
from qsub_py.collecting import Collector
from qsub_py.futures import Future
from qsub_py.payload import Call, Needy, dumps_call, pack_function
from qsub_py.results import Values
from qsub_py.sending import OpenJob, Sender

if TYPE_CHECKING:
    from qsub_py.shipping import Parcel

T = TypeVar("T")

_log = logging.getLogger("qsub_py")
#: Each function has a job of its own up to this many; later ones share one job.
_MOST_JOBS = 16
#: A pickled function is taken for current this long (s), or so many times what pickling it
#: took: what it refers to may change, as it does in a notebook.
_FRESH_S, _FRESH_PACKS = 1.0, 50
#: Functions whose pickled form is remembered at all: they hold no state of their own.
_STATELESS = (types.FunctionType, types.BuiltinFunctionType, type)
_MOST_KNOWN = 4 * _MOST_JOBS
_NONE = (None, 0.0)
_EXIT_S = 30.0


class Executor(concurrent.futures.Executor):
    """Runs calls on the cluster; leave it with `shutdown` or as a context manager.

    All keywords of `submit` and `map` go to the function; what a call needs is said here:
    `cpus`, `mem` ("4G" or bytes), `gpus`, `time` ("1h" or seconds), and `name`, `priority`,
    `queue`, `nodelist`, `exclude`, `constraint`, `licenses` ("matlab:1"), `rate` ("10/m"), `python`
    (an interpreter), `env` (variables to add), `limit` (at most so many calls of a function at
    once), `ship` (files and folders that each call finds in its private directory, as they are
    when the first call is submitted), `ship_ignore` (what of them is left out, as in
    .gitignore), `fetch` (patterns of the files that come back: see `Job.fetch`), `retries`,
    `backoff`, `retry_on`, `on_oom`, `on_timeout` and `signal` (as the options of qsub), and
    `max_tasks_per_child` (a process on a node executes at most so many calls, then a fresh one
    takes its place). A function travels once, with what it refers to, and again when that has
    changed after a second or more. Raises SpecError, ConfigError, StoreUnavailable.
    """

    def __init__(
        self,
        *,
        cpus: int | None = None,
        mem: str | int | None = None,
        gpus: int = 0,
        time: str | float | None = None,
        name: str = "",
        priority: int = 0,
        queue: str | None = None,
        nodelist: str | Sequence[str] = (),
        exclude: str | Sequence[str] = (),
        constraint: str | None = None,
        licenses: str | Sequence[str] = (),
        rate: str | None = None,
        python: str = "",
        env: Mapping[str, str] | None = None,
        limit: int = 0,
        ship: str | Sequence[str] = (),
        ship_ignore: str | Sequence[str] = (),
        fetch: str | Sequence[str] = (),
        retries: int | None = None,
        backoff: str | float | None = None,
        retry_on: str | Sequence[str] | None = None,
        on_oom: str | float | None = None,
        on_timeout: str | float | None = None,
        signal: str | None = None,
        max_tasks_per_child: int | None = None,
        client: Client | None = None,
    ) -> None:
        self._own_client = client
        self._client = client or clients.shared()
        self._resources = read_resources(
            self._client.config, cpus=cpus, mem=mem, gpus=gpus, time=time, name=name,
            priority=priority, queue=queue, nodelist=nodelist, exclude=exclude,
            constraint=constraint, licenses=licenses, rate=rate, python=python, env=env,
            limit=limit, ship=ship, ship_ignore=ship_ignore, fetch=fetch,
            retries=retries, backoff=backoff, retry_on=retry_on, on_oom=on_oom,
            on_timeout=on_timeout, signal=signal, max_tasks_per_child=max_tasks_per_child,
        )  # fmt: skip
        self._parcels: tuple[Parcel, ...] | None = None if self._resources.ship else ()
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._is_shut = False
        #: Open jobs by function, with the time until which they are the right ones, and by
        #: digest of the packed function.
        self._jobs: dict[Any, tuple[OpenJob, float]] = {}
        self._shared: OpenJob | None = None
        self._by_digest: dict[bytes, OpenJob] = {}
        self._collector = Collector(self._client)
        self._sender = Sender(self._collector.watch, self._collector.stop)
        self._finalizer = weakref.finalize(self, _finish, self._sender, os.getpid())

    def _revive_after_fork(self) -> None:
        """Begin anew in a forked child: the parent's threads and connections are not ours."""
        if not self._own_client:
            self._client = clients.shared()
        self._finalizer.detach()
        self._start()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run `fn(*args, **kwargs)` on a node; returns its Future at once.

        Futures of qsub_py may stand anywhere in the arguments, also in lists, dicts and objects:
        the call waits on the cluster until their results are there, and gets these. When one
        fails, so does this, with DependencyFailed. Raises PayloadError for what cannot be
        pickled, TypeError for a future of another kind, RuntimeError after shutdown.
        """
        if self._pid != os.getpid():
            self._revive_after_fork()
        job, fresh_until = self._jobs.get(fn, _NONE) if isinstance(fn, _STATELESS) else _NONE
        if job is None or time.monotonic() > fresh_until:
            job = self._job_of(fn)
        if job.takes_function:
            args, kwargs = (fn, args, kwargs), {}
        data = dumps_call(args, kwargs)
        if data.__class__ is not bytes:
            _check_cluster(data, self._client)
        future: Future[T] = Future(job)
        self._sender.put((job, data, future))
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Values:
        """Run `fn` on each item as one job; returns a lazy iterator of its values, in order.

        The iterables are read to their end and sent before this returns. The iterator has
        `.job`, the job's id. It raises a task's failure in its place and can go on after it,
        and TimeoutError when a value is not there `timeout` seconds after this call.
        `chunksize` and `buffersize` change nothing: calls are bundled as they turn out long.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if self._pid != os.getpid():
            self._revive_after_fork()
        if self._is_shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        with self._lock:
            parcels = self._files()
        return map_calls(self._client, self._resources, fn, iterables, deadline, parcels)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; with `wait` return when all have ended.

        Calls that were submitted run to their end, also after this process's; with
        `cancel_futures` they are cancelled, running ones too.
        """
        if self._pid != os.getpid():
            return
        self._is_shut = True
        self._sender.stop()
        if cancel_futures:
            self._sender.join()
            self._cancel_all()
        if wait:
            self._sender.join()
            self._collector.join()

    def _cancel_all(self) -> None:
        for job in self._sender.jobs():
            if job.futures:
                self._client.ask(lambda store: store.cancel(job.id, None, by=job.spec.owner))  # noqa: B023

    def __exit__(self, kind: type[BaseException] | None, *details: Any) -> None:
        if kind is None:
            self.shutdown(wait=True)
            return
        self.shutdown(wait=False)
        self._sender.join(_EXIT_S)
        waiting = [str(job.id) for job in self._sender.jobs() if job.futures]
        if waiting:
            which = ", ".join(waiting)
            _log.warning(
                "job %s goes on; qsub_py.Job(%s).results() fetches its results, "
                "`qcancel %s` ends it", which, waiting[0], which,
            )  # fmt: skip

    def _job_of(self, fn: Callable[..., Any]) -> OpenJob:
        start = time.monotonic()
        packed = pack_function(fn)
        end = time.monotonic()
        digest = hashlib.sha256(packed).digest()
        with self._lock:
            job = self._by_digest.get(digest)
            if job is None and len(self._by_digest) >= _MOST_JOBS:
                return self._shared_job()
            if job is None:
                job = self._by_digest[digest] = self._new_job(packed, shown_name(fn))
            if isinstance(fn, _STATELESS) and (fn in self._jobs or len(self._jobs) < _MOST_KNOWN):
                self._jobs[fn] = job, end + max(_FRESH_S, _FRESH_PACKS * (end - start))
            return job

    def _shared_job(self) -> OpenJob:
        """Return the job whose calls bring their function along."""
        if self._shared is None:
            packed = pack_function(_any_call)
            self._shared = self._new_job(packed, ":calls", takes_function=True)
        return self._shared

    def _files(self) -> tuple[Parcel, ...]:
        """Return what is shipped, sent before the first call: here it can still be refused."""
        if self._parcels is None:
            from qsub_py.shipping import upload

            parcels = pack_files(self._resources)
            upload(self._client, parcels)
            self._parcels = parcels
        return self._parcels

    def _new_job(self, packed: bytes, shown: str, *, takes_function: bool = False) -> OpenJob:
        parcels = self._files()
        spec = call_spec(self._resources, packed, shown, parcels)
        return OpenJob(
            self._client, spec, packed, parcels=parcels,
            priority=self._resources.priority, limit=self._resources.limit,
            lock=self._sender.lock, takes_function=takes_function,
        )  # fmt: skip


def map_calls(
    client: Client,
    resources: Resources,
    fn: Callable[..., Any],
    iterables: Sequence[Iterable[Any]],
    deadline: float | None,
    parcels: Sequence[Parcel] = (),
) -> Values:
    """Submit one call for each item as one job and return its values."""
    packed = pack_function(fn)
    spec = call_spec(resources, packed, shown_name(fn), parcels)
    calls: Iterator[Call] = ((args, {}) for args in zip(*iterables, strict=False))
    job = client.submit(
        spec, function=packed, calls=calls, priority=resources.priority, limit=resources.limit,
        parcels=parcels,
    )  # fmt: skip
    client.warn_if_stuck(job)
    info = client.ask(lambda store: store.job(job))
    return Values(client, info, deadline)


def _finish(sender: Sender, pid: int) -> None:
    """Send and close what a forgotten Executor, or one at the program's end, still has."""
    if pid == os.getpid():
        sender.stop()
        sender.join(_EXIT_S)


def _check_cluster(call: bytes | Needy, client: Client) -> None:
    """Raise TypeError when a call needs a result that is on another cluster."""
    for one in call.inputs if isinstance(call, Needy) else ():
        home = getattr(one, "_home", None)
        if isinstance(home, OpenJob) and home.client.cluster != client.cluster:
            raise TypeError(
                f"a Future of cluster {home.client.cluster} cannot be an argument on cluster"
                f" {client.cluster}; pass its result()"
            )


def _any_call(fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    return fn(*args, **kwargs)


# A node need not have qsub_py: what belongs to __main__ travels by value.
_any_call.__module__ = "__main__"
