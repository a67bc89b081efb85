"""Jobs and tasks in Slurm's words: ids, states, exit codes, times.

Pure. Where Slurm has no word for a state it is the nearest that its tools know.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from qsub_py.cli.shapes import clock
from qsub_py.cli.shims.looking import Row
from qsub_py.errors import SpecError
from qsub_py.model import State
from qsub_py.text import quoted

_STEP = re.compile(r"(?<=[\d\]])\.(?:\d+|batch|extern|interactive)(?=$|[+,])")
#: States of Slurm that nothing has here.
_OTHERS = """
    CF CONFIGURING PR PREEMPTED BF BOOT_FAIL DL DEADLINE RV REVOKED SE SPECIAL_EXIT ST STOPPED RQ
    REQUEUED RS RESIZING SO STAGE_OUT SI SIGNALING RF REQUEUE_FED RH REQUEUE_HOLD RD RESV_DEL_HOLD
""".split()  # noqa: SIM905 - a list of words is read as words
_SHORT = {State.DEP_FAILED: "CA"}
_LONG = {State.DEP_FAILED: "CANCELLED"}
#: sacct knows no job between running and ended, and its readers take a suspended one for dead.
_ACCOUNTED = {State.COMPLETING: "RUNNING", State.SUSPENDED: "RUNNING", **_LONG}


def our_ids(words: Iterable[str]) -> list[str]:
    """Return ids without what names a step: `12.batch` is job 12."""
    return [_STEP.sub("", word.strip()) for word in words if word.strip()]


def job_id(row: Row, *, limit: bool = True) -> str:
    """Return `12`, `12_3`, `12_[4-9%2]`."""
    if row.index is not None:
        return f"{row.job.id}_{row.index}"
    if not row.together:
        return str(row.job.id)
    shown = ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in row.together)
    if shown.isdigit() and row.state is not State.PENDING:
        return f"{row.job.id}_{shown}"
    at_once = f"%{row.job.limit}" if row.job.limit and limit else ""
    return f"{row.job.id}_[{shown}{at_once}]"


def task_cell(row: Row) -> str:
    """Return the number of a task, `4-9` of tasks that wait, `N/A` of a plain job."""
    return job_id(row).partition("_")[2].strip("[]") or "N/A"


def short(state: State) -> str:
    """Return squeue's two letters."""
    return _SHORT.get(state, state.short)


def long(state: State) -> str:
    """Return squeue's word."""
    return _LONG.get(state, state.name)


def accounted(state: State) -> str:
    """Return sacct's word."""
    return _ACCOUNTED.get(state, state.name)


def read_states(text: str) -> frozenset[State] | None:
    """Read `PD,running` or `all` (None); raises SpecError."""
    found: set[State] = set()
    for word in text.upper().split(","):
        if word == "ALL":
            return None
        states = {state for state in State if word in (short(state), state.short, state.name)}
        if not states and word not in _OTHERS:
            raise SpecError(f"there is no state {quoted(word)}")
        found |= states
        if word in ("CA", "CANCELLED"):
            found.add(State.DEP_FAILED)
    return frozenset(found)


def exit_code(row: Row) -> str:
    """Return `code:signal`."""
    if row.outcome is not None:
        return f"{row.outcome.exit_code}:{row.outcome.signal}"
    is_ended = row.index is None and row.job.has_ended
    return f"{row.job.exit_code or 0}:0" if is_ended else "0:0"


def elapsed(row: Row, now: float) -> float:
    """Return how many seconds it has run."""
    if row.started_at is None:
        return 0.0
    return max(0.0, (row.ended_at or now) - row.started_at)


def duration(seconds: float, *, is_full: bool = False) -> str:
    """Return `1-02:03:04`; squeue's short form `2:03`, or with `is_full` always `00:02:03`."""
    days, rest = divmod(math.floor(seconds), 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    if days:
        return f"{days}-{hours:02}:{minutes:02}:{rest:02}"
    if hours or is_full:
        return f"{hours:02}:{minutes:02}:{rest:02}" if is_full else (
            f"{hours}:{minutes:02}:{rest:02}"
        )  # fmt: skip
    return f"{minutes}:{rest:02}"


def limit(row: Row, *, is_full: bool = False) -> str:
    """Return its time limit."""
    return duration(row.job.time_s, is_full=is_full) if row.job.time_s else "UNLIMITED"


def moment(at: float | None) -> str:
    """Return a time of sacct; `Unknown` for none."""
    return clock(at) if at else "Unknown"


def memory(size_bytes: int) -> str:
    """Return a size in Slurm's way: `4G`, `500M`, 0 for none."""
    if not size_bytes:
        return "0"
    return f"{size_bytes >> 30}G" if size_bytes % 2**30 == 0 else f"{-(-size_bytes >> 20)}M"
