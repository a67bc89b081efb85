"""The agent: the one process of a node that talks to the server.

One thread, one loop. It claims batches, hands them to the keeper, reports what ended, renews
the lease and obeys orders. It may die at any moment: the keeper has the processes and their
ends, the store the rights, and `_join` puts both together again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import selectors
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qsub_py.errors import QsubError, StoreError
from qsub_py.model import Batch
from qsub_py.node.holding import Held, Holding, key_of
from qsub_py.node.jobs import Jobs
from qsub_py.node.keeper_link import KeeperLink, start_keeper
from qsub_py.node.livelog import LiveLogs
from qsub_py.node.reports import Entry, Outbox, ReportMaker
from qsub_py.node.settings import NodeSettings
from qsub_py.node.waiter import Waiter
from qsub_py.node.wire import Header, read_items
from qsub_py.signing import Keyring
from qsub_py.store_node import NodeStore, Order, Refused

log = logging.getLogger("qsub_py.agent")

_RENEW_S = 2.0
#: The node stops itself this part of a lease before the server may give its work to others.
_MARGIN = 1 / 12
_CLEAN_S = 600.0


def boottime() -> float:
    """Return CLOCK_BOOTTIME: it counts suspends and nobody can set it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Agent:
    """A node's agent; `run` returns when the node was told to stop."""

    def __init__(
        self,
        node_dir: Path,
        settings: NodeSettings,
        store: NodeStore,
        waiter: Waiter,
        ring: Keyring,
        shown: dict[str, str],
        pythons: tuple[str, ...],
        agent_argv: list[str],
        revive: Callable[[], object],
    ) -> None:
        self._dir, self._settings, self._store, self._waiter = node_dir, settings, store, waiter
        self._shown, self._pythons, self._argv = shown, pythons, agent_argv
        self._revive = revive
        self._jobs = Jobs(store, ring, settings, node_dir)
        self._maker = ReportMaker(store, ring, settings.name)
        self._logs = LiveLogs(store, node_dir, settings.name)
        self._holding, self._outbox = Holding(), Outbox()
        self._acked: list[int] = []
        self._is_joined = self._was_joined = False
        self._wants_claim = True
        self._wants_renewal = False
        self._leaving = ""
        self._lease_s = 0.0
        self._retry_s = 0.0
        self._next = dict.fromkeys(("join", "renew", "ping", "claim", "clean"), 0.0)
        self._selector = selectors.DefaultSelector()
        self._selector.register(waiter, selectors.EVENT_READ)
        self._keeper = self._connect_keeper()

    # -- the loop --------------------------------------------------------------------------

    def run(self) -> None:
        """Work until told to stop and nothing is left to do."""
        while not self._has_left():
            self._selector.select(self._pause_s())
            try:
                self._listen()
                self._keep_time()
                if self._is_joined:
                    self._exchange()
            except ConnectionError:
                self._replace_keeper()
            except Refused as refusal:
                if refusal.word == "NAME":
                    raise
                log.info("the server says %s; joining again", refusal.word)
                self._is_joined = False
            except StoreError as error:
                self._lose(error)

    def _pause_s(self) -> float:
        if self._is_joined and (self._outbox.has_unsent() or self._wants_claim):
            return 0.0
        timers = ("ping", "renew", "claim", "clean") if self._is_joined else ("ping", "join")
        soonest = min(self._next[name] for name in timers) - time.monotonic()
        return max(0.0, min(soonest, self._logs.pause_s()))

    def _due(self, what: str, every_s: float) -> bool:
        now = time.monotonic()
        if now < self._next[what]:
            return False
        self._next[what] = now + every_s
        return True

    def _listen(self) -> None:
        if self._keeper.waiting:
            self._keeper.flush()
        for header, body in self._keeper.receive():
            self._heard(header, body)
        if self._waiter.rang():
            self._wants_claim = self._wants_renewal = True

    def _keep_time(self) -> None:
        if self._due("ping", _RENEW_S):
            self._keeper.send({"op": "ping"})
            settled = self._outbox.settled(time.monotonic())
            if settled:
                self._keeper.send({"op": "forget", "seqs": settled})
        if not self._is_joined:
            if self._due("join", self._retry_s):
                self._join()
            return
        if self._due("renew", _RENEW_S * random.uniform(0.9, 1.1)) or self._wants_renewal:
            self._renew()
        if self._due("claim", 5.0):
            self._wants_claim = True
        if self._due("clean", _CLEAN_S):
            self._clean()
        self._logs.turn(self._is_open)

    def _lose(self, error: StoreError) -> None:
        if self._is_joined:
            log.warning("%s", error)
        self._is_joined = False
        self._store.link.close()
        self._retry_s = min(2.0, 2 * self._retry_s + 0.1)
        self._next["join"] = time.monotonic() + self._retry_s * random.uniform(0.5, 1.0)

    # -- the server ------------------------------------------------------------------------

    def _join(self) -> None:
        """Say hello, compare what we hold with what the store thinks, send all reports again."""
        self._revive()
        settings, sent_at = self._settings, boottime()
        try:
            welcome = self._store.hello(
                settings.name, cpus=settings.cpus, mem_bytes=settings.mem_bytes,
                gpus=settings.gpus, queues=settings.queues, pythons=self._pythons,
                shown=self._shown,
            )  # fmt: skip
        except Refused as refusal:
            if not self._was_joined:
                raise
            raise StoreError(f"another live node is called {settings.name}") from refusal
        self._maker.offset_s = welcome.now_at - boottime()
        self._lease_s = welcome.lease_s
        self._fence(sent_at)
        self._reconcile()
        self._outbox.unsend()
        self._is_joined, self._retry_s, self._wants_claim = True, 0.0, True
        if not self._was_joined:
            self._was_joined = True
            (self._dir / "joined").touch()
        self._next["renew"] = 0.0
        log.info("joined as %s, epoch %d", settings.name, welcome.epoch)

    def _reconcile(self) -> None:
        theirs = {batch.slot: batch for batch in self._store.slots()}
        for slot, held in self._holding.slots.items():
            if slot in theirs and key_of(theirs[slot]) == key_of(held.batch):
                held.batch = theirs[slot]
        ours = {b.slot: b for b in self._outbox.batches()}
        ours |= {slot: held.batch for slot, held in self._holding.slots.items()}
        masks = self._store.reconcile(list(ours.values()))
        for slot, held in self._holding.slots.items():
            mask, first = masks[slot], held.batch.first
            gone = [p for p in held.open if mask[p - first : p - first + 1] != b"1"]
            if gone:
                log.warning("slot %d: %d tasks are no longer ours", slot, len(gone))
                self._kill(slot, gone, "it runs elsewhere or was cancelled", grace_s=0.0)
        for batch in self._store.slots():
            told = self._holding.positions(batch.slot) | self._outbox.positions(batch.slot)
            missing = [p for p in range(batch.first, batch.first + batch.count) if p not in told]
            if missing:
                self._outbox.add(Entry(batch, returned=missing))

    def _renew(self) -> None:
        self._wants_renewal = False
        sent_at, acked = boottime(), self._acked
        now_at, orders = self._store.renew(acked)
        self._acked = [seq for seq in self._acked if seq not in acked]
        self._maker.offset_s = now_at - boottime()
        self._fence(sent_at)
        for order in orders:
            if order.seq not in acked:
                self._obey(order)
        if self._acked:
            self._wants_renewal = True
        due_at = self._store.housekeep()
        if due_at:
            self._next["renew"] = min(
                self._next["renew"], time.monotonic() + max(0.001, due_at - now_at)
            )

    def _exchange(self) -> None:
        entries = self._outbox.unsent()
        plain = [entry for entry in entries if not entry.unfit]
        most = 0
        if (self._wants_claim or entries) and not self._leaving:
            most = max(0, self._settings.cpus - self._holding.cpus())
        self._wants_claim = False
        for entry in entries:
            if entry.unfit:
                self._store.give_back(entry.batch, entry.codes(), entry.unfit)
                entry.sent_at = time.monotonic()
        if not plain and not most:
            return
        reports = [self._maker.report(entry) for entry in plain]
        accepted, claim = self._store.report_and_claim(reports, most, self._jobs.hints())
        for entry, count in zip(plain, accepted, strict=True):
            entry.sent_at = time.monotonic()
            if count < entry.tasks:
                log.info("job %d: %d of %d reports were stale", entry.batch.job,
                         entry.tasks - count, entry.tasks)  # fmt: skip
        if claim:
            for batch in claim.batches:
                self._start(batch)
            self._wants_claim = self._wants_claim or (not claim.is_all and not claim.must_wait)
            if claim.must_wait:
                self._next["claim"] = time.monotonic() + 0.1

    def _start(self, batch: Batch) -> None:
        self._holding.add(batch)
        try:
            header, body = self._jobs.run_frame(batch)
        except StoreError:
            # Not begun, and so it is returned when we are back.
            self._holding.close(batch.slot, range(batch.first, batch.first + batch.count))
            raise
        except (QsubError, OSError) as error:
            log.warning("cannot start job %d: %s", batch.job, error)
            positions = range(batch.first, batch.first + batch.count)
            self._holding.close(batch.slot, positions)
            self._outbox.add(Entry(batch, returned=positions, unfit=str(error)))
            return
        self._keeper.send(header, body)

    # -- orders ----------------------------------------------------------------------------

    def _obey(self, order: Order) -> None:
        try:
            text: dict[str, Any] = json.loads(order.text)
            getattr(self, f"_order_{text['op']}", self._order_unknown)(text)
        except (ValueError, KeyError, TypeError) as error:
            log.warning("an order makes no sense: %r (%s)", order.text[:200], error)
        self._acked.append(order.seq)

    def _order_unknown(self, text: dict[str, Any]) -> None:
        log.warning("an order of another version: %r", text.get("op"))

    def _order_cancel(self, text: dict[str, Any]) -> None:
        job = self._jobs.known(text["uid"])
        grace_s = job.spec.grace_s if job else 10.0
        for slot, positions in self._holding.of_job(text["uid"], text["first"], text["last"]):
            self._kill(slot, positions, f"cancelled by {text['by']}", grace_s=grace_s)

    def _order_signal(self, text: dict[str, Any]) -> None:
        for slot, positions in self._holding.of_job(text["uid"], text["first"], text["last"]):
            self._keeper.send(
                {"op": "signal", "slot": slot, "pos": positions, "signal": text["signal"]}
            )

    def _order_tail(self, text: dict[str, Any]) -> None:
        self._logs.follow(text["log"], text["uid"], text["position"], self._jobs.known(text["uid"]))

    def _order_stop(self, text: dict[str, Any]) -> None:
        self._leaving = "now" if text["now"] else "drained"
        if text["now"]:
            for slot in self._holding.slots:
                self._keeper.send({"op": "verdict", "slot": slot, "do": "kill"})

    def _kill(self, slot: int, positions: list[int], why: str, *, grace_s: float) -> None:
        self._keeper.send({"op": "kill", "slot": slot, "pos": positions, "why": why,
                           "state": "CANCELLED", "grace_s": grace_s})  # fmt: skip

    def _has_left(self) -> bool:
        if not self._leaving or self._holding.slots or self._outbox.has_unsent() or self._acked:
            return False
        if not self._is_joined:
            return False
        with contextlib.suppress(Refused, StoreError):
            self._store.bye()
        self._keeper.send({"op": "stop"})
        log.info("left")
        return True

    # -- the keeper ------------------------------------------------------------------------

    def _connect_keeper(self) -> KeeperLink:
        """Connect to the keeper, starting one if need be, and learn what it has."""
        before = self._holding.slots
        self._holding = Holding()
        while True:
            try:
                start_keeper(self._dir, self._argv)
                self._keeper = KeeperLink.connect(self._dir)
                frames = self._greet(self._keeper)
                break
            except (OSError, RuntimeError) as error:
                log.error("no keeper: %s", error)
                time.sleep(1.0)
        for header, body in frames:
            if header["op"] == "state":
                self._adopt(header, before)
            else:
                self._heard(header, body)
        for slot, held in before.items():
            told = self._holding.positions(slot) | self._outbox.positions(slot)
            if held.open - told:
                self._outbox.add(Entry(held.batch, returned=sorted(held.open - told)))
        self._selector.register(self._keeper, selectors.EVENT_READ)
        # A keeper starts nothing before it heard a fence.
        self._next["renew"] = 0.0
        return self._keeper

    def _replace_keeper(self) -> None:
        log.warning("the keeper is gone")
        self._selector.unregister(self._keeper)
        self._keeper.close()
        self._keeper = self._connect_keeper()

    def _greet(self, keeper: KeeperLink) -> list[tuple[Header, bytes]]:
        keeper.send({"op": "hello", "version": 1, "pid": os.getpid()})
        keeper.send({"op": "ping"})
        return _until_pong(keeper)

    def _adopt(self, state: Header, before: dict[int, Held]) -> None:
        for row in state["batches"]:
            slot, uid, first, attempt, epoch = row["key"]
            positions = set(row["waiting"])
            if row["running"] is not None:
                positions.add(row["running"])
            if not positions:
                continue
            if slot in before:
                batch = before[slot].batch
            else:
                count = max(positions) + 1 - first
                batch = Batch(slot, row["job"], uid, first, count, attempt, epoch, 1, 0, ())
            self._holding.add(batch).open = positions

    def _heard(self, header: Header, body: bytes) -> None:
        op = header["op"]
        if op == "ended":
            self._ended(header, body)
        elif op in ("returned", "dropped"):
            self._returned(header, header.get("unfit", ""))
        elif op == "error":
            log.warning("keeper: %s", header["text"])

    def _ended(self, header: Header, body: bytes) -> None:
        if header["seq"] in self._outbox.seqs():
            return
        items = read_items(header, body)
        batch = self._batch_of(header, [item.pos for item, _ in items])
        self._outbox.add(Entry(batch, items, seq=header["seq"]))
        self._holding.close(batch.slot, [item.pos for item, _ in items])
        job = self._jobs.known(batch.uid)
        if job:
            job.learn(sum(item.end - item.start for item, _ in items), len(items))
            if job.spec.kind == "command":
                for item, _ in items:
                    self._remove_scratch(f"{batch.uid}.{item.pos}.{batch.attempt}")

    def _batch_of(self, header: Header, positions: list[int]) -> Batch:
        slot, uid, first, attempt, epoch = header["key"]
        held = self._holding.slots.get(slot)
        if held:
            return held.batch
        count = max(positions, default=first) + 1 - first
        return Batch(slot, header["job"], uid, first, count, attempt, epoch, 1, 0, ())

    def _returned(self, header: Header, unfit: str) -> None:
        slot = header["key"][0]
        held = self._holding.slots.get(slot)
        if not held:
            return
        positions = sorted(held.open) if header["op"] == "dropped" else header["pos"]
        if header["op"] == "returned" and positions:
            self._outbox.add(Entry(held.batch, returned=positions, unfit=unfit))
            job = self._jobs.known(held.batch.uid)
            if job:
                job.hint = 1
        self._holding.close(slot, positions)

    def _fence(self, sent_at: float) -> None:
        """Tell the keeper how long a renewal that was sent at this boot time lasts."""
        boot_at = sent_at + self._lease_s * (1 - _MARGIN)
        self._keeper.send({"op": "fence", "boot_at": boot_at})

    def _is_open(self, uid: str, position: int) -> bool:
        return bool(self._holding.of_job(uid, position, position))

    # -- files -----------------------------------------------------------------------------

    def _remove_scratch(self, name: str) -> None:
        path = self._dir / "scratch" / name
        try:
            path.rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            shutil.rmtree(path, ignore_errors=True)

    def _clean(self) -> None:
        """Delete outputs a week after their end, scripts and functions after a month."""
        for name, days in (("out", 7), ("spool", 30), ("scratch", 30)):
            with os.scandir(self._dir / name) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        if entry.stat().st_mtime < time.time() - days * 86400:
                            os.unlink(entry.path)


def _until_pong(keeper: KeeperLink) -> list[tuple[Header, bytes]]:
    """Return the frames before the answer to our ping: all that the keeper had for us."""
    frames: list[tuple[Header, bytes]] = []
    poll = selectors.DefaultSelector()
    poll.register(keeper, selectors.EVENT_READ)
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline:
        poll.select(1.0)
        keeper.flush()
        for header, body in keeper.receive():
            if header["op"] == "pong":
                return frames
            frames.append((header, body))
    raise ConnectionError("the keeper does not answer")
