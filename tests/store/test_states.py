"""states.lua: what a user sees is what the counters count, wherever it comes from."""

from __future__ import annotations

from collections import Counter

from store.driver import CD, RETURNED, Cluster


def agrees(cluster: Cluster, job: int) -> None:
    """Assert that the states of all tasks add up to the counters."""
    seen = Counter(state for state, _ in cluster.store.states(job, 0, cluster.store.job(job).total))
    counts = {state: n for state, n in cluster.store.job(job).counts.items() if n}
    assert counts == dict(seen)


def test_never_touched(cluster: Cluster) -> None:
    job = cluster.submit(100_000)
    agrees(cluster, job)
    assert cluster.changes(lambda: cluster.store.states(job, 0, 100_000)) == {}


def test_interval_then_whole(cluster: Cluster) -> None:
    node = cluster.node()
    job = cluster.submit(10)
    [batch] = node.claim(1, {job: 3})
    node.finish(batch, [CD, 0, RETURNED])
    cluster.store.cancel(job, [(5, 6)], by="ann")
    agrees(cluster, job)
    cluster.store.cancel(job, None, by="ann")
    assert cluster.states(job) == "CD CG CA CA CA CA CA CA CA CA"
    agrees(cluster, job)


def test_interval_then_given_up(cluster: Cluster) -> None:
    node = cluster.node()
    job = cluster.submit(6)
    cluster.store.cancel(job, [(3, 4)], by="ann")
    [batch] = node.claim()
    node.store.give_back(batch, bytes([RETURNED]), "no such directory")
    assert cluster.states(job) == "F F F CA CA F"
    agrees(cluster, job)


def test_pages(cluster: Cluster) -> None:
    job = cluster.submit(150_000)
    cluster.store.cancel(job, [(65_530, 65_540), (131_072, 131_072)], by="ann")
    states = [state.short for state, _ in cluster.store.states(job, 0, 150_000)]
    assert [at for at, s in enumerate(states) if s == "CA"] == [*range(65_530, 65_541), 131_072]
