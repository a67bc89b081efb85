"""giveback.lua: a task that could not be started goes elsewhere; nowhere means FAILED."""

from __future__ import annotations

from qsub_py.model import Batch, State
from store.driver import GB, RETURNED, START_MS, Cluster, Node


def give_back(node: Node, batch: Batch, why: str = "no such directory") -> int:
    return node.store.give_back(batch, bytes([RETURNED] * batch.count), why)


def test_all_keys(cluster: Cluster) -> None:
    node, _ = cluster.node("a"), cluster.node("b")
    job = cluster.submit(3)
    [batch] = node.claim(1, {job: 2})
    assert cluster.once(lambda: give_back(node, batch)) == {
        "unfit:1/uid-a": "no such directory", "j:1/unfit": "1", "st:1": b"\0\0", "j:1/c1": "0",
        "again:1": ["0:2"], "on:1/uid-a": None, "slots:uid-a/1": None,
        "node:uid-a/cpus_free": "2", "node:uid-a/mem_free": str(4 * GB),
    }  # fmt: skip


def test_goes_elsewhere(cluster: Cluster) -> None:
    node, other = cluster.node("a"), cluster.node("b")
    job, next_job = cluster.submit(2), cluster.submit()
    [batch] = node.claim()
    give_back(node, batch)
    assert [b.job for b in node.claim()] == [next_job]
    assert [(b.first, b.attempt) for b in other.claim(2)] == [(0, 1), (1, 1)]
    assert cluster.store.job(job).unfit == {"a": "no such directory"}


def test_nowhere_is_failed_with_each_reason(cluster: Cluster) -> None:
    node, other = cluster.node("a"), cluster.node("b")
    cluster.node("c", queues=("other",))
    job = cluster.submit(100)
    [batch] = node.claim()
    give_back(node, batch, "no such directory")
    [batch] = other.claim()
    changed = cluster.once(lambda: give_back(other, batch, "disk full"))
    assert changed["j:1/ended"] == str(START_MS)
    info = cluster.store.job(job)
    assert (info.state, info.counts[State.FAILED]) == (State.FAILED, 100)
    assert info.reason == "no node can start it"
    assert info.unfit == {"a": "no such directory", "b": "disk full"}


def test_what_runs_elsewhere_may_end(cluster: Cluster) -> None:
    node = cluster.node(cpus=4)
    job = cluster.submit(4)
    one, two = node.claim(2)
    give_back(node, one)
    assert cluster.states(job) == "F CG F F"
    assert not cluster.store.job(job).has_ended
    node.end(two)
    assert cluster.states(job) == "F CD F F"
    assert cluster.store.job(job).has_ended


def test_again_while_another_runs_it(cluster: Cluster) -> None:
    node, other = cluster.node("a"), cluster.node("b")
    cluster.submit()
    [batch] = node.claim()
    give_back(node, batch)
    [moved] = other.claim()
    assert moved.attempt == 1
    assert cluster.changes(lambda: give_back(node, batch)) == {}
    assert other.end(moved) == 1
    assert cluster.changes(lambda: give_back(node, batch)) == {}


def test_of_a_job_that_is_gone(cluster: Cluster) -> None:
    node = cluster.node()
    cluster.submit()
    [batch] = node.claim()
    node.end(batch)
    cluster.store.purge(cluster.now_ms)
    assert cluster.changes(lambda: give_back(node, batch)) == {}


def test_many_unfit_jobs_do_not_hide_the_next(cluster: Cluster) -> None:
    node, _ = cluster.node("a", cpus=50), cluster.node("b")
    for _ in range(40):
        cluster.submit()
    for batch in node.claim_all():
        give_back(node, batch)
    good = cluster.submit()
    assert [b.job for b in node.claim(50)] == [good]
