"""Rates: tasks start evenly, cluster-wide, and somebody looks when the next may."""

from __future__ import annotations

from itertools import pairwise

import pytest

from qsub_py.limits import blocked
from qsub_py.store_limits import read_limits
from qsub_py.terms import Terms
from store.driver import CD, RETURNED, Cluster, Node

MINUTE = Terms(rate=":10/60000")


def step(cluster: Cluster, ms: int) -> None:
    cluster.set_clock(cluster.now_ms + ms)


def woken(cluster: Cluster) -> set[str]:
    return {name.removeprefix("inbox:uid-") for name in cluster.dump() if name[:5] == "inbox"}


def sleep(cluster: Cluster, *nodes: Node) -> None:
    """Let nodes find nothing, their inboxes empty."""
    for node in nodes:
        node.claim()
        cluster.link.command("DEL", f"{cluster.prefix}inbox:{node.uid}")


def test_all_keys(cluster: Cluster) -> None:
    node = cluster.node(cpus=4)
    job = cluster.submit(3, terms=MINUTE)
    rate, lane = f"{cluster.uid(job)}:10/60000", f"1|0|0|main|||ann||||{cluster.uid(job)}:10/60000"
    changed = cluster.changes(lambda: node.claim(4))
    assert {n: v for n, v in changed.items() if n.startswith("rate")} == {
        f"rate:{rate}": f"{cluster.now_ms + 6000}.000".encode(),
        f"rate_due/{lane}": cluster.now_ms + 6000.0,
    }
    assert changed["j:1/c1"] == "1"
    assert 60_000 < int(cluster.link.command("PTTL", f"{cluster.prefix}rate:{rate}")) <= 126_000


def test_evenly_and_no_faster(cluster: Cluster) -> None:
    nodes = [cluster.node(name, cpus=8) for name in "ab"]
    cluster.submit(50, terms=MINUTE)
    started = []
    for _ in range(40):
        started += [cluster.now_ms] * sum(len(node.claim_all()) for node in nodes)
        for node in nodes:
            for batch in list(node.held.values()):
                node.end(node.held.pop(batch.slot))
        step(cluster, 1500)
    assert [b - a for a, b in pairwise(started)] == [6000] * 9


def test_a_second_may_be_made_up_for(cluster: Cluster) -> None:
    node = cluster.node(cpus=100, mem=2**40)
    cluster.submit(1000, terms=Terms(rate=":20/1000"))
    assert len(node.claim_all()) == 1
    step(cluster, 100)
    assert len(node.claim_all()) == 2
    step(cluster, 60_000)
    assert len(node.claim_all()) == 20
    assert len(node.claim_all()) == 0


def test_a_batch_is_cut(cluster: Cluster) -> None:
    node = cluster.node()
    job = cluster.submit(1000, terms=Terms(rate=":20/1000"))
    node.claim(1, {job: 256})
    step(cluster, 250)
    [batch] = node.claim(1, {job: 256})
    assert batch.count == 5


def test_one_rate_for_several_jobs(cluster: Cluster) -> None:
    node = cluster.node(cpus=8)
    for rate in ("web:10/60000", "web:10/60000", ":10/60000", "web:5/60000"):
        cluster.submit(5, terms=Terms(rate=rate))
    assert sorted(batch.job for batch in node.claim_all()) == [1, 3, 4]


@pytest.mark.parametrize("tail_only", [True, False])
def test_what_never_began_gives_its_turn_back(cluster: Cluster, tail_only: bool) -> None:
    node = cluster.node(cpus=8)
    job = cluster.submit(10, terms=Terms(rate=":20/1000"))
    node.claim_all()
    step(cluster, 150)
    [batch] = node.claim(1, {job: 3})
    assert batch.count == 3
    report = [CD, RETURNED, RETURNED] if tail_only else [RETURNED, CD, RETURNED]
    node.finish(batch, report)
    assert sum(b.count for b in node.claim_all({job: 9})) == 2
    node.finish(batch, report)
    assert node.claim_all() == [], "a report that comes twice gives nothing back twice"


def test_somebody_looks_in_time(cluster: Cluster) -> None:
    taker, other, wrong = cluster.node("a", cpus=1), cluster.node("b"), cluster.node("c")
    cluster.submit(5, terms=Terms(rate=":10/60000", exclude=("c",)))
    found = taker.ask(1)
    # It was full: another that looks finds out when.
    assert found.next_due_at == 0.0
    assert other.ask(1).next_due_at == pytest.approx(cluster.now_ms / 1000 + 6)
    sleep(cluster, other, wrong)
    assert wrong.store.housekeep()[0] == pytest.approx(cluster.now_ms / 1000 + 6)
    assert woken(cluster) == set()
    step(cluster, 6000)
    wrong.store.housekeep()
    assert woken(cluster) == {"b"}
    assert len(other.claim()) == 1


def test_a_fast_rate_is_looked_at_each_tenth_of_a_second(cluster: Cluster) -> None:
    node = cluster.node(cpus=8)
    cluster.submit(50, terms=Terms(rate=":1000/1000"))
    assert node.ask(8).next_due_at == pytest.approx(cluster.now_ms / 1000 + 0.1)


def test_a_lane_that_is_gone_waits_no_more(cluster: Cluster) -> None:
    node = cluster.node(cpus=8)
    job = cluster.submit(5, terms=MINUTE)
    node.claim_all()
    cluster.store.cancel(job, None, by="ann")
    step(cluster, 6000)
    assert node.store.housekeep()[0] == 0.0
    assert not [name for name in cluster.dump() if name.startswith("rate_due")]


def test_why(cluster: Cluster) -> None:
    node = cluster.node(cpus=8)
    number = cluster.submit(5, terms=MINUTE)
    node.claim_all()
    job = cluster.store.job(number)
    found = blocked(job, read_limits(cluster.store, [job]), now=cluster.now_ms / 1000 + 2)
    assert found == ("RateLimit", "the next may start in 4s (10/m)")
