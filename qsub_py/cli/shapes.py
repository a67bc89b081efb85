"""Jobs, tasks and nodes as JSON (DESIGN section 7: keys are only ever added) and as table cells."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from qsub_py.model import JobInfo, NodeInfo, State, TaskInfo
from qsub_py.reasons import Why
from qsub_py.units import format_duration, format_size

_COUNTED = [state for state in State]


def job_json(job: JobInfo, why: Why | None) -> dict[str, Any]:
    """Return a job for `qstat --json`."""
    return {
        "id": job.id, "name": job.name, "owner": job.owner, "queue": job.queue, "kind": job.kind,
        "state": job.state.name, "reason": why.reason if why else job.reason,
        "priority": job.priority, "cpus": job.cpus, "mem_bytes": job.mem_bytes, "gpus": job.gpus,
        "submitted_at": job.submitted_at, "started_at": job.started_at, "ended_at": job.ended_at,
        "nodes": list(job.nodes), "exit_code": exit_code(job), "tasks": counts_json(job),
        "is_array": job.is_array, "limit": job.limit, "time_s": job.time_s,
    }  # fmt: skip


def counts_json(job: JobInfo) -> dict[str, int]:
    """Return the numbers of tasks by state; all but `total` sum to `total`."""
    by_state = {state.name.lower(): job.counts.get(state, 0) for state in _COUNTED}
    return {"total": job.total, **by_state}


def exit_code(job: JobInfo) -> int | None:
    """Return the first non-zero exit code, 0 when it completed, None while that is open."""
    if job.exit_code is not None:
        return job.exit_code
    return 0 if job.has_ended and job.state is State.COMPLETED else None


def task_json(task: TaskInfo, reason: str = "") -> dict[str, Any]:
    """Return a task for `qstat -t --json`."""
    end = task.outcome
    started = end.started_at if end and end.started_at else task.started_at
    ran = end if end and end.started_at else None
    return {
        "job": task.job, "index": task.index, "state": task.state.name,
        "exit_code": ran.exit_code if ran and not ran.signal else None,
        "signal": end.signal or None if end else None,
        "node": (end.node if end else task.node) or None, "attempt": task.attempt,
        "started_at": started, "ended_at": end.ended_at or None if end else None,
        "wall_s": ran.ended_at - ran.started_at if ran else None,
        "cpu_s": ran.cpu_s if ran else None, "max_rss_bytes": ran.max_rss_bytes if ran else None,
        "params": task.params or {}, "reason": end.reason if end else reason,
    }  # fmt: skip


def node_json(node: NodeInfo) -> dict[str, Any]:
    """Return a node for `qnode list --json`."""
    return {
        "name": node.name, "state": node.state, "cpus": node.cpus, "cpus_free": node.cpus_free,
        "mem_bytes": node.mem_bytes, "gpus": node.gpus, "features": list(node.features),
        "running": node.running, "version": node.version, "lease_s_left": node.lease_left_s,
        "reason": node.reason, "mem_free_bytes": node.mem_free_bytes, "queues": list(node.queues),
        "host": node.host, "user": node.user, "uid": node.uid, "started_at": node.started_at,
        "load": node.load, "pythons": list(node.pythons), "way": node.way, "alias": node.alias,
        "boot": node.boot, "gpus_free": list(node.gpus_free), "gpus_busy": list(node.gpus_busy),
    }  # fmt: skip


# -- cells of tables -----------------------------------------------------------------------

Cell = Callable[[JobInfo, "Why | None", float], str]


def elapsed(job: JobInfo, now: float) -> str:
    """Return how long a job has run, `0:00` before its start."""
    if job.started_at is None:
        return "0:00"
    return format_duration((job.ended_at or now) - job.started_at)


def tasks_cell(job: JobInfo) -> str:
    """Return `120/1000`, tasks ended of all; just `1` for a job with a single one."""
    if not job.is_array and job.total == 1:
        return "1"
    ended = sum(count for state, count in job.counts.items() if state.is_terminal)
    return f"{ended}/{job.total}" + ("+" if job.is_open else "")


def place_cell(job: JobInfo, why: Why | None) -> str:
    """Return the nodes a job runs on, else why it waits or failed, in parentheses."""
    if job.nodes:
        return ",".join(job.nodes)
    reason = why.reason if why else short_reason(job)
    return f"({reason})" if reason else ""


def short_reason(job: JobInfo) -> str:
    """Return why a job ended as it did, as a table shows it."""
    return "DependencyNeverSatisfied" if job.state is State.DEP_FAILED else job.reason


def clock(moment: float | None) -> str:
    """Return a time as `2026-11-21T13:05:09` in local time, `-` for none."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(moment)) if moment else "-"


def memory_cell(size_bytes: int) -> str:
    """Return a memory request; `share` for the node's share per cpu."""
    return format_size(size_bytes) if size_bytes else "share"


def limit_cell(seconds: float) -> str:
    """Return a time limit."""
    return format_duration(seconds) if seconds else "none"


#: Name (as in JSON where it is there) -> (heading, squeue's letter, cell).
COLUMNS: dict[str, tuple[str, str, Cell]] = {
    "id": ("JOBID", "i", lambda job, why, now: str(job.id)),
    "name": ("NAME", "j", lambda job, why, now: job.name),
    "owner": ("USER", "u", lambda job, why, now: job.owner),
    "st": ("ST", "t", lambda job, why, now: job.state.short),
    "state": ("STATE", "T", lambda job, why, now: job.state.name),
    "time": ("TIME", "M", lambda job, why, now: elapsed(job, now)),
    "cpus": ("CPUS", "C", lambda job, why, now: str(job.cpus)),
    "tasks": ("TASKS", "K", lambda job, why, now: tasks_cell(job)),
    "place": ("NODELIST(REASON)", "R", lambda job, why, now: place_cell(job, why)),
    "nodes": ("NODELIST", "N", lambda job, why, now: ",".join(job.nodes)),
    "reason": ("REASON", "r", lambda job, why, now: why.reason if why else job.reason),
    "queue": ("QUEUE", "P", lambda job, why, now: job.queue),
    "priority": ("PRIO", "Q", lambda job, why, now: str(job.priority)),
    "mem": ("MEM", "m", lambda job, why, now: memory_cell(job.mem_bytes)),
    "gpus": ("GPUS", "b", lambda job, why, now: str(job.gpus)),
    "limit": ("LIMIT", "l", lambda job, why, now: limit_cell(job.time_s)),
    "kind": ("KIND", "y", lambda job, why, now: job.kind),
    "failed": ("FAILED", "F", lambda job, why, now: str(failed_count(job))),
    "submitted": ("SUBMITTED", "v", lambda job, why, now: clock(job.submitted_at)[5:16]),
    "submitted_at": ("SUBMITTED", "V", lambda job, why, now: clock(job.submitted_at)),
    "started_at": ("STARTED", "S", lambda job, why, now: clock(job.started_at)),
    "ended_at": ("ENDED", "e", lambda job, why, now: clock(job.ended_at)),
    "exit_code": ("EXIT", "x", lambda job, why, now: _text(exit_code(job))),
}
SHORT = ("id", "name", "owner", "st", "time", "cpus", "tasks", "place")
LONG = (
    "id", "name", "owner", "queue", "priority", "st", "time", "limit", "cpus", "mem", "gpus",
    "tasks", "failed", "submitted", "place",
)  # fmt: skip
RIGHT = frozenset(
    {"JOBID", "TIME", "CPUS", "TASKS", "PRIO", "MEM", "GPUS", "LIMIT", "FAILED", "EXIT", "FREE",
     "RUNNING", "ATTEMPT", "WALL", "CPU", "RSS"}
)  # fmt: skip


def _text(value: object) -> str:
    return "" if value is None else str(value)


def failed_count(job: JobInfo) -> int:
    """Return how many tasks ended, and not well."""
    return sum(
        count
        for state, count in job.counts.items()
        if state.is_terminal and state is not State.COMPLETED
    )


def rows(
    jobs: Sequence[tuple[JobInfo, Why | None]], columns: Sequence[str], *, now: float
) -> tuple[tuple[str, ...], ...]:
    """Return the cells of these columns, a row a job."""
    return tuple(tuple(COLUMNS[name][2](job, why, now) for name in columns) for job, why in jobs)


def seconds(value: float) -> str:
    """Return a duration: `0.12s` below a minute, Slurm's form above."""
    return f"{value:.2f}s" if value < 60 else format_duration(value)
