"""From the dependencies a user asked for to what the store is told: jobs, tasks by position."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qsub_py import waits
from qsub_py.cli import ids
from qsub_py.cli.ids import Picked
from qsub_py.errors import JobNotFound, SpecError
from qsub_py.waits import Condition, Group, Waits, Wish

if TYPE_CHECKING:
    from qsub_py.arrays import JobRef
    from qsub_py.cli.draft import Draft
    from qsub_py.client import Client
    from qsub_py.model import JobInfo


def resolve(client: Client, draft: Draft) -> Waits:
    """Return what a job waits for; raises JobNotFound for what is not there, SpecError."""
    conditions: list[Condition] = []
    rows: list[tuple[Group, ...]] = []
    for wish in draft.wishes:
        if wish.ref is None:
            conditions.append(Condition(wish.kind, 0, 0, 0, draft.spec.name))
            conditions += _same_name(client, draft)
            continue
        for found in _find(client, wish.ref):
            if wish.kind == "aftercorr":
                rows.append(_correspond(client, draft, found.job))
            else:
                conditions += _conditions(wish, found)
    return Waits(tuple(dict.fromkeys(conditions)), draft.is_or, waits.merge(rows))


def _find(client: Client, ref: JobRef) -> Iterator[Picked]:
    try:
        yield from ids.find(client, ref)
    except JobNotFound:
        from qsub_py.store_schedules import Schedules  # here: few names are of schedules

        if ref.jobs and client.ask(lambda store: Schedules(store).get(ref.first)):
            raise SpecError(
                f"{ref.first} is a schedule, which has no end to wait for",
                hint="name one of its jobs; `qstat --periodic` has the last one",
            ) from None
        raise


def _same_name(client: Client, draft: Draft) -> Iterator[Condition]:
    """Yield what a singleton waits for beside other singletons, which the store knows."""
    for job in client.ask(lambda store: store.jobs(active=True, ended=False)):
        if (job.name, job.owner) == (draft.spec.name, draft.spec.owner):
            yield Condition("afterany", job.id, 0, 0, str(job.id))


def _conditions(wish: Wish, found: Picked) -> Iterator[Condition]:
    job = found.job
    if found.ranges is None:
        yield Condition(wish.kind, job.id, 0, 0, str(job.id))
        return
    for first, last in found.ranges:
        if last >= job.total:
            raise JobNotFound(f"job {job.id} has no such task yet: {wish.ref}")
        if last - first >= waits.MOST_TASKS:
            raise SpecError(
                f"{wish.kind} takes at most {waits.MOST_TASKS} single tasks of a job",
                hint=f"write {wish.kind}:{job.id}",
            )
        yield Condition(wish.kind, job.id, first, last - first + 1, str(wish.ref))


def _correspond(client: Client, draft: Draft, job: JobInfo) -> tuple[Group, ...]:
    if job.is_open:
        raise SpecError(f"job {job.id} still takes more tasks, so aftercorr cannot be used")
    parent = ids.spec_of(client, job).segments
    return waits.correspond(draft.spec.segments, parent, job.id)
