"""Fan-outs longer than one script may be: whoever comes next does a slice."""

from __future__ import annotations

import json

import pytest

from store.driver import CA, CD, RETURNED, Cluster, F, Node


@pytest.fixture
def node(cluster: Cluster) -> Node:
    return cluster.node(cpus=100)


def run_all(node: Node, job: int) -> None:
    """Claim all tasks of a job, 256 a slot."""
    node.claim_all({job: 256})


def test_cancel_leaves_a_record(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(1000)
    run_all(node, job)
    reply = cluster.call("cancel", job, 100, 899, "ann")
    assert reply[1:3] == [0, 256]
    assert cluster.dump()["todo"] == ["cancel|1|356|899|ann"]
    assert cluster.states(job).split().count("CG") == 256


@pytest.mark.parametrize("by", ["tend", "renew"])
def test_somebody_else_finishes_it(cluster: Cluster, node: Node, by: str) -> None:
    job = cluster.submit(1000)
    run_all(node, job)
    cluster.call("cancel", job, 100, 899, "ann")
    for left in (1, 1, 0):
        if by == "renew":
            node.store.renew([])
        else:
            assert cluster.call("tend") == left
    assert "todo" not in cluster.dump()
    assert cluster.states(job) == " ".join(["R"] * 100 + ["CG"] * 800 + ["R"] * 100)
    told = [json.loads(text) for text in node.orders().values()]
    assert [(o["first"], o["last"]) for o in told] == [
        (100, 899), (356, 611), (612, 867), (868, 899),
    ]  # fmt: skip


def test_cancel_of_waiting_in_slices(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(1000)
    run_all(node, job)
    for batch in list(node.held.values()):
        node.end(batch, RETURNED)
    assert cluster.store.cancel(job, [(0, 998)], by="ann").cancelled == 256
    assert cluster.states(job) == " ".join(["CA"] * 999 + ["PD"])
    node.held.clear()
    found: list = []
    while not found:
        found = node.claim()
    assert [(b.first, b.attempt) for b in found] == [(999, 1)]


def test_tasks_claimed_in_the_middle(cluster: Cluster, node: Node) -> None:
    """The caller died after the first slice; until it goes on, the rest may still be claimed."""
    job = cluster.submit(600)
    run_all(node, job)
    for batch in list(node.held.values()):
        node.end(batch, RETURNED)
    cluster.call("cancel", job, 0, 599, "ann")
    claimed: list = []
    while not claimed:
        claimed = node.claim(1, {job: 10})
    assert claimed[0].first >= 256
    cluster.store._tend()
    states = cluster.states(job).split()
    assert states.count("CG") == claimed[0].count
    assert states.count("CA") == 600 - claimed[0].count
    node.end(claimed[0], CA)
    assert cluster.store.job(job).has_ended


def test_whole_cancel_overtakes_a_range(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(1000)
    run_all(node, job)
    [first, *rest] = node.held.values()
    node.end(first, RETURNED)
    cluster.call("cancel", job, 0, 999, "ann")
    cluster.store.cancel(job, None, by="ann")
    assert cluster.states(job) == " ".join(["CA"] * 256 + ["CG"] * 744)
    for batch in rest:
        node.end(batch, CA)
    assert cluster.store.job(job).has_ended


def test_whole_cancel_overtakes_a_requeue(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(600)
    run_all(node, job)
    for batch in list(node.held.values()):
        node.end(batch, F)
    cluster.call("requeue", job, 0, 599, "|4|")
    cluster.call("cancel", job, -1, -1, "ann")
    cluster.store._tend()
    assert cluster.states(job) == " ".join(["CA"] * 256 + ["F"] * 344)
    assert cluster.store.job(job).has_ended


def test_requeue_in_slices(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(1000)
    run_all(node, job)
    for number, batch in enumerate(list(node.held.values())):
        node.end(batch, F if number else CD)
    assert cluster.call("requeue", job, 0, 999, "|4|") == [b"ok", 0]
    for _ in range(3):
        node.store.renew([])
    assert "todo" not in cluster.dump()
    assert cluster.states(job) == " ".join(["CD"] * 256 + ["PD"] * 744)


def test_record_of_a_purged_job(cluster: Cluster, node: Node) -> None:
    cluster.link.command("RPUSH", cluster.prefix + "todo", "cancel|77|0|900|ann")
    assert cluster.call("tend") == 0
