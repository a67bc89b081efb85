"""When waiting jobs start at the latest, if nothing better comes: by the time limits of all others.

Pure. The queue is played through: what runs ends at its limit, what waits takes the first room
that it fits into, in the order of the queue. Tasks that end early, jobs of higher priority that
are submitted later and nodes that come or go make it wrong; hence "about".
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from qsub_py.model import JobInfo, NodeInfo, State
from qsub_py.reasons import Need, fitting_nodes, need_of

#: With more than this no estimate is made.
MOST_RUNNING = 1000
MOST_WAITING = 1000
_MOST_LOOKS = 1_000_000
#: A task past its limit is being ended.
_SOON_S = 1.0


@dataclass(frozen=True, slots=True)
class Running:
    """What holds a part of a node now."""

    job: int
    node: str
    cpus: int
    mem_bytes: int
    gpus: int
    #: None: nobody knows.
    ends_at: float | None
    #: Why that is so.
    endless: str = ""


@dataclass(frozen=True, slots=True)
class Estimate:
    """When a job's next task starts (epoch seconds), or None, and what that depends on."""

    at: float | None
    cause: str


@dataclass(slots=True)
class _Room:
    """What is free on a node."""

    node: NodeInfo
    cpus: int
    mem_bytes: int
    gpus: int

    def tasks(self, need: Need) -> int:
        """Return how many tasks fit."""
        count, mem_bytes = self.cpus // need.cpus, self.mem_of(need)
        if mem_bytes:
            count = min(count, self.mem_bytes // mem_bytes)
        return min(count, self.gpus // need.gpus) if need.gpus else count

    def mem_of(self, need: Need) -> int:
        """Return the memory that a task books here."""
        return need.mem_bytes or self.node.mem_bytes // self.node.cpus * need.cpus

    def take(self, cpus: int, mem_bytes: int, gpus: int) -> None:
        """Book, or free what is negative."""
        self.cpus, self.mem_bytes, self.gpus = (
            self.cpus - cpus, self.mem_bytes - mem_bytes, self.gpus - gpus,
        )  # fmt: skip


@dataclass(slots=True)
class _Waiting:
    """A job in the line."""

    job: JobInfo
    need: Need
    nodes: list[str]
    left: int
    running: int
    begin_at: float

    @property
    def most(self) -> int:
        """How many more of its tasks may run."""
        return min(self.left, self.job.limit - self.running) if self.job.limit else self.left


@dataclass(order=True, slots=True)
class _Event:
    """Tasks of a job end on a node, or (node "") a job may begin."""

    at: float
    number: int
    job: int = field(compare=False)
    node: str = field(compare=False, default="")
    cpus: int = field(compare=False, default=0)
    mem_bytes: int = field(compare=False, default=0)
    gpus: int = field(compare=False, default=0)
    tasks: int = field(compare=False, default=1)
    cause: str = field(compare=False, default="")


def line_of(jobs: Iterable[JobInfo]) -> list[JobInfo]:
    """Return the jobs that can start by themselves, in the order of the queue."""
    waiting = [
        job for job in jobs
        if job.counts.get(State.PENDING, 0) > job.waiting
        and not (job.is_held or job.is_suspended or job.has_ended or job.unmet)
    ]  # fmt: skip
    return sorted(waiting, key=lambda job: (-job.priority, job.id))


def starts(
    wanted: Collection[int], line: Sequence[JobInfo], nodes: Sequence[NodeInfo],
    running: Sequence[Running] | None, *, now: float,
) -> dict[int, Estimate]:  # fmt: skip
    """Return when the next task of each wanted job starts that stands in the line and fits a node.

    `running`: all that the nodes hold; None: too much to look at.
    """
    places = [at for at, job in enumerate(line) if job.id in wanted]
    if not places:
        return {}
    if running is None or len(running) > MOST_RUNNING:
        return _none(wanted, line, f"more than {MOST_RUNNING} batches run")
    near = line[: min(places[-1] + 1, MOST_WAITING + 1)]
    found = _Play(near, nodes, running, now).run(set(wanted))
    far = _none(wanted, line[len(near) :], f"more than {MOST_WAITING} jobs are before it")
    return found | far


def _none(wanted: Collection[int], line: Sequence[JobInfo], cause: str) -> dict[int, Estimate]:
    return {job.id: Estimate(None, cause) for job in line if job.id in wanted}


class _Play:
    """The queue, played through."""

    def __init__(
        self, line: Sequence[JobInfo], nodes: Sequence[NodeInfo], running: Sequence[Running],
        now: float,
    ) -> None:  # fmt: skip
        self._now, self._looks, self._number = now, 0, 0
        self._rooms = {
            node.name: _Room(node, node.cpus_free, node.mem_free_bytes,
                             len(set(node.gpus_free) - set(node.gpus_busy)))
            for node in nodes if node.state == "up"
        }  # fmt: skip
        self._line = [_waiting(job, nodes) for job in line]
        self._by_id = {one.job.id: one for one in self._line}
        self._events: list[_Event] = []
        #: Node -> why something on it has no end.
        self._endless: dict[str, str] = {}
        self._found: dict[int, Estimate] = {}
        for one in running:
            self._add_running(one)
        for waiting in self._line:
            if waiting.begin_at > now:
                self._push(waiting.begin_at, waiting.job.id, cause="when it may begin")

    def _push(self, at: float, job: int, **more: object) -> None:
        self._number += 1
        heapq.heappush(self._events, _Event(at, self._number, job, **more))  # type: ignore[arg-type]

    def _add_running(self, one: Running) -> None:
        if one.ends_at is None:
            self._endless.setdefault(one.node, one.endless)
            return
        self._push(
            max(one.ends_at, self._now + _SOON_S), one.job, node=one.node, cpus=one.cpus,
            mem_bytes=one.mem_bytes, gpus=one.gpus,
            cause=f"when job {one.job} ends on {one.node} at its time limit",
        )  # fmt: skip

    def run(self, wanted: set[int]) -> dict[int, Estimate]:
        """Play until all wanted jobs have started, or nothing more happens."""
        for name in self._rooms:
            self._fill(name, self._now, "as soon as a node looks")
        while self._events and wanted - self._found.keys() and self._looks < _MOST_LOOKS:
            event = heapq.heappop(self._events)
            own = self._by_id.get(event.job)
            room = self._rooms.get(event.node)
            if room is not None:
                room.take(-event.cpus, -event.mem_bytes, -event.gpus)
            if own is not None and event.node:
                own.running -= event.tasks
            # Its own limit, or its begin, was all that kept it elsewhere.
            everywhere = own is not None and (not event.node or bool(own.job.limit))
            for name in self._rooms if everywhere else [event.node]:
                self._fill(name, event.at, event.cause)
        return {number: self._found.get(number) or self._never(number)
                for number in wanted & self._by_id.keys() if self._by_id[number].nodes}  # fmt: skip

    def _fill(self, name: str, moment: float, cause: str) -> None:
        """Start on a node what fits, in the order of the line."""
        room = self._rooms.get(name)
        for one in self._line if room is not None else ():
            assert room is not None
            if room.cpus <= 0:
                return
            self._looks += 1
            if one.left <= 0 or one.begin_at > moment or name not in one.nodes:
                continue
            count = min(room.tasks(one.need), one.most)
            if count > 0:
                self._start(one, room, count, moment)
                self._found.setdefault(one.job.id, Estimate(moment, cause))

    def _start(self, one: _Waiting, room: _Room, count: int, moment: float) -> None:
        need, name = one.need, room.node.name
        booked = {"cpus": count * need.cpus, "mem_bytes": count * room.mem_of(need),
                  "gpus": count * need.gpus}  # fmt: skip
        room.take(**booked)
        one.left, one.running = one.left - count, one.running + count
        if one.job.time_s <= 0:
            self._endless.setdefault(name, f"job {one.job.id} before it has no time limit")
            return
        cause = f"when job {one.job.id}, which is before it, ends on {name} at its time limit"
        self._push(moment + one.job.time_s, one.job.id, node=name, tasks=count, cause=cause,
                   **booked)  # fmt: skip

    def _never(self, number: int) -> Estimate:
        one = self._by_id[number]
        if self._looks >= _MOST_LOOKS:
            return Estimate(None, "too much is before it")
        whys = (self._endless[name] for name in one.nodes if name in self._endless)
        return Estimate(None, next(whys, "the nodes that suit it do not get free"))


def _waiting(job: JobInfo, nodes: Sequence[NodeInfo]) -> _Waiting:
    need = need_of(job)
    names = [
        node.name for node in fitting_nodes(need, nodes)
        if node.state == "up" and node.name not in job.unfit
    ]  # fmt: skip
    counts = job.counts
    running = sum(counts.get(s, 0) for s in (State.RUNNING, State.COMPLETING, State.SUSPENDED))
    left = counts.get(State.PENDING, 0)
    begin_at = max(job.begin_at, job.later_at if job.later >= left else 0.0)
    return _Waiting(job, need, names, left, running, begin_at)
