"""reconcile.lua: what a node holds against what the store thinks; work is kept where it can be."""

from __future__ import annotations

import dataclasses

import pytest

from qsub_py.model import State
from store.driver import CD, GB, LOST, RETURNED, START_MS, Cluster, F, Node


@pytest.fixture
def node(cluster: Cluster) -> Node:
    """Node a; node b is there to take over."""
    node = cluster.node("a")
    cluster.node("b")
    return node


@pytest.fixture
def other(cluster: Cluster, node: Node) -> Node:
    return cluster.nodes[1]


def test_nothing_to_say(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(4)
    [batch] = node.claim(1, {job: 3})
    node.finish(batch, [CD, 0, 0])
    masks = []
    assert cluster.changes(lambda: masks.append(node.store.reconcile([batch]))) == {}
    assert masks == [{batch.slot: b"011"}]


def test_what_the_node_does_not_know_never_began(cluster: Cluster, node: Node) -> None:
    """The reply to its claim was lost."""
    job = cluster.submit(3)
    node.claim(1, {job: 2})
    node.held.clear()
    assert cluster.once(lambda: node.store.reconcile([])) == {
        "st:1": b"\0\0", "j:1/c1": "0", "again:1": ["0:2"], "on:1/uid-a": None,
        "slots:uid-a/1": None, "node:uid-a/cpus_free": "2", "node:uid-a/mem_free": str(4 * GB),
    }  # fmt: skip


def test_pages(cluster: Cluster) -> None:
    node = cluster.node(cpus=200)
    job = cluster.submit(200)
    batches = node.claim_all()
    lost = batches.pop(100)
    masks = node.store.reconcile(batches)
    assert masks == {b.slot: b"1" for b in batches}
    assert [(b.first, b.attempt) for b in node.claim()] == [(lost.first, 1)]
    assert cluster.store.job(job).total == 200


def test_taken_back_when_nobody_has_it(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(3)
    [batch] = node.claim(1, {job: 3})
    node.finish(batch, [CD, 0, 0])
    node.lapse()
    node.hello()
    changed = cluster.once(lambda: node.store.reconcile([batch]))
    assert changed["st:1"] == b"\x31\x11\x11"
    assert changed["slots:uid-a/1"].split("|")[9:] == ["2", "011", "0", "ann", "60"]
    assert node.finish(batch, [CD, CD, CD]) == 2


def test_not_taken_back_when_reissued(cluster: Cluster, node: Node, other: Node) -> None:
    job = cluster.submit(4)
    [batch] = node.claim(1, {job: 4})
    node.lapse()
    [moved] = other.claim(1, {job: 2})
    assert (moved.first, moved.count, moved.attempt) == (0, 2, 2)
    assert node.join() == {batch.slot: b"0011"}
    assert cluster.bytes_of(job) == [("R", 2), ("R", 2), ("R", 1), ("R", 1)]
    assert cluster.changes(lambda: node.finish(batch, [CD, LOST, 0, 0])) == {}
    assert node.finish(batch, [F] * 4) == 2
    assert other.finish(moved, [CD] * 2) == 2
    assert cluster.states(job) == "CD CD F F"


def test_not_taken_back_when_reissued_and_returned(
    cluster: Cluster, node: Node, other: Node
) -> None:
    """The second holder never began, so its number is free and the first one's work stands."""
    job = cluster.submit()
    [batch] = node.claim()
    node.lapse()
    [moved] = other.claim()
    other.end(moved, RETURNED)
    assert node.join() == {batch.slot: b"1"}
    assert cluster.bytes_of(job) == [("R", 1)]
    assert cluster.changes(lambda: other.end(moved, RETURNED)) == {}


def test_not_taken_back_when_reissued_and_lapsed(cluster: Cluster, node: Node, other: Node) -> None:
    """The second holder may have begun, and comes back with it."""
    job = cluster.submit()
    [batch] = node.claim()
    node.lapse()
    [moved] = other.claim()
    cluster.node("c")
    other.lapse()
    assert node.join() == {batch.slot: b"0"}
    assert other.join() == {moved.slot: b"1"}
    assert cluster.bytes_of(job) == [("R", 2)]


def test_not_taken_back_when_cancelled(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(4)
    [batch] = node.claim(1, {job: 3})
    node.lapse()
    cluster.store.cancel(job, [(1, 1)], by="ann")
    assert node.join() == {batch.slot: b"101"}
    cluster.store.cancel(job, None, by="ann")
    node.lapse()
    assert node.join() == {batch.slot: b"000"}
    assert cluster.states(job) == "CA CA CA CA"


def test_not_taken_back_when_cancelled_and_rerun(cluster: Cluster, node: Node) -> None:
    """It was told to end and did not hear of it; the rerun is another attempt."""
    job = cluster.submit(3)
    [batch] = node.claim(1, {job: 3})
    cluster.store.cancel(job, [(1, 1)], by="ann")
    node.lapse()
    assert cluster.states(job) == "PD CA PD"
    cluster.store.requeue(job, [(1, 1)], {State.CANCELLED})
    assert node.join() == {batch.slot: b"101"}
    assert cluster.bytes_of(job) == [("R", 1), ("PD", 1), ("R", 1)]
    [again] = cluster.nodes[1].claim()
    assert (again.first, again.attempt) == (1, 2)


@pytest.mark.parametrize("field", ["uid", "job"])
def test_job_that_is_gone(cluster: Cluster, node: Node, field: str) -> None:
    cluster.submit()
    [batch] = node.claim()
    node.end(batch)
    wrong = {"uid": "another", "job": 99}[field]
    stale = dataclasses.replace(batch, **{field: wrong})
    assert node.store.reconcile([stale]) == {batch.slot: b"0"}


def test_slot_that_has_another_batch_now(cluster: Cluster, node: Node) -> None:
    cluster.submit(2)
    [batch] = node.claim()
    stale = dataclasses.replace(batch, first=1)
    assert cluster.changes(lambda: node.store.reconcile([stale])) == {}
    assert node.store.reconcile([stale]) == {batch.slot: b"0"}


def test_returned_again_after_a_partition(cluster: Cluster, node: Node, other: Node) -> None:
    """The reply to a return was lost; when the node is back, another one runs what it returned
    under the same attempt number."""
    job = cluster.submit(4)
    [batch] = node.claim(1, {job: 4})
    node.finish(batch, [0, 0, RETURNED, RETURNED])
    [moved] = other.claim(1, {job: 4})
    assert (moved.first, moved.attempt) == (2, 1)
    node.lapse()
    assert node.join() == {batch.slot: b"1100"}
    for codes in ([0, 0, RETURNED, RETURNED], [0, 0, CD, F], [RETURNED] * 2 + [LOST] * 2):
        node.finish(batch, codes)
        assert cluster.states(job).split()[2:] == ["R", "R"]
    assert other.end(moved) == 2


def test_known_batch_is_not_the_nodes_beyond_its_end(
    cluster: Cluster, node: Node, other: Node
) -> None:
    job = cluster.submit(3)
    [batch] = node.claim(1, {job: 3})
    node.finish(batch, [0, RETURNED, 0])
    node.finish(batch, [0, 0, RETURNED])
    assert len(other.claim(2, {job: 3})) == 2
    assert node.store.reconcile([batch]) == {batch.slot: b"100"}


def test_devices_are_booked_again(cluster: Cluster) -> None:
    node = cluster.node("a", gpus=4, cpus=8)
    cluster.node("b", gpus=1)
    cluster.submit(2, gpus=1)
    one, two = node.claim(2)
    assert (one.gpus, two.gpus) == ((0,), (1,))
    node.end(one)
    del node.held[one.slot]
    node.lapse()
    node.join()
    assert cluster.field("node:uid-a", "gpus_free") == "0,2,3"
    # An agent that was restarted meanwhile does not know which they are, only how many.
    node.lapse()
    node.held[two.slot] = dataclasses.replace(two, gpus=())
    node.join()
    assert cluster.field("node:uid-a", "gpus_free") == "1,2,3"


def test_a_device_held_twice_is_free_when_both_ended(cluster: Cluster) -> None:
    node = cluster.node("a", gpus=1)
    cluster.node("b", gpus=1)
    first, second = cluster.submit(gpus=1), cluster.submit(gpus=1)
    [one] = node.claim()
    node.lapse()
    node.hello()
    node.store.reconcile([])
    cluster.store.hold(first)
    [two] = node.claim()
    assert (two.job, two.gpus) == (second, (0,))
    node.join()
    cluster.store.release(first)
    free = []
    for batch in (one, two):
        assert node.end(batch) == 1
        free.append(cluster.field("node:uid-a", "gpus_free"))
    assert free == ["", "0"]


def test_attempts_above_14(cluster: Cluster, node: Node, other: Node) -> None:
    job = cluster.submit()
    for _ in range(16):
        node.join()
        [batch] = node.claim()
        node.held.clear()
        node.lapse()
    assert batch.attempt == 16
    node.held = {batch.slot: batch}
    assert node.join() == {batch.slot: b"1"}
    node.lapse()
    [moved] = other.claim()
    assert moved.attempt == 17
    assert node.join() == {batch.slot: b"0"}
    other.end(moved, LOST)
    assert node.join() == {batch.slot: b"0"}
    assert cluster.states(job) == "PD"


def test_slot_numbers_are_never_used_twice(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(9)
    copy = cluster.copy()
    [batch] = node.claim()
    cluster.roll_back(copy)
    node.join()
    cluster.nodes[1].join()
    [new] = node.claim()
    assert new.slot > batch.slot
    assert {node.end(batch), node.end(new)} == {1}
    assert cluster.states(job).startswith("CD CD PD")


def test_taken_back_beside_a_claim_of_more(cluster: Cluster, node: Node) -> None:
    """What a node has may be more than it has room for; it gets nothing until it has."""
    job = cluster.submit(4)
    batches = node.claim(2)
    node.lapse()
    node.hello()
    node.store.reconcile([])
    node.claim(2)
    assert cluster.bytes_of(job)[:2] == [("R", 2), ("R", 2)]
    assert node.store.reconcile(list(node.held.values()))[batches[0].slot] == b"0"


def test_lapsed_twice(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(2)
    [batch] = node.claim(1, {job: 2})
    for _ in range(3):
        node.lapse()
        assert node.join() == {batch.slot: b"11"}
    assert cluster.bytes_of(job) == [("R", 1), ("R", 1)]
    assert cluster.field("j:1", "started") == str(START_MS)
