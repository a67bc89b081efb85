"""requeue.lua: ended tasks run again, in chosen states, with the next attempt number."""

from __future__ import annotations

import pytest

from qsub_py.errors import JobNotFound, StoreError
from qsub_py.model import State
from store.driver import CA, CD, LOST, RETURNED, START_MS, Cluster, F, Node

LANE = "1|0|0|main|||ann"


@pytest.fixture
def node(cluster: Cluster) -> Node:
    return cluster.node(cpus=8)


def test_all_keys(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(4)
    [batch] = node.claim(1, {job: 4})
    node.finish(batch, [F, F, CD, F], bad_exits=((0, 3),))
    assert cluster.once(lambda: cluster.store.requeue(job, [(0, 3)], {State.FAILED})) == {
        "st:1": b"\x01\x01\x31\x01", "j:1/c4": "0", "again:1": ["0:2", "3:1"],
        "j:1/ended": "0", "ended/1": None, "active/1": 1.0, "j:1/exit": None, "j:1/exit_at": None,
        f"lane:{LANE}/1": 1.0, f"lanes/{LANE}": 1.0,
    }  # fmt: skip
    batches = node.claim(4, {job: 4})
    assert [(b.first, b.count, b.attempt) for b in batches] == [(0, 2, 2), (3, 1, 2)]
    for batch in batches:
        node.end(batch)
    info = cluster.store.job(job)
    assert (info.state, info.exit_code, info.ended_at) == (State.COMPLETED, None, START_MS / 1000)


def test_old_attempt_cannot_speak_for_the_new(cluster: Cluster, node: Node) -> None:
    job = cluster.submit()
    [old] = node.claim()
    node.end(old, F)
    cluster.store.requeue(job, [(0, 0)], {State.FAILED})
    assert cluster.changes(lambda: node.end(old, F)) == {}
    [new] = node.claim()
    assert cluster.changes(lambda: node.end(old, F)) == {}
    assert node.end(new, CD) == 1


def test_running_and_waiting_are_left_alone(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(3)
    node.claim()
    every = {state for state in State if state.is_terminal}
    assert cluster.changes(lambda: cluster.store.requeue(job, [(0, 2)], every)) == {}


def test_cancelled_past_the_cursor(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(10)
    node.claim(1, {job: 2})
    cluster.store.cancel(job, [(3, 4), (6, 9)], by="ann")
    assert cluster.store.requeue(job, [(4, 7)], {State.CANCELLED}) == 3
    assert cluster.states(job) == "R R PD CA PD PD PD PD CA CA"
    found = sorted((b.first, b.count) for b in node.claim(7, {job: 9}))
    assert found == [(2, 1), (4, 1), (5, 1), (6, 2)]


def test_rerun_of_a_job_cancelled_by_ranges(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(5)
    cluster.store.cancel(job, [(0, 4)], by="ann")
    assert cluster.store.job(job).has_ended
    cluster.store.requeue(job, [(0, 4)], {State.CANCELLED})
    assert [(b.first, b.count) for b in node.claim(1, {job: 9})] == [(0, 5)]


def test_crashes_are_forgotten(cluster: Cluster, node: Node) -> None:
    job = cluster.submit()
    for _ in range(3):
        [batch] = node.claim()
        node.end(batch, LOST)
    assert cluster.states(job) == "NF"
    cluster.store.requeue(job, [(0, 0)], {State.NODE_FAIL})
    [batch] = node.claim()
    assert batch.attempt == 4
    node.end(batch, LOST)
    assert cluster.states(job) == "PD"


def test_given_up_as_a_whole(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(8)
    first, second = node.claim(2, {job: 2})
    node.finish(first, [F, CD])
    cluster.store.cancel(job, [(5, 5)], by="ann")
    cluster.store.cancel(job, None, by="ann")
    with pytest.raises(StoreError, match="have not ended yet"):
        cluster.store.requeue(job, [(0, 7)], {State.CANCELLED})
    node.end(second, CA)
    assert cluster.states(job) == "F CD CA CA CA CA CA CA"
    cluster.once(lambda: cluster.store.requeue(job, [(0, 6)], {State.FAILED}))
    assert cluster.states(job) == "PD CD CA CA CA CA CA CA"
    assert cluster.store.job(job).reason == ""
    [batch] = node.claim(8, {job: 8})
    node.end(batch)
    cluster.once(lambda: cluster.store.requeue(job, [(3, 6)], {State.CANCELLED}))
    assert cluster.states(job) == "CD CD CA PD PD PD PD CA"
    for batch in node.claim_all({job: 8}):
        node.end(batch)
    assert cluster.states(job) == "CD CD CA CD CD CD CD CA"
    with pytest.raises(JobNotFound):
        cluster.store.requeue(9, [(0, 1)], {State.CANCELLED})


def test_no_node_could_start_it(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(10_000)
    cluster.store.cancel(job, [(9_000, 9_499)], by="ann")
    [batch] = node.claim(1, {job: 2})
    assert node.store.give_back(batch, bytes([RETURNED] * 2), "no such directory") == 2
    assert cluster.store.job(job).counts[State.FAILED] == 9_500
    cluster.once(lambda: cluster.store.requeue(job, [(0, 9_999)], {State.FAILED}))
    info = cluster.store.job(job)
    assert (info.counts[State.PENDING], info.counts[State.CANCELLED]) == (9_500, 500)
    assert (info.unfit, info.reason, info.has_ended) == ({}, "", False)
    total = 0
    while batches := node.claim(1, {job: 256}):
        total += node.end(batches[0])
    assert total == 9_500 and cluster.store.job(job).has_ended


def test_a_fate_is_lifted_in_slices(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(20_000)
    [batch] = node.claim(1, {job: 6_000})
    node.end(batch, RETURNED)
    cluster.store.cancel(job, None, by="ann")
    before = cluster.states(job)
    assert cluster.call("requeue", job, 0, 19_999, "|5|") == [b"ok", 0]
    assert cluster.states(job) == before
    cluster.call("tend")
    assert cluster.states(job) == before
    assert cluster.store.job(job).counts[State.CANCELLED] == 20_000
    while cluster.call("tend"):
        pass
    assert cluster.store.job(job).counts[State.PENDING] == 20_000
    while batches := node.claim(8, {job: 256}):
        assert all(batch.attempt in (1, 2) and node.end(batch) for batch in batches)
    assert cluster.store.job(job).counts[State.COMPLETED] == 20_000
