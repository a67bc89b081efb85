"""suspend.lua: whole jobs, running tasks, and what happens to them meanwhile."""

from __future__ import annotations

import json

import pytest

from qsub_py.errors import JobNotFound
from qsub_py.model import State
from qsub_py.store_suspend import Suspended, SuspendReply, change, suspended
from store.driver import CD, LOST, Cluster


def suspend(cluster: Cluster, job: int, first: int = -1, last: int = -1) -> SuspendReply:
    return change(cluster.store, job, first, last, "suspend")


def resume(cluster: Cluster, job: int, first: int = -1, last: int = -1) -> SuspendReply:
    return change(cluster.store, job, first, last, "resume")


def of(cluster: Cluster, job: int) -> Suspended:
    return suspended(cluster.store, [job])[job]


def counts(cluster: Cluster, job: int) -> tuple[int, int, int]:
    found = cluster.store.job(job).counts
    return found[State.PENDING], found[State.RUNNING], found[State.SUSPENDED]


def test_a_whole_job(cluster: Cluster) -> None:
    node, job = cluster.node(cpus=3), cluster.submit(5)
    batches = node.claim(2)
    [(name, _, seq)] = suspend(cluster, job).orders
    assert (name, json.loads(node.orders()[seq])["op"]) == ("a", "suspend")
    node.store.renew([seq])
    assert node.claim(1) == [], "nothing more of it starts"
    assert (of(cluster, job).is_whole, counts(cluster, job)) == (True, (3, 0, 2))
    assert cluster.store.job(job).state is State.SUSPENDED
    node.end(batches[0])
    assert counts(cluster, job) == (3, 0, 1)
    assert resume(cluster, job).running == 1
    assert (of(cluster, job), counts(cluster, job)) == (Suspended(), (3, 1, 0))
    assert len(node.claim(2)) == 2


def test_a_node_hears_of_its_order_and_of_work(cluster: Cluster) -> None:
    """Before it listens again: else what it could start waits until it looks by itself."""
    node, job = cluster.node(cpus=3), cluster.submit(1)
    node.claim(2)
    suspend(cluster, job)
    cluster.submit(1)
    assert cluster.dump()[f"inbox:{node.uid}"] == ["2", "1"]


def test_twice_is_once_but_for_the_orders(cluster: Cluster) -> None:
    job = cluster.submit(2)
    changed = cluster.once(lambda: suspend(cluster, job))
    assert changed[f"j:{job}/susp"] == "1"
    assert cluster.store.job(job).state is State.PENDING
    cluster.once(lambda: resume(cluster, job))


def test_tasks_that_run(cluster: Cluster) -> None:
    node, job = cluster.node(cpus=4), cluster.submit(20)
    batches = node.claim(4)
    assert suspend(cluster, job, 1, 2).running == 2
    assert of(cluster, job).ranges == ((1, 2),)
    assert counts(cluster, job) == (16, 2, 2)
    assert suspend(cluster, job, 10, 12).running == 0, "they wait"
    assert of(cluster, job).ranges == ((1, 2),)
    suspend(cluster, job, 3, 3)
    assert of(cluster, job).ranges == ((1, 3),)
    node.end(batches[1])
    assert counts(cluster, job) == (16, 1, 2)
    resume(cluster, job, 2, 2)
    assert of(cluster, job).ranges == ((1, 1), (3, 3))
    assert node.claim(1)[0].first == 4, "others of the job start"
    assert resume(cluster, job).word == "ok"
    assert of(cluster, job) == Suspended()


def test_no_single_task_of_a_suspended_job_goes_on(cluster: Cluster) -> None:
    node, job = cluster.node(), cluster.submit(2)
    node.claim(2)
    suspend(cluster, job)
    assert resume(cluster, job, 0, 0).word == "whole"


def test_what_is_lost_waits_with_its_job(cluster: Cluster) -> None:
    node, other, job = cluster.node(), cluster.node("b"), cluster.submit()
    [batch] = node.claim()
    suspend(cluster, job)
    node.finish(batch, [LOST])
    assert (cluster.states(job), other.claim()) == ("PD", [])
    resume(cluster, job)
    assert [b.attempt for b in other.claim()] == [2]


def test_a_task_that_is_lost_alone_starts_anew(cluster: Cluster) -> None:
    node, other, job = cluster.node(), cluster.node("b"), cluster.submit(3)
    [batch] = node.claim()
    suspend(cluster, job, 0, 0)
    node.lapse()
    [again] = other.claim()
    assert (again.first, again.attempt) == (batch.first, 2)
    assert (of(cluster, job), counts(cluster, job)) == (Suspended(), (2, 1, 0))


def test_taken_back_while_suspended(cluster: Cluster) -> None:
    """A node that comes back with its work finds what was said meanwhile in the store."""
    node, job = cluster.node(), cluster.submit()
    node.claim()
    node.lapse()
    suspend(cluster, job)
    assert node.join() == {1: b"1"}
    assert (of(cluster, job).is_whole, counts(cluster, job)) == (True, (0, 0, 1))


def test_cancel_of_a_suspended_job(cluster: Cluster) -> None:
    node, job = cluster.node(), cluster.submit(5)
    [batch] = node.claim()
    suspend(cluster, job)
    cluster.store.cancel(job, None, by="ann")
    assert cluster.states(job) == "CG CA CA CA CA"
    node.end(batch, CD)
    assert cluster.store.job(job).has_ended


def test_ended_and_unknown(cluster: Cluster) -> None:
    node, job = cluster.node(), cluster.submit()
    [batch] = node.claim()
    node.end(batch)
    assert suspend(cluster, job).word == "ended"
    with pytest.raises(JobNotFound):
        suspend(cluster, 999)


def test_too_many_ranges(cluster: Cluster) -> None:
    node, job = cluster.node(cpus=600, mem=2**42), cluster.submit(600)
    node.claim_all()
    for at in range(0, 512, 2):
        assert suspend(cluster, job, at, at).word == "ok"
    before = cluster.dump()
    assert suspend(cluster, job, 520, 520).word == "many"
    assert cluster.dump() == before
    assert suspend(cluster, job).word == "ok"
