"""purge.lua: a job that is deleted leaves no key behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from store.driver import CA, CD, LOST, RETURNED, START_MS, Cluster, F, Node


def run(cluster: Cluster, node: Node) -> int:
    """A job with one key of every kind."""
    job = cluster.submit(0, is_open=True, function=b"f" * 100_000)
    uid = cluster.uid(job)
    cluster.store.append(job, uid, 0, 4, b"c" * 100_000, b"")
    for code in (LOST, LOST, F):
        [batch] = node.claim(1, {job: 1})
        node.finish(batch, [code], tails=((0, b"tail"),), bad_exits=((0, 1),))
    for _ in range(16):
        [batch] = node.claim()
        cluster.call("finish", *node.store._me(), job, uid, batch.slot, batch.epoch, batch.attempt,
                     bytes([13]), *[""] * 9)  # fmt: skip
    reference = node.store.put_result(b"r" * 3_000_000)
    for _ in range(3):
        [batch] = node.claim()
        node.finish(batch, [CD], blobs=(reference[:16].decode(),))
    cluster.store.close_job(job)
    return job


def give_back(cluster: Cluster, node: Node) -> int:
    job = cluster.submit(3)
    [batch] = node.claim()
    node.store.give_back(batch, bytes([RETURNED]), "no such directory")
    return job


def cancel_before_begin(cluster: Cluster, node: Node) -> int:
    job = cluster.submit(3, begin_at=START_MS / 1000 + 1_000_000)
    cluster.store.cancel(job, [(0, 2)], by="ann")
    return job


def cancel_running(cluster: Cluster, node: Node) -> int:
    job = cluster.submit(600)
    [batch] = node.claim(1, {job: 256})
    cluster.store.cancel(job, [(0, 5)], by="ann")
    cluster.store.cancel(job, None, by="ann")
    node.end(batch, CA)
    node.store.renew(list(node.orders()))
    return job


@pytest.mark.parametrize("life", [run, give_back, cancel_before_begin, cancel_running])
def test_no_key_is_left(cluster: Cluster, life: Callable[[Cluster, Node], int]) -> None:
    node = cluster.node()
    before = cluster.dump()
    job = life(cluster, node)
    assert cluster.store.job(job).has_ended
    assert cluster.store.purge(cluster.now_ms / 1000) == 0, "not yet older than that"
    assert cluster.store.purge(cluster.now_ms / 1000 + 1) >= 1
    left = {name for name in cluster.dump().keys() - before.keys()}
    assert left - {"meta/job"} <= {f"node:uid-a/{f}" for f in ("slotseq", "lane_from", "oseq")} | {
        "idle/uid-a", "inbox:uid-a", "own:ann/cpus", "own:ann/used", "own:ann/at", "own:ann/waits",
    }  # fmt: skip


def test_oldest_first_and_no_active(cluster: Cluster) -> None:
    node = cluster.node()
    jobs = []
    for _ in range(3):
        jobs.append(cluster.submit())
        [batch] = node.claim()
        node.end(batch)
        cluster.serve(3)
    active = cluster.submit()
    assert cluster.store.purge(START_MS / 1000 + 5) == 2
    assert [info.id for info in cluster.store.jobs(ended=True)] == [jobs[2], active]


def test_at_most_so_many_steps(cluster: Cluster) -> None:
    node = cluster.node()
    jobs = [cluster.submit() for _ in range(3)]
    for _ in jobs:
        [batch] = node.claim()
        node.end(batch)
        cluster.serve(3)
    now = cluster.now_ms / 1000
    assert [cluster.store.purge(now + 1, most=2) for _ in range(3)] == [2, 1, 0]


def test_many_blobs_in_steps(cluster: Cluster) -> None:
    node = cluster.node()
    job = cluster.submit()
    [batch] = node.claim()
    node.finish(batch, [CD], blobs=tuple(f"blob{n:012d}" for n in range(600)))
    assert cluster.store.purge(cluster.now_ms / 1000 + 1) == 3
    assert not [name for name in cluster.dump() if f":{job}" in name]
