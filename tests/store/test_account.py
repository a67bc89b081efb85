"""What finish.lua adds up: usage of jobs, of owners and days; purge of one job."""

from __future__ import annotations

import dataclasses

import pytest

from qsub_py.account import Usage
from qsub_py.node.usage import pack_usage
from qsub_py.node.wire import Item
from qsub_py.store_account import Accounts
from store.driver import CD, GB, RETURNED, START_MS, Cluster, F, Node

DAY = START_MS // 86_400_000
_CODE = {"COMPLETED": CD, "FAILED": F}


@pytest.fixture
def node(cluster: Cluster) -> Node:
    return cluster.node(cpus=4)


def item(pos: int, wall: float, cpu: float, rss: int, state: str = "COMPLETED") -> Item:
    return Item(pos, state, start=100.0, end=100.0 + wall, cpu=cpu, rss=rss)


def used(cluster: Cluster, job: int) -> Usage:
    return Accounts(cluster.store).usage([job])[job]


def days(cluster: Cluster) -> list[tuple[str, int, int, int, float, float, float]]:
    return [dataclasses.astuple(use) for use in Accounts(cluster.store).days(DAY - 2, DAY + 2)]  # type: ignore[misc]


def test_an_end_is_added_once(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(3, cpus=2, mem_bytes=GB)
    [batch] = node.claim(1, {job: 3})
    items = [item(0, 2.0, 1.5, 1000), item(1, 4.0, 3.0, 5000, "FAILED"), item(2, 1.0, 0.5, 3000)]
    codes = [_CODE[one.state] for one in items]
    changed = cluster.once(lambda: node.finish(batch, codes, usage=pack_usage(items)))
    assert changed[f"acct:{DAY}/ann"] == "3 1 7000 5000 14000"
    assert used(cluster, job) == Usage(3, 7.0, 5.0, 14.0, 4.0, 5000, GB, 2, 2.0, 3000)
    assert days(cluster) == [("ann", DAY, 3, 1, 7.0, 5.0, 14.0)]
    assert cluster.link.command("TTL", f"{cluster.prefix}acct:{DAY}") > 399 * 86400


def test_only_what_was_accepted(cluster: Cluster, node: Node) -> None:
    """Of a report that is partly stale each task counts by itself."""
    job = cluster.submit(3)
    [batch] = node.claim(1, {job: 3})
    first = [item(0, 1.0, 1.0, 10)]
    node.finish(batch, [CD, 0, 0], usage=pack_usage(first))
    both = [*first, item(2, 8.0, 4.0, 20, "FAILED")]
    assert node.finish(batch, [CD, RETURNED, F], usage=pack_usage(both)) == 2
    assert used(cluster, job) == Usage(2, 9.0, 5.0, 9.0, 8.0, 20, GB, 1, 1.0, 10)
    assert days(cluster) == [("ann", DAY, 2, 1, 9.0, 5.0, 9.0)]


def test_an_attempt_that_is_tried_again_is_not_in_it(cluster: Cluster, node: Node) -> None:
    from qsub_py.policy import Retry

    job = cluster.submit(1, retry=Retry(count=1, backoff_s=0.0))
    [batch] = node.claim()
    node.finish(batch, [F + 16], usage=pack_usage([item(0, 5.0, 5.0, 10, "FAILED")]))
    assert used(cluster, job) == Usage()
    assert days(cluster) == []


def test_jobs_owners_and_days(cluster: Cluster, node: Node) -> None:
    for owner, later_s in (("ann", 0), ("bob", 0), ("ann", 86400)):
        cluster.set_clock(cluster.now_ms + later_s * 1000)
        cluster.submit(owner=owner)
        [batch] = node.claim()
        node.finish(batch, [CD], usage=pack_usage([item(0, 2.0, 1.0, 10)]))
    assert [row[:3] for row in days(cluster)] == [
        ("ann", DAY, 1), ("bob", DAY, 1), ("ann", DAY + 1, 1),
    ]  # fmt: skip


def test_a_report_without_usage(cluster: Cluster, node: Node) -> None:
    job = cluster.submit()
    [batch] = node.claim()
    node.finish(batch, [CD])
    assert used(cluster, job) == Usage()
    assert days(cluster) == []


def test_purge_of_one_job_leaves_the_days(cluster: Cluster, node: Node) -> None:
    jobs = [cluster.submit() for _ in range(3)]
    for batch in node.claim(2):
        node.finish(batch, [CD], usage=pack_usage([item(0, 2.0, 1.0, 10)]))
        cluster.serve(3)
    accounts = Accounts(cluster.store)
    since, until = START_MS / 1000, cluster.now_ms / 1000
    assert [j.id for j in accounts.ended(since, until, limit=9)] == [jobs[1], jobs[0]]
    assert [j.id for j in accounts.ended(since + 1, until, limit=9)] == [jobs[1]]
    assert [j.id for j in accounts.ended(since, until, limit=1)] == [jobs[1]], "the last one"
    assert accounts.ended(since, until, limit=9, owner="nobody") == []
    assert accounts.purge(jobs[1])
    assert not accounts.purge(jobs[1])
    assert cluster.changes(lambda: accounts.purge(jobs[2])) == {}, "it has not ended"
    assert [j.id for j in cluster.store.jobs(ended=True)] == [jobs[0], jobs[2]]
    assert [row[2] for row in days(cluster)] == [2]
