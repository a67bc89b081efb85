"""Run a batch of calls on a runner: tickets out, results in, one crash costs one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qsub_py.node.batch import LONG_S, Batch, Over, Unfit, Verdict, excuse
from qsub_py.node.call_orders import call_order, dress
from qsub_py.node.children import collect
from qsub_py.node.judge import OUT_OF_MEMORY, how_it_died, judge, killed_for_memory, over_limit
from qsub_py.node.ladder import Ladder
from qsub_py.node.limits import Limits
from qsub_py.node.memory import Watched
from qsub_py.node.processes import Tree
from qsub_py.node.runner_pool import RunnerPool
from qsub_py.node.runners import Runner
from qsub_py.node.wire import Header, Item
from qsub_py.node.workplace import Hold, Timer, Workplace, now

_NO_CALL = -1


class CallRun:
    """A batch of calls on its slot.

    An index is a call's place in the batch. `_open`: neither ended nor returned; `_held`: the
    open ones whose ticket is here; at most one of the others is in the runner's hands
    besides those in the pipe.
    """

    def __init__(self, place: Workplace, batch: Batch, over: Over, pool: RunnerPool) -> None:
        self.batch, self._place, self._over, self._pool = batch, place, over, pool
        self._positions: Sequence[int] = batch.positions()
        allowed = batch.entry.open
        self._held = [i for i, pos in enumerate(self._positions) if pos in allowed]
        self._open = set(self._held)
        self._serial = pool.next_serial()
        self._runner: Runner | None = None
        self._hold: Hold | None = None
        self._timer: Timer | None = None
        self._ladder: Ladder | None = None
        self._current = _NO_CALL
        self._started = 0.0
        self._told = self._warned = self._dropped = False
        self._user_signal = self._peak = 0
        #: The process died and the files of its call are being collected.
        self._is_dying = False
        self._limits = Limits.of(batch.common)
        self._memory: Watched | None = None

    @property
    def _verdict(self) -> Verdict | None:
        return self._ladder.verdict if self._ladder else None

    def begin(self) -> None:
        """Hand out tickets when the fence allows."""
        moment = now()
        if not self._place.fence.is_open(moment) or self._verdict or self._dropped:
            return
        if self._is_dying:
            return
        if self._runner is None and not self._hire():
            return
        if self._hold is not None and self._hold.paused:
            self._hold.pause(False)
            self._place.ledger.tell({"op": "resumed", "key": self.batch.key})
        if self._held and self._runner is not None:
            self._held = self._runner.issue(self._held)
        if self._timer is None:
            self._timer = self._place.timers.at(moment + self._limits.first_look_s(), self._look)

    def _hire(self) -> bool:
        try:
            runner = self._pool.take(self.batch)
        except Unfit as error:
            self._return(self._held, str(error))
            return False
        try:
            place, entry = self._place, self.batch.entry
            place.ledger.marked(entry, runner.mark_path, self._serial, self._positions)
        except OSError as error:
            self._pool.give(runner)
            self._return(self._held, excuse(error, self._place.node_dir))
            return False
        self._runner, runner.caller = runner, self
        self._hold = Hold(runner.tree, now())
        self._ladder = Ladder(self._place, runner.tree, self._hold)
        if self.batch.common.get("mem_bytes"):
            limit = self.batch.common["mem_bytes"]
            self._memory = self._place.memory.watch(runner.tree, limit, self._over_limit)
        order = call_order(self.batch, self._serial)
        dressed = (self.batch.uid, self.batch.attempt, tuple(self.batch.env.items()))
        if runner.dressed != dressed:
            order |= dress(self.batch)
            runner.dressed = dressed
        runner.set_up(order, self.batch.body)
        return True

    def results(self, indexes: list[int], texts: list[bytes], bodies: list[bytes]) -> None:
        """Report finished calls."""
        positions = [self._positions[index] for index in indexes]
        self._open.difference_update(indexes)
        self._place.ledger.end_many(
            self.batch.entry, positions, texts, bodies, now=now(), more=False
        )
        self._pool.begins_well(self.batch.uid)
        if not self._open:
            self._finish()
        elif self._held:
            self.begin()

    def unfit(self, why: str) -> None:
        """Return the rest: it cannot be unpacked on this node."""
        if self._runner is not None:
            self._runner.withdraw()
        self._return(sorted(self._open), why)

    def died(self, code: int, left: int) -> None:
        """Report the call that ran as lost, or as ended by us; return what had not begun."""
        runner = self._runner
        assert runner is not None
        self._held = sorted({*self._held, *runner.withdraw()} & self._open)
        begun = self._open - set(self._held)
        serial, index, started = runner.marked()
        if serial != self._serial or index not in begun:
            begun = set()
        stillborn = "" if begun else self._stillborn(runner, code)
        ends = [self._death(one, started, code, left) for one in begun]
        if not ends or self._dropped or not self.batch.common.get("fetch"):
            self._bury(ends, stillborn)
            return
        # What killed calls left is collected in a child, while nothing of this batch runs.
        self._is_dying = True
        self._let_go()
        collect(
            self._place,
            self._collection(ends[-1]),
            lambda files: self._bury([item._replace(files=files) for item in ends], ""),
        )

    def _collection(self, item: Item) -> dict[str, Any]:
        common, scratch = self.batch.common, self.batch.env.get("QSUB_SCRATCH", "")
        name = f"{self.batch.uid}.{item.pos}.{self.batch.attempt}.files"
        is_private = common.get("private") is not None
        return {
            "root": scratch if is_private else common["cwd"], "patterns": common["fetch"],
            "target": self._place.out_path(name), "since": f"{scratch}.since" if is_private else "",
        }  # fmt: skip

    def _bury(self, ends: Sequence[Item], stillborn: str) -> None:
        """Report the calls that died with their process; return the rest."""
        self._is_dying = False
        if self._dropped:
            self._place.ledger.drop(self.batch.entry)
            self._open.clear()
            self._finish()
            return
        for item in ends:
            self._open.difference_update(
                i for i in tuple(self._open) if self._positions[i] == item.pos
            )
            self._place.ledger.end(self.batch.entry, item, b"", now(), more=False)
        if self._open:
            self._return(sorted(self._open), stillborn)
        else:
            self._finish()

    def _over_limit(self, used: int) -> None:
        """End the call that runs: the process of all uses too much."""
        self._peak = used
        if self._runner is None or self._hold is None or self._ladder is None:
            return
        self._see_current(self._runner, self._hold)
        if self._current != _NO_CALL:
            self._ladder.climb(over_limit(self.batch.common["mem_bytes"], used))

    def _stillborn(self, runner: Runner, code: int) -> str:
        """Return why a batch that was not even unpacked does not fit here; else ""."""
        if runner.ready or self._verdict is not None:
            return ""
        if not self._pool.is_hopeless(self.batch.uid, killed=code < 0):
            return ""
        return f"Python {how_it_died(code)} before it could begin: {runner.last_words()}"

    def _death(self, index: int, started: float, code: int, left: int) -> Item:
        """Return the end of a call that died with its process."""
        state, why = "LOST", f"the Python process {how_it_died(code)}"
        if self._verdict is not None:
            state, why = self._verdict.state, self._verdict.why
        elif self._user_signal and code == -self._user_signal:
            state, why = judge(code, None, self._user_signal)
        elif self._memory is not None and self._memory.was_killed():
            self._peak = self._memory.used()
            verdict = over_limit(self._memory.limit, self._peak)
            state, why = verdict.state, verdict.why
        elif killed_for_memory(code, 0, self._place.oom):
            state, why = OUT_OF_MEMORY
        elif self._warned and self._limits.died_of_warning(code):
            state, why = "TIMEOUT", self._limits.died_of_warning(code)
        if left:
            why += f"; {left} of its processes could not be killed"
        out: tuple[str, int, list[int] | None] = ("", 0, None)
        if self._runner is not None and not self._has_own_file(index):
            out = self._runner.unreported_output()
        return Item(
            self._positions[index], state, started, now(), exit=max(code, 0), signal=max(-code, 0),
            rss=self._peak, why=why, out=out[0], out_size=out[1], out_at=out[2],
        )  # fmt: skip

    def _has_own_file(self, index: int) -> bool:
        tasks = self.batch.tasks
        return not isinstance(tasks, dict) and bool(tasks[index].get("out"))

    def _look(self) -> None:
        """See how long the current call has run: tell, send the rest back, limit it."""
        self._timer = None
        runner, hold = self._runner, self._hold
        if runner is None or hold is None:
            return
        runner.drain()
        if not self._open or runner.retired:
            return
        self._see_current(runner, hold)
        moment = now()
        wait = LONG_S
        if self._current != _NO_CALL:
            wait = self._judge_length(hold.ran_s(moment), hold)
        if wait and self._open:
            wait = max(wait, 1.0) if hold.stopped else max(wait, 0.005)
            self._timer = self._place.timers.at(moment + wait, self._look)

    def _see_current(self, runner: Runner, hold: Hold) -> None:
        serial, index, started = runner.marked()
        if serial != self._serial or index not in self._open:
            self._current = _NO_CALL
        elif index != self._current:
            self._current, self._started = index, started
            self._told = self._warned = False
            if not hold.stopped:
                hold.restart(started)

    def _judge_length(self, ran: float, hold: Hold) -> float:
        """Act on a call that has run for `ran` seconds; return when to look again, 0: never."""
        limits = self._limits
        if ran >= LONG_S and not self._told:
            self._told = True
            pos = self._positions[self._current]
            told = {"op": "begun", "key": self.batch.key, "pos": pos, "start": self._started}
            if self._runner is not None:
                told |= self._runner.where(self._serial, self._current)
            self._place.ledger.tell(told)
            if self._collect():
                self.take_back()
        if self._verdict is None and self._ladder is not None and self._runner is not None:
            if limits.must_warn(ran) and not self._warned:
                self._warned = True
                self._runner.tree.signal(limits.signal, whom=limits.whom)
            if limits.must_end(ran):
                self._ladder.climb(limits.verdict())
        if self._verdict is None:
            wait = limits.wait_s(ran, was_told=self._told, was_warned=self._warned)
        else:
            wait = 0.0 if self._told else LONG_S - ran
        return wait or (0.0 if len(self._open) <= 1 else LONG_S)

    def _collect(self) -> bool:
        """Bring all tickets that are in the pipe back here; say whether any are here."""
        if self._runner is not None:
            self._held = sorted({*self._held, *self._runner.withdraw()} & self._open)
        return bool(self._held)

    def kill(self, positions: set[int] | None, verdict: Verdict) -> None:
        """End these calls: what waits does not start, for what runs the runner must die."""
        self._collect()
        if self._runner is not None:
            self._runner.drain()
        if not self._open:
            return
        picked = [i for i in self._held if positions is None or self._positions[i] in positions]
        self._held = [i for i in self._held if i not in set(picked)]
        running = [
            i
            for i in self._open - set(self._held) - set(picked)
            if positions is None or self._positions[i] in positions
        ]
        for index in picked:
            self._open.discard(index)
            item = Item(self._positions[index], verdict.state, why=verdict.why)
            self._place.ledger.end(self.batch.entry, item, b"", now(), more=False)
        if running and self._ladder is not None and not self._is_dying:
            self._ladder.climb(verdict)
        elif not self._open:
            self._finish()
        else:
            self.begin()

    def signal(self, positions: set[int] | None, number: int, whom: str) -> None:
        """Signal the runner's session while one of these calls runs."""
        runner, hold = self._runner, self._hold
        if runner is None or hold is None:
            return
        self._see_current(runner, hold)
        if self._current == _NO_CALL:
            return
        if positions is None or self._positions[self._current] in positions:
            self._user_signal = number
            runner.tree.signal(number)

    def suspend(self, value: bool) -> None:
        """Stop the runner for its user, or let it go on."""
        if self._hold is not None and self._runner is not None and self._verdict is None:
            self._see_current(self._runner, self._hold)
            self._hold.suspend(value)

    def relimit(self) -> None:
        """Take the time limit anew; one that has passed ends the call now."""
        self._limits = Limits.of(self.batch.common)
        if self._timer is not None:
            self._timer.cancel()
        self._look()

    def lapse(self) -> None:
        """Start nothing more; pause the running call if it may start elsewhere."""
        self._collect()
        runner, hold = self._runner, self._hold
        if runner is None or hold is None or hold.paused or not self.batch.common["requeue"]:
            return
        self._see_current(runner, hold)
        hold.pause(True)
        if self._verdict is not None:
            runner.retire()
        self._place.ledger.tell({"op": "paused", "key": self.batch.key})

    def take_back(self) -> None:
        """Return what has not begun; always answered, maybe with none."""
        self._collect()
        self._return(self._held)

    def _return(self, indexes: Sequence[int], why: str = "") -> None:
        """Give these back; with none left this batch is over."""
        positions = [self._positions[index] for index in indexes]
        self._open.difference_update(indexes)
        self._held = [index for index in self._held if index in self._open]
        self._place.ledger.give_back(self.batch.entry, positions, why)
        if not self._open:
            self._finish()

    def drop(self) -> None:
        """Kill silently: it was started again elsewhere."""
        self._dropped = True
        if self._runner is not None:
            self._runner.retire()
        if self._runner is not None or self._is_dying:
            return
        self._place.ledger.drop(self.batch.entry)
        self._finish()

    def _finish(self) -> None:
        """Nothing is left."""
        self._let_go()
        self._over()

    def _let_go(self) -> None:
        """Give the runner back, unless it is stopped or still unpacking."""
        if self._timer is not None:
            self._timer.cancel()
        runner, hold = self._runner, self._hold
        self._runner = None
        if runner is not None and hold is not None:
            runner.caller = None
            self._place.memory.leave(runner.tree)
            if hold.stopped or not runner.ready or self._verdict is not None:
                runner.retire()
            if self._ladder is not None:
                self._ladder.stop()
            self._pool.give(runner)

    def tree(self) -> Tree | None:
        """Return the runner's processes."""
        return self._runner.tree if self._runner else None

    def state(self) -> Header:
        """Return what the agent is told after a reconnect."""
        runner, hold = self._runner, self._hold
        if runner is not None and hold is not None:
            self._see_current(runner, hold)
        current = self._current
        waiting = self._open - {current}
        return {
            **(runner.where(self._serial, current) if runner and current != _NO_CALL else {}),
            "running": self._positions[current] if current != _NO_CALL else None,
            "started_boot": self._started if current != _NO_CALL else 0.0,
            "paused": bool(hold and hold.paused),
            "suspended": bool(hold and hold.suspended),
            "waiting": [self._positions[index] for index in sorted(waiting)],
        }
