"""Ten thousand jobs in a chain, behind one, before one: in steps that hold the server briefly."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qsub_py.model import State
from qsub_py.waits import Edge, Group
from store.driver import CD, GB, Cluster, F, Node
from store.meter import Meter

MANY = 10_000
MILLION = 1_000_000
#: On a busy machine with two cores.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def node(private: Cluster) -> Node:
    return private.node(cpus=2 * MANY, mem=2 * MANY * GB)


@pytest.fixture(autouse=True)
def quick(private: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail when a script holds the server for more than 5 ms of its own work."""
    meter = Meter(private.link)
    meter.watch(monkeypatch)
    yield
    assert meter.slow() == {}


def drain(node: Node) -> None:
    while node.store.unfinished:
        node.store.tend()


def states(cluster: Cluster, first: int, last: int) -> set[State]:
    return {info.state for info in cluster.store.some_jobs(range(first, last + 1))}


def run_all(node: Node) -> int:
    count = 0
    while batches := node.claim(64):
        for batch in batches:
            node.end(batch)
            count += batch.count
        drain(node)
    return count


def chain(cluster: Cluster) -> tuple[int, int]:
    first = last = cluster.submit()
    for _ in range(MANY):
        last = cluster.after(f"afterok:{last}")
    return first, last


def test_chain(private: Cluster, node: Node) -> None:
    first, last = chain(private)
    assert run_all(node) == MANY + 1
    assert states(private, first, last) == {State.COMPLETED}


def test_chain_fails_and_is_rearmed(private: Cluster, node: Node) -> None:
    first, last = chain(private)
    [batch] = node.claim_all()
    node.end(batch, F)
    drain(node)
    assert states(private, first + 1, last) == {State.DEP_FAILED}
    private.store.rerun_tree(first)
    assert states(private, first, last) == {State.PENDING}


def test_fan_out(private: Cluster, node: Node) -> None:
    first = private.submit()
    for _ in range(MANY):
        last = private.after(f"afterok:{first}")
    [batch] = node.claim_all()
    node.end(batch)
    drain(node)
    assert len(node.claim_all()) == MANY
    private.store.requeue(first, [(0, 0)], {State.COMPLETED})
    assert states(private, first + 1, last) == {State.RUNNING}


def test_fan_out_that_fails_when_its_causer_died(private: Cluster, node: Node) -> None:
    first = private.submit()
    for _ in range(MANY):
        last = private.after(f"afterok:{first}")
    private.call("cancel", first, -1, -1, "ann")  # and dies before it tends
    assert private.link.command("LLEN", private.prefix + "todo") == 1
    while node.store.unfinished or states(private, last, last) != {State.DEP_FAILED}:
        node.store.renew([])
    assert states(private, first + 1, last) == {State.DEP_FAILED}


def test_fan_in(private: Cluster, node: Node) -> None:
    parents = [private.submit() for _ in range(MANY)]
    words = [f"afterok:{job}" for job in parents]
    child = private.after(*words)
    batches = node.claim_all()
    for batch in batches[:-1]:
        node.end(batch)
    assert private.store.job(child).unmet == 1
    late = private.after(*words)
    node.end(batches[-1])
    drain(node)
    assert private.states(child) == private.states(late) == "PD"
    assert {b.job for b in node.claim_all()} == {child, late}
    ended = private.after(*words)
    assert private.store.job(ended).unmet == 0


def test_fan_in_fails_at_the_first(private: Cluster, node: Node) -> None:
    parents = [private.submit() for _ in range(MANY)]
    child = private.after(*[f"afterok:{job}" for job in parents])
    batch = node.claim_all()[MANY // 2]
    node.end(batch, F)
    drain(node)
    assert private.states(child) == "DF"


def test_aftercorr_of_a_million(private: Cluster, node: Node) -> None:
    before = private.link.command("INFO", "memory").decode()
    parent = private.submit(MILLION)
    group = Group(0, MILLION, (Edge(parent, 0, 1, 1),))
    child = private.needing(group, count=MILLION, priority=1)
    assert private.link.command("LLEN", private.prefix + "todo") == 0
    size = private.link.command("MEMORY", "USAGE", f"{private.prefix}in:{child}")
    assert size < 10_000, before
    done = 0
    while done < 50_000:
        for batch in node.claim(8, {parent: 256, child: 256}):
            node.end(batch)
            done += batch.count
        drain(node)
    assert private.store.job(child).counts[State.COMPLETED] > 10_000
    private.store.cancel(parent, None, by="ann")
    drain(node)
    counts = private.store.job(child).counts
    assert counts[State.DEP_FAILED] > 900_000
    assert counts[State.DEP_FAILED] + counts[State.COMPLETED] + counts[State.PENDING] == MILLION


def test_stages_of_calls(private: Cluster, node: Node) -> None:
    """A hundred stages of a thousand, position by position."""
    job = private.submit(0, is_open=True)
    for stage in range(100):
        for part in range(4):
            first = stage * 1000 + part * 250
            group = Group(first, 250, (Edge(job, first - 1000, 1, 1),))
            private.calls(job, 250, *[group] * (stage > 0))
    done = 0
    while batches := node.claim(4, {job: 250}):
        for batch in batches:
            assert node.end(batch, CD) == batch.count
            done += batch.count
        drain(node)
    assert done == 100_000
    records = private.link.command("ZCARD", f"{private.prefix}uses:{job}")
    assert records < 1000
