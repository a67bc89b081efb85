"""The jobs a node works on: their verified specs, their files, what a batch of one needs.

Everything that will be executed passes through here and is verified with the cluster's key
before anything else is done with it. Keeper and runner trust what the agent hands them.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qsub_py.errors import DataGone, PayloadError, QsubError, StoreError
from qsub_py.inputs import Run
from qsub_py.model import Batch, JobSpec
from qsub_py.node import foreign, surroundings
from qsub_py.node.batch import MOST_COMMONS
from qsub_py.node.command_line import command_line, is_shell
from qsub_py.node.inputs import Inputs, MissingInput, needs
from qsub_py.node.job_files import common_files, moved, split_outputs
from qsub_py.node.settings import NodeSettings
from qsub_py.node.sweeps import Special, special_of
from qsub_py.payload import pack_chunk
from qsub_py.policy import Retry
from qsub_py.signing import Keyring, verify
from qsub_py.store_node import Chunk, NodeStore
from qsub_py.sweep_fill import fill
from qsub_py.text import expand_pattern

#: A batch is made as long as this many seconds of work.
_BATCH_S = 0.05
_MOST_TASKS = 256
#: Variables that belong to the host and not to the submitter.
_HOST_VARIABLES = """
    HOME USER LOGNAME SHELL TMPDIR LANG QSUB_STATE_DIR QSUB_URL QSUB_CLUSTER
    XDG_CONFIG_HOME XDG_STATE_HOME XDG_CACHE_HOME XDG_RUNTIME_DIR
""".split()  # noqa: SIM905 - a list of words is read as words
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_BARE_CALL = pack_chunk([((), {})])


class CannotStart(QsubError):
    """This node cannot start the job; the reason is told to the store."""


@dataclass
class Job:
    """A job whose spec was verified."""

    id: int
    uid: str
    spec: JobSpec
    #: Where the pickled function or the script's text lies.
    path: str = ""
    #: The schedule that made it, and for what time; 0: none.
    schedule: int = 0
    due_at: float = 0.0
    #: How often its spec had been altered.
    version: int = 0
    #: How many tasks go into one batch.
    hint: int = 1
    #: What all its batches have in common, as the keeper is told.
    common: dict[str, Any] = field(default_factory=dict)
    #: Verified chunks of calls by first position: (count, bytes).
    chunks: OrderedDict[int, tuple[int, bytes]] = field(default_factory=OrderedDict)
    #: What is not the same for all tasks; None in an ordinary array.
    special: Special | None = None

    def learn(self, seconds: float, tasks: int) -> None:
        """Fit the size of the next batches to what `tasks` tasks took: double, or shrink."""
        fitting = int(_BATCH_S * tasks / max(seconds, 1e-6))
        most = self.spec.calls_per_runner or _MOST_TASKS
        self.hint = max(1, min(fitting, 2 * self.hint, most, _MOST_TASKS))


class Jobs:
    """The jobs of a node, fetched when first met, forgotten when long unused."""

    def __init__(
        self, store: NodeStore, ring: Keyring, settings: NodeSettings, node_dir: Path
    ) -> None:
        self._store, self._ring, self._settings, self._dir = store, ring, settings, node_dir
        self._inputs = Inputs(store, ring, node_dir)
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        #: uids of jobs whose common part the keeper was told.
        self._told: set[str] = set()
        for name in ("spool", "scratch", "out"):
            (node_dir / name).mkdir(mode=0o700, exist_ok=True)

    def known(self, uid: str) -> Job | None:
        """Return a job that was met before."""
        return self._jobs.get(uid)

    def policy(self, batch: Batch) -> Retry | None:
        """Return what the job's spec says of failures; None also when it cannot be trusted."""
        try:
            return self.get(batch).spec.retry
        except QsubError as error:
            if isinstance(error, StoreError) and not isinstance(error, DataGone):
                raise
            return None

    def hints(self) -> dict[int, int]:
        """Return job id -> tasks a batch, of the jobs met last."""
        recent = list(self._jobs.values())[-16:]
        return {job.id: job.hint for job in recent if job.hint > 1}

    def get(self, batch: Batch) -> Job:
        """Return the job of a batch; SignatureError, CannotStart."""
        job = self._jobs.get(batch.uid)
        if job is None or job.version < batch.version:
            signed = self._store.signed_spec(batch.job)
            data, uid = signed.check(self._ring, self._store.cluster), signed.uid
            if uid != batch.uid:
                raise PayloadError(f"job {batch.job} is another one now")
            try:
                spec = JobSpec.from_bytes(data)
            except (TypeError, ValueError, KeyError) as error:
                raise CannotStart(f"its spec is of another version of qsub_py ({error})") from error
            job = Job(batch.job, uid, spec, schedule=signed.schedule,
                      due_at=signed.due_ms / 1000, version=signed.version)  # fmt: skip
            job.special = special_of(job.id, uid, spec, self._store, self._ring,
                                     self._settings.name)  # fmt: skip
            job.path = self._spool(job)
            job.common = self._common(job)
            self._jobs[uid] = job
            # What the keeper was told is of an older spec.
            self._told = {key for key in self._told if key.partition("/")[0] != uid}
            while len(self._jobs) > 256:
                self._drop(next(iter(self._jobs)))
        self._jobs.move_to_end(batch.uid)
        return job

    def get_anew(self, batch: Batch) -> Job:
        """Return the job as it is signed now; SignatureError, CannotStart."""
        self._jobs.pop(batch.uid, None)
        return self.get(batch)

    def _drop(self, uid: str) -> None:
        self._jobs.pop(uid)

    def _spool(self, job: Job) -> str:
        if job.spec.kind == "call":
            path = self._dir / "spool" / f"{job.spec.function_sha}.fn"
            if not path.exists():
                data = self._store.function(job.id)
                if hashlib.sha256(data).hexdigest() != job.spec.function_sha:
                    raise PayloadError("the function is not the one that was signed")
                _write(path, data)
            return str(path)
        if job.spec.script is not None:
            path = self._dir / "spool" / f"{job.uid}.script"
            if not path.exists():
                _write(path, job.spec.script.encode("utf-8", "surrogateescape"))
            return str(path)
        return ""

    # -- what the keeper is told -----------------------------------------------------------

    def run_frame(self, batch: Batch, chunk: Chunk | None = None) -> tuple[dict[str, Any], bytes]:
        """Return the keeper's `run` order and its body.

        Raises SignatureError, CannotStart, MissingInput.
        """
        job = self.get(batch)
        if chunk:
            self._keep_chunk(job, chunk)
        header: dict[str, Any] = {
            "op": "run",
            "slot": batch.slot,
            "batch": {"job": batch.job, "uid": batch.uid, "first": batch.first,
                      "count": batch.count, "attempt": batch.attempt, "epoch": batch.epoch},
            "kind": job.spec.kind,
        }  # fmt: skip
        body = b""
        if job.special is not None:
            job.special.begin(batch)
        if job.spec.kind == "call":
            header["tasks"], header["chunks"], body = self._calls(job, batch)
            wanted = [run for _, runs in self._needs(job, batch) for run in runs]
            if wanted:
                name = f"{batch.uid}.{batch.first}.{batch.attempt}.{batch.slot}"
                header["inputs"], more = self._inputs.gather(wanted, name, offset=len(body))
                body += more
        else:
            header["tasks"] = [self._task(job, batch.first + at) for at in range(batch.count)]
        mem_bytes, time_s = grown(job.spec, batch)
        header["env"] = self._own_variables(job, batch, mem_bytes, time_s)
        header["common_key"] = key = f"{job.uid}/{batch.level}" if batch.level else job.uid
        if key not in self._told:
            if len(self._told) == MOST_COMMONS:
                self._told.clear()
            self._told.add(key)
            header["common"] = {**job.common, "limit_s": time_s, "mem_bytes": mem_bytes}
        return header, body

    def missing_inputs(self, batch: Batch, error: Exception) -> dict[int, str]:
        """Return the positions that lack the result of another call, and why, if that is it."""
        missing: dict[int, str] = {}
        if not isinstance(error, MissingInput):
            return missing
        for position, runs in self._needs(self.get(batch), batch):
            try:
                self._inputs.gather(runs, f"{batch.uid}.{position}.probe")
            except MissingInput as lack:
                missing[position] = str(lack)
        return missing

    def _needs(self, job: Job, batch: Batch) -> Iterator[tuple[int, list[Run]]]:
        return iter(()) if job.spec.is_bare_call else needs(batch, lambda at: self._chunk(job, at))

    def tell_again(self) -> None:
        """Take it that the keeper knows no job: it is another one, or has a new connection."""
        self._told.clear()

    def _own_variables(
        self, job: Job, batch: Batch, mem_bytes: int, time_s: float
    ) -> dict[str, str]:
        """Return the variables that are not the same for all batches of a job."""
        env = {
            "QSUB_ATTEMPT": str(batch.attempt),
            **surroundings.gpu_variables(batch.gpus, job.spec, self._settings),
        }
        if job.spec.kind == "command" or "private" in job.common:
            env["QSUB_SCRATCH"] = f"{self._dir}/scratch/{batch.slot}"
        if mem_bytes:
            env["QSUB_MEM_BYTES"] = str(mem_bytes)
        if time_s:
            env["QSUB_TIME_S"] = f"{time_s:g}"
        if job.spec.notice:
            env["QSUB_SIGNAL"] = str(job.spec.notice.signal)
        return env | foreign.attempt_variables(job.spec, batch.attempt, env)

    def _common(self, job: Job) -> dict[str, Any]:
        spec = job.spec
        env = {name: os.environ[name] for name in _HOST_VARIABLES if name in os.environ}
        env |= dict.fromkeys(_THREADS, str(spec.cpus))
        env |= spec.env
        env.setdefault("PATH", os.environ.get("PATH", os.defpath))
        env = surroundings.environment(env, spec, self._settings)
        if (self._dir / "bin").is_dir():  # our commands, on a host that has them not installed
            env["PATH"] += f"{os.pathsep}{self._dir}/bin"
        parts = spec.segments.parts
        env |= {
            "QSUB_JOB_ID": str(job.id),
            "QSUB_JOB_NAME": spec.name,
            "QSUB_OWNER": spec.owner,
            "QSUB_TASK_COUNT": str(spec.segments.count),
            "QSUB_TASK_MIN": str(min(part[0] for part in parts)),
            "QSUB_TASK_MAX": str(max(part[1] for part in parts)),
            "QSUB_TASK_STEP": str(parts[0][2]),
            "QSUB_NODE": self._settings.name,
            "QSUB_CPUS": str(spec.cpus),
            "QSUB_GPUS": str(spec.gpus),
            "QSUB_SUBMIT_DIR": spec.cwd,
            "QSUB_SCRIPT": spec.script_path,
            "QSUB_PARAMS": "{}",
            **foreign.job_variables(job.id, spec, env, self._dir),
        }
        if job.schedule:
            env |= {"QSUB_SCHEDULE_ID": str(job.schedule), "QSUB_DUE_AT": f"{job.due_at:.3f}"}
        common = {
            "env": env,
            "cwd": spec.cwd or env.get("HOME", "/"),
            "umask": spec.umask,
            "limit_s": spec.time_s,
            "grace_s": spec.grace_s,
            "requeue": spec.requeue,
            "notice": _notice(spec),
        }
        common |= common_files(spec, self._dir)
        if spec.kind == "call":
            path = [moved(spec, part) if "private" in common else part for part in spec.path]
            own = {"fn_key": spec.function_sha, "fn_path": job.path, "path": path,
                   "most_calls": spec.calls_per_runner}  # fmt: skip
            return common | own | {"python": surroundings.interpreter(spec, self._settings)}
        return common | {"argv": command_line(spec, job.path, self._settings)}

    def _task(self, job: Job, position: int) -> dict[str, Any]:
        env = foreign.task_variables(job.id, job.spec, position)
        task: dict[str, Any] = {"pos": position, "env": env}
        if job.special is not None:
            job.special.dress(task, position, job.common["argv"])
        return task | output_files(job, position, self._settings.name)

    def _calls(self, job: Job, batch: Batch) -> tuple[Any, list[tuple[int, int]], bytes]:
        if job.special is not None and job.special.is_sweep:
            data = job.special.chunk(range(batch.first, batch.first + batch.count))
            return (
                [self._call_task(job, batch.first + at, 0, at) for at in range(batch.count)],
                [(0, len(data))],
                data,
            )
        if job.spec.is_bare_call:
            bare = [self._call_task(job, batch.first + at, 0, 0) for at in range(batch.count)]
            return bare, [(0, len(_BARE_CALL))], _BARE_CALL
        tasks: Any
        chunks: list[tuple[int, int]] = []
        where: list[tuple[int, int, int]] = []
        body: list[bytes] = []
        at = batch.first
        while at < batch.first + batch.count:
            first, count, data = self._chunk(job, at)
            offset = sum(map(len, body))
            chunks.append((offset, len(data)))
            body.append(data)
            stop = min(first + count, batch.first + batch.count)
            where.append((at, stop - at, at - first))
            at = stop
        parts = job.spec.segments.parts
        is_special = job.special or job.spec.compat
        compact = len(chunks) == 1 and not job.spec.output and len(parts) == 1 and not is_special
        if compact:
            first, count, offset = where[0]
            tasks = {"first": first, "count": count, "chunk": 0, "at": offset,
                     "index_first": job.spec.index(first), "index_step": parts[0][2]}  # fmt: skip
        else:
            tasks = [
                self._call_task(job, position, number, offset + position - first)
                for number, (first, count, offset) in enumerate(where)
                for position in range(first, first + count)
            ]
        return tasks, chunks, b"".join(body)

    def _call_task(self, job: Job, position: int, chunk: int, at: int) -> dict[str, Any]:
        index = job.spec.index(position)
        task: dict[str, Any] = {"pos": position, "index": index, "chunk": chunk, "at": at}
        task["env"] = foreign.task_variables(job.id, job.spec, position)
        if job.special is not None:
            job.special.dress(task, position, [])
        return task | output_files(job, position, self._settings.name)

    def _chunk(self, job: Job, position: int) -> tuple[int, int, bytes]:
        for first, (count, data) in reversed(job.chunks.items()):
            if first <= position < first + count:
                return first, count, data
        first, count, data = self._keep_chunk(job, self._store.chunk(job.id, position))
        if not first <= position < first + count:
            raise PayloadError(f"the arguments of task {position} are missing")
        return first, count, data

    def _keep_chunk(self, job: Job, chunk: Chunk) -> tuple[int, int, bytes]:
        """Verify arguments and keep them for the next batches; SignatureError."""
        first, count, data, signature = chunk
        verify(self._ring, signature, "args", self._store.cluster, job.uid,
               b"%d" % first, b"%d" % count, data)  # fmt: skip
        job.chunks[first] = (count, data)
        while len(job.chunks) > 8:
            job.chunks.popitem(last=False)
        return first, count, data


def grown(spec: JobSpec, batch: Batch) -> tuple[int, float]:
    """Return the memory (0: its share, not limited) and the time limit of a batch's tasks.

    What the store says of a retry is only believed within what the signed policy makes of it.
    """
    if not batch.level or not spec.retry:
        return spec.mem_bytes, spec.time_s
    mem_bytes, time_s = spec.retry.grown(spec.mem_bytes, spec.time_s, batch.level)
    # The store gives no more than the largest node has.
    return max(spec.mem_bytes, min(mem_bytes, batch.mem_bytes)), time_s


def _notice(spec: JobSpec) -> tuple[int, float, str] | None:
    """Return (signal, seconds before the limit, whom) for the keeper."""
    if spec.notice is None:
        return None
    whom = "main" if spec.notice.is_shell_only else "rest" if is_shell(spec) else "all"
    return spec.notice.signal, spec.notice.before_s, whom


def output_files(job: Job, position: int, node: str) -> dict[str, Any]:
    """Return the files ("out", "err") that the user asked for, by absolute path.

    In a private directory those that are relative stand under "links"; see `split_outputs`.
    """
    spec, files = job.spec, {}
    for name, pattern in (("out", spec.output), ("err", spec.error)):
        if pattern:
            files[name] = expand_pattern(
                pattern, job=job.id, index=spec.index(position), name=spec.name, user=spec.owner,
                node=node, is_array=spec.is_array,
            )  # fmt: skip
            if job.special is not None:
                files[name] = fill(files[name], job.special.params(position))
    if "private" in job.common:
        return split_outputs(files)
    return {name: os.path.join(spec.cwd, path) for name, path in files.items()}


def _write(path: Path, data: bytes) -> None:
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_bytes(data)
    os.replace(new, path)
