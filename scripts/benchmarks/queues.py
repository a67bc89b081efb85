"""Celery, RQ and Huey: 2 worker processes each, on an embedded server like ours.

They run in the peers' own environment, so nothing of qsub_py is imported here. Each is used as its
manual says; where a client polls, it polls often, except for the round trip, where its
default counts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis

from benchmarks import processes, work
from benchmarks.contender import Caller, process_ms, rate

_WORKERS = 2


class Queue(Caller):
    """A task queue with worker processes."""

    #: Commands that start the workers: as many as shall run, and one for one task at once.
    worker: Sequence[str]
    lone_worker: Sequence[str]
    #: Variables of the lone worker.
    environ: dict[str, str]

    def __init__(self) -> None:
        self.environ = {}
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start the workers and use them a little."""
        self.server = connection(0)
        self.prepare()
        self.launch(self.worker)
        self.one(0)
        self.results(self.begin(50))

    def stop(self) -> None:
        """End the workers."""
        processes.end([process.pid for process in self._processes])
        for process in self._processes:
            process.wait()
        self._processes.clear()

    def pids(self) -> dict[str, list[int]]:
        """Return the client and the workers."""
        workers = [pid for process in self._processes for pid in processes.tree(process.pid)]
        return {"client": [os.getpid()], "worker": workers}

    def prepare(self) -> None:
        """Import what the client needs."""

    def begin_true(self, n: int) -> Any:
        """Submit n calls that run /bin/true."""
        raise NotImplementedError

    def begin_mark(self, path: str) -> None:
        """Submit a call that marks its start and lasts."""
        raise NotImplementedError

    def await_ends(self, handles: Any) -> None:
        """Wait for the ends of calls without taking their results off the server."""
        self.results(handles)

    def launch(self, words: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a worker program of this environment."""
        program = Path(sys.executable).with_name(words[0])
        process = subprocess.Popen(
            [str(program), *words[1:]], stdin=subprocess.DEVNULL, start_new_session=True,
            env=os.environ | self.environ,
        )  # fmt: skip
        self._processes.append(process)
        return process

    def true(self, n: int) -> dict[str, float]:
        """Time n calls that run /bin/true each."""
        return {"true": rate(n, lambda: self.results(self.begin_true(n)))}

    def memory(self, n: int) -> dict[str, float]:
        """Weigh calls that wait (for stopped workers) and that have ended."""
        workers = self.pids()["worker"]
        before = self.used_bytes()
        processes.send(workers, signal.SIGSTOP)
        try:
            handles = self.begin_all(work.pairs(n))
            pending = self.used_bytes() - before
        finally:
            processes.send(workers, signal.SIGCONT)
        self.await_ends(handles)
        return {"bytes_pending": pending / n, "bytes_ended": (self.used_bytes() - before) / n}

    def used_bytes(self) -> int:
        """Return what the server's data take, without buffers."""
        time.sleep(0.3)
        info: dict[str, int] = self.server.info("memory")
        return info["used_memory"] - info["mem_clients_normal"] - info.get("mem_aof_buffer", 0)

    def recovery_peers(self, n: int) -> dict[str, float]:
        """Kill a worker with all its processes; a second, idle one could run the call again.

        Returns infinity when it does not within n seconds.
        """
        self.stop()
        path = tempfile.mktemp()
        victim = self.launch(self.lone_worker)
        self.begin_mark(path)
        processes.wait_for(lambda: work.marks(path), timeout_s=30)
        self.launch(self.lone_worker)
        time.sleep(3.0)  # until it is ready
        processes.send(processes.tree(victim.pid), signal.SIGKILL)
        killed_at = time.time()
        try:
            processes.wait_for(lambda: len(work.marks(path)) > 1, timeout_s=n)
        except TimeoutError:
            return {"kill_worker": float("inf")}
        return {"kill_worker": work.marks(path)[1][0] - killed_at}


def connection(database: int) -> Any:
    """Return a connection to the peers' server."""
    return redis.Redis(
        unix_socket_path=os.environ["BENCH_SOCKET"], password=os.environ["BENCH_PASSWORD"],
        db=database,
    )  # fmt: skip


class Celery(Queue):
    """A prefork worker; delay() one by one, join_native(); a group for map."""

    _COMMON = ("celery", "-A", "benchmarks.celery_app", "worker", "-l", "ERROR",
               "--without-gossip", "--without-mingle")  # fmt: skip
    worker = (*_COMMON, "-c", str(_WORKERS))
    lone_worker = (*_COMMON, "-c", "1")

    def prepare(self) -> None:
        """Import the application."""
        import celery
        from celery.result import ResultSet

        from benchmarks import celery_app

        self.app, self.group, self.result_set = celery_app, celery.group, ResultSet

    def begin_all(self, calls: Sequence[Sequence[float]]) -> Any:
        """Send calls one by one."""
        return [self.app.add.delay(*args) for args in calls]

    def begin_true(self, n: int) -> Any:
        """Send calls one by one."""
        return [self.app.true.delay(i) for i in range(n)]

    def begin_mark(self, path: str) -> None:
        """Send it to workers that acknowledge late."""
        self.app.mark.delay(path, 600)

    def recovery_peers(self, n: int) -> dict[str, float]:
        """Kill a worker that acknowledges late."""
        self.environ = {"BENCH_LATE": "1"}
        return super().recovery_peers(n)

    def results(self, handles: Any) -> Any:
        """Join."""
        return self.result_set(handles).join_native()

    def one(self, i: int) -> Any:
        """Run one call."""
        return self.app.add.delay(i, 1).get()

    def map(self, n: int) -> dict[str, float]:
        """Time a group."""

        def action() -> None:
            self.group(self.app.add.s(i, 1) for i in range(n)).apply_async().join_native()

        return {"map": rate(n, action)}

    def cli(self, n: int) -> dict[str, float]:
        """Time `celery call`."""
        program = str(Path(sys.executable).with_name("celery"))
        words = [program, "-A", "benchmarks.celery_app", "call", "add", "--args=[1,1]"]
        return {"cli_qsub": process_ms(n, words)}


class RQ(Queue):
    """worker-pool with the default worker (a fork for each job); enqueue_many."""

    worker = ("rq", "worker-pool", "bench", "-n", str(_WORKERS), "-q")
    lone_worker = ("rq", "worker", "bench", "-q")

    def prepare(self) -> None:
        """Make the queue."""
        import rq

        self.queue: Any = rq.Queue("bench", connection=connection(10))
        self.worker, self.lone_worker = (
            (*words, "-u", self._url()) for words in (self.worker, self.lone_worker)
        )
        self.ended = 0

    def _url(self) -> str:
        return "unix://:{BENCH_PASSWORD}@{BENCH_SOCKET}?db=10".format_map(os.environ)

    def _enqueue(self, function: Any, calls: Sequence[Sequence[float]]) -> Any:
        data = [self.queue.prepare_data(function, tuple(args), result_ttl=3600) for args in calls]
        return self.queue.enqueue_many(data)

    def begin_all(self, calls: Sequence[Sequence[float]]) -> Any:
        """Enqueue calls in one pipeline."""
        return self._enqueue(work.add, calls)

    def begin_true(self, n: int) -> Any:
        """Enqueue calls in one pipeline."""
        return self._enqueue(work.true, [(i,) for i in range(n)])

    def begin_mark(self, path: str) -> None:
        """Enqueue it."""
        self.queue.enqueue(work.mark, path, 600, job_timeout=900)

    def await_ends(self, handles: Any) -> None:
        """Wait for the number of jobs in the registry of those that succeeded."""
        self.ended += len(handles)
        registry = self.queue.finished_job_registry
        while self.queue.connection.zcard(registry.key) < self.ended:
            time.sleep(0.002)

    def results(self, handles: Any) -> Any:
        """Read the result streams, once all have ended."""
        from rq.results import Result

        self.await_ends(handles)
        pipe = self.queue.connection.pipeline()
        for job in handles:
            pipe.xrevrange(Result.get_key(job.id), "+", "-", count=1)
        return pipe.execute()

    def one(self, i: int) -> Any:
        """Run one call; the client blocks on its result."""
        self.ended += 1
        job = self.queue.enqueue(work.add, i, 1, result_ttl=3600)
        return job.latest_result(timeout=60).return_value

    def cli(self, n: int) -> dict[str, float]:
        """Time `rq enqueue` and `rq info`."""
        program, url = str(Path(sys.executable).with_name("rq")), self._url()
        enqueue = [program, "enqueue", "-u", url, "-q", "benchmarks.work.add", ":1", ":1"]
        self.ended += n
        return {
            "cli_qsub": process_ms(n, enqueue),
            "cli_qstat": process_ms(n, [program, "info", "-R", "-u", url]),
        }


class Huey(Queue):
    """huey_consumer with processes; calls one by one, results polled."""

    worker = ("huey_consumer", "benchmarks.huey_app.huey", "-w", str(_WORKERS), "-k", "process",
              "-q")  # fmt: skip
    lone_worker = ("huey_consumer", "benchmarks.huey_app.huey", "-w", "1", "-k", "process", "-q")

    def prepare(self) -> None:
        """Import the application."""
        from benchmarks import huey_app

        self.app: Any = huey_app

    def begin_all(self, calls: Sequence[Sequence[float]]) -> Any:
        """Enqueue calls one by one."""
        return [self.app.add(*args) for args in calls]

    def begin_true(self, n: int) -> Any:
        """Enqueue calls one by one."""
        return [self.app.true(i) for i in range(n)]

    def begin_mark(self, path: str) -> None:
        """Enqueue it."""
        self.app.mark(path, 600)

    def await_ends(self, handles: Any) -> None:
        """Wait until all results are there; getting one removes it."""
        while self.app.huey.result_count() < len(handles):
            time.sleep(0.002)

    def results(self, handles: Any) -> Any:
        """Get results one by one."""
        return [h.get(blocking=True, backoff=1, max_delay=0.002) for h in handles]

    def one(self, i: int) -> Any:
        """Run one call."""
        return self.app.add(i, 1).get(blocking=True)
