"""Jobs and tasks in the words of PBS Pro and Torque: ids, states, the records of `qstat -f`.

Pure. An array is `12[]`, a task of it `12[3]`; there is no server's name behind them.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qsub_py.cli.shims.looking import Row
from qsub_py.cli.shims.slurm_words import duration
from qsub_py.errors import SpecError
from qsub_py.model import State
from qsub_py.text import quoted

SERVER = "qsub"
_ID = re.compile(r"(\d+)(?:\[([\d,:-]*)\]|-(\d+))?(?:\.[\w.-]+)?(?:@[\w.-]*)?", re.ASCII)
_WIDTHS = {"torque": (25, 16, 15, 8, 1, 5), "pbs": (16, 16, 16, 8, 1, 5)}
_HEADS = ("Job ID", "Name", "User", "Time Use", "S", "Queue")


@dataclass(frozen=True, slots=True)
class Entry:
    """A row with what only PBS asks of it."""

    row: Row
    now: float
    #: torque or pbs.
    system: str

    @property
    def id(self) -> str:
        """`12`, `12[]`, `12[3]`."""
        return job_id(self.row)

    @property
    def state(self) -> str:
        """The letter of its state."""
        return letter(self.row, self.now, self.system)


def is_id(word: str) -> bool:
    """Whether a word names a job, and not a queue."""
    return _ID.fullmatch(word) is not None


def our_id(word: str) -> str:
    """Return `12[3].server` as `12_3`; raises SpecError."""
    match = _ID.fullmatch(word.strip())
    if not match:
        raise SpecError(f"illegally formed job identifier: {quoted(word)}")
    tasks = match[2] or match[3]
    if not tasks:
        return match[1]
    return f"{match[1]}_{tasks}" if tasks.isdigit() else f"{match[1]}_[{tasks}]"


def job_id(row: Row) -> str:
    """Return the id of a job, an array or a task."""
    if row.index is not None:
        return f"{row.job.id}[{row.index}]"
    if row.together:
        first, last = row.together[0][0], row.together[-1][1]
        return f"{row.job.id}[{first}]" if first == last else f"{row.job.id}[]"
    return f"{row.job.id}[]" if row.job.is_array else str(row.job.id)


def letter(row: Row, now: float, system: str) -> str:
    """Return Q, H, W, R, S, E, B (an array that has begun), and at the end C (Torque) or F."""
    if row.state.is_terminal:
        return "C" if system == "torque" else "X" if row.index is not None else "F"
    is_array = row.index is None and row.job.is_array and not row.together
    if row.state is State.PENDING:
        if row.is_held:
            return "H"
        has_begun = is_array and row.job.started_at
        return "B" if has_begun else "W" if row.job.begin_at > now else "Q"
    if row.state is State.SUSPENDED:
        return "S"
    return "B" if is_array else "E" if row.state is State.COMPLETING else "R"


def used(entry: Entry) -> str:
    """Return how long it has run, `0` before its start."""
    row = entry.row
    if row.started_at is None:
        return "0"
    return duration(max(0.0, (row.ended_at or entry.now) - row.started_at), is_full=True)


def table(entries: Sequence[Entry], *, header: bool = True) -> list[str]:
    """Return the lines of plain qstat: six words each, none where there is nothing."""
    if not entries:
        return []
    widths = _WIDTHS[entries[0].system]
    dashes = [" ".join("-" * width for width in widths)]
    heads = [_line(_HEADS, widths), *dashes] if header else []
    return heads + [
        _line((one.id, one.row.job.name, one.row.job.owner, used(one), one.state,
               one.row.job.queue), widths)
        for one in entries
    ]  # fmt: skip


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    head, *rest = cells
    # An id is never cut: it is what is read.
    shown = [head.ljust(widths[0])]
    shown += [cell[:w].ljust(w) for cell, w in zip(rest[:-1], widths[1:], strict=False)]
    return " ".join([*shown, rest[-1]]).rstrip()


def _when(at: float | None) -> str:
    return time.ctime(at) if at else ""


def record(entry: Entry) -> dict[str, Any]:
    """Return what `qstat -f` says of a job; values are texts, or tables of texts."""
    row, job, spec = entry.row, entry.row.job, entry.row.spec
    resources: dict[str, str] = {"ncpus": str(job.cpus), "nodect": "1"}
    if job.mem_bytes:
        resources["mem"] = f"{-(-job.mem_bytes >> 20)}mb"
    if job.gpus:
        resources["ngpus"] = str(job.gpus)
    if job.time_s:
        resources["walltime"] = duration(job.time_s, is_full=True)
    found: dict[str, Any] = {
        "Job_Name": job.name,
        "Job_Owner": f"{job.owner}@{SERVER}",
        "resources_used": {"walltime": used(entry)} if row.started_at else {},
        "job_state": entry.state,
        "queue": job.queue,
        "server": SERVER,
        "exec_host": f"{row.node}/0" if row.node else "",
        "Priority": str(job.priority),
        "qtime": _when(job.submitted_at),
        "stime": _when(row.started_at),
        "comp_time" if entry.system == "torque" else "obittime": _when(row.ended_at),
        "Resource_List": resources,
        "Error_Path": (spec and (spec.error or spec.output)) or "",
        "Output_Path": (spec and spec.output) or "",
        "Account_Name": (spec and spec.account) or "",
        "comment": row.reason,
    }
    if row.state.is_terminal:
        found["exit_status" if entry.system == "torque" else "Exit_status"] = _exit_status(row)
    return {name: value for name, value in found.items() if value not in ("", {})}


def _exit_status(row: Row) -> str:
    if row.outcome is not None:
        signal = row.outcome.signal
        return str(256 + signal if signal else row.outcome.exit_code)
    return str(row.job.exit_code or (0 if row.state is State.COMPLETED else 1))


def full(entries: Sequence[Entry]) -> list[str]:
    """Return the lines of `qstat -f`."""
    lines: list[str] = []
    for entry in entries:
        lines.append(f"Job Id: {entry.id}")
        for name, value in record(entry).items():
            pairs = value.items() if isinstance(value, dict) else ((None, value),)
            lines += [f"    {name}{f'.{key}' if key else ''} = {text}" for key, text in pairs]
        lines.append("")
    return lines


def as_json(entries: Sequence[Entry], now: float) -> str:
    """Return what `qstat -f -F json` prints: always one object, with `Jobs` where there are."""
    found: dict[str, Any] = {"timestamp": int(now), "pbs_version": SERVER, "pbs_server": SERVER}
    if entries:
        found["Jobs"] = {entry.id: record(entry) for entry in entries}
    return json.dumps(found, indent=4)
