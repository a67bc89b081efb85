"""A server without memory refuses submissions, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from qsub_py.errors import StoreBusy
from qsub_py.model import State
from store.driver import CD, RETURNED, Cluster


def used(cluster: Cluster) -> int:
    return cluster.store.health().memory_bytes


@pytest.fixture
def full(private: Cluster) -> Iterator[Callable[[float], None]]:
    """Return what sets the memory limit so that this share of it is used."""

    def fill(share: float) -> None:
        # While there is room it is asked for once a second only.
        private.serve(2)
        private.link.command("CONFIG", "SET", "maxmemory", int(used(private) / share))

    yield fill
    private.link.command("CONFIG", "SET", "maxmemory", 0)


def test_soft_limit_meets_only_new_tasks(private: Cluster, full: Callable[[float], None]) -> None:
    known = private.submit(token="known")
    job = private.submit(0, is_open=True)
    uid = private.uid(job)
    private.store.append(job, uid, 0, 1, b"chunk", b"sig")
    full(0.9)
    assert private.submit(token="known") == known, "a replay is no new job"
    private.store.append(job, uid, 0, 1, b"chunk", b"sig")
    for refused in (private.submit, lambda: private.store.append(job, uid, 1, 1, b"c", b"s")):
        before = private.dump()
        with pytest.raises(StoreBusy, match="80 %"):
            refused()
        assert private.dump() == before
    private.store.close_job(job)


def test_everything_else_runs_when_nothing_is_left(
    private: Cluster, full: Callable[[float], None]
) -> None:
    node, lost = private.node("a", cpus=8), private.node("b", cpus=8)
    job, other = private.submit(10), private.submit(1000, is_held=True)
    [batch, second] = node.claim(2, {job: 2})
    lost.claim(1, {job: 2})
    full(1.5)
    with pytest.raises(StoreBusy):
        private.submit()
    with pytest.raises(StoreBusy):
        private.link.command("SET", private.prefix + "nothing", "x" * 1000)
    node.store.renew([])
    reference = node.store.put_result(b"r" * 2_000_000)
    assert node.finish(batch, [CD, CD], data=b"d" * 10_000,
                       blobs=(reference[:16].decode(),)) == 2  # fmt: skip
    assert node.store.large_result(reference) == b"r" * 2_000_000
    assert len(node.claim(1, {job: 2})) == 1
    assert private.store.release(other)
    assert private.store.hold(other)
    assert private.store.cancel(other, [(100, 200)], by="ann").cancelled == 101
    assert private.store.order(job, "{}")
    assert node.store.give_back(second, bytes([RETURNED] * 2), "no such directory") == 2
    private.restart()
    assert set(node.join().values()) <= {b"11", b"00"}
    lost.join()
    assert private.store.drain(node.uid)
    assert private.store.resume(node.uid)
    assert private.store.requeue(other, [(100, 120)], {State.CANCELLED}) == 21
    node.store.housekeep()
    private.link.command("CONFIG", "SET", "maxmemory", 0)
    lost.lapse()
    full(1.5)
    lost.join()
    lost.store.bye()
    node.store.bye()
    assert private.store.purge(2e9) >= 0
