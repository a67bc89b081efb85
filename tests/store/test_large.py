"""A million tasks: no script holds the server for 5 ms, and each needs a byte."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from qsub_py.model import State
from qsub_py.store_link import script
from store.driver import CD, GB, RETURNED, Cluster, Node

MILLION = 1_000_000
ROUNDS = 6


@pytest.fixture
def large(private: Cluster) -> Cluster:
    private.link.command("CONFIG", "SET", "slowlog-log-slower-than", 5000)
    private.link.command("CONFIG", "SET", "slowlog-max-len", 10_000)
    return private


@pytest.fixture
def node(large: Cluster) -> Node:
    return large.node(cpus=2000, mem=2000 * GB)


def is_quick(cluster: Cluster, name: str, act: Callable[[], object]) -> None:
    """Fail when this command (a script or not) takes more than 5 ms each time.

    Now and then any takes longer, because the machine does something else.
    """
    words = [script(name).sha.encode(), script(name).body] if name.islower() else [name.encode()]
    slow: list[int] = []
    for _ in range(ROUNDS):
        cluster.link.command("SLOWLOG", "RESET")
        act()
        entries = cluster.link.command("SLOWLOG", "GET", 10_000)
        took = [e[2] for e in entries if any(w[:100] in words[0] for w in e[3][:2] if w)]
        if took:
            slow.append(max(took))
    assert len(slow) < ROUNDS, f"{name} took {sorted(slow)} microseconds"


def test_submit_and_cancel(large: Cluster) -> None:
    jobs: list[int] = []
    is_quick(large, "submit", lambda: jobs.append(large.submit(MILLION)))
    is_quick(large, "cancel", lambda: large.store.cancel(jobs.pop(), None, by="ann"))
    assert large.store.job(1).counts[State.CANCELLED] == MILLION


def test_claim_finish_and_cancel(large: Cluster, node: Node) -> None:
    job = large.submit(MILLION)

    def claim_100() -> None:
        for _ in range(100):
            node.claim(1, {job: 10})

    def finish_100() -> None:
        for _ in range(100):
            node.end(node.held.pop(next(iter(node.held))), CD)

    is_quick(large, "claim", claim_100)
    is_quick(large, "claim", lambda: node.claim(1, {job: 256}))
    is_quick(large, "claim", lambda: node.claim(100))
    is_quick(large, "finish", finish_100)
    is_quick(large, "reconcile", lambda: node.store.reconcile(list(node.held.values())))
    is_quick(large, "cancel", lambda: large.store.cancel(job, None, by="ann"))


def test_looking(large: Cluster, node: Node) -> None:
    job = large.submit(MILLION)
    for _ in range(20):
        node.claim(1, {job: 256})
    for _ in range(1000):
        large.submit()
    is_quick(large, "states", lambda: large.store.states(job, 0, MILLION))
    is_quick(large, "HMGET", large.store.jobs)
    is_quick(large, "ZREVRANGE", large.store.jobs)
    for at in range(256):
        large.call("cancel", job, 10_000 + at * 4, 10_001 + at * 4, "ann")
    is_quick(large, "states", lambda: large.store.states(job, 0, MILLION))
    is_quick(large, "claim", lambda: node.claim(32, {job: 32}))
    is_quick(large, "claim", lambda: node.claim(256))
    large.store.cancel(job, None, by="ann")
    is_quick(large, "states", lambda: large.store.states(job, 0, MILLION))
    seen = Counter(state for state, _ in large.store.states(job, 0, MILLION))
    counts = large.store.job(job).counts
    assert dict(seen) == {state: n for state, n in counts.items() if n}


def test_ranges(large: Cluster, node: Node) -> None:
    job = large.submit(MILLION)
    for _ in range(100):
        node.claim(1, {job: 1000})
    ranges = iter([(at, at + 9999) for at in range(0, 60_000, 10_000)])
    is_quick(large, "cancel", lambda: large.call("cancel", job, *next(ranges), "ann"))
    is_quick(large, "tend", lambda: large.call("tend"))
    while large.call("tend"):
        pass
    for batch in node.held.values():
        node.end(batch, CD)
    state = {State.COMPLETED}
    ranges = iter([(at, at + 9999) for at in range(0, 60_000, 10_000)])
    is_quick(large, "requeue", lambda: large.store.requeue(job, [next(ranges)], state))


def test_a_lost_node_with_many_batches(large: Cluster) -> None:
    """256 idle nodes that do not fit are looked at when the work comes back."""
    small = [large.node(f"n{i}", cpus=1, mem=GB) for i in range(256)]
    for node in small:
        node.claim()
    big = large.node("big", cpus=2000, mem=4000 * GB)
    job = large.submit(MILLION, mem_bytes=2 * GB)
    for _ in range(6):
        big.claim(256)
    is_quick(large, "finish", lambda: big.end(big.held.pop(next(iter(big.held))), RETURNED))
    large.serve(57)
    for node in small:
        node.store.renew([])
    large.serve(3)
    is_quick(large, "sweep", lambda: large.call("sweep"))
    while large.call("sweep")[0]:
        pass
    assert large.store.job(job).counts[State.PENDING] == MILLION


def test_memory_of_a_million(large: Cluster, node: Node) -> None:
    large.submit()
    for batch in node.claim():
        node.end(batch)
    before = large.store.health().memory_bytes
    job = large.submit(MILLION)
    assert large.store.health().memory_bytes - before < 10_000
    while batches := node.claim(1, {job: 1000}):
        node.held.clear()
        assert batches[0].count == 1000
    assert large.store.job(job).counts[State.RUNNING] == MILLION
    for key, most in ((f"st:{job}", 1_010_000), (f"j:{job}", 5000)):
        assert large.link.command("MEMORY", "USAGE", large.prefix + key, "SAMPLES", 0) < most
    assert large.store.health().memory_bytes - before < 1_200_000
