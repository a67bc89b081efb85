"""The tasks of a job as qstat shows them: states from the store, ends from verified outcomes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from qsub_py.cli.ids import Picked, spec_of
from qsub_py.cli.shapes import RIGHT, seconds
from qsub_py.extending import points_of
from qsub_py.model import JobInfo, JobSpec, Segments, State, TaskInfo
from qsub_py.render import Table
from qsub_py.sweep_fill import text_of
from qsub_py.units import format_array, format_duration, format_size

if TYPE_CHECKING:
    from qsub_py.client import Client

#: So many waiting tasks of a sweep are shown one by one.
_MOST_IDLE_ROWS = 32
_SHOWN_AT_ONCE = 4096
HEADINGS = ("JOBID", "ST", "NODE", "ATTEMPT", "EXIT", "WALL", "CPU", "RSS", "REASON")


def tasks_of(
    client: Client, picked: Picked, *, all_params: bool = False
) -> Iterator[TaskInfo]:  # fmt: skip
    """Yield the tasks that `picked` names, by position; ended ones with their outcome.

    Without `all_params` the idle ones of a large sweep come without their parameters.
    """
    all_params = all_params or picked.count <= _SHOWN_AT_ONCE
    job, spec = picked.job, spec_of(client, picked.job)
    points = points_of(client, job, spec)
    running = {task.position: task for task in client.ask(lambda s: s.running(job.id, spec))}
    for first, last in picked.ranges if picked.ranges is not None else ((0, job.total - 1),):
        # In parts: a task in a million is shown without reading the million.
        for at in range(first, last + 1, _SHOWN_AT_ONCE):
            count = min(_SHOWN_AT_ONCE, last + 1 - at)
            for task in _slice(client, job, spec, at, count, running):
                if points is not None and (all_params or not _is_idle(task)):
                    task = replace(task, params=points.of(task.position))
                yield task


def _slice(
    client: Client, job: JobInfo, spec: JobSpec, first: int, count: int,
    running: dict[int, TaskInfo],
) -> Iterator[TaskInfo]:  # fmt: skip
    states = client.ask(lambda store: store.states(job.id, first, count))
    # What never started has no outcome; in a cancelled array of a million that is nearly all.
    ended = [first + i for i, (state, n) in enumerate(states) if state.is_terminal and n]
    outcomes = {o.position: o for o in client.outcomes(job.id, ended)} if ended else {}
    for offset, (state, attempt) in enumerate(states):
        at = first + offset
        task = running.get(at) or TaskInfo(job.id, at, spec.index(at), state, attempt)
        outcome = outcomes.get(at)
        if state is State.RUNNING and (job.is_suspended or _has(job.suspended, at)):
            state = State.SUSPENDED
        yield replace(
            task,
            state=state,
            outcome=outcome,
            attempt=outcome.attempt if outcome else task.attempt,
        )


def _has(ranges: Sequence[tuple[int, int]], position: int) -> bool:
    return any(first <= position <= last for first, last in ranges)


def tasks_table(groups: Sequence[tuple[JobInfo, str, Sequence[TaskInfo]]], *, now: float) -> Table:
    """Return the table of tasks of jobs (job, why it waits, tasks).

    Those that wait, or ended without having started, share a row; of a sweep when they are many.
    """
    rows: list[tuple[str, ...]] = []
    has_params = any(task.params for _, _, tasks in groups for task in tasks)
    for job, why, tasks in groups:
        shown = [task for task in tasks if not _is_idle(task)]
        rows += [(*_row(job, task, now, why), params_cell(task)) for task in shown]
        for state, reason in ((State.PENDING, f"({why})" if why else ""), *_UNSTARTED):
            idle = [task for task in tasks if task.state is state and _is_idle(task)]
            said = reason or (job.reason if state.is_terminal else "")
            if state is State.DEP_FAILED:
                said = "DependencyNeverSatisfied"
            for some in _together(idle):
                name = pending_id(job, [task.index for task in some])
                params = params_cell(some[0]) if len(some) == 1 else ""
                rows.append((name, state.short, *[""] * 6, said, params))
    if has_params:
        return Table((*HEADINGS, "PARAMS"), tuple(rows), RIGHT)
    return Table(HEADINGS, tuple(row[:-1] for row in rows), RIGHT)


def _together(idle: Sequence[TaskInfo]) -> list[Sequence[TaskInfo]]:
    """Return the idle tasks that share a row: all, but a few that have parameters do not."""
    if len(idle) <= _MOST_IDLE_ROWS and any(task.params for task in idle):
        return [[task] for task in idle]
    return [idle] if idle else []


def params_cell(task: TaskInfo) -> str:
    """Return the parameters of a task: `lr=0.1 seed=3`."""
    return " ".join(f"{name}={text_of(value)}" for name, value in (task.params or {}).items())


#: How tasks can end that never started; why is told by the job.
_UNSTARTED = tuple((state, "") for state in State if state.is_terminal)


def _is_idle(task: TaskInfo) -> bool:
    """Whether a task waits for its first attempt, or ended before that."""
    is_new = task.state is State.PENDING and not task.attempt
    return is_new or (task.state.is_terminal and task.outcome is None)


def pending_id(job: JobInfo, indices: Sequence[int]) -> str:
    """Return how waiting tasks are shown: `12_[5-1024%8]`, `12_3`, or `12` of a plain job."""
    if not job.is_array and job.total == 1:
        return str(job.id)
    if len(indices) == 1:
        return f"{job.id}_{indices[0]}"
    limit = 0 if job.has_ended else job.limit
    return f"{job.id}_[{format_array(runs(indices), limit, width=40)}]"


def runs(indices: Sequence[int]) -> Segments:
    """Return numbers as ranges: runs of neighbours, or of one step where that is all there is."""
    steps = {b - a for a, b in pairwise(indices)}
    if len(steps) == 1 and (step := steps.pop()) > 0:
        return Segments(((indices[0], indices[-1], step),))
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][1] + 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    return Segments(tuple((first, last, 1) for first, last in parts))


def task_id(job: JobInfo, index: int) -> str:
    """Return a task's id as users write it; a plain job's task goes by the job's."""
    return str(job.id) if not job.is_array and job.total == 1 else f"{job.id}_{index}"


def _row(job: JobInfo, task: TaskInfo, now: float, why: str) -> tuple[str, ...]:
    name, end = task_id(job, task.index), task.outcome
    if end is None:
        wall = format_duration(now - task.started_at) if task.started_at else ""
        said = f"({why})" if why and task.state is State.PENDING else ""
        return (name, task.state.short, task.node, str(task.attempt), "", wall, "", "", said)
    ran = end.started_at > 0
    code = f"signal {end.signal}" if end.signal else str(end.exit_code)
    return (
        name, task.state.short, end.node, str(end.attempt), code if ran else "",
        seconds(end.ended_at - end.started_at) if ran else "",
        seconds(end.cpu_s) if ran else "",
        format_size(end.max_rss_bytes) if end.max_rss_bytes else "", end.reason,
    )  # fmt: skip
