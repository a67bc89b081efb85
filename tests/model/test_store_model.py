"""The scripts on a real server against `reference.Model`: any order of any calls.

By hand, for long: QSUB_MODEL_EXAMPLES=300 QSUB_MODEL_WALKS=300 pytest tests/model
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import os
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from model.reference import Condition, Job, Model, NodeHas, Task, key_of
from qsub_py import store_suspend as suspending
from qsub_py.errors import StoreError
from qsub_py.model import Batch, State
from qsub_py.policy import Retry
from qsub_py.server import Endpoint
from qsub_py.store_alter import Change, alter
from qsub_py.store_node import Refused
from qsub_py.waits import Edge, Group
from store.audit import Audit
from store.driver import LOST, RETURNED, Cluster, Node

EXAMPLES = int(os.environ.get("QSUB_MODEL_EXAMPLES", "25"))
STEPS = 50
#: Walks chosen at random, and where they begin.
WALKS = int(os.environ.get("QSUB_MODEL_WALKS", "10"))
SEED = int(os.environ.get("QSUB_MODEL_SEED", "0"))
#: Shrinking a failure takes minutes; QSUB_MODEL_SHRINK=1 asks for it.
PHASES = [Phase.generate, Phase.shrink] if os.environ.get("QSUB_MODEL_SHRINK") else [Phase.generate]
NODES = {"a": NodeHas(2, 0), "b": NodeHas(3, 1), "c": NodeHas(2, 2)}
RETRIES = [
    None, None, Retry(2, 0, 0), Retry(2, 10, 10, time_factor=2.0), Retry(1, 0, 0, on=("exit=7",)),
]  # fmt: skip
#: Try again after a failure, after a timeout; run again; hold.
AGAIN, AGAIN_LONGER, RUN_ME, HOLD_ME = 16 + 4, 16 + 6, 32 + 4, 48 + 4
CODES = st.lists(
    st.sampled_from(
        [0, 0, 3, 3, 3, 4, 6, LOST, RETURNED, RETURNED, AGAIN, AGAIN_LONGER, RUN_ME, HOLD_ME]
    ),
    min_size=12, max_size=12,
)  # fmt: skip
MISFORTUNES = [
    "save", "save", "roll_back", "roll_back", "lapse", "partition", "partition", "restart", "bye",
    "drain", "resume", "resume",
]  # fmt: skip
PICK = st.integers(0, 10**6)
KINDS = ["afterok", "afterok", "afterany", "afternotok", "after"]
RERUN = ["CD", "F", "CA", "NF", "DF"]
MOSTLY_GOOD = [0, 0, 3, 3, 3, 4, LOST, RETURNED, AGAIN, AGAIN_LONGER]
RARELY = st.sampled_from([False, False, False, True])


class NothingToPick(Exception):
    """A rule cannot be applied now."""


def _needs(edges: list[Edge], i: int) -> tuple[tuple[int, int], ...]:
    return tuple((e.job, e.first + i * e.step + k) for e in edges for k in range(e.count))


def pick(number: int, things: Any) -> Any:
    """Return one of the things; NothingToPick."""
    if not things:
        raise NothingToPick
    return list(things)[number % len(things)]


class Machine(RuleBasedStateMachine):
    """Nodes `a`, `b`, `c` and one client."""

    endpoint: Endpoint

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster(self.endpoint.url, self.endpoint.password)
        self.model = Model()
        self.tokens = itertools.count(1)
        self.sent: dict[str, dict[str, Any]] = {}
        #: Batches each node ever heard of, and those it is sure to hold.
        self.heard: dict[str, list[Batch]] = {}
        self.views: dict[str, dict[int, Batch]] = {}
        self.joined: set[str] = set()
        self.recovering: set[str] = set()
        self.saved: tuple[Any, ...] | None = None
        for name, has in NODES.items():
            self.cluster.node(name, cpus=has.cpus, gpus=has.gpus)
            self.model.nodes[name] = copy.copy(has)
            self.heard[name], self.views[name] = [], {}
            self.joined.add(name)

    def teardown(self) -> None:
        self.cluster.close()

    def node(self, number: int) -> tuple[str, Node]:
        node = pick(number, self.cluster.nodes)
        return node.name, node

    # -- clients ---------------------------------------------------------------------------

    @rule(count=st.integers(0, 12), options=st.fixed_dictionaries({
        "cpus": st.sampled_from([1, 1, 2]), "gpus": st.sampled_from([0, 0, 0, 1]),
        "limit": st.sampled_from([0, 0, 1, 3]), "requeue": st.booleans(),
        "is_open": st.sampled_from([False, False, True]),
        "is_held": st.sampled_from([False, False, False, True]),
        "priority": st.integers(-1, 1), "owner": st.sampled_from(["ann", "bob"]),
        "retry": st.sampled_from(RETRIES),
        "max_fails": st.sampled_from(["", "", "0", "2"]), "sweep": st.sampled_from([{}, {"x": 1}]),
        "deadline_at": st.sampled_from([0, 0, 0, 60, 600]),
    }))  # fmt: skip
    def submit(self, count: int, options: dict[str, Any]) -> None:
        token = f"t{next(self.tokens)}"
        if options["deadline_at"]:
            options["deadline_at"] += self.cluster.now_ms / 1000
        self.sent[token] = options | {"count": count}
        job = self._submit(token)
        assert job not in self.model.jobs, "an id was given out twice"
        self.model.jobs[job] = Job(
            options["cpus"], options["gpus"], options["limit"], options["requeue"],
            options["is_open"], options["is_held"], [Task() for _ in range(count)],
            int(options["max_fails"]) if options["max_fails"] else None, bool(options["sweep"]),
            retry=options["retry"], deadline=options["deadline_at"],
        )  # fmt: skip
        self.sent[token]["job"] = job
        self.check_woken(job)

    def _submit(self, token: str) -> int:
        options = {k: v for k, v in self.sent[token].items() if k != "job"}
        return self.cluster.submit(options.pop("count"), token=token, **options)

    @precondition(lambda self: self.model.jobs)
    @rule(count=st.integers(1, 6), is_or=st.booleans(), retry=st.sampled_from(RETRIES),
          asked=st.lists(
              st.tuples(st.sampled_from(KINDS), PICK, RARELY), min_size=1, max_size=3
          ))  # fmt: skip
    def submit_after(
        self, count: int, is_or: bool, retry: Retry | None, asked: list[tuple[str, int, bool]]
    ) -> None:
        conditions = []
        for kind, which, is_single in asked:
            number, job = pick(which, self.model.jobs.items())
            positions = None
            if is_single and job.tasks and kind != "after":
                first = which % len(job.tasks)
                positions = range(first, min(first + 3, len(job.tasks)))
            conditions.append(Condition(kind, number, positions))
        words = [
            f"{c.kind}:{c.job}" + (f"_{c.positions[0]}-{c.positions[-1]}" if c.positions else "")
            for c in conditions
        ]
        is_or = is_or and len(words) > 1
        job = self.cluster.after(
            *words, count=count, is_or=is_or, token=f"t{next(self.tokens)}", retry=retry
        )
        assert job not in self.model.jobs
        self.model.jobs[job] = Job(
            1, 0, 0, True, False, False, [Task() for _ in range(count)], conditions=conditions,
            is_or=is_or, unmet=len(conditions), retry=retry,
        )  # fmt: skip
        self.model.settle()

    @precondition(lambda self: any(job.tasks for job in self.model.jobs.values()))
    @rule(which=PICK, other=PICK, step=st.integers(0, 2), count=st.integers(1, 6),
          retry=st.sampled_from(RETRIES))  # fmt: skip
    def submit_needing(
        self, which: int, other: int, step: int, count: int, retry: Retry | None
    ) -> None:
        jobs = {n: job for n, job in self.model.jobs.items() if job.tasks}
        edges = []
        for n in (which, other)[: 1 + other % 2]:
            number, job = pick(n, jobs.items())
            total = len(job.tasks)
            stride = step if 1 + (count - 1) * step <= total else 0
            last = total - (count - 1) * stride
            first = n % last
            edges.append(Edge(number, first, 1 + n % min(3, last - first), stride))
        group = Group(0, count, tuple(edges))
        token = f"t{next(self.tokens)}"
        job = self.cluster.needing(group, count=count, token=token, retry=retry)
        assert job not in self.model.jobs
        tasks = [Task(needs=_needs(edges, i), waits=True) for i in range(count)]
        self.model.jobs[job] = Job(1, 0, 0, True, False, False, tasks, retry=retry)
        self.model.settle()

    @precondition(lambda self: any(job.is_open for job in self.model.jobs.values()))
    @rule(which=PICK, other=PICK, count=st.integers(1, 4))
    def append_needing(self, which: int, other: int, count: int) -> None:
        number, job = pick(which, [x for x in self.model.jobs.items() if x[1].is_open])
        parent, tasks = pick(other, [(n, x.tasks) for n, x in self.model.jobs.items() if x.tasks])
        edge = Edge(parent, other % len(tasks), 1, 0)
        first = len(job.tasks)
        group = Group(first + which % count, count - which % count, (edge,))
        self.cluster.calls(number, count, group)
        for at in range(first, first + count):
            waits = at >= group.first
            job.tasks.append(Task(needs=_needs([edge], 0) if waits else (), waits=waits))
        self.model.settle()

    @precondition(lambda self: self.model.jobs)
    @rule(which=PICK)
    def rerun_tree(self, which: int) -> None:
        number, job = pick(which, self.model.jobs.items())
        if job.fate and not job.has_ended:
            with pytest.raises(StoreError):
                self.cluster.store.rerun_tree(number)
            return
        self.drain()
        self.cluster.store.rerun_tree(number)
        self.model.rerun_tree(number)

    def drain(self) -> None:
        """Do what any node would do with its next renewal."""
        while self.cluster.call("tend"):
            pass
        self.model.settle()

    @precondition(lambda self: self.sent)
    @rule(which=PICK)
    def submit_again(self, which: int) -> None:
        token = pick(which, self.sent)
        if self.sent[token]["job"] in self.model.jobs:
            assert self.cluster.changes(lambda: self._submit(token)) == {}

    @precondition(lambda self: self.model.jobs)
    @rule(which=PICK, count=st.integers(0, 4), back=st.integers(-1, 3), close=st.booleans())
    def append(self, which: int, count: int, back: int, close: bool) -> None:
        number, job = pick(which, self.model.jobs.items())
        first = max(0, len(job.tasks) - back)
        is_new = count > 0 and first + count > len(job.tasks)

        def call() -> None:
            uid = self.cluster.uid(number)
            self.cluster.store.append(number, uid, first, count, b"", b"", close=close)

        if is_new and (not job.is_open or first != len(job.tasks)):
            with pytest.raises(StoreError):
                call()
            return
        self.cluster.once(call)
        if is_new:
            job.tasks += [Task() for _ in range(count)]
        job.is_open = job.is_open and not close

    @precondition(lambda self: self.model.jobs)
    @rule(which=PICK, count=st.integers(1, 4), back=st.integers(-1, 1))
    def extend(self, which: int, count: int, back: int) -> None:
        number, job = pick(which, self.model.jobs.items())
        first = max(0, len(job.tasks) - back)
        uid = self.cluster.uid(number)
        signature = f"{next(self.tokens)}".encode()

        def call() -> bool:
            return self.cluster.store.extend(number, uid, first, count, b"{}", signature)

        if not job.is_sweep or job.fate:
            with pytest.raises(StoreError):
                call()
            return
        is_next = first == len(job.tasks)
        assert call() == is_next
        assert self.cluster.changes(call) == {}
        if is_next:
            self.model.extend(number, count)
            self.check_woken(number)

    @precondition(lambda self: self.model.jobs)
    @rule(which=PICK, ranges=st.lists(
        st.tuples(st.integers(0, 13), st.integers(0, 4)), min_size=1, max_size=2
    ), whole=RARELY)  # fmt: skip
    def cancel(self, which: int, ranges: list[tuple[int, int]], whole: bool) -> None:
        number = pick(which, self.model.jobs)
        spans = [] if whole else [(first, first + more) for first, more in ranges]
        for _ in range(2):
            self.cluster.store.cancel(number, spans or None, by="ann")
        if not spans:
            self.model.cancel(number, None)
        if not self.model.jobs[number].has_ended:
            for first, last in spans:
                if not self.model.jobs[number].has_ended:
                    self.model.cancel(number, range(first, last + 1))

    @precondition(lambda self: self.model.jobs)
    @rule(which=PICK, hold=RARELY)
    def hold_or_release(self, which: int, hold: bool) -> None:
        number, job = pick(which, self.model.jobs.items())
        change = self.cluster.store.hold if hold else self.cluster.store.release
        assert change(number) is not job.has_ended
        if not job.has_ended:
            job.is_held = hold
            self.check_woken(number)

    @precondition(lambda self: self.model.jobs)
    @rule(which=PICK, first=st.integers(-1, 8), more=st.integers(0, 6), stops=st.booleans())
    def suspend_or_resume(self, which: int, first: int, more: int, stops: bool) -> None:
        number, job = pick(which, self.model.jobs.items())
        last = first + more if first >= 0 else -1
        verb = "suspend" if stops else "resume"
        words = [suspending.change(self.cluster.store, number, first, last, verb).word
                 for _ in range(2)]  # fmt: skip
        whole = "whole" if first >= 0 and job.is_suspended and not stops else "ok"
        assert words == ["ended" if job.has_ended else whole] * 2
        if words[0] == "ok":
            job.suspend(first, last, stops)
            self.check_woken(number)

    @precondition(lambda self: self.model.jobs)
    @rule(which=PICK, limit=st.sampled_from([0, 1, 3]), priority=st.integers(-2, 2))
    def alter(self, which: int, limit: int, priority: int) -> None:
        number, job = pick(which, self.model.jobs.items())
        info = self.cluster.store.job(number)
        change = Change(b"sig", limit=limit, priority=priority)
        self.cluster.once(lambda: alter(self.cluster.store, info, change))
        if not job.has_ended and not job.fate:
            job.limit = limit
            self.check_woken(number)

    @precondition(lambda self: self.model.jobs)
    @rule(which=PICK, first=st.integers(0, 8), more=st.integers(0, 12),
          states=st.sets(st.sampled_from([*RERUN, "TO"]), min_size=1))  # fmt: skip
    def requeue(self, which: int, first: int, more: int, states: set[str]) -> None:
        number, job = pick(which, self.model.jobs.items())
        mask = {State.from_short(short) for short in states}
        span = (first, min(first + more, len(job.tasks) - 1))
        if job.fate and not job.has_ended:
            with pytest.raises(StoreError):
                self.cluster.store.requeue(number, [span], mask)
            return
        # What can still not run is given up once more, and says so.
        if "DF" in states:
            self.cluster.store.requeue(number, [span], mask)
        else:
            self.cluster.once(lambda: self.cluster.store.requeue(number, [span], mask))
        self.model.requeue(number, first, first + more, states)
        self.model.settle()
        self.check_woken(number)

    # -- nodes -----------------------------------------------------------------------------

    @rule(hint=st.integers(1, 6), seed=PICK)
    def all_claim(self, hint: int, seed: int) -> None:
        for name in random.Random(seed).sample(list(NODES), 3):
            self._claim(name, hint, is_reply_lost=False)

    @rule(hint=st.integers(1, 6), seed=PICK)
    def all_work(self, hint: int, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(2):
            for name in chance.sample(list(NODES), 3):
                self._claim(name, hint, is_reply_lost=False)
                for batch in list(self.views[name].values()):
                    codes = chance.choices(MOSTLY_GOOD, k=batch.count)
                    self._finish(name, batch, codes, is_reply_lost=chance.random() < 0.05)

    @rule(who=PICK, hint=st.integers(1, 6), is_reply_lost=RARELY)
    def claim(self, who: int, hint: int, is_reply_lost: bool) -> None:
        self._claim(self.node(who)[0], hint, is_reply_lost=is_reply_lost)

    def _claim(self, name: str, hint: int, *, is_reply_lost: bool) -> None:
        node = self.cluster.nodes[list(NODES).index(name)]
        if name not in self.joined:
            self.refused(node)
            self._join(name, node, [])
        # As an agent that waited for it.
        self.cluster.link.command("DEL", self.cluster.store.keys.inbox(node.uid))
        self.model.now = self.cluster.now_ms / 1000
        most = max(1, self.model.free(name)[0])
        found = node.ask(most, dict.fromkeys(self.model.jobs, hint))
        assert found.must_wait == bool(self.recovering), self.recovering
        for batch in found.batches:
            self.model.claim(name, batch)
        if not (found.has_more or found.must_wait or self.model.nodes[name].is_draining):
            self._check_idle(name)
        self.drain()
        if is_reply_lost:
            self.joined.discard(name)
        else:
            self.views[name] |= {b.slot: b for b in found.batches}
            self.heard[name] = (self.heard[name] + list(found.batches))[-12:]

    def _check_idle(self, name: str) -> None:
        """What a node left is nothing for it, or behind a job that it keeps room for."""
        left = self.model.claimable(name)
        rows = self.cluster.dump()
        node, _, _, lane = rows.get("meta/saving", "|||").split("|", 3)
        if node == self.cluster.nodes[list(NODES).index(name)].uid:
            first = rows[f"lanes/{lane}"]
            left = [job for job in left if int(rows[f"j:{job}/rank"]) < first]
        assert left == []

    def refused(self, node: Node) -> None:
        """What a node says that lapsed, or on a connection to an older server."""
        if node.is_live() and node.store.link.run_id == node.store._run_id:
            return
        before = self.cluster.dump()
        for call in (node.claim, lambda: node.store.reconcile([]), lambda: node.store.renew([])):
            with pytest.raises(Refused):
                call()
        assert self.cluster.dump() == before

    @precondition(lambda self: any(self.heard.values()))
    @rule(who=PICK, which=PICK, codes=CODES, is_reply_lost=RARELY)
    def finish(self, who: int, which: int, codes: list[int], is_reply_lost: bool) -> None:
        name = pick(who, [name for name, batches in self.heard.items() if batches])
        self._finish(name, pick(which, self.heard[name]), codes, is_reply_lost=is_reply_lost)

    def _finish(self, name: str, batch: Batch, codes: list[int], *, is_reply_lost: bool) -> None:
        node = self.cluster.nodes[list(NODES).index(name)]
        if name not in self.joined:
            self._join(name, node, [self.heard[name].index(batch)])
        said = {batch.first + i: code for i, code in enumerate(codes[: batch.count])}
        waited = self.waiting(batch.job)
        accepted = node.finish(batch, codes[: batch.count])
        assert accepted == self.model.leave(key_of(name, batch), said)
        self.drain()
        if self.waiting(batch.job) > waited:
            self.check_woken(batch.job, but=name)
        again = self.cluster.once(lambda: node.finish(batch, codes[: batch.count]))
        assert again == {}, "a report was taken twice"
        if is_reply_lost:
            self.joined.discard(name)
        elif not self.model.held(key_of(name, batch)):
            self.views[name].pop(batch.slot, None)

    def waiting(self, number: int) -> int:
        return self.model.jobs[number].count("PD") if number in self.model.jobs else 0

    @precondition(lambda self: any(self.views.values()))
    @rule(who=PICK, which=PICK)
    def give_back(self, who: int, which: int) -> None:
        name = pick(who, [name for name, view in self.views.items() if view])
        node = self.cluster.nodes[list(NODES).index(name)]
        batch = pick(which, self.views[name].values())
        if name not in self.joined or batch.job not in self.model.jobs:
            return
        codes = bytes([RETURNED] * batch.count)
        said = dict.fromkeys(range(batch.first, batch.first + batch.count), RETURNED)

        def give_back() -> int:
            return node.store.give_back(batch, codes, "no such directory")

        assert give_back() == self.model.give_back(name, batch, said)
        assert self.cluster.once(give_back) == {}
        self.views[name].pop(batch.slot)

    @rule(who=PICK, old=st.lists(PICK, max_size=3))
    def join(self, who: int, old: list[int]) -> None:
        name, node = self.node(who)
        self._join(name, node, old)

    def _join(self, name: str, node: Node, old: list[int]) -> None:
        """Say hello and reconcile what it holds and what it told lately."""
        is_first = node.store.link.run_id != self.cluster.field("meta", "runid")
        node.hello()
        self.model.nodes[name].is_live = True
        if is_first:
            self.recovering = {n for n, has in self.model.nodes.items() if has.is_live}
            if not self.had_lease(name):
                self.recovering.discard(name)
        told = [pick(n, self.heard[name]) for n in old if self.heard[name]]
        batches = list(({b.slot: b for b in told} | self.views[name]).values())
        masks = node.store.reconcile(batches)
        assert masks == self.model.reconcile(name, batches, self.orders(name))
        self.drain()
        assert self.cluster.changes(lambda: node.store.reconcile(batches)) == {}
        self.views[name] = {b.slot: b for b in batches if b"1" in masks[b.slot]}
        self.recovering.discard(name)
        self.joined.add(name)

    def orders(self, name: str) -> list[dict[str, Any]]:
        """Return what the node was told and never acknowledged."""
        rows = self.cluster.dump().items()
        return [json.loads(text) for row, text in rows if row.startswith(f"orders:uid-{name}/")]

    def had_lease(self, name: str) -> bool:
        """Whether the recovery that this hello opened waits for the node."""
        return f"rec/uid-{name}" in self.cluster.dump()

    @rule(what=st.sampled_from(MISFORTUNES), who=PICK)
    def misfortune(self, what: str, who: int) -> None:
        getattr(self, f"_{what}")(who)

    def _bye(self, who: int) -> None:
        name, node = self.node(who)
        if name in self.joined:
            node.store.bye()
            self.model.drop(name, 13)
            self.model.nodes[name].is_live = self.model.nodes[name].is_draining = False
            self.gone(name)
            self.views[name].clear()

    def gone(self, name: str) -> None:
        self.joined.discard(name)
        self.recovering.discard(name)

    def _drain(self, who: int) -> None:
        name, node = self.node(who)
        has = self.model.nodes[name]
        assert self.cluster.store.drain(node.uid) == has.is_live
        has.is_draining = has.is_live

    def _resume(self, who: int) -> None:
        for name, has in self.model.nodes.items():
            assert self.cluster.store.resume(f"uid-{name}") == has.is_live
            has.is_draining = False

    def _lapse(self, who: int) -> None:
        name, node = self.node(who)
        if not self.model.nodes[name].is_live:
            return
        for _ in range(21):
            self.cluster.serve(3)
            self.keep_leases(node)
        while self.cluster.call("sweep")[0]:
            pass
        assert not node.is_live()
        self.model.lapse(name)
        self.drain()
        # Lost, and so no longer draining when it is back.
        self.model.nodes[name].is_draining = False
        self.gone(name)
        self.recovering.clear()

    def _partition(self, who: int) -> None:
        """A node with work is cut off, others take some of it, it comes back."""
        busy = [name for name, view in self.views.items() if view and name in self.joined]
        if not busy:
            return
        name = pick(who, busy)
        self._lapse(list(NODES).index(name))
        for other in NODES:
            if other != name and who % 3:
                self._claim(other, who % 4 + 1, is_reply_lost=False)
                for batch in list(self.views[other].values())[: who % 2]:
                    self._finish(other, batch, [0, RETURNED] * 6, is_reply_lost=False)
        self._join(name, self.cluster.nodes[list(NODES).index(name)], [who, who + 1])

    def keep_leases(self, but: Node) -> None:
        """Renew the leases of all other nodes and of clients, whatever else they do."""
        ends = int(self.cluster.field("meta", "served")) + 60_000
        for node in self.cluster.nodes:
            if node is not but:
                self.cluster.link.command("ZADD", node.store.keys.nodes, "XX", ends, node.uid)
        for number, job in self.model.jobs.items():
            if job.is_open:
                self.cluster.link.command(
                    "ZADD", self.cluster.prefix + "open", "XX", ends + 540_000, number
                )

    @rule()
    def promote(self) -> None:
        """All backoffs are over, and somebody looks."""
        times = [int(at) for name, at in self.cluster.dump().items() if name[:6] == "later:"]
        self.cluster.set_clock(max([self.cluster.now_ms, *times]))
        now = self.cluster.now_ms / 1000
        late = [n for n, job in self.model.jobs.items() if 0 < job.deadline <= now and not job.fate]
        self.keep_leases(None)  # type: ignore[arg-type]
        waited = [n for n, job in self.model.jobs.items() if any(t.rests for t in job.tasks)]
        self.cluster.once(lambda: self.cluster.call("promote"))
        for number in late:
            is_whole = self.cluster.field(f"j:{number}", "fate") != "0"
            self.model.expire(number, is_whole=is_whole)
        self.model.promote()
        self.drain()
        for number in waited:
            self.check_woken(number)

    # -- time and the server ---------------------------------------------------------------

    @rule(jump_s=st.sampled_from([-3600, -1, 2, 3600, 10**7]))
    def clock_jumps(self, jump_s: int) -> None:
        self.cluster.set_clock(self.cluster.now_ms + jump_s * 1000)
        assert self.cluster.call("sweep") == [0, 0]
        self.keep_leases(None)  # type: ignore[arg-type]

    def _restart(self, _who: int) -> None:
        self.cluster.restart()
        self.joined.clear()

    def _save(self, _who: int) -> None:
        self.saved = (self.cluster.copy(), copy.deepcopy(self.model))

    def _roll_back(self, seed: int) -> None:
        if not self.saved:
            return self._save(seed)
        keys, model = self.saved
        self.cluster.roll_back(keys)
        self.model = copy.deepcopy(model)
        self.joined.clear()
        nodes = list(self.cluster.nodes)
        random.Random(seed).shuffle(nodes)
        for node in nodes:
            self._join(node.name, node, [])

    # -- what must be true -----------------------------------------------------------------

    def check_woken(self, number: int, *, but: str = "") -> None:
        """After tasks of a job became ready: no idle node is left, or one was woken.

        Not the node that reported: it claims in the same breath.
        """
        job = self.model.jobs[number]
        if job.startable <= 0:
            return
        dump = self.cluster.dump()
        rung = {name for name in NODES if f"inbox:uid-{name}" in dump}
        for name in set(NODES) - {but} - job.unfit:
            if f"idle/uid-{name}" in dump and self.model.room(name, job) > 0:
                assert rung - {name}, f"nobody was woken for job {number}, and {name} is idle"

    @invariant()
    def states_agree(self) -> None:
        self.drain()
        self.model.now = self.cluster.now_ms / 1000
        infos = {info.id: info for info in self.cluster.store.jobs(ended=True)}
        assert infos.keys() == self.model.jobs.keys()
        for number, job in self.model.jobs.items():
            seen = self.cluster.store.states(number, 0, len(job.tasks)) if job.tasks else []
            wanted = [(State.from_short(t.state), min(t.attempt, 15)) for t in job.tasks]
            assert seen == wanted, f"job {number}"
            assert infos[number].has_ended == job.has_ended, f"job {number} has ended"
            assert infos[number].counts[State.SUSPENDED] == job.stopped, f"job {number} suspended"
            assert infos[number].total == len(job.tasks)

    @invariant()
    def keys_agree(self) -> None:
        audit = Audit(self.cluster)
        assert audit.problems() == []
        held = {(b.node[4:], int(b.slot), int(b.job), b.first, b.attempt) for b in audit.held}
        assert held == {key[:5] for key in self.model.batches}


def test_model(valkey: Endpoint) -> None:
    Machine.endpoint = valkey
    Machine.TestCase.settings = settings(
        max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None,
        suppress_health_check=list(HealthCheck), database=None, report_multiple_bugs=False,
        phases=PHASES,
    )  # fmt: skip
    Machine.TestCase("runTest").runTest()


def options(chance: random.Random) -> dict[str, Any]:
    """Return how a job may be submitted."""
    return {
            "cpus": chance.choice([1, 1, 2]), "gpus": chance.choice([0, 0, 0, 1]),
            "limit": chance.choice([0, 0, 0, 2]), "requeue": chance.random() < 0.7,
            "is_open": chance.random() < 0.2, "is_held": chance.random() < 0.1,
            "priority": chance.randint(-1, 1), "owner": chance.choice(["ann", "bob"]),
            "retry": chance.choice(RETRIES),
            "max_fails": chance.choice(["", "", "", "3"]), "sweep": chance.choice([{}, {"x": 1}]),
            "deadline_at": chance.choice([0, 0, 0, 60, 600]),
    }  # fmt: skip


def deeds(machine: Machine, chance: random.Random) -> list[tuple[int, Callable[[], None]]]:
    """Return what happens in a busy cluster, and how often."""

    def big() -> int:
        return chance.randrange(10**6)

    def codes() -> list[int]:
        ends = [0, 0, 3, 3, 4, 6, LOST, RETURNED, RETURNED, AGAIN, AGAIN_LONGER, AGAIN, RUN_ME]
        return chance.choices([*ends, HOLD_ME] if chance.random() < 0.1 else ends, k=12)

    def ranges() -> list[tuple[int, int]]:
        return [(chance.randrange(12), chance.randrange(4)) for _ in range(chance.randint(1, 2))]

    def maybe(share: float) -> bool:
        return chance.random() < share

    return [
        (4, lambda: machine.submit(chance.randint(1, 12), options(chance))),
        (2, lambda: machine.submit_again(big())),
        (
            3,
            lambda: machine.submit_after(
                chance.randint(1, 5),
                maybe(0.4),
                chance.choice(RETRIES),
                [(chance.choice(KINDS), big(), maybe(0.4)) for _ in range(chance.randint(1, 3))],
            ),
        ),
        (
            3,
            lambda: machine.submit_needing(
                big(), big(), big() % 3, chance.randint(1, 6), chance.choice(RETRIES)
            ),
        ),
        (
            2,
            lambda: (
                machine.append_needing(big(), big(), chance.randint(1, 4))
                if any(job.is_open for job in machine.model.jobs.values())
                else None
            ),
        ),
        (2, lambda: machine.rerun_tree(big())),
        (2, lambda: machine.append(big(), chance.randint(0, 4), chance.randint(-1, 3), maybe(0.2))),
        (2, lambda: machine.extend(big(), chance.randint(1, 4), chance.randint(-1, 1))),
        (2, lambda: machine.cancel(big(), ranges(), maybe(0.15))),
        (1, lambda: machine.hold_or_release(big(), maybe(0.3))),
        (1, lambda: machine.suspend_or_resume(big(), chance.randint(-1, 8), 4, maybe(0.4))),
        (1, lambda: machine.alter(big(), chance.choice([0, 1, 3]), chance.randint(-2, 2))),
        (2, lambda: machine.requeue(big(), chance.randrange(9), 12, set(RERUN))),
        (8, lambda: machine.claim(big(), chance.randint(1, 6), maybe(0.1))),
        (10, lambda: machine.finish(big(), big(), codes(), maybe(0.1))),
        (1, lambda: machine.give_back(big(), big())),
        (1, lambda: machine.join(big(), [big()])),
        (2, machine.promote),
        (1, lambda: machine.clock_jumps(chance.choice([-3600, 2, 3600]))),
        (6, lambda: machine.misfortune(chance.choice(MISFORTUNES), big())),
    ]


def walk(machine: Machine, seed: int, steps: int) -> None:
    """Do what a busy cluster does, with all that may go wrong; same seed, same walk."""
    chance = random.Random(seed)
    acts = [act for weight, act in deeds(machine, chance) for _ in range(weight)]
    machine.submit(12, options(chance))
    machine.claim(0, 6, False)
    for _ in range(steps):
        with contextlib.suppress(NothingToPick):
            chance.choice(acts)()
        machine.states_agree()
        machine.keys_agree()


@pytest.mark.parametrize("seed", range(WALKS))
def test_walk(valkey: Endpoint, seed: int) -> None:
    Machine.endpoint = valkey
    machine = Machine()
    try:
        walk(machine, SEED + seed, 200)
    finally:
        machine.teardown()
