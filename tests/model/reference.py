"""What the store should do, in plain Python: no keys, no cursor, no bytes, no slices.

A task is a state, the last attempt number and the batch that runs it. Which task a claim gives
out is the store's choice; the model only says whether it was a legal one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from qsub_py.model import Batch
from qsub_py.policy import HOLD, REQUEUE, TRY_AGAIN, Retry
from store.driver import LOST, RETURNED

ENDS = {3: "CD", 4: "F", 5: "CA", 6: "TO", 8: "NF"}
FAILED = ("F", "TO", "NF")
BAD = {"F", "CA", "TO", "NF", "DF"}
LAPSED = 13
#: (node, slot, job, first, attempt, epoch): the fencing token.
Key = tuple[str, int, int, int, int, int]


@dataclass
class Task:
    state: str = "PD"
    attempt: int = 0
    crashes: int = 0
    last_crash: int = 0
    holder: Key | None = None
    #: Suspended by itself while it ran.
    is_stopped: bool = False
    retries: int = 0
    #: What it has more than the job asked for.
    level: int = 0
    #: It failed and may not start yet.
    rests: bool = False
    #: (job, position) of the tasks that must complete before, and whether it waits for them.
    needs: tuple[tuple[int, int], ...] = ()
    waits: bool = False


@dataclass
class Condition:
    kind: str
    job: int
    #: None: the whole job.
    positions: range | None
    #: 1 met, 2 never.
    state: int = 0


@dataclass
class Job:
    cpus: int
    gpus: int
    limit: int
    requeue: bool
    is_open: bool
    is_held: bool
    tasks: list[Task]
    #: More failures than this cancel the rest; None: never.
    max_fails: int | None = None
    is_sweep: bool = False
    fate: str = ""
    unfit: set[str] = field(default_factory=set)
    retry: Retry | None = None
    conditions: list[Condition] = field(default_factory=list)
    is_or: bool = False
    #: How many conditions are not met.
    unmet: int = 0
    is_suspended: bool = False
    #: Tasks begin until then (s); 0: at any time.
    deadline: float = 0.0

    def count(self, *states: str) -> int:
        return sum(task.state in states for task in self.tasks)

    @property
    def has_ended(self) -> bool:
        return not self.is_open and self.count("PD", "R", "CG") == 0

    @property
    def stopped(self) -> int:
        """How many of its tasks are suspended."""
        if self.is_suspended:
            return self.count("R")
        return sum(task.state == "R" and task.is_stopped for task in self.tasks)

    def suspend(self, first: int, last: int, stops: bool) -> None:
        """Suspend or resume positions, or (-1) all of it."""
        if first < 0:
            self.is_suspended = stops
        for position, task in enumerate(self.tasks):
            if first < 0:
                task.is_stopped = False
            elif first <= position <= last and not self.is_suspended:
                task.is_stopped = (stops and task.state == "R") or (task.is_stopped and stops)

    @property
    def startable(self) -> int:
        """How many of its tasks may start now."""
        if self.is_held or self.is_suspended or self.unmet:
            return 0
        waiting = sum(t.state == "PD" and not (t.waits or t.rests) for t in self.tasks)
        return min(waiting, self.limit - self.count("R", "CG")) if self.limit else waiting


@dataclass
class NodeHas:
    cpus: int
    gpus: int
    is_live: bool = True
    is_draining: bool = False


def key_of(node: str, batch: Batch) -> Key:
    return (node, batch.slot, batch.job, batch.first, batch.attempt, batch.epoch)


class Model:
    """All that the store should know."""

    def __init__(self) -> None:
        self.jobs: dict[int, Job] = {}
        self.nodes: dict[str, NodeHas] = {}
        #: Batches that are held -> (one past their last position, cpus, devices).
        self.batches: dict[Key, tuple[int, int, tuple[int, ...]]] = {}
        #: The server's time (s).
        self.now = 0.0

    def free(self, node: str) -> tuple[int, int]:
        """Return the free cpus and GPUs of a node."""
        mine = [size for key, size in self.batches.items() if key[0] == node]
        has = self.nodes[node]
        used = {device for size in mine for device in size[2]}
        return has.cpus - sum(size[1] for size in mine), has.gpus - len(used)

    def room(self, node: str, job: Job) -> int:
        """How many slots for this job a node has."""
        cpus, gpus = self.free(node)
        return min(cpus // job.cpus, gpus // job.gpus if job.gpus else cpus)

    def held(self, key: Key) -> list[tuple[int, Task]]:
        """Return the tasks (with their positions) that a batch runs."""
        job = self.jobs.get(key[2])
        return [(p, t) for p, t in enumerate(job.tasks if job else []) if t.holder == key]

    def claimable(self, node: str) -> list[int]:
        """Return the jobs of which this node should get something."""
        return [
            number for number, job in self.jobs.items()
            if job.startable > 0 and self.room(node, job) > 0 and node not in job.unfit
            and not 0 < job.deadline <= self.now
        ]  # fmt: skip

    def claim(self, node: str, batch: Batch) -> None:
        """Note what a claim gave out; AssertionError when it must not."""
        job = self.jobs[batch.job]
        assert not self.nodes[node].is_draining, "a drained node got work"
        assert batch.job in self.claimable(node), f"{batch} is nothing for {node}"
        assert batch.count <= job.startable, f"{batch} is more than may start"
        assert len(batch.gpus) == job.gpus, f"{batch} has not its devices"
        used = {g for k, size in self.batches.items() if k[0] == node for g in size[2]}
        assert used.isdisjoint(batch.gpus), f"{batch} has a device that is used"
        key = key_of(node, batch)
        for position in range(batch.first, batch.first + batch.count):
            task = job.tasks[position]
            assert task.state == "PD" and not task.rests, f"{batch} gives out what is {task}"
            assert not task.waits, f"{batch} gives out {task}, whose inputs are not there"
            assert task.level == batch.level, f"{batch} has another class than {task}"
            assert task.attempt == batch.attempt - 1, f"{batch} has a wrong number for {task}"
            task.state, task.attempt, task.holder = "R", batch.attempt, key
            task.is_stopped = False
        self.batches[key] = (batch.first + batch.count, job.cpus, batch.gpus)

    def leave(self, key: Key, codes: dict[int, int]) -> int:
        """Move tasks out of a batch; returns how many were its own."""
        if key not in self.batches:
            return 0
        end, cpus, devices = self.batches[key]
        stays = end
        while stays > key[3] and codes.get(stays - 1) == RETURNED:
            stays -= 1
        job, accepted = self.jobs[key[2]], 0
        failed = job.count(*FAILED)
        for position, task in self.held(key):
            if code := codes.get(position, 0):
                self._leave_one(job, task, code, position >= stays)
                accepted += 1
        if accepted:
            self.batches[key] = (stays, cpus, devices)
        if not self.held(key):
            del self.batches[key]
        is_worse = job.count(*FAILED) > failed and not job.fate and job.count("PD", "R", "CG")
        if is_worse and job.max_fails is not None and job.count(*FAILED) > job.max_fails:
            self.doom(job, "CA")
        return accepted

    def _leave_one(self, job: Job, task: Task, code: int, is_tail: bool) -> None:
        task.holder = None
        code, wish = code % 16, code // 16
        if wish and not job.fate and task.state == "R":
            self._retry(job, task, code, wish)
        elif code in ENDS:
            task.state = ENDS[code]
        elif job.fate or task.state == "CG":
            task.state = job.fate or "CA"
        else:
            task.state = "PD"
            if code == RETURNED and is_tail:
                task.attempt -= 1
            if code == LOST and not job.requeue:
                task.state = "NF"
            elif code == LOST and task.attempt > task.last_crash:
                task.crashes, task.last_crash = task.crashes + 1, task.attempt
                task.state = "NF" if task.crashes >= 3 else "PD"
                if task.state == "NF" and job.retry and job.retry.does_node:
                    self._retry(job, task, code, TRY_AGAIN)

    def _retry(self, job: Job, task: Task, code: int, wish: int) -> None:
        if wish == HOLD:
            task.state, job.is_held = "PD", True
        elif wish == REQUEUE:
            task.state = "PD"
        elif not job.retry or task.retries >= job.retry.count:
            task.state = ENDS.get(code, "NF")
        else:
            task.state, task.retries = "PD", task.retries + 1
            task.rests = job.retry.backoff_s > 0
            task.level += code == 6 and job.retry.time_factor > 0

    def promote(self) -> None:
        """Every backoff is over."""
        for job in self.jobs.values():
            for task in job.tasks:
                task.rests = False

    def expire(self, number: int, *, is_whole: bool) -> None:
        """The deadline of a job has passed; `is_whole`: none of its tasks ever began."""
        job = self.jobs[number]
        job.deadline = 0.0
        late = [task for task in job.tasks if task.state == "PD" and not task.attempt]
        if is_whole:
            assert len(late) == job.count("PD") > job.count("R", "CG") == 0
            return self.doom(job, "CA")
        for task in late:
            task.state, task.waits = "CA", False

    def drop(
        self, node: str, code: int, unless: Callable[[Key, Task], bool] = lambda k, t: False
    ) -> None:
        """Take all that a node holds from it, but for some tasks."""
        for key in [key for key in self.batches if key[0] == node]:
            self.leave(key, {p: code for p, t in self.held(key) if not unless(key, t)})

    def lapse(self, node: str) -> None:
        """Its lease is over; what must not be reissued stays with it, unless it was cancelled."""
        self.nodes[node].is_live = False
        self.drop(node, LAPSED, lambda k, t: not self.jobs[k[2]].requeue and t.state == "R")

    def reconcile(
        self, node: str, batches: Sequence[Batch], orders: Sequence[dict[str, Any]]
    ) -> dict[int, bytes]:
        """Return the masks; the node now holds what they say, and nothing else.

        `orders`: those that it has not acknowledged.
        """
        masks, slots = {}, {batch.slot for batch in batches}
        for key in [k for k in self.batches if k[0] == node and k[1] not in slots]:
            self.leave(key, {p: RETURNED for p in range(key[3], self.batches[key][0])})
        for batch in batches:
            key = key_of(node, batch)
            if key not in self.batches and not any(k[:2] == key[:2] for k in self.batches):
                self._take_back(key, batch, orders)
            mine = {p for p, _ in self.held(key)} if key in self.batches else set()
            masks[batch.slot] = b"".join(
                b"1" if batch.first + i in mine else b"0" for i in range(batch.count)
            )
        return masks

    def _take_back(self, key: Key, batch: Batch, orders: Sequence[dict[str, Any]]) -> None:
        job = self.jobs.get(batch.job)
        tasks = list(enumerate(job.tasks))[batch.first : batch.first + batch.count] if job else []
        told = [
            range(order["first"], order["last"] + 1 if order["last"] >= 0 else 10**6)
            for order in orders
            if (order["op"], order["uid"]) == ("cancel", batch.uid) and batch.slot <= order["upto"]
        ]
        mine = [
            t for p, t in tasks
            if t.state == "PD" and t.attempt <= batch.attempt and not any(p in r for r in told)
        ]  # fmt: skip
        for task in mine:
            task.state, task.attempt, task.holder = "R", batch.attempt, key
            task.waits, task.rests, task.level = False, False, batch.level
        if job and mine:
            self.batches[key] = (batch.first + batch.count, job.cpus, batch.gpus)

    def cancel(self, number: int, positions: Sequence[int] | None) -> None:
        """Cancel tasks, or the whole job for good."""
        job = self.jobs[number]
        if positions is None and not job.fate and not job.has_ended:
            self.doom(job, "CA")
        for position in positions or ():
            if not job.fate and position < len(job.tasks):
                task = job.tasks[position]
                task.state = {"PD": "CA", "R": "CG"}.get(task.state, task.state)
                task.waits = task.rests = False
        for key in [k for k in self.batches if k[2] == number and not self.nodes[k[0]].is_live]:
            self.leave(key, {p: LAPSED for p, t in self.held(key) if t.state == "CG"})

    def doom(self, job: Job, fate: str) -> None:
        """Give up a whole job."""
        job.fate, job.is_open = fate, False
        if fate != "DF":
            job.deadline = 0.0
        for task in job.tasks:
            task.state = {"PD": fate, "R": "CG"}.get(task.state, task.state)
            task.waits = task.rests = False

    def give_back(self, node: str, batch: Batch, codes: dict[int, int]) -> int:
        """Return tasks that a node cannot start; the job may have no hope left."""
        job = self.jobs[batch.job]
        job.unfit.add(node)
        accepted = self.leave(key_of(node, batch), codes)
        may = [n for n, has in self.nodes.items()
               if has.is_live and has.cpus >= job.cpus and has.gpus >= job.gpus]  # fmt: skip
        if not job.has_ended and not job.fate and not set(may) - job.unfit:
            self.doom(job, "F")
        return accepted

    def extend(self, number: int, count: int) -> None:
        """Give a sweep more tasks."""
        self.jobs[number].tasks += [Task() for _ in range(count)]

    def requeue(self, number: int, first: int, last: int, states: set[str]) -> None:
        """Run ended tasks again; a job that was given up is so no more."""
        job = self.jobs[number]
        if job.fate == "DF":
            if "DF" in states:
                self._rearm(number)
            return
        if job.fate:
            job.fate = ""
            job.unfit.clear()
            if job.unmet:
                job.unmet = len(job.conditions)
                for condition in job.conditions:
                    condition.state = 0
        for task in self.jobs[number].tasks[first : last + 1]:
            if task.state in states:
                if task.state == "NF":
                    task.crashes = task.last_crash = 0
                task.state, task.retries, task.level = "PD", 0, 0
                task.waits = bool(task.needs)

    # -- what waits for others -------------------------------------------------------------

    def settle(self) -> None:
        """Decide all that can be decided, until nothing changes."""
        while any([self._decide(job) for job in self.jobs.values()]):
            pass

    def _decide(self, job: Job) -> bool:
        changed = False
        for condition in job.conditions:
            if condition.state or job.fate or not job.unmet:
                continue
            condition.state = self._verdict(condition)
            changed = changed or bool(condition.state)
            if condition.state:
                job.unmet = 0 if condition.state == 1 and job.is_or else job.unmet - 1
            if condition.state == 2 and not (job.is_or and job.unmet):
                self.doom(job, "DF")
        for task in job.tasks if not job.fate else ():
            if task.waits and task.state == "PD":
                ends = [self.jobs[j].tasks[p].state for j, p in task.needs]
                if any(end in BAD for end in ends):
                    task.state, task.waits, changed = "DF", False, True
                elif all(end == "CD" for end in ends):
                    task.waits, changed = False, True
        return changed

    def _verdict(self, condition: Condition) -> int:
        other = self.jobs[condition.job]
        tasks, over = other.tasks, other.has_ended
        if condition.positions is not None:
            tasks = [other.tasks[p] for p in condition.positions]
            over = all(task.state not in ("PD", "R", "CG") for task in tasks)
        bad = any(task.state in BAD for task in tasks)
        if condition.kind == "after":
            waits = [t for t in other.tasks if t.state == "PD"]
            return int(not other.is_open and all(t.rests or t.level for t in waits))
        if condition.kind == "afterok":
            return 2 if bad else int(over)
        if condition.kind == "afternotok":
            return (1 if bad else 2) if over else 0
        return int(over)

    def rerun_tree(self, number: int) -> None:
        """Run the failed tasks of a job again, and look anew at what was given up for them."""
        job = self.jobs[number]
        if job.fate == "DF":
            self._rearm(number)
        else:
            self.requeue(number, 0, len(job.tasks), {"F", "TO", "NF"})
            self.settle()
            self._rearm_kids(number)

    def _rearm(self, number: int) -> None:
        job = self.jobs[number]
        if job.deadline <= self.now:
            job.deadline = 0.0
        job.fate, job.unmet = "", len(job.conditions)
        for condition in job.conditions:
            condition.state = 0
        for task in job.tasks:
            if task.state == "DF":
                task.state, task.waits = "PD", bool(task.needs)
        self.settle()
        if not job.fate:
            self._rearm_kids(number)

    def _rearm_kids(self, number: int) -> None:
        for other, job in self.jobs.items():
            if job.fate == "DF" and any(c.job == number for c in job.conditions):
                self._rearm(other)
            mine = [t for t in job.tasks if any(j == number for j, _ in t.needs)]
            failed = [t for t in mine if t.state == "DF" and not job.fate]
            for task in failed:
                task.state, task.waits = "PD", True
            self.settle()
            if any(task.state != "DF" for task in failed):
                self._rearm_kids(other)
