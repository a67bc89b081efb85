"""The agent: the one process of a node that talks to the server.

One thread, one loop. It claims batches, hands them to the keeper, reports what ended, renews
the lease and obeys orders. It may die at any moment: the keeper has the processes and their
ends, the store the rights, and `_join` puts both together again.
"""

from __future__ import annotations

import contextlib
import logging
import random
import selectors
import time
from collections.abc import Callable
from pathlib import Path

from qsub_py.errors import DataGone, QsubError, StoreError
from qsub_py.model import Batch
from qsub_py.node.beat import Beat
from qsub_py.node.bringing import Bringer
from qsub_py.node.cleaning import clean
from qsub_py.node.gpu_watch import GpuWatch, keeper_pid_of, news
from qsub_py.node.hand import Hand
from qsub_py.node.holding import key_of
from qsub_py.node.jobs import Jobs
from qsub_py.node.livelog import LiveLogs
from qsub_py.node.orders import Orders
from qsub_py.node.reports import Entry, ReportMaker
from qsub_py.node.settings import NodeSettings
from qsub_py.node.staging import Staging
from qsub_py.node.waiter import Waiter
from qsub_py.signing import Keyring
from qsub_py.store_link import Link
from qsub_py.store_node import Chunk, NodeStore, Refused

log = logging.getLogger("qsub_py.agent")

_RENEW_S = 2.0
#: The inbox is only a hint: so often the node looks for work without one.
_LOOK_S = 5.0
_CLEAN_S = 60.0
#: So many steps of a purge at once, and how soon more follow.
_PURGES, _PURGE_AGAIN_S = 100, 0.5
#: The node stops itself this part of a lease before the server may give its work to others.
_MARGIN = 1 / 12


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
        waiting: Link,
        ring: Keyring,
        *,
        shown: dict[str, str],
        pythons: tuple[str, ...],
        agent_argv: list[str],
        build: str,
        revive: Callable[[], tuple[str, str]],
        retention_s: float,
    ) -> None:
        self._dir, self._settings, self._store = node_dir, settings, store
        self._shown, self._pythons, self._build = shown, pythons, build
        self._revive, self._retention_s = revive, retention_s
        self._jobs = Jobs(store, ring, settings, node_dir)
        self._beat = Beat(store, ring, settings.name)
        self._maker = ReportMaker(store, ring, settings.name, self._jobs.policy)
        self._logs = LiveLogs(store, node_dir, settings.name, ring)
        self._gpus = GpuWatch(settings, lambda: keeper_pid_of(node_dir))
        self._is_joined = self._was_joined = False
        self._wants_claim = self._wants_renewal = False
        self._acked: list[int] = []
        self._lease_s = self._retry_s = 0.0
        self._epoch = -1
        self._next = dict.fromkeys(("join", "renew", "ping", "claim", "clean"), 0.0)
        self._selector = selectors.DefaultSelector()
        self._waiter = Waiter(waiting, store.keys.inbox(settings.uid), self._selector)
        self._staging = Staging(store, node_dir)
        self._bringer = Bringer(store, ring, self._jobs, settings.name)
        self._hand = Hand(node_dir, agent_argv, self._jobs, self._selector, self._staging,
                          self._logs.calls)  # fmt: skip
        self._orders = Orders(store, self._hand, self._jobs, self._logs)

    # -- the loop --------------------------------------------------------------------------

    def run(self) -> None:
        """Work until told to stop and nothing is left to do; Refused when the name is taken."""
        while not self._has_left():
            self._hand.want()
            ready = self._selector.select(self._pause_s())
            try:
                if any(key.data is self._waiter for key, _ in ready):
                    self._take_hint()
                self._turn()
            except ConnectionError:
                self._hand.replace()
                # A keeper starts nothing before it heard a fence.
                self._next["renew"] = 0.0
            except Refused as refusal:
                if refusal.word == "NAME":
                    raise
                log.info("the server says %s; joining again", refusal.word)
                self._is_joined = False
            except StoreError as error:
                self._lose(error)

    def _take_hint(self) -> None:
        hint = self._waiter.hint()
        self._wants_claim = self._wants_claim or hint == b"1"
        self._wants_renewal = self._wants_renewal or hint == b"2"
        if hint == b"3":
            # Something may be due before we would look.
            self._next["renew"] = 0.0

    def _turn(self) -> None:
        self._hand.listen()
        if self._due("ping", _RENEW_S):
            self._hand.ping()
            if self._hand.renew_keeper():
                # It starts nothing before it heard a fence.
                self._next["renew"] = 0.0
        if not self._is_joined:
            if self._due("join", self._retry_s):
                self._join()
            return
        self._watch_gpus()
        if self._due("claim", _LOOK_S):
            self._wants_claim = True
            self._waiter.arm()
        self._staging.turn(self._hand.holding.slots, self._begin, self._hand.give_up)
        self._bringer.turn(self._hand.outbox.waiting())
        self._exchange()
        self._store.tend()
        if self._due("renew", _RENEW_S * random.uniform(0.9, 1.1)):
            self._renew()
            self._housekeep()
        elif self._wants_renewal:
            self._renew()
        if self._due("clean", _CLEAN_S):
            self._clean()
        self._logs.turn(self._hand.holding.has)

    def _pause_s(self) -> float:
        busy = (self._wants_claim, self._wants_renewal, self._store.unfinished,
                self._hand.outbox.has_unsent(), self._staging.is_busy())  # fmt: skip
        if self._is_joined and any(busy):
            return 0.0
        timers = ("ping", "renew", "claim", "clean") if self._is_joined else ("ping", "join")
        soonest = min(self._next[name] for name in timers) - time.monotonic()
        if self._is_joined:  # else nobody turns them
            soonest = min(soonest, self._logs.pause_s(), self._gpus.pause_s())
        return max(0.0, soonest)

    def _due(self, what: str, every_s: float) -> bool:
        now = time.monotonic()
        if now < self._next[what]:
            return False
        self._next[what] = now + every_s
        return True

    def _lose(self, error: StoreError) -> None:
        if self._is_joined:
            log.warning("%s", error)
        self._is_joined = False
        self._store.link.close()
        self._waiter.disarm()
        self._retry_s = min(2.0, 2 * self._retry_s + 0.1)
        self._next["join"] = time.monotonic() + self._retry_s * random.uniform(0.5, 1.0)

    def _has_left(self) -> bool:
        hand = self._hand
        if not (self._orders.is_leaving and self._is_joined) or self._acked:
            return False
        if hand.holding.slots or hand.outbox.has_unsent():
            return False
        with contextlib.suppress(Refused, StoreError):
            self._store.bye()
        hand.send({"op": "stop"})
        (self._dir / "stopped").touch()
        log.info("left")
        return True

    # -- joining ---------------------------------------------------------------------------

    def _join(self) -> None:
        """Say hello, compare what we hold with what the store thinks, send all reports again."""
        self._follow(*self._revive())
        sent_at = self._say_hello()
        self._reconcile()
        self._orders.look_for_suspended()
        # Last: what is paused goes on with it, and must not when it runs elsewhere by now.
        self._fence(sent_at)
        self._waiter.arm()
        self._acked = []
        self._is_joined, self._retry_s, self._wants_claim = True, 0.0, True
        self._next["renew"] = 0.0
        if not self._was_joined:
            self._was_joined = True
            (self._dir / "joined").write_text(self._build, "utf-8", "surrogateescape")

    def _follow(self, url: str, password: str) -> None:
        """Aim both connections at the server's place: a tunnel comes back with another port."""
        self._waiter.retarget(url, password)
        if self._store.link.retarget(url, password):
            log.info("the server is at %s now", self._store.url)

    def _say_hello(self) -> float:
        settings, sent_at = self._settings, boottime()
        try:
            welcome = self._store.hello(
                settings.name, cpus=settings.cpus, mem_bytes=settings.mem_bytes,
                gpus=settings.gpus, queues=settings.queues, pythons=self._pythons,
                shown=self._shown | news(self._gpus),
            )  # fmt: skip
        except Refused as refusal:
            if not self._was_joined:
                raise
            raise StoreError(f"another live node is called {settings.name}") from refusal
        if welcome.epoch != self._epoch:
            # Another server process: it may have lost what the former one took.
            self._hand.outbox.unsend()
            self._epoch = welcome.epoch
        self._maker.offset_s = welcome.now_at - boottime()
        self._lease_s = welcome.lease_s
        log.info("joined as %s, epoch %d", settings.name, welcome.epoch)
        return sent_at

    def _reconcile(self) -> None:
        hand, slots = self._hand, self._hand.holding.slots
        theirs = {batch.slot: batch for batch in self._store.slots()}
        for slot, held in slots.items():
            if slot in theirs and key_of(theirs[slot]) == key_of(held.batch):
                held.batch = theirs[slot]
        ours = {b.slot: b for b in hand.outbox.batches()}
        ours |= {slot: held.batch for slot, held in slots.items()}
        masks = self._store.reconcile(list(ours.values()))
        for slot, held in slots.items():
            mask, first = masks[slot], held.batch.first
            gone = [p for p in held.open if mask[p - first : p - first + 1] != b"1"]
            if gone:
                log.warning("slot %d: %d tasks are no longer ours", slot, len(gone))
                hand.kill(slot, gone, "it runs elsewhere or was cancelled", grace_s=0.0)
        for batch in self._store.slots():
            told = hand.told(batch.slot)
            missing = [p for p in range(batch.first, batch.first + batch.count) if p not in told]
            if missing:
                hand.outbox.add(Entry(batch, returned=missing))

    # -- working ---------------------------------------------------------------------------

    def _renew(self) -> None:
        self._wants_renewal = False
        sent_at, acked = boottime(), self._acked
        now_at, orders = self._store.renew(acked, news(self._gpus))
        self._acked = []
        self._maker.offset_s = now_at - boottime()
        self._fence(sent_at)
        for order in orders:
            self._orders.obey(order)
            self._acked.append(order.seq)
        self._wants_renewal = bool(self._acked)

    def _watch_gpus(self) -> None:
        """Tell at once when gpus are used by others, or are not any more."""
        if self._gpus.turn():
            log.info("gpus that others use: %s %s", self._gpus.busy or "none", self._gpus.why)
            # The store first: what is free now may be waited for.
            self._renew()
            self._wants_claim = True

    def _housekeep(self) -> None:
        """Sweep lapsed nodes and promote what is due; be back when the next is due."""
        due_at, schedules = self._store.housekeep()
        self._back_by(due_at)
        if schedules:
            self._beat.fire(schedules, self._now())

    def _now(self) -> float:
        return self._maker.offset_s + boottime()

    def _back_by(self, due_at: float) -> None:
        soon = max(0.001, due_at - self._now()) if due_at else _RENEW_S
        self._next["renew"] = min(self._next["renew"], time.monotonic() + soon)

    def _fence(self, sent_at: float) -> None:
        """Tell the keeper how long a renewal that was sent at this boot time lasts."""
        boot_at = sent_at + self._lease_s * (1 - _MARGIN)
        self._hand.send({"op": "fence", "boot_at": boot_at})

    def _exchange(self) -> None:
        """Report what ended and claim what fits, in one round trip."""
        hand = self._hand
        entries = hand.outbox.unsent()
        most = 0
        if (self._wants_claim or entries) and not self._orders.is_leaving:
            most = max(0, self._settings.cpus - hand.holding.cpus())
        self._wants_claim = False
        if most and len(entries) == 1 and entries[0].tasks == 1:
            # Somebody may wait for this one: the server answers them after the whole trip.
            most, self._wants_claim = 0, True
        plain = [entry for entry in entries if not entry.unfit]
        for entry in entries:
            if entry.unfit:
                self._store.give_back(entry.batch, entry.codes(), entry.unfit)
        if not entries and not most:
            return
        reports = [self._maker.report(entry) for entry in plain]
        accepted, claim = self._store.report_and_claim(reports, most, self._jobs.hints())
        hand.outbox.sent(entries, time.monotonic())
        for entry, count in zip(plain, accepted, strict=True):
            if count < entry.tasks:
                log.info("job %d: %d reports were stale", entry.batch.job, entry.tasks - count)
        if claim:
            for batch, chunk in zip(claim.batches, claim.chunks, strict=True):
                self._start(batch, chunk)
            self._wants_claim = claim.has_more
            self._back_by(claim.next_due_at)
            if claim.must_wait:
                self._next["claim"] = time.monotonic() + 0.1

    def _start(self, batch: Batch, chunk: Chunk | None) -> None:
        self._hand.holding.add(batch)
        self._begin(batch, chunk)

    def _begin(self, batch: Batch, chunk: Chunk | None) -> None:
        """Hand a batch to the keeper, unless its files must be fetched first."""
        try:
            spec = self._jobs.get(batch).spec
            self._hand.check(spec)
            if self._staging.wants(spec.ship):
                self._staging.add(batch, chunk, spec.ship)
                return
            header, body = self._jobs.run_frame(batch, chunk)
        except (QsubError, OSError) as error:
            if isinstance(error, StoreError) and not isinstance(error, DataGone):
                # It has not begun: it is returned when we are back.
                self._hand.give_up(batch)
                raise
            log.warning("cannot start job %d: %s", batch.job, error)
            self._hand.give_up(batch, str(error), failed=self._jobs.missing_inputs(batch, error))
            return
        self._hand.send(header, body)

    def _clean(self) -> None:
        """Delete what is old here, and in the store whole jobs when their retention is over."""
        # What a schedule has too much of goes in any case.
        before = self._now() - self._retention_s if self._retention_s else 0.0
        if self._store.purge(before, most=_PURGES) == _PURGES:
            # The lease is renewed before the rest.
            self._next["clean"] = time.monotonic() + _PURGE_AGAIN_S
        clean(self._dir, self._hand.holding.slots)
        self._staging.cache.make_room()
