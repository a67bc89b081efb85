"""The slots of a node: each runs the batches given to it one after another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from qsub_py.node.batch import Batch, Over, Run, Verdict
from qsub_py.node.calls import CallRun
from qsub_py.node.commands import CommandRun
from qsub_py.node.runner_pool import RunnerPool
from qsub_py.node.wire import Header, Item
from qsub_py.node.workplace import Workplace, now

Start = Callable[[Batch, Over], Run]


class Slot:
    """A queue of batches; the first of them runs."""

    def __init__(self, place: Workplace, start: Start) -> None:
        self.head: Run | None = None
        self._queue: deque[Batch] = deque()
        self._place = place
        self._start = start
        self._advancing = False

    def add(self, batch: Batch) -> None:
        """Run a batch after those before it."""
        self._queue.append(batch)
        self._advance()

    def _over(self) -> None:
        self.head = None
        self._advance()

    def _advance(self) -> None:
        """Begin batches until one takes its time; a loop, as each may be over at once."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self.head is None and self._queue:
                self.head = self._start(self._queue.popleft(), self._over)
                self.head.begin()
        finally:
            self._advancing = False

    def kill(self, positions: set[int] | None, verdict: Verdict) -> None:
        """End these tasks (None: all), running or not."""
        moment = now()
        for batch in list(self._queue):
            for pos in [p for p in batch.entry.positions if p in batch.entry.open]:
                if positions is None or pos in positions:
                    item = Item(pos, verdict.state, why=verdict.why)
                    self._place.ledger.end(batch.entry, item, b"", moment, more=False)
            if not batch.entry.open:
                self._queue.remove(batch)
        if self.head is not None:
            self.head.kill(positions, verdict)

    def suspend(self, positions: set[int] | None) -> None:
        """Return what has not begun; stop what runs if it is one of these (None: all)."""
        if any(state["waiting"] for state in self.states()):
            self.take_back()
        if self.head is not None:
            running = self.head.state()["running"]
            is_meant = positions is None or running is None or running in positions
            self.head.suspend(is_meant)

    def limit(self, seconds: float) -> None:
        """Give all tasks here another time limit (0: none)."""
        runs = [self.head] if self.head is not None else []
        for batch in [*self._queue, *(run.batch for run in runs)]:
            batch.common = {**batch.common, "limit_s": seconds}
        for run in runs:
            run.relimit()

    def take_back(self) -> None:
        """Return what has not begun."""
        waiting = list(self._queue)
        self._queue.clear()
        if self.head is not None:
            self.head.take_back()
        for batch in waiting:
            self._place.ledger.give_back(batch.entry, sorted(batch.entry.open))

    def drop(self) -> None:
        """Kill all of it and report nothing but that."""
        for batch in self._queue:
            self._place.ledger.drop(batch.entry)
        self._queue.clear()
        if self.head is not None:
            self.head.drop()

    def states(self) -> Iterator[Header]:
        """Yield what the agent is told of each batch."""
        if self.head is not None:
            yield _state(self.head.batch, self.head.state())
        idle = {"running": None, "started_boot": 0.0, "paused": False, "suspended": False}
        for batch in self._queue:
            yield _state(batch, {**idle, "waiting": sorted(batch.entry.open)})


def _state(batch: Batch, rest: Header) -> Header:
    count = len(batch.entry.positions)
    head = {"key": batch.key, "job": batch.job, "count": count, "kind": batch.kind}
    return {**head, **rest}


class Slots:
    """All slots by number, and the fence that holds for all of them."""

    def __init__(self, place: Workplace, pool: RunnerPool) -> None:
        self._place = place
        self._pool = pool
        self._slots: dict[int, Slot] = {}
        self._lapsed = True

    def _start(self, batch: Batch, over: Over) -> Run:
        if batch.kind == "command":
            return CommandRun(self._place, batch, over)
        return CallRun(self._place, batch, over, self._pool)

    def run(self, batch: Batch) -> None:
        """Take a batch, unless it was told before."""
        ledger = self._place.ledger
        entry = ledger.admit(batch.key, batch.job, batch.kind, batch.positions())
        if entry is None:
            ledger.tell_again(batch.key)
            return
        batch.entry = entry
        number = batch.key[0]
        if number not in self._slots:
            self._slots[number] = Slot(self._place, self._start)
        self._slots[number].add(batch)

    def slot(self, number: int) -> Slot:
        """Return a slot; one that does nothing when it was never used."""
        return self._slots.get(number) or Slot(self._place, self._start)

    def heads(self) -> list[Run]:
        """Return what runs."""
        return [slot.head for slot in self._slots.values() if slot.head is not None]

    def states(self) -> list[Header]:
        """Return what the agent is told of all batches."""
        return [state for slot in self._slots.values() for state in slot.states()]

    def lapse(self) -> None:
        """The fence has passed."""
        self._lapsed = True
        for head in self.heads():
            head.lapse()

    def renew(self) -> None:
        """The fence is ahead again: start and go on."""
        if self._lapsed:
            self._lapsed = False
            for head in self.heads():
                head.begin()
