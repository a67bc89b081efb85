"""What jobs wait for, in words and as a tree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from qsub_py.model import JobInfo, State
from qsub_py.store_deps import Met, Need
from qsub_py.text import safe

if TYPE_CHECKING:
    from qsub_py.cli.ids import Picked
    from qsub_py.client import Client
    from qsub_py.reasons import Why

#: Conditions that are named one by one.
_MOST_NAMED = 20
#: Lines of a tree; wider ones are cut.
_MOST_LINES = 10_000
_MOST_KIDS = 1000
_ALIVE = (State.PENDING, State.RUNNING, State.SUSPENDED, State.COMPLETING)


def needs(client: Client, job: JobInfo) -> list[str]:
    """Return what a job waits for, a sentence each; none when it waits for nothing."""
    lines = [
        _sentence(client, need)
        for need in client.ask(lambda store: store.conditions(job.id, limit=_MOST_NAMED))
        if need.met is Met.OPEN
    ]
    if job.unmet > len(lines) > 0:
        lines.append(f"and {job.unmet - len(lines)} more")
    if job.waiting:
        parents = client.ask(lambda store: store.parents(job.id))
        shown = ", ".join(str(parent) for parent in sorted(parents)[:_MOST_NAMED])
        tasks = "1 task waits" if job.waiting == 1 else f"{job.waiting} tasks wait"
        lines.append(f"{tasks} for single tasks of job {shown}")
    return lines


def lost(client: Client, job: JobInfo) -> str:
    """Return what tasks of a job were given up for, when the job itself was not; "" if none."""
    if job.reason or not job.counts.get(State.DEP_FAILED):
        return ""
    parents = sorted(client.ask(lambda store: store.parents(job.id)))[:_MOST_NAMED]
    if not parents:
        return ""
    return f"tasks of job {', '.join(map(str, parents))} that it needs did not complete"


def culprit(client: Client, job: JobInfo) -> JobInfo | None:
    """Return the job that others were given up for: failed or cancelled, up the tree; or None."""
    seen = {job.id}
    for _ in range(_MOST_NAMED):
        parents = _failed_parents(client, job)
        other = next((one for one in parents if one.id not in seen), None)
        if other is None or other.state is not State.DEP_FAILED:
            return other
        seen.add(other.id)
        job = other
    return job


def _failed_parents(client: Client, job: JobInfo) -> list[JobInfo]:
    """Return the jobs for which a job was given up and that can be run again."""
    met = client.ask(lambda store: store.conditions(job.id, limit=_MOST_KIDS))
    ids = [need.job for need in met if need.met is Met.NEVER]
    ids = ids or sorted(client.ask(lambda store: store.parents(job.id)))
    infos = client.ask(lambda store: store.some_jobs(ids[:_MOST_NAMED]))
    return [info for info in infos if info.state not in (State.COMPLETED, *_ALIVE)]


def _sentence(client: Client, need: Need) -> str:
    if need.kind == "singleton":
        return f"singleton: an earlier job called {need.label} has not ended"
    infos = client.ask(lambda store: store.some_jobs([need.job]))
    how = f"job {need.job} is {infos[0].state.name}" if infos else f"job {need.job} is gone"
    return f"{need.kind}:{need.label}: {how}"


def lines(client: Client, picked: Sequence[Picked], whys: dict[int, Why]) -> Iterator[str]:
    """Yield the lines of the trees: each job under the first of those that it waits for."""
    jobs = [found.job for found in picked]
    roots = _roots(client, jobs)
    shown: set[int] = set()
    count = 0
    for root in roots:
        for line in _branch(client, root, whys, shown):
            yield line
            count += 1
            if count >= _MOST_LINES:
                yield "..."
                return


def _roots(client: Client, jobs: Sequence[JobInfo]) -> list[JobInfo]:
    """Return the jobs that wait for none of the others."""
    mine = {job.id for job in jobs}
    below: set[int] = set()
    for job in jobs:
        below.update(client.ask(lambda store: store.children(job.id, limit=_MOST_KIDS)))  # noqa: B023
    return [job for job in jobs if job.id not in below] or [job for job in jobs if job.id in mine][
        :1
    ]


def _branch(client: Client, root: JobInfo, whys: dict[int, Why], shown: set[int]) -> Iterator[str]:
    """Yield a job and what waits for it, depth first, without recursion: chains are long."""
    stack: list[tuple[str, str, JobInfo]] = [("", "", root)]
    while stack:
        lead, mark, job = stack.pop()
        again = job.id in shown
        yield safe(lead + mark + _label(job, whys.get(job.id)) + (" (see above)" if again else ""))
        if again:
            continue
        shown.add(job.id)
        ids = client.ask(lambda store: store.children(job.id, limit=_MOST_KIDS))  # noqa: B023
        kids = client.ask(lambda store: store.some_jobs(ids))  # noqa: B023
        below = lead + {"": "", "`- ": "   ", "|- ": "|  "}[mark]
        marks = ["|- "] * (len(kids) - 1) + ["`- "]
        stack += (
            [(below, mark, kid) for mark, kid in zip(marks, kids, strict=True)][::-1]
            if kids
            else []
        )


def _label(job: JobInfo, why: Why | None) -> str:
    reason = why.reason if why else job.reason
    if job.state is State.DEP_FAILED and reason:
        reason = f"DependencyNeverSatisfied: {reason}"
    return f"{job.id} {job.name} {job.state.name}" + (f" ({reason})" if reason else "")
