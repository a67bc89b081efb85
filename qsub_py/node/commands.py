"""Run a batch of commands: start, limit, measure and end one after another.

Output goes straight to files; a task is over when its main process was reaped and nothing
that came from it is left.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from resource import struct_rusage
from typing import TypeGuard

from qsub_py.node.batch import LONG_S, Batch, Over, Unfit, Verdict, excuse
from qsub_py.node.children import Staging, collect
from qsub_py.node.judge import OUT_OF_MEMORY, judge, killed_for_memory, over_limit
from qsub_py.node.ladder import Ladder
from qsub_py.node.launch import REQUEUE_EXIT, Launcher, Output, Task
from qsub_py.node.limits import Limits
from qsub_py.node.memory import Watched
from qsub_py.node.processes import Tree, prefer_for_oom, stat_of
from qsub_py.node.tickets import excused
from qsub_py.node.wire import Header, Item
from qsub_py.node.workplace import Hold, Timer, Workplace, now


@dataclass(slots=True)
class Running:
    """The task that runs."""

    pos: int
    tree: Tree
    hold: Hold
    ladder: Ladder
    started: float
    output: Output
    timer: Timer
    told: bool = False
    dropped: bool = False
    user_signal: int = 0
    warned: bool = False
    memory: Watched | None = None
    #: Of a task that unpacks files before it begins.
    staging: Staging | None = None
    #: It has ended, and its files are being collected.
    is_over: bool = False

    @property
    def is_staging(self) -> bool:
        """Whether it has not begun yet."""
        return self.staging is not None and not self.staging.has_begun


class CommandRun:
    """A batch of commands on its slot."""

    def __init__(self, place: Workplace, batch: Batch, over: Over) -> None:
        self.batch = batch
        self._place = place
        self._end = over
        assert isinstance(batch.tasks, list)
        allowed = batch.entry.open
        self._waiting: deque[Task] = deque(t for t in batch.tasks if t["pos"] in allowed)
        self._current: Running | None = None
        self._launcher = Launcher(place, batch)
        self._limits = Limits.of(batch.common)

    def _over(self) -> None:
        self._launcher.tidy(is_over=True)
        self._end()

    def begin(self) -> None:
        """Start the next task when none runs and the fence allows; end when all are over."""
        if self._current is not None:
            # What is about to be killed may run elsewhere: it must not go on for a moment.
            doomed = self._current.ladder.verdict is not None
            if self._current.hold.paused and not doomed and self._place.fence.is_open(now()):
                self._resume_from_fence(self._current)
            return
        moment = now()
        if self._place.fence.is_open(moment):
            self._skip(moment)
        if not self._waiting:
            self._over()
        elif self._place.fence.is_open(moment):
            self._start(self._waiting.popleft(), moment)

    def _skip(self, moment: float) -> None:
        """End the next tasks at once whose file is there already."""
        while self._waiting and (why := excused(self._waiting[0])):
            item = Item(self._waiting.popleft()["pos"], "COMPLETED", moment, moment, why=why)
            more = bool(self._waiting)
            self._place.ledger.end(self.batch.entry, item, b"", moment, more=more)

    def _start(self, task: Task, moment: float) -> None:
        entry = self.batch.entry
        try:
            self._place.ledger.start(entry, task["pos"], moment)
        except OSError as error:
            self._give_up(task["pos"], excuse(error, self._place.node_dir))
            return
        try:
            tree, output, staging = self._launcher.launch(task, self._reaped, self._began)
        except Unfit as error:
            self._give_up(task["pos"], str(error))
            return
        timer = self._place.timers.at(moment + self._limits.first_look_s(), self._look)
        hold = Hold(tree, moment)
        ladder = Ladder(self._place, tree, hold)
        self._current = Running(
            task["pos"], tree, hold, ladder, moment, output, timer, staging=staging
        )

    def _began(self) -> None:
        """Let the time limit run from now on: the files are unpacked."""
        current = self._current
        if current is not None:
            moment = now()
            current.hold.restart(moment)
            current.timer.cancel()
            current.timer = self._place.timers.at(moment + self._limits.first_look_s(), self._look)

    def _give_up(self, pos: int, why: str) -> None:
        """Return this task and all that wait: the node is at fault, not the task."""
        positions = [pos, *(other["pos"] for other in self._waiting)]
        self._waiting.clear()
        self.batch.entry.running = {}
        self._place.ledger.give_back(self.batch.entry, positions, why)
        self._over()

    def _look(self) -> None:
        """Look at the running task when it may be long, or at its limit."""
        current = self._current
        if current is None:
            return
        moment, limits = now(), self._limits
        ran = current.hold.ran_s(moment)
        if ran >= LONG_S and not current.told:
            self._tell_begun(current)
            if self._waiting:
                self.take_back()
        if current.is_staging:
            self._look_again(moment + LONG_S)
            return
        if current.ladder.verdict is None:
            if limits.must_warn(ran) and not current.warned:
                current.warned = True
                current.tree.signal(limits.signal, whom=limits.whom)
            if limits.must_end(ran):
                current.ladder.climb(limits.verdict())
        if current.ladder.verdict is not None:
            wait = LONG_S - ran if not current.told else 0.0
        else:
            wait = limits.wait_s(ran, was_told=current.told, was_warned=current.warned)
        if wait > 0:
            self._look_again(moment + wait)

    def _look_again(self, when: float) -> None:
        # A task that stands still is looked at every second until it goes on.
        current = self._current
        if current is not None:
            if current.hold.stopped:
                when = max(when, now() + 1.0)
            current.timer = self._place.timers.at(when, self._look)

    def _tell_begun(self, current: Running) -> None:
        current.told = True
        found = stat_of(current.tree.pid)
        self._place.ledger.begun(self.batch.entry, current.tree.pid, found[3] if found else 0)
        self._place.ledger.tell(
            {"op": "begun", "key": self.batch.key, "pos": current.pos, "start": current.started}
        )
        # Under memory pressure the kernel shall take a task, not what watches over it.
        prefer_for_oom(current.tree.pid)
        limit = self.batch.common.get("mem_bytes") or 0
        if limit:
            ladder = current.ladder
            current.memory = self._place.memory.watch(
                current.tree, limit, lambda used: ladder.climb(over_limit(limit, used))
            )

    def kill(self, positions: set[int] | None, verdict: Verdict) -> None:
        """End these tasks: what waits does not start, what runs climbs the ladder."""
        picked = [t["pos"] for t in self._waiting if positions is None or t["pos"] in positions]
        self._waiting = deque(t for t in self._waiting if t["pos"] not in set(picked))
        moment = now()
        for pos in picked:
            item = Item(pos, verdict.state, why=verdict.why)
            self._place.ledger.end(self.batch.entry, item, b"", moment, more=False)
        current = self._current
        if self._lives(current) and (positions is None or current.pos in positions):
            current.ladder.climb(verdict)
        self.begin()

    @staticmethod
    def _lives(current: Running | None) -> TypeGuard[Running]:
        return current is not None and not current.is_over

    def signal(self, positions: set[int] | None, number: int, whom: str) -> None:
        """Signal the session of the running task, or its main process, or the rest."""
        current = self._current
        if self._lives(current) and (positions is None or current.pos in positions):
            current.user_signal = number
            current.tree.signal(number, whom=whom)

    def suspend(self, value: bool) -> None:
        """Stop the running task for its user, or let it go on."""
        current = self._current
        if self._lives(current) and current.ladder.verdict is None:
            current.hold.suspend(value)

    def relimit(self) -> None:
        """Take the time limit anew; one that has passed ends the task now."""
        self._limits = Limits.of(self.batch.common)
        current = self._current
        if self._lives(current):
            current.timer.cancel()
            current.warned = current.warned and self._limits.must_warn(current.hold.ran_s(now()))
            self._look()

    def lapse(self) -> None:
        """Pause what the store may start elsewhere."""
        current = self._current
        if not self._lives(current) or current.hold.paused or not self.batch.common["requeue"]:
            return
        current.hold.pause(True)
        if current.ladder.verdict is not None:
            current.ladder.destroy()
        self._place.ledger.tell({"op": "paused", "key": self.batch.key})

    def _resume_from_fence(self, current: Running) -> None:
        current.hold.pause(False)
        self._place.ledger.tell({"op": "resumed", "key": self.batch.key})

    def take_back(self) -> None:
        """Return what waits; always answered, maybe with none."""
        positions = [task["pos"] for task in self._waiting]
        self._waiting.clear()
        self._place.ledger.give_back(self.batch.entry, positions)
        self.begin()

    def drop(self) -> None:
        """Kill silently: it was started again elsewhere."""
        self._waiting.clear()
        if self._current is None:
            self._place.ledger.drop(self.batch.entry)
            self._over()
            return
        self._current.dropped = True
        if not self._current.is_over:
            self._current.ladder.destroy()

    def _reaped(self, status: int, usage: struct_rusage) -> None:
        current = self._current
        assert current is not None
        current.timer.cancel()
        current.ladder.stop()
        self._place.memory.leave(current.tree)
        ended = now()
        self._place.clear(
            current.tree, lambda left: self._settle(current, status, usage, ended, left)
        )

    def _settle(
        self, current: Running, status: int, usage: struct_rusage, ended: float, left: int
    ) -> None:
        """Report the end, after its files were collected."""
        current.is_over = True
        unfit = current.staging.end() if current.staging else ""
        if unfit and not current.dropped and current.ladder.verdict is None:
            self._current = None
            current.output.settle()
            self._give_up(current.pos, unfit)
            return
        code = os.waitstatus_to_exitcode(status)
        state, why = judge(code, current.ladder.verdict, current.user_signal)
        if current.memory and not current.ladder.verdict and current.memory.was_killed():
            verdict = over_limit(current.memory.limit, current.memory.used())
            state, why = verdict.state, verdict.why
        elif state == "FAILED" and killed_for_memory(code, current.user_signal, self._place.oom):
            state, why = OUT_OF_MEMORY
        elif current.warned and state == "FAILED" and self._limits.died_of_warning(code):
            state, why = "TIMEOUT", self._limits.died_of_warning(code)
        if left:
            why += f"; {left} of its processes could not be killed"
        wish = self._launcher.wants_requeue()
        if wish == "any" and state in ("COMPLETED", "TIMEOUT"):
            state, why = "FAILED", f"it asked to run again{'; ' * bool(why)}{why}"
        ask = int(wish == "any" or (wish == "exit" and code == REQUEUE_EXIT))
        path, size, part = current.output.settle()
        item = Item(
            pos=current.pos,
            state=state,
            start=current.started,
            end=ended,
            exit=max(code, 0),
            signal=max(-code, 0),
            cpu=round(usage.ru_utime + usage.ru_stime, 6),
            rss=max(usage.ru_maxrss * 1024, current.memory.used() if current.memory else 0),
            why=why,
            out=path,
            out_size=size,
            out_at=part,
            ask=ask,
        )
        self._collect(current, item, has_begun=not unfit)

    def _collect(self, current: Running, item: Item, *, has_begun: bool) -> None:
        """Pack the files that the task brings back, in a child; then report."""
        patterns = self.batch.common.get("fetch")
        if not patterns or not has_begun or current.dropped:
            self._report(current, item)
            return
        launcher = self._launcher
        config = {"root": launcher.directory, "patterns": patterns, "since": launcher.since(),
                  "target": launcher.files_path(item.pos)}  # fmt: skip
        collect(
            self._place, config, lambda files: self._report(current, item._replace(files=files))
        )

    def _report(self, current: Running, item: Item) -> None:
        """Say how a task ended, then go on with the next."""
        self._current = None
        if current.dropped:
            self._place.ledger.drop(self.batch.entry)
            self._over()
            return
        if self._waiting:
            self._launcher.tidy(is_over=False)
        more = bool(self._waiting)
        self._place.ledger.end(self.batch.entry, item, b"", now(), more=more)
        self.begin()

    def tree(self) -> Tree | None:
        """Return the processes of the running task."""
        return self._current.tree if self._current else None

    def state(self) -> Header:
        """Return what the agent is told after a reconnect."""
        current = self._current
        return {
            "running": current.pos if current else None,
            "started_boot": current.started if current else 0.0,
            "paused": bool(current and current.hold.paused),
            "suspended": bool(current and current.hold.suspended),
            "waiting": [task["pos"] for task in self._waiting],
        }
