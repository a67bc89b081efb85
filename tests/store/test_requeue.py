"""requeue.lua: ended tasks run again, in chosen states, with the next attempt number."""

from __future__ import annotations

import pytest

from qsub_py.errors import JobNotFound, StoreError
from qsub_py.model import State
from store.driver import CA, CD, LOST, START_MS, Cluster, F, Node

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
    job = cluster.submit(2)
    [batch] = node.claim()
    cluster.store.cancel(job, None, by="ann")
    node.end(batch, CA)
    with pytest.raises(StoreError, match="given up as a whole"):
        cluster.store.requeue(job, [(0, 1)], {State.CANCELLED})
    with pytest.raises(JobNotFound):
        cluster.store.requeue(9, [(0, 1)], {State.CANCELLED})
