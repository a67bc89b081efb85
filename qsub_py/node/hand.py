"""The agent's hand on the keeper: what it holds there, and what came back to be reported.

Knows nothing of the server. Whatever happens to keeper or agent, each task that was handed
over is afterwards open in the keeper, among the entries of the outbox, or returned there.
"""

from __future__ import annotations

import logging
import os
import selectors
import time
from pathlib import Path

from qsub_py.model import Batch, JobSpec
from qsub_py.node import edition
from qsub_py.node.call_logs import CallLogs
from qsub_py.node.holding import Held, Holding
from qsub_py.node.job_files import is_private
from qsub_py.node.jobs import CannotStart, Jobs
from qsub_py.node.keeper_link import KeeperLink, await_end, start_keeper
from qsub_py.node.reports import Entry, Outbox
from qsub_py.node.staging import Staging
from qsub_py.node.wire import VERSION, Header, Item, read_items

log = logging.getLogger("qsub_py.agent")

_PONG_S = 30.0


class Hand:
    """A connection to the keeper that is made anew when it breaks."""

    def __init__(
        self,
        node_dir: Path,
        agent_argv: list[str],
        jobs: Jobs,
        selector: selectors.BaseSelector,
        staging: Staging,
        call_logs: CallLogs,
    ) -> None:
        self.staging, self._call_logs = staging, call_logs
        self._dir, self._argv, self._jobs, self._selector = node_dir, agent_argv, jobs, selector
        self.holding, self.outbox = Holding(), Outbox()
        self._events = selectors.EVENT_READ
        self._edition = edition.name()
        self._version = VERSION
        self._keeper = self._connect()

    def listen(self) -> None:
        """Take in what the keeper says; ConnectionError when it is gone."""
        if self._keeper.waiting:
            self._keeper.flush()
        for header, body in self._keeper.receive():
            self._heard(header, body)

    def want(self) -> None:
        """Let the selector wake us when the keeper takes more, if something waits for that."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._keeper.waiting else 0)
        if events != self._events:
            self._selector.modify(self._keeper, events)
            self._events = events

    def replace(self) -> None:
        """Connect again, to the same keeper or a new one."""
        log.warning("the keeper is gone")
        self._selector.unregister(self._keeper)
        self._keeper.close()
        self._keeper = self._connect()

    def renew_keeper(self) -> bool:
        """Put a keeper of our own version in the place of one that has nothing to run.

        Its reports are in its journal, and the new one tells them again. Returns whether it did.
        """
        if self._edition == edition.name() or self.holding.slots or self._keeper.waiting:
            return False
        log.info("the keeper is %s: another takes its place", self._edition)
        self.send({"op": "stop"})
        self._selector.unregister(self._keeper)
        self._keeper.close()
        await_end(self._dir)
        self._keeper = self._connect()
        # Once is enough: where another copy than ours is found again, it stays.
        self._edition = edition.name()
        return True

    # -- what the keeper is told -----------------------------------------------------------

    def send(self, header: Header, body: bytes = b"") -> None:
        """Give an order; ConnectionError when the keeper is gone."""
        self._keeper.send(header, body)

    def ping(self) -> None:
        """Give a sign of life, and let go of what the server surely has."""
        self.send({"op": "ping"})
        settled = self.outbox.settled(time.monotonic())
        if settled:
            self.send({"op": "forget", "seqs": settled})

    def check(self, spec: JobSpec) -> None:
        """Raise CannotStart for what a keeper of an older version would misunderstand."""
        if self._version < 2 and (spec.ship or spec.fetch or is_private(spec)):
            raise CannotStart("the node runs an older version until what it runs now has ended")

    def kill(self, slot: int, positions: list[int], why: str, *, grace_s: float) -> None:
        """End tasks of a slot as cancelled: SIGTERM, grace, SIGKILL."""
        waiting = self.staging.forget(slot)
        if waiting is not None:
            # It never began: the store knows what of it was cancelled.
            self.give_up(waiting)
            return
        self.send({"op": "kill", "slot": slot, "pos": positions, "why": why,
                   "state": "CANCELLED", "grace_s": grace_s})  # fmt: skip

    def signal(self, slot: int, positions: list[int], number: int, whom: str) -> None:
        """Send a signal to tasks of a slot: to their "main" process, the "rest", or "all"."""
        order = {"op": "signal", "slot": slot, "pos": positions, "signal": number, "whom": whom}
        self.send(order)

    def suspend(self, slot: int, positions: list[int]) -> None:
        """Stop these tasks of a slot if they run; return what has not begun there."""
        waiting = self.staging.forget(slot)
        if waiting is not None:
            self.give_up(waiting)
            return
        self.send({"op": "suspend", "slot": slot, "pos": positions})

    def drop_all(self) -> None:
        """End everything without a report: the work goes back to the queue."""
        for slot in list(self.holding.slots):
            waiting = self.staging.forget(slot)
            if waiting is not None:
                self.give_up(waiting)
                continue
            self.send({"op": "verdict", "slot": slot, "do": "kill"})

    def give_up(self, batch: Batch, why: str = "", *, failed: dict[int, str] | None = None) -> None:
        """Return a batch that was never handed over; with `why` as unfit for this node.

        With `failed` it is only some tasks that can run nowhere: these end so, for that reason.
        """
        positions = range(batch.first, batch.first + batch.count)
        self.holding.close(batch.slot, positions)
        if not failed:
            self.outbox.add(Entry(batch, returned=positions, unfit=why))
            return
        items = [(Item(position, "FAILED", why=text), b"") for position, text in failed.items()]
        self.outbox.add(Entry(batch, items))
        rest = [position for position in positions if position not in failed]
        if rest:
            self.outbox.add(Entry(batch, returned=rest))

    def told(self, slot: int) -> set[int]:
        """Return the positions of a slot that are open or about to be reported."""
        return self.holding.positions(slot) | self.outbox.positions(slot)

    # -- connecting ------------------------------------------------------------------------

    def _connect(self) -> KeeperLink:
        """Connect to the keeper, starting one if need be, and learn what it has."""
        before = self.holding.slots
        self.holding = Holding()
        self._jobs.tell_again()
        keeper, frames = self._reach()
        for header, body in frames:
            if header["op"] == "state":
                self._adopt(header, before)
            else:
                self._heard(header, body)
        for slot, held in before.items():
            missing = held.open - self.told(slot)
            if missing:
                self.outbox.add(Entry(held.batch, returned=sorted(missing)))
        self._events = selectors.EVENT_READ
        self._selector.register(keeper, self._events)
        return keeper

    def _reach(self) -> tuple[KeeperLink, list[tuple[Header, bytes]]]:
        while True:
            try:
                start_keeper(self._dir, self._argv)
                keeper = KeeperLink.connect(self._dir)
                hello = {"op": "hello", "version": VERSION, "pid": os.getpid(), "argv": self._argv}
                keeper.send(hello)
                keeper.send({"op": "ping"})
                return keeper, _until_pong(keeper)
            except (OSError, RuntimeError) as error:
                log.error("no keeper: %s", error)
                time.sleep(1.0)

    def _adopt(self, state: Header, before: dict[int, Held]) -> None:
        self._version = state.get("version", 1)
        self._edition = state.get("edition", "of a version before 2")
        for row in state["batches"]:
            positions = set(row["waiting"])
            if row["running"] is not None:
                positions.add(row["running"])
                self._call_logs.begun(row | {"pos": row["running"]})
            if positions:
                slot = row["key"][0]
                known = before[slot].batch if slot in before else _batch(row, max(positions))
                self.holding.add(known).open = positions

    # -- what the keeper says --------------------------------------------------------------

    def _heard(self, header: Header, body: bytes) -> None:
        op = header["op"]
        if op == "ended":
            self._ended(header, body)
        elif op == "returned":
            self._returned(header)
        elif op == "dropped":
            slot = header["key"][0]
            self._call_logs.left(header["key"][1], self.holding.positions(slot))
            self.holding.close(slot, self.holding.positions(slot))
        elif op == "begun":
            self._call_logs.begun(header)
        elif op == "error":
            log.warning("keeper: %s", header["text"])

    def _ended(self, header: Header, body: bytes) -> None:
        if self.outbox.knows(header["seq"]):
            return
        items = read_items(header, body)
        positions = [item.pos for item, _ in items]
        held = self.holding.slots.get(header["key"][0])
        batch = held.batch if held else _batch(header, max(positions))
        self.outbox.add(Entry(batch, items, seq=header["seq"]))
        self._call_logs.ended(batch.uid, items)
        self.holding.close(batch.slot, positions)
        job = self._jobs.known(batch.uid)
        if job:
            job.learn(sum(item.end - item.start for item, _ in items), len(items))

    def _returned(self, header: Header) -> None:
        self._call_logs.left(header["key"][1], header["pos"])
        held = self.holding.slots.get(header["key"][0])
        if held and header["pos"]:
            entry = Entry(held.batch, returned=header["pos"], unfit=header["unfit"])
            self.outbox.add(entry)
            self.holding.close(held.batch.slot, header["pos"])
            job = self._jobs.known(held.batch.uid)
            if job:
                job.hint = 1


def _batch(header: Header, last: int) -> Batch:
    """Return a batch as far as the keeper's key says; the store knows what it booked."""
    slot, uid, first, attempt, epoch = header["key"]
    return Batch(slot, header["job"], uid, first, last + 1 - first, attempt, epoch, 1, 0, ())


def _until_pong(keeper: KeeperLink) -> list[tuple[Header, bytes]]:
    """Return the frames before the answer to our ping: all that the keeper had for us."""
    frames: list[tuple[Header, bytes]] = []
    deadline = time.monotonic() + _PONG_S
    with selectors.DefaultSelector() as poll:
        poll.register(keeper, selectors.EVENT_READ)
        while time.monotonic() < deadline:
            poll.select(1.0)
            keeper.flush()
            for header, body in keeper.receive():
                if header["op"] == "pong":
                    return frames
                frames.append((header, body))
    raise ConnectionError("the keeper does not answer")
