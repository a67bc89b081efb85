"""The values of the batch system: jobs, tasks, attempts, nodes, and their states.

Frozen data without any I/O. Words are those of CONTRIBUTING.rst; times end in `_at` (epoch
seconds on the server's clock), durations in `_s`, sizes in `_bytes`.
A task has a *position* (0..n-1, dense, what the store counts) and an *index* (what the
user wrote in `--array 0,3,7-9`); `Segments` maps one to the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from qsub_py.nodeinfo import NodeInfo as NodeInfo
from qsub_py.policy import Notice, Retry
from qsub_py.states import WORST_FIRST as WORST_FIRST
from qsub_py.states import State as State
from qsub_py.terms import Terms


@dataclass(frozen=True, slots=True)
class Segments:
    """The task indices of a job as ranges (first, last, step), in the order written."""

    parts: tuple[tuple[int, int, int], ...]

    @property
    def count(self) -> int:
        """How many tasks there are."""
        return sum((last - first) // step + 1 for first, last, step in self.parts)

    def index(self, position: int) -> int:
        """Return the index of the task at `position`; raises IndexError."""
        for first, last, step in self.parts:
            size = (last - first) // step + 1
            if position < size:
                return first + position * step
            position -= size
        raise IndexError(position)

    def position(self, index: int) -> int | None:
        """Return the position of the task called `index`, or None when there is none."""
        before = 0
        for first, last, step in self.parts:
            if first <= index <= last and (index - first) % step == 0:
                return before + (index - first) // step
            before += (last - first) // step + 1
        return None

    def __iter__(self) -> Iterator[int]:
        for first, last, step in self.parts:
            yield from range(first, last + 1, step)


ONE_TASK = Segments(((0, 0, 1),))


@dataclass(frozen=True, slots=True)
class Ship:
    """An archive of a file or folder as it was when the job was submitted."""

    #: Where it lies in the private directory; "." is the directory itself.
    name: str
    #: SHA-256 (hex) of the archive, and its size.
    sha: str
    size: int


@dataclass(frozen=True, slots=True)
class JobSpec:
    """All that decides what runs; signed whole by the client, verified by the node.

    `kind` is "command" (argv, or a script to spool and run with `argv` as its arguments)
    or "call" (a pickled function, sent beside the spec and named here by its SHA-256).
    """

    kind: str
    name: str
    owner: str
    #: command: the words; with a script, its arguments only.
    argv: tuple[str, ...] = ()
    #: The spooled text of a script (None: argv is a command line of its own).
    script: str | None = None
    #: The path the script was read from, "" for standard input or --wrap.
    script_path: str = ""
    #: call: SHA-256 (hex) of the pickled function.
    function_sha: str = ""
    #: call: how it is shown ("module:function").
    function_name: str = ""
    #: call: every task calls the function without arguments, none are stored beside the spec.
    is_bare_call: bool = False
    #: call: the Python minor it was pickled under ("3.11"); "" runs on any node.
    python_minor: str = ""
    #: The interpreter for .py scripts and calls; "" is the node's own.
    python: str = ""
    #: The submitter's own interpreter: used where it exists and `python` is "".
    python_hint: str = ""
    #: Directories put in front of sys.path for calls.
    path: tuple[str, ...] = ()
    cwd: str = ""
    env: dict[str, str] = field(default_factory=dict)
    umask: int = 0o022
    segments: Segments = ONE_TASK
    #: Whether the user asked for an array (a one-task array still has task ids).
    is_array: bool = False
    cpus: int = 1
    #: 0: the node's share per cpu.
    mem_bytes: int = 0
    gpus: int = 0
    #: 0: no limit.
    time_s: float = 0.0
    grace_s: float = 10.0
    #: Output patterns; "": kept by the node only; error "": merged into output.
    output: str = ""
    error: str = ""
    requeue: bool = True
    queue: str = "main"
    nodelist: tuple[str, ...] = ()
    comment: str = ""
    account: str = ""
    #: Files that travel with the job; with any it runs in a private directory that holds them.
    ship: tuple[Ship, ...] = ()
    #: Patterns of the files that come back, and how many bytes of them: of a task, of all tasks.
    fetch: tuple[str, ...] = ()
    fetch_bytes: int = 0
    fetch_job_bytes: int = 0
    #: call: it runs in a private directory where `cwd` does not exist.
    is_cwd_optional: bool = False
    #: What is done when a task fails, and before its time limit; None: nothing.
    retry: Retry | None = None
    notice: Notice | None = None
    #: Parameters by position (`sweep.Sweep.plain`); then the indices are the positions.
    sweep: dict[str, Any] = field(default_factory=dict)
    #: A task whose file of this pattern is there has nothing to do.
    skip_if_exists: str = ""
    #: Which nodes, licences and rate; None: any, none and any.
    terms: Terms | None = None
    #: Whose variables the job gets, too (slurm, pbs, sge), and of how many processes they speak.
    compat: str = ""
    procs: int = 0
    #: call: a runner process executes at most so many; 0: any number.
    calls_per_runner: int = 0

    def to_bytes(self) -> bytes:
        """Return canonical JSON, the bytes that are signed."""
        raw = asdict(self)
        # A node of an older version takes the jobs that it understands.
        for name in _NEWER:
            if not raw[name]:
                del raw[name]
        return json.dumps(raw, sort_keys=True, separators=(",", ":")).encode(
            "utf-8", "surrogateescape"
        )

    def index(self, position: int) -> int:
        """Return the index of the task at `position`; without an array they are the same."""
        return self.segments.index(position) if self._is_numbered else position

    def position(self, index: int) -> int | None:
        """Return the position of the task called `index`, or None when it cannot be one."""
        return self.segments.position(index) if self._is_numbered else index

    @property
    def _is_numbered(self) -> bool:
        return self.is_array and not self.sweep

    @classmethod
    def from_bytes(cls, data: bytes) -> JobSpec:
        """Read `to_bytes` back; unknown keys (of a newer client) are refused by TypeError."""
        raw: dict[str, Any] = json.loads(data.decode("utf-8", "surrogateescape"))
        raw["argv"] = tuple(raw["argv"])
        raw["nodelist"] = tuple(raw["nodelist"])
        raw["path"] = tuple(raw["path"])
        raw["segments"] = Segments(tuple(tuple(part) for part in raw["segments"]["parts"]))
        raw["ship"] = tuple(Ship(**part) for part in raw.get("ship", ()))
        raw["fetch"] = tuple(raw.get("fetch", ()))
        for name, read in (("retry", Retry.from_json), ("notice", lambda part: Notice(**part)),
                           ("terms", Terms.from_json)):  # fmt: skip
            raw[name] = read(raw[name]) if raw.get(name) else None
        return cls(**raw)


#: Fields of a spec that version 0.1 did not know.
_NEWER = ("ship", "fetch", "fetch_bytes", "fetch_job_bytes", "is_cwd_optional", "retry", "notice",
          "sweep", "skip_if_exists", "terms", "compat", "procs",
          "calls_per_runner")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Submission:
    """A spec with what the store alone needs to queue it."""

    spec: JobSpec
    #: 16 hex digits made by the client; a second submit with the same token is the same job.
    uid: str
    token: str
    spec_bytes: bytes
    signature: bytes
    #: How many tasks exist at once (an open job may start with 0).
    count: int
    #: The pickled function (calls), or b"".
    function: bytes = b""
    priority: int = 0
    #: At most so many tasks of it run at once; 0: no limit.
    limit: int = 0
    is_held: bool = False
    #: More tasks may be appended until it is closed.
    is_open: bool = False
    #: 0: at once.
    begin_at: float = 0.0
    #: What has not begun by then is cancelled; 0: none. Of a schedule: seconds after each due time.
    deadline_at: float = 0.0
    #: Of a schedule: the signed rule, its first time (ms), most firings (0: any), overlap.
    plan: tuple[bytes, int, int, str] | None = None
    #: The rest is cancelled when more tasks fail: "5", "10%"; "": never.
    max_fails: str = ""
    #: The rows of a sweep from a file, in pages; () when they stand in the spec.
    pages: tuple[bytes, ...] = ()
    #: Fields of the job that say what it waits for (waits.py).
    waits: dict[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Batch:
    """Contiguous tasks of one job that a node runs one after another in one slot.

    (uid, position, attempt, epoch) with the slot is the fencing token of each attempt.
    """

    slot: int
    job: int
    uid: str
    first: int
    count: int
    attempt: int
    epoch: int
    cpus: int
    mem_bytes: int
    #: Device numbers.
    gpus: tuple[int, ...]
    #: What it has more than the job asked for: policy.Retry.grown.
    level: int = 0
    #: How often the job's spec had been altered when it was claimed.
    version: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended, as the node reports it and the client reads it."""

    position: int
    state: State
    attempt: int = 1
    exit_code: int = 0
    #: 0: not by a signal.
    signal: int = 0
    node: str = ""
    started_at: float = 0.0
    ended_at: float = 0.0
    cpu_s: float = 0.0
    max_rss_bytes: int = 0
    #: "" unless there is something to explain ("time limit of 10 s", "cancelled by ann").
    reason: str = ""
    #: call: VALUE (pickle of the value), ERROR (pickle of RemoteFailure), NONE.
    result_kind: int = 0
    result: bytes = b""


RESULT_NONE, RESULT_VALUE, RESULT_ERROR, RESULT_BLOB_VALUE, RESULT_BLOB_ERROR = range(5)
RESULT_JSON = 5  #: the last line of JSON that a command printed


@dataclass(frozen=True, slots=True)
class JobInfo:
    """A job as the store has it now."""

    id: int
    uid: str
    name: str
    owner: str
    queue: str
    kind: str
    priority: int
    cpus: int
    mem_bytes: int
    gpus: int
    time_s: float
    submitted_at: float
    started_at: float | None
    ended_at: float | None
    #: Tasks by State; the values sum to the number of tasks.
    counts: dict[State, int]
    limit: int
    is_held: bool
    is_open: bool
    is_array: bool
    begin_at: float
    #: First non-zero exit code by position, None while there is none.
    exit_code: int | None
    #: Names of the nodes that run its tasks now.
    nodes: tuple[str, ...]
    #: A sentence on why it failed as a whole, or "".
    reason: str
    #: Node name -> why this job cannot start there.
    unfit: dict[str, str]
    lane: str
    #: Waiting tasks that failed and run again later, and when the first of them may.
    later: int = 0
    later_at: float = 0.0
    #: Why it is held, beyond that somebody held it.
    held_why: str = ""
    #: The schedule that made it, 0: none.
    schedule: int = 0
    #: Conditions (--dependency) that are not met; tasks that wait for single other tasks.
    unmet: int = 0
    waiting: int = 0
    #: Nothing of it starts or runs on; else the ranges of positions that do not run on.
    is_suspended: bool = False
    suspended: tuple[tuple[int, int], ...] = ()
    #: What has not begun by then is cancelled; 0: none.
    deadline_at: float = 0.0

    @property
    def total(self) -> int:
        """How many tasks it has."""
        return sum(self.counts.values())

    @property
    def has_ended(self) -> bool:
        """Whether every task has ended and no more can come."""
        return self.ended_at is not None

    @property
    def state(self) -> State:
        """The first of running, suspended, pending that any task is, else the worst end."""
        for state in (State.RUNNING, State.COMPLETING, State.SUSPENDED, State.PENDING):
            if self.counts.get(state):
                return state
        if not self.has_ended:
            return State.PENDING
        return next((s for s in WORST_FIRST if self.counts.get(s)), State.COMPLETED)


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """A task as the store has it now; times of an ended one come from its Outcome."""

    job: int
    position: int
    index: int
    state: State
    attempt: int
    node: str = ""
    started_at: float | None = None
    outcome: Outcome | None = None
    params: dict[str, Any] | None = None  #: in a sweep
