"""Jobs and tasks in Grid Engine's words: ids, states, the lines of qstat. Pure."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from qsub_py.cli.shims.looking import Row
from qsub_py.errors import SpecError
from qsub_py.model import State
from qsub_py.text import quoted

_ID = re.compile(r"(\d+)(?:\.(\d+(?:-\d+(?::\d+)?)?))?", re.ASCII)
_HEAD = (
    "job-ID  prior   name       user         state submit/start at     queue"
    "                          slots ja-task-ID "
)


def our_id(word: str) -> str:
    """Return `12`, `12.3`, `12.1-5` as ours; raises SpecError."""
    match = _ID.fullmatch(word.strip())
    if not match:
        raise SpecError(f"{quoted(word)} is no id of a job", hint="jobs go by their ids here")
    return f"{match[1]}_[{match[2]}]" if match[2] else match[1]


def letters(row: Row) -> str:
    """Return qw, hqw, r, Eqw; a suspended job is `r` too: to its tools `s` is a failure."""
    if row.state is State.PENDING:
        return "Eqw" if row.job.held_why else "hqw" if row.is_held else "qw"
    return "z" if row.state.is_terminal else "r"


def tasks(row: Row) -> str:
    """Return the numbers of tasks as the last column has them: `3`, `4-10:1`, `1,5`."""
    if row.index is not None:
        return str(row.index)
    return ",".join(f"{a}" if a == b else f"{a}-{b}:1" for a, b in row.together)


def lines(rows: Sequence[Row]) -> list[str]:
    """Return the lines of qstat; none where there is nothing."""
    heads = [_HEAD, "-" * (len(_HEAD) - 1)] if rows else []
    return heads + [_line(row) for row in rows]


def _line(row: Row) -> str:
    job = row.job
    at = time.localtime(row.started_at or job.submitted_at)
    waits = row.state is State.PENDING
    place = "" if waits else f"{job.queue}@{row.node}" if row.node else job.queue
    prior = min(max(0.5 + job.priority / 2048, 0.0), 9.0)
    # Each word has its place: a name has no blank in it.
    return (
        f"{job.id:>7} {prior:.5f} {job.name[:10]:<10} {job.owner[:12]:<12} {letters(row):<5} "
        f"{time.strftime('%m/%d/%Y %H:%M:%S', at)} {place[:30]:<30} {job.cpus:>5} {tasks(row)}"
    )


def described(row: Row) -> list[str]:
    """Return what `qstat -j` says of a job."""
    job, spec = row.job, row.spec
    pairs = [
        ("job_number", str(job.id)), ("owner", job.owner), ("job_name", job.name),
        ("submission_time", time.ctime(job.submitted_at)),
        ("sge_o_workdir", spec.cwd if spec else ""), ("hard_queue_list", job.queue),
        ("parallel environment", f"smp range: {job.cpus}" if job.cpus > 1 else ""),
        ("hard resource_list", f"h_rt={job.time_s:.0f}" if job.time_s else ""),
        ("stdout_path_list", (spec and spec.output) or ""),
        ("script_file", (spec and spec.script_path) or ""),
        ("account", (spec and spec.account) or ""), ("priority", str(job.priority)),
        ("job_state", letters(row)),
        ("scheduling info", row.reason if row.state is State.PENDING else ""),
    ]  # fmt: skip
    return ["=" * 62, *(f"{name + ':':<28}{value}" for name, value in pairs if value)]
