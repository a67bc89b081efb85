"""Many nodes and clients at once, replies lost on the way: each task ends exactly once."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter, defaultdict

import pytest

from qsub_py.model import Batch
from qsub_py.store import Store
from store.driver import CD, LOST, RETURNED, Cluster, F, Node

SEEDS = range(int(os.environ.get("QSUB_STRESS_SEEDS", "3")))
JOBS = 40


class Worker:
    """A node that works off whatever there is, and forgets replies now and then."""

    def __init__(self, node: Node, seed: int) -> None:
        self.node, self.chance = node, random.Random(seed)
        self.open: dict[int, set[int]] = {}
        #: (job, position) -> how often the store took an end of it from us.
        self.ends: Counter[tuple[int, int]] = Counter()

    def work(self, is_over: threading.Event) -> None:
        """Work until told to stop."""
        while not is_over.is_set():
            self._claim()
            for batch in list(self.node.held.values()):
                self._report(batch)
            self.node.store.renew(list(self.node.orders()))
            self.node.store.housekeep()
            if self.chance.random() < 0.05:
                self._join()

    def _claim(self) -> None:
        known = set(self.node.held)
        batches = self.node.claim(3, {job: self.chance.randint(1, 9) for job in range(1, JOBS + 1)})
        if self.chance.random() < 0.05:
            self.node.held = {s: b for s, b in self.node.held.items() if s in known}
            self._join()
            return
        for batch in batches:
            self.open[batch.slot] = set(range(batch.first, batch.first + batch.count))

    def _report(self, batch: Batch) -> None:
        mine = self.open[batch.slot]
        said = {p: self.chance.choice([CD, CD, F, RETURNED, LOST]) for p in mine
                if self.chance.random() < 0.7}  # fmt: skip
        codes = [said.get(batch.first + i, 0) for i in range(batch.count)]
        accepted = self.node.finish(batch, codes)
        if self.chance.random() < 0.05:
            self._join()
            return
        assert accepted == len(said)
        for position, code in said.items():
            self.ends[batch.job, position] += code in (CD, F)
        self._keep(batch.slot, mine - said.keys())

    def _keep(self, slot: int, positions: set[int]) -> None:
        self.open[slot] = positions
        if not positions:
            del self.open[slot], self.node.held[slot]

    def _join(self) -> None:
        masks = self.node.join()
        for slot, mask in masks.items():
            first = self.node.held[slot].first
            self._keep(slot, {first + i for i, own in enumerate(mask) if own == ord("1")})


def submit_all(cluster: Cluster, seed: int, tokens: list[str]) -> None:
    """Submit all jobs, some again, cancel pieces; several of these run at once."""
    chance = random.Random(seed)
    store = Store.connect(cluster.url, password=cluster.password, cluster=cluster.name)
    for token in chance.sample(tokens, len(tokens)):
        size = 1 + hash_of(token) % 90
        limit = size % 5 if size % 2 else 0
        sub = cluster.submission(size, token=token, limit=limit, owner=f"user{size % 7}")
        job, _ = store.submit(sub)
        if chance.random() < 0.3:
            first = chance.randrange(size)
            store.cancel(job, [(first, first + chance.randrange(20))], by="ann")
        if chance.random() < 0.05:
            store.cancel(job, None, by="ann")
    store.close()


def hash_of(text: str) -> int:
    """A number that is the same in every process."""
    return sum(ord(char) * 31**i for i, char in enumerate(text))


@pytest.mark.parametrize("seed", SEEDS)
def test_each_task_ends_once(cluster: Cluster, seed: int) -> None:
    workers = [Worker(cluster.node(f"n{i}", cpus=4), seed * 100 + i) for i in range(6)]
    tokens = [f"token {seed} {i}" for i in range(JOBS)]
    errors: list[BaseException] = []
    is_over = threading.Event()

    def guarded(act: object, *arguments: object) -> None:
        try:
            act(*arguments)  # type: ignore[operator]
        except BaseException as error:
            errors.append(error)
            is_over.set()

    clients = [threading.Thread(target=guarded, args=(submit_all, cluster, seed * 10 + i, tokens))
               for i in range(3)]  # fmt: skip
    nodes = [threading.Thread(target=guarded, args=(w.work, is_over)) for w in workers]
    for thread in clients + nodes:
        thread.start()
    for thread in clients:
        thread.join()
    while not is_over.wait(0.05) and cluster.store.jobs():
        pass
    is_over.set()
    for thread in nodes:
        thread.join()
    assert errors == []
    check(cluster, sum((w.ends for w in workers), Counter[tuple[int, int]]()))


def check(cluster: Cluster, told: Counter[tuple[int, int]]) -> None:
    """Assert that the store's results and what the nodes were told agree, once a task."""
    jobs = cluster.store.jobs(ended=True)
    assert [info.id for info in jobs] == list(range(1, JOBS + 1)), "a token made two jobs"
    for info in jobs:
        assert info.has_ended
        entries = cluster.store.results(info.id, 0, limit=100_000)
        codes: dict[int, list[int]] = defaultdict(list)
        for entry in entries:
            for offset, code in enumerate(entry.codes):
                if code:
                    codes[entry.first + offset].append(code)
        for position, (state, _) in enumerate(cluster.store.states(info.id, 0, info.total)):
            assert codes[position] == [state.code] or (state.short == "CA" and not codes[position])
            assert told[info.id, position] <= 1
