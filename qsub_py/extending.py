"""Giving a sweep more points: only those it does not have become tasks of the same job."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from qsub_py.arrays import MAX_TASKS
from qsub_py.client import Client
from qsub_py.errors import SpecError, StoreError
from qsub_py.model import JobInfo, JobSpec
from qsub_py.points import Points
from qsub_py.signing import sign
from qsub_py.sweep import Sweep
from qsub_py.sweep_less import less
from qsub_py.sweep_rows import pack

#: Others may extend the same job at the same moment.
_TRIES = 8

#: Returns the points that are wanted, given the sweeps that the job has.
Wish = Callable[[Sequence[Sweep]], Sweep]


@dataclass(frozen=True, slots=True)
class Extension:
    """What is new: sweeps to append from position `first` on."""

    job: JobInfo
    first: int
    parts: tuple[Sweep, ...]

    @property
    def count(self) -> int:
        """How many points."""
        return sum(part.count for part in self.parts)


def points_of(client: Client, job: JobInfo, spec: JobSpec) -> Points | None:
    """Return the points of a job, None when it is no sweep."""
    if not spec.sweep:
        return None
    return Points(client.ask, client.ring, client.cluster,
                  job=job.id, uid=job.uid, sweep=spec.sweep)  # fmt: skip


def plan(client: Client, job: int, spec: JobSpec, wish: Wish) -> Extension:
    """Return what an extension would add; raises SpecError, JobNotFound, StoreError."""
    info = client.ask(lambda store: store.job(job))
    points = points_of(client, info, spec)
    if points is None:
        raise SpecError(f"job {job} is no sweep, so it has no points to add to",
                        hint="submit another job")  # fmt: skip
    known = points.all()
    new = wish([sweep for _, sweep in known])
    missing = set(points.names) ^ set(new.names)
    if missing:
        raise SpecError(f"job {job} sweeps over {', '.join(points.names)}: {min(missing)} is not"
                        f" {'among them' if min(missing) in new.names else 'given'}",
                        hint="write all its parameters, and no other")  # fmt: skip
    new = replace(new, keywords=None)
    first, last = known[-1]
    found = Extension(info, first + last.count, tuple(less(new, [sweep for _, sweep in known])))
    if found.first + found.count > MAX_TASKS:
        raise SpecError(f"job {job} would have {found.first + found.count} tasks;"
                        f" the limit is {MAX_TASKS}", hint="submit another job")  # fmt: skip
    return found


def extend(client: Client, job: int, spec: JobSpec, wish: Wish) -> int:
    """Add the points that are new and return how many; raises as `plan`, and StoreBusy."""
    added = 0
    for _ in range(_TRIES):
        found = plan(client, job, spec, wish)
        first = found.first
        for part in found.parts:
            if not _append(client, found.job, first, part):
                break
            first, added = first + part.count, added + part.count
        else:
            return added
    raise StoreError(f"others go on extending job {job}", hint="try again later")


def _append(client: Client, job: JobInfo, first: int, part: Sweep) -> bool:
    packed = pack(part)
    data = json.dumps(packed.sweep.plain(), sort_keys=True, separators=(",", ":")).encode()
    signature = sign(client.ring.current, "grid", client.cluster, job.uid,
                     b"%d" % first, b"%d" % part.count, data)  # fmt: skip
    return client.ask(
        lambda store: store.extend(
            job.id, job.uid, first, part.count, data, signature, packed.pages
        )
    )
