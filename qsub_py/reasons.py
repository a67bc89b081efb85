"""Why a job waits: Slurm's word for it, and a sentence for each node.

Pure: computed from what the store said of the job, the nodes and the other jobs. A guess in one
respect only: between "another is before it" and "nothing is free" the queue decides anew at
every claim.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qsub_py.limits import Limits, blocked
from qsub_py.model import JobInfo, NodeInfo, State
from qsub_py.terms import NO_TERMS, Terms, meets, terms_of_lane
from qsub_py.units import format_size, format_span


@dataclass(frozen=True, slots=True)
class Need:
    """What a task asks of the node it runs on."""

    cpus: int
    mem_bytes: int = 0
    gpus: int = 0
    queue: str = "main"
    nodelist: tuple[str, ...] = ()
    python_minor: str = ""
    terms: Terms = NO_TERMS


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a task cannot start on one node now."""

    sentence: str
    #: Whether waiting for other jobs to end helps.
    will_pass: bool
    #: Whether a process outside of the queue is what it waits for.
    is_outside: bool = False


@dataclass(frozen=True, slots=True)
class Why:
    """Why a job waits: the word of the table, a sentence, and (node, sentence) pairs."""

    reason: str
    sentence: str
    nodes: tuple[tuple[str, str], ...] = ()


def need_of(job: JobInfo) -> Need:
    """Return what the tasks of `job` need; what is only in its lane is read from there."""
    # cpus|mem|gpus|queue|python|nodelist|...: see node.lua
    lane = [*job.lane.split("|"), *[""] * 7]
    nodelist = tuple(name for name in lane[5].split(",") if name)
    terms = terms_of_lane(job.lane)
    return Need(job.cpus, job.mem_bytes, job.gpus, job.queue, nodelist, lane[4], terms)


def explain(
    job: JobInfo,
    nodes: Sequence[NodeInfo],
    *,
    now: float,
    line: Line | None = None,
    limits: Limits | None = None,
) -> Why | None:
    """Return why `job` has waiting tasks that do not start, None when it has none."""
    if job.has_ended or not job.counts.get(State.PENDING):
        return None
    if job.is_held:
        why = ": a task of it exited with 100" if job.held_why else ""
        return Why("JobHeldUser", f"it is held{why}; `qrls {job.id}` lets it go")
    if job.is_suspended:
        return Why("JobSuspended", f"it is suspended; `qresume {job.id}` lets it go on")
    if job.unmet:
        what = "1 condition is" if job.unmet == 1 else f"{job.unmet} conditions are"
        return Why("Dependency", f"{what} not met; `qstat --why {job.id}` names them")
    if job.waiting and job.waiting + job.later == job.counts[State.PENDING]:
        return Why("Dependency", f"{_waiters(job.waiting)} for other tasks to complete")
    if job.begin_at > now:
        wait = format_span(int(job.begin_at - now) + 1)
        return Why("BeginTime", f"it begins in {wait} at the earliest")
    running = job.counts.get(State.RUNNING, 0) + job.counts.get(State.SUSPENDED, 0)
    if job.limit and running >= job.limit:
        return Why("JobArrayTaskLimit", f"{running} tasks run and its own limit is {job.limit}")
    if job.later and job.later == job.counts.get(State.PENDING):
        wait = format_span(max(0, int(job.later_at - now)) + 1)
        return Why("BeginTime", f"{_tasks(job.later)} failed; the next try is in {wait}")
    return _by_nodes(job, nodes, line.before(job) if line else 0, limits or Limits(), now)


def _tasks(count: int) -> str:
    return "its task" if count == 1 else f"{count} tasks"


def _by_nodes(
    job: JobInfo, nodes: Sequence[NodeInfo], before: int, limits: Limits, now: float
) -> Why:
    need = need_of(job)
    live = [node for node in nodes if node.state in ("up", "draining")]
    if not live:
        return Why("ReqNodeNotAvail", "no node is running; start one with `qnode start`",
                   _described(job, need, nodes, limits))  # fmt: skip
    details = _described(job, need, nodes, limits)
    complaint = capacity_complaint(need, live)
    if complaint:
        return Why("Resources", complaint, details)
    obstacles = [_obstacle(job, need, node, limits) for node in live]
    if all(obstacle is not None and not obstacle.will_pass for obstacle in obstacles):
        return Why("ReqNodeNotAvail", "no running node can take it", details)
    limited = blocked(job, limits, now=now)
    if limited:
        return Why(*limited, details)
    saver = next((n.name for n in live if limits.saving == (n.uid, job.id)), "")
    if saver:
        return Why("Resources", f"node {saver} keeps room for it", details)
    passing = [obstacle for obstacle in obstacles if obstacle is None or obstacle.will_pass]
    if all(obstacle is not None and obstacle.is_outside for obstacle in passing):
        return Why("GpuBusyOutside", "processes outside of the queue use the gpus", details)
    if before:
        return Why("Priority", f"{_jobs(before)} before it in the queue", details)
    if None in obstacles:
        return Why("Priority", "it is about to start", details)
    return Why("Resources", "the nodes that suit it are busy", details)


def _waiters(count: int) -> str:
    return "1 task waits" if count == 1 else f"{count} tasks wait"


def _jobs(count: int) -> str:
    return "1 job is" if count == 1 else f"{count} jobs are"


class Line:
    """The waiting jobs of each queue that could start now, in the order in which they will."""

    def __init__(self, jobs: Iterable[JobInfo], nodes: Sequence[NodeInfo], *, now: float) -> None:
        self._nodes = nodes
        #: Lane and size -> whether a node could run such a task.
        self._fits: dict[tuple[object, ...], bool] = {}
        self._ranks: dict[str, list[tuple[int, int]]] = {}
        for job in jobs:
            if _stands_in_line(job, now) and self._has_place(job):
                self._ranks.setdefault(job.queue, []).append(_rank(job))
        for ranks in self._ranks.values():
            ranks.sort()

    def before(self, job: JobInfo) -> int:
        """Return how many jobs come before `job`."""
        return bisect_left(self._ranks.get(job.queue, []), _rank(job))

    def _has_place(self, job: JobInfo) -> bool:
        kind = (job.lane, job.cpus, job.mem_bytes, job.gpus, job.queue)
        if kind not in self._fits:
            self._fits[kind] = bool(fitting_nodes(need_of(job), self._nodes))
        return self._fits[kind]


def _rank(job: JobInfo) -> tuple[int, int]:
    return -job.priority, job.id


def _stands_in_line(job: JobInfo, now: float) -> bool:
    is_full = job.limit and job.counts.get(State.RUNNING, 0) >= job.limit
    pending = job.counts.get(State.PENDING, 0) - job.waiting - job.later
    is_stopped = job.is_held or job.is_suspended or job.has_ended or job.unmet or job.begin_at > now
    return pending > 0 and not (is_stopped or is_full)


def _described(
    job: JobInfo, need: Need, nodes: Sequence[NodeInfo], limits: Limits
) -> tuple[tuple[str, str], ...]:
    pairs = []
    for node in nodes:
        obstacle = _obstacle(job, need, node, limits)
        pairs.append((node.name, obstacle.sentence if obstacle else "has room for it"))
    known = {node.name for node in nodes}
    pairs += [(name, "does not run") for name in need.nodelist if name not in known]
    return tuple(pairs)


def _obstacle(job: JobInfo, need: Need, node: NodeInfo, limits: Limits) -> Obstacle | None:
    """Return what keeps the job from this node now, the lasting before the passing."""
    lasting = (
        _state_obstacle(node)
        or _place_obstacle(need, node)
        or _size_obstacle(need, node)
        or job.unfit.get(node.name, "")
    )
    if lasting:
        return Obstacle(lasting, will_pass=False)
    busy = _busy(need, node)
    if busy:
        return Obstacle(busy, will_pass=True)
    if limits.saving and limits.saving[0] == node.uid and limits.saving[1] != job.id:
        return Obstacle(f"is saving room for job {limits.saving[1]}", will_pass=True)
    shut = gpus_outside(node) if need.gpus > len(_open_gpus(node)) else ""
    return Obstacle(shut, will_pass=True, is_outside=True) if shut else None


def _state_obstacle(node: NodeInfo) -> str:
    if node.state == "draining":
        return "starts nothing new (draining)" + (f": {node.reason}" if node.reason else "")
    if node.state == "lost":
        return "does not answer"
    return "" if node.state == "up" else "is stopped"


def _place_obstacle(need: Need, node: NodeInfo) -> str:
    if need.nodelist and node.name not in need.nodelist:
        return "is not in the job's --nodelist"
    if node.name in need.terms.exclude:
        return "is excluded by the job's --exclude"
    if not meets(need.terms.constraint, node.features):
        return f"lacks what --constraint asks for: {need.terms.constraint}"
    if node.queues and need.queue not in node.queues:
        return f"does not serve queue {need.queue}"
    if need.python_minor and node.pythons and need.python_minor not in node.pythons:
        return f"has no Python {need.python_minor}"
    return ""


def _size_obstacle(need: Need, node: NodeInfo) -> str:
    if need.cpus > node.cpus:
        return f"has {node.cpus} cpus, needed are {need.cpus}"
    if need.mem_bytes > node.mem_bytes:
        has, needed = format_size(node.mem_bytes), format_size(need.mem_bytes)
        return f"has {has} of memory, needed are {needed}"
    if need.gpus > node.gpus:
        return f"has {node.gpus} gpus, needed are {need.gpus}"
    return ""


def _busy(need: Need, node: NodeInfo) -> str:
    if need.cpus > node.cpus_free:
        return f"{node.cpus_free} of {node.cpus} cpus free, needed are {need.cpus}"
    if need.mem_bytes > node.mem_free_bytes:
        free, needed = format_size(node.mem_free_bytes), format_size(need.mem_bytes)
        return f"{free} of memory free, needed are {needed}"
    if need.gpus > len(node.gpus_free):
        return f"{len(node.gpus_free)} of {node.gpus} gpus free, needed are {need.gpus}"
    return ""


def _open_gpus(node: NodeInfo) -> set[int]:
    return set(node.gpus_free) - set(node.gpus_busy)


def gpus_outside(node: NodeInfo) -> str:
    """Return which gpus of a node are used outside of the queue, as a sentence; "" when none."""
    if not node.gpus_busy:
        return ""
    if node.gpus_why:
        return f"{node.gpus_why}: it gives out no gpu that may be used by others"
    numbers = ", ".join(map(str, node.gpus_busy))
    which = f"gpu {numbers} is" if len(node.gpus_busy) == 1 else f"gpus {numbers} are"
    return f"{which} used outside of the queue"


def capacity_complaint(need: Need, nodes: Sequence[NodeInfo]) -> str:
    """Return why no node is large enough, even empty ("needs 3 cpus, the largest node has 2")."""
    if not nodes or any(not _size_obstacle(need, node) for node in nodes):
        return ""
    cpus = max(node.cpus for node in nodes)
    if need.cpus > cpus:
        return f"needs {need.cpus} cpus, the largest node has {cpus}"
    memory = max(node.mem_bytes for node in nodes)
    if need.mem_bytes > memory:
        needed, largest = format_size(need.mem_bytes), format_size(memory)
        return f"needs {needed} of memory, the largest node has {largest}"
    gpus = max(node.gpus for node in nodes)
    if need.gpus > gpus:
        most = f"the largest node has {gpus}" if gpus else "no node has any"
        return f"needs {need.gpus} gpus, {most}"
    return f"no single node has {_together(need)}"


def _together(need: Need) -> str:
    parts = [f"{need.cpus} cpus"]
    parts += [format_size(need.mem_bytes)] if need.mem_bytes else []
    parts += [f"{need.gpus} gpus"] if need.gpus else []
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def fitting_nodes(need: Need, nodes: Sequence[NodeInfo]) -> list[NodeInfo]:
    """Return the nodes that could run a task that needs this, once they are free."""
    return [
        node for node in nodes
        if not (_state_obstacle(node) or _place_obstacle(need, node) or _size_obstacle(need, node))
    ]  # fmt: skip
