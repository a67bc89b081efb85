"""The cluster as a backend of joblib: scikit-learn's `n_jobs` spreads over the nodes.

A call of `joblib.Parallel` is one job (a few, where it turns out to share large arguments);
joblib bundles short calls into batches, and a batch is a task. What runs inside a task is
sequential, or threads where the task has several cpus. The only module that imports joblib.
"""

from __future__ import annotations

import concurrent.futures
import logging
import pickle
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from joblib.parallel import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
    ThreadingBackend,
)

from qsub_py import byvalue
from qsub_py import client as clients
from qsub_py import config as configuration
from qsub_py.calls import OPTIONS
from qsub_py.callspec import Resources, read_resources, shown_name
from qsub_py.errors import QsubError
from qsub_py.executor import Executor
from qsub_py.joblib_sharing import LEAST_BYTES, Item, Sharing, make_run
from qsub_py.model import NodeInfo
from qsub_py.reasons import Need, fitting_nodes
from qsub_py.terms import NO_TERMS

Callback = Callable[[Any], object]
AnyFuture = concurrent.futures.Future[Any]

_log = logging.getLogger("qsub_py")
#: What joblib itself passes to `configure`.
_OF_JOBLIB = {"max_nbytes", "temp_folder", "mmap_mode", "prefer", "require", "verbose", "context"}
#: joblib runs what has one worker in the program itself, but here the cluster was asked for.
_LEAST_WORKERS = 2


class QsubBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """What `parallel_config("qsub", ...)` makes; the keywords are those of `Executor`.

    Raises TypeError for another keyword, SpecError for a value that makes no sense.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    default_n_jobs = -1

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._options = _checked(options)
        self._resources = read_resources(configuration.load(), **options)
        #: The Parallel that it works for; None: the one that others are made after.
        self.parallel: Any = None
        self._call: _Call | None = None
        self._n_jobs = self.default_n_jobs
        self._least_bytes: int | None = LEAST_BYTES

    # -- how many --------------------------------------------------------------------------

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many calls can run at once; negative: as many as the nodes have room for."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        n_jobs = self.default_n_jobs if n_jobs is None else n_jobs
        if n_jobs > 0:
            return n_jobs
        nodes = clients.shared().ask(lambda store: store.nodes())
        return max(slots(self._resources, nodes) + 1 + n_jobs, _LEAST_WORKERS)

    # -- the life of a call ----------------------------------------------------------------

    def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
        """Prepare for a Parallel, whose own keywords come on top; returns how many run at once."""
        if self.parallel is None:
            # Each Parallel gets a backend of its own: two of them may run at the same time.
            own = {name: value for name, value in options.items() if name not in _OF_JOBLIB}
            made = QsubBackend(
                self.nesting_level, self.inner_max_num_threads, **{**self._options, **own}
            )
            made.parallel = parallel
            raise FallbackToBackend(made)
        self.parallel, self._n_jobs = parallel, n_jobs
        # As in joblib, None means that nothing is shared.
        most = options.get("max_nbytes", LEAST_BYTES)
        self._least_bytes = None if most is None else min(int(most), LEAST_BYTES)
        found = self.effective_n_jobs(n_jobs)
        if found == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        return found

    def start_call(self) -> None:
        """Begin: what is submitted from now on belongs together."""
        self._call = _Call(self._executor_options(), self._least_bytes)

    def stop_call(self) -> None:
        """End: no more comes."""
        if self._call is not None:
            self._call.close()

    def terminate(self) -> None:
        """Forget what was learned of the length of calls."""
        self.stop_call()
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel all that was submitted, running or not."""
        if self._call is not None:
            self._call.abort()
        if ensure_ready:
            self.reset_batch_stats()

    # -- batches ---------------------------------------------------------------------------

    def submit(self, func: Any, callback: Callback | None = None) -> AnyFuture:
        """Send a batch; `callback` is called with its future when that is done."""
        if self._call is None:
            self.start_call()
        assert self._call is not None
        return self._call.submit(func.items, self._scope(), callback)

    #: Its name before joblib 1.5.
    apply_async = submit

    def retrieve_result_callback(self, out: AnyFuture) -> Any:
        """Return the values of a batch that has ended, or raise what it raised."""
        return out.result()

    def get_nested_backend(self) -> tuple[Any, int | None]:
        """Return what a Parallel inside of a call uses: threads where it has several cpus."""
        level = (self.nesting_level or 0) + 1
        if self._resources.cpus > 1:
            return ThreadingBackend(nesting_level=level), self._resources.cpus
        return SequentialBackend(nesting_level=level), None

    def _scope(self) -> bytes:
        return pickle.dumps(self.get_nested_backend())

    def _executor_options(self) -> dict[str, Any]:
        cpus = self._resources.cpus
        # By this a loop inside of a call with n_jobs=-1 is as wide as its task.
        env = {"LOKY_MAX_CPU_COUNT": str(cpus)}
        if self.inner_max_num_threads is not None:
            number = str(self.inner_max_num_threads)
            env |= dict.fromkeys(self.MAX_NUM_THREADS_VARS, number)
        options = {**self._options, "env": {**env, **(self._options.get("env") or {})}}
        if self._n_jobs > 0:
            options.setdefault("limit", self._n_jobs)
        return options


class _Call:
    """One call of a Parallel: its executor, made for the first batch, and what is shared."""

    def __init__(self, options: dict[str, Any], least_bytes: int | None) -> None:
        least = sys.maxsize if least_bytes is None else least_bytes
        self._options, self._sharing = options, Sharing(byvalue.dumps, least)
        self._executor: Executor | None = None
        self._run: Callable[..., list[Any]] | None = None
        self._shared = 0
        #: Batches come from the program's thread and from that which brings the results.
        self._lock = threading.Lock()
        self._is_over = False

    def submit(self, items: Sequence[Item], scope: bytes, callback: Callback | None) -> AnyFuture:
        """Send a batch. What goes wrong is told by the future: nobody else would hear it."""
        try:
            future: AnyFuture = self._begun().submit(*self._prepared(items), scope)
        except Exception as error:
            future = concurrent.futures.Future()
            future.set_exception(error)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def _begun(self) -> Executor:
        with self._lock:
            if self._is_over:
                raise concurrent.futures.CancelledError
            if self._executor is None:
                self._executor = Executor(**self._options)
            return self._executor

    def _prepared(self, items: Sequence[Item]) -> tuple[Callable[..., list[Any]], list[Any]]:
        """Return what runs on the node, which has the shared arguments, and the calls."""
        holed = self._sharing.holed(items)
        if self._run is None or len(self._sharing.parts) > self._shared:
            name = shown_name(items[0][0]).rpartition(":")[2]
            self._shared = len(self._sharing.parts)
            self._run = make_run(tuple(self._sharing.parts), name)
        return self._run, holed

    def _end(self) -> Executor | None:
        with self._lock:
            self._is_over = True
            executor, self._executor = self._executor, None
            return executor

    def close(self) -> None:
        """Take no more; what was sent runs to its end."""
        if executor := self._end():
            executor.shutdown(wait=False)

    def abort(self) -> None:
        """Cancel all of it. A server that is away must not hide why this is called."""
        if executor := self._end():
            try:
                executor.shutdown(wait=False, cancel_futures=True)
            except QsubError as error:
                _log.warning("the calls may go on: %s", error)


def slots(resources: Resources, nodes: Sequence[NodeInfo]) -> int:
    """Return how many calls the running nodes have room for when they are empty."""
    need = Need(
        resources.cpus, resources.mem_bytes, resources.gpus, resources.queue, resources.nodelist,
        "{}.{}".format(*sys.version_info), resources.terms or NO_TERMS,
    )  # fmt: skip
    return sum(_room(need, node) for node in fitting_nodes(need, nodes))


def _room(need: Need, node: NodeInfo) -> int:
    room = node.cpus // need.cpus
    if need.mem_bytes:
        room = min(room, node.mem_bytes // need.mem_bytes)
    return min(room, node.gpus // need.gpus) if need.gpus else room


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    if unknown := sorted(options.keys() - OPTIONS):
        raise TypeError(
            f"the joblib backend of qsub_py has no option {unknown[0]!r}; it has those of Executor:"
            f" {', '.join(sorted(OPTIONS))}"
        )
    return options
