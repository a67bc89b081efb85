"""Served time and sweep.lua: what costs a lease, and what happens when one is over."""

from __future__ import annotations

import pytest

from qsub_py.store_node import Refused
from store.driver import LOST, START_MS, Cluster, Node


def served(cluster: Cluster) -> int:
    return int(cluster.field("meta", "served"))


@pytest.mark.parametrize("jump_s", [3600, -3600, 86_400 * 365, 5, -1])
def test_no_gap_costs_more_than_three_seconds(cluster: Cluster, jump_s: int) -> None:
    """A suspend, an outage, a clock that is set."""
    node = cluster.node()
    cluster.submit()
    node.claim()
    before = served(cluster)
    cluster.set_clock(cluster.now_ms + jump_s * 1000)
    assert cluster.call("sweep") == [0, 0]
    assert served(cluster) - before == (3000 if jump_s > 0 else 0)
    assert node.is_live()
    assert cluster.states(1) == "R"


def test_clock_set_back_goes_on_from_there(cluster: Cluster) -> None:
    cluster.node()
    cluster.set_clock(START_MS - 3_600_000)
    cluster.call("tend")
    cluster.serve(2)
    cluster.serve(2)
    assert served(cluster) == 4000


def test_twenty_gaps_are_a_lease(cluster: Cluster) -> None:
    cluster.node()
    for _ in range(20):
        cluster.set_clock(cluster.now_ms + 60_000)
        last = cluster.call("sweep")
    assert last == [0, 0]
    assert served(cluster) == 60_000


def test_lapse_all_keys(cluster: Cluster) -> None:
    node, other = cluster.node("a"), cluster.node("b")
    job = cluster.submit(5)
    node.claim(1, {job: 3})
    for _ in range(20):
        cluster.serve(3)
        other.store.renew([])
    assert cluster.once(lambda: cluster.call("sweep")) == {
        "st:1": b"\1\1\1", "j:1/c1": "0", "again:1": ["0:3"], "on:1/uid-a": None,
        "slots:uid-a/1": None, "nodes/uid-a": None,
        "node:uid-a/state": "lost", "node:uid-a/reason": "its lease lapsed",
    }  # fmt: skip
    assert [(b.first, b.count, b.attempt) for b in other.claim(1, {job: 9})] == [(0, 3, 2)]


def test_lapse_is_no_crash(cluster: Cluster) -> None:
    job = cluster.submit()
    cluster.node("b")
    for number in range(5):
        node = cluster.node(f"lost{number}")
        assert len(node.claim()) == 1
        node.lapse()
    [batch] = cluster.nodes[0].claim()
    assert batch.attempt == 6
    cluster.nodes[0].end(batch, LOST)
    assert cluster.states(job) == "PD"


def test_lapsed_node_is_fenced_until_it_joins(cluster: Cluster) -> None:
    node = cluster.node("a")
    cluster.node("b")
    node.lapse()
    for act in (node.claim, node.orders, node.store.bye, lambda: node.store.reconcile([])):
        with pytest.raises(Refused):
            act()
    node.join()
    node.claim()


def test_late_but_not_swept_is_in_time(cluster: Cluster) -> None:
    node = cluster.node("a")
    cluster.submit()
    node.claim()
    cluster.serve(90)
    node.store.renew([])
    assert cluster.call("sweep") == [0, 0]
    assert cluster.states(1) == "R"


def test_no_requeue_stays_with_its_node(cluster: Cluster) -> None:
    node, other = cluster.node("a"), cluster.node("b")
    keeps, moves = cluster.submit(requeue=False), cluster.submit()
    batches = node.claim(2)
    node.lapse()
    assert (cluster.states(keeps), cluster.states(moves)) == ("R", "PD")
    assert [b.job for b in other.claim(2)] == [moves]
    assert node.join() == {batches[0].slot: b"1", batches[1].slot: b"0"}
    assert node.end(batches[0]) == 1


def test_swept_in_slices(cluster: Cluster) -> None:
    node, other = cluster.node("a", cpus=600), cluster.node("b")
    job = cluster.submit(600)
    node.claim_all()
    assert cluster.states(job).split().count("R") == 600
    for _ in range(20):
        cluster.serve(3)
        other.store.renew([])
    assert cluster.call("sweep") == [1, 0]
    taken = cluster.states(job).split().count("PD")
    assert 0 < taken < 600
    with pytest.raises(Refused):
        node.store.renew([])
    while cluster.call("sweep")[0]:
        pass
    assert cluster.states(job).split().count("PD") == 600


def test_back_before_all_was_taken(cluster: Cluster) -> None:
    node, other = cluster.node("a", cpus=600), cluster.node("b")
    job = cluster.submit(600)
    node.claim_all()
    for _ in range(20):
        cluster.serve(3)
        other.store.renew([])
    cluster.call("sweep")
    assert [b.attempt for b in other.claim(1)] == [2]
    masks = node.join()
    assert sorted(masks.values()) == [b"0"] + [b"1"] * 599
    assert cluster.call("sweep") == [0, 0]
    assert cluster.states(job).split().count("R") == 600


def test_bye_in_slices(cluster: Cluster) -> None:
    node = cluster.node(cpus=600)
    job = cluster.submit(600)
    node.claim_all()
    node.store.bye()
    assert cluster.states(job).split().count("PD") == 600


def test_reconcile_in_slices(cluster: Cluster) -> None:
    node, other = cluster.node("a", cpus=600), cluster.node("b")
    job = cluster.submit(601)
    node.claim_all()
    [kept, *_] = node.held.values()
    node.held = {kept.slot: kept}
    cluster.restart()
    other.join()
    assert other.ask().must_wait
    assert node.join() == {kept.slot: b"1"}
    assert cluster.states(job).split().count("R") == 1
    assert len(other.claim()) == 1


def some_lapse(cluster: Cluster, lapsed: int, total: int) -> list[Node]:
    """Let the leases of the first `lapsed` of `total` nodes run out."""
    nodes = [cluster.node(f"n{i}") for i in range(total)]
    for node in nodes:
        cluster.submit()
        node.claim()
    for _ in range(20):
        cluster.serve(3)
        for node in nodes[lapsed:]:
            node.store.renew([])
    return nodes


@pytest.mark.parametrize(("lapsed", "total"), [(2, 3), (3, 3), (3, 5), (6, 6)])
def test_most_at_once_is_the_servers_side(cluster: Cluster, lapsed: int, total: int) -> None:
    some_lapse(cluster, lapsed, total)
    assert cluster.call("sweep") == [0, 1]
    assert cluster.store.health().lapsed_together
    cluster.serve(599)
    assert cluster.call("sweep") == [0, 1]
    assert len(cluster.store.nodes()) == total


@pytest.mark.parametrize(("lapsed", "total"), [(1, 1), (2, 2), (1, 3), (2, 4), (3, 6)])
def test_few_at_once_are_dead(cluster: Cluster, lapsed: int, total: int) -> None:
    some_lapse(cluster, lapsed, total)
    assert cluster.call("sweep") == [lapsed - 1, 0]
    while cluster.call("sweep")[0]:
        pass
    assert len(cluster.store.nodes()) == total - lapsed


def test_most_at_once_and_back_again(cluster: Cluster) -> None:
    nodes = some_lapse(cluster, 3, 4)
    cluster.call("sweep")
    for node in nodes:
        node.store.renew([])
    assert cluster.once(lambda: cluster.call("sweep")) == {"meta/mass_since": None}
    assert all(state == "R" for job in range(1, 5) for state in [cluster.states(job)])


def test_most_at_once_for_ten_leases_are_dead(cluster: Cluster) -> None:
    some_lapse(cluster, 3, 3)
    cluster.call("sweep")
    cluster.serve(600)
    while cluster.call("sweep")[0]:
        pass
    assert cluster.store.nodes() == []
    assert [cluster.states(job) for job in (1, 2, 3)] == ["PD"] * 3
