"""claim.lua: which work a node gets, and that it gets it once."""

from __future__ import annotations

import pytest

from qsub_py.store_node import Refused
from store.driver import CD, GB, RETURNED, START_MS, Cluster, Node


def raw_claim(node: Node, request: int, most: int = 1, hints: str = "") -> list:
    """Claim with a request number of our own."""
    return node.cluster.call("claim", *node.store._me(), request, most, hints)


def test_all_keys(cluster: Cluster) -> None:
    node = cluster.node(gpus=2)
    job = cluster.submit(5, gpus=1)
    lane = "1|0|1|main|||ann"
    changed = cluster.changes(lambda: node.claim(1, {job: 2}))
    assert changed == {
        "st:1": b"\x11\x11", "j:1/cursor": "2", "j:1/c1": "2", "j:1/started": str(START_MS),
        "on:1/uid-a": "1", "slots:uid-a/1": f"1|0|2|1|0|{START_MS}|1|{2 * GB}|0|2||0|ann|60",
        "node:uid-a/cpus_free": "1", "node:uid-a/mem_free": str(2 * GB),
        "node:uid-a/gpus_free": "1", "node:uid-a/slotseq": "1", "node:uid-a/req": "1",
        "node:uid-a/reply": "1", "node:uid-a/lane_from": "0",
    }  # fmt: skip
    assert f"lane:{lane}/1" in cluster.dump()
    [batch] = node.held.values()
    assert (batch.first, batch.count, batch.attempt, batch.gpus) == (0, 2, 1, (0,))
    assert node.store.slots() == [batch]


def test_last_request_again(cluster: Cluster) -> None:
    node = cluster.node()
    cluster.submit(5)
    first = raw_claim(node, 1, 2)
    assert len(first[4:]) == 2
    changed = cluster.changes(lambda: raw_claim(node, 1, 2))
    assert changed == {}
    assert raw_claim(node, 1, 2)[4:] == first[4:]


def test_last_request_again_after_some_ended(cluster: Cluster) -> None:
    node = cluster.node()
    cluster.submit(5)
    first = raw_claim(node, 1, 2)
    [one, _] = node.store.slots()
    node.end(one)
    assert raw_claim(node, 1, 2)[4:] == [row for row in first[4:] if row[0] != one.slot]


def test_older_request_gets_nothing(cluster: Cluster) -> None:
    node = cluster.node(cpus=4)
    cluster.submit(5)
    raw_claim(node, 1)
    raw_claim(node, 2)
    assert cluster.changes(lambda: raw_claim(node, 1)) == {}
    assert raw_claim(node, 1)[4:] == []


def test_nothing_to_claim_is_idle(cluster: Cluster) -> None:
    node = cluster.node()
    changed = cluster.changes(node.claim)
    assert changed == {
        "idle/uid-a": 0.0, "node:uid-a/lane_from": "0", "node:uid-a/req": "1",
    }  # fmt: skip


@pytest.mark.parametrize(
    "needs",
    [
        {"cpus": 3},
        {"mem_bytes": 5 * GB},
        {"gpus": 1},
        {"queue": "other"},
        {"python_minor": "3.99"},
        {"nodelist": ("b",)},
    ],
)
def test_does_not_fit(cluster: Cluster, needs: dict) -> None:
    node = cluster.node()
    cluster.submit(**needs)
    found = node.ask()
    assert (found.batches, found.has_more) == ((), False)
    assert "idle/uid-a" in cluster.dump()


@pytest.mark.parametrize(
    "needs",
    [
        {"cpus": 2},
        {"mem_bytes": 4 * GB},
        {"gpus": 1},
        {"queue": "long"},
        {"python_minor": "3.12"},
        {"nodelist": ("b", "a")},
    ],
)
def test_fits(cluster: Cluster, needs: dict) -> None:
    node = cluster.node(gpus=1, queues=("main", "long"), pythons=("3.11", "3.12"))
    cluster.submit(**needs)
    assert len(node.claim()) == 1


def test_no_more_than_is_free(cluster: Cluster) -> None:
    node = cluster.node(cpus=4, mem=4 * GB)
    cluster.submit(10, mem_bytes=2 * GB)
    assert len(node.claim(4)) == 2
    assert node.claim(4) == []


def test_rest_goes_where_it_fits(cluster: Cluster) -> None:
    """A big job in front does not keep a small one from the room that is left."""
    node = cluster.node(cpus=3)
    big, small = cluster.submit(3, cpus=2), cluster.submit(3)
    assert [b.job for b in node.claim(3)] == [big, small]


def test_priority_then_age_across_lanes(cluster: Cluster) -> None:
    jobs = [
        cluster.submit(owner="ann"), cluster.submit(owner="bob"),
        cluster.submit(owner="cid", priority=5), cluster.submit(owner="ann", priority=1),
        cluster.submit(owner="bob", priority=5),
    ]  # fmt: skip
    node = cluster.node(cpus=8)
    assert [b.job for b in node.claim(8)] == [jobs[i] for i in (2, 4, 3, 0, 1)]


def test_what_fits_behind_70_lanes_that_do_not(cluster: Cluster) -> None:
    for i in range(70):
        cluster.submit(mem_bytes=(5 + i) * GB, owner=f"user{i}")
    fits = cluster.submit()
    node = cluster.node()
    first = node.ask()
    assert (first.batches, first.has_more) == ((), True)
    second = node.ask()
    assert [b.job for b in second.batches] == [fits]
    assert not second.has_more


def test_hint_puts_several_into_one_slot(cluster: Cluster) -> None:
    node = cluster.node()
    job = cluster.submit(1000)
    counts = [b.count for b in node.claim(2, {job: 200})]
    assert counts == [200, 200], "taking a range costs the same however long it is"


@pytest.mark.parametrize("hint", [0, 1])
def test_hint_is_at_least_one(cluster: Cluster, hint: int) -> None:
    node = cluster.node()
    job = cluster.submit(10)
    assert [b.count for b in node.claim(1, {job: hint})] == [1]


def test_limit(cluster: Cluster) -> None:
    node = cluster.node(cpus=8)
    job = cluster.submit(10, limit=3)
    other = cluster.submit()
    batches = node.claim(8, {job: 2})
    assert [(b.job, b.count) for b in batches] == [(job, 2), (job, 1), (other, 1)]
    assert node.claim(8) == []
    node.finish(batches[0], [CD, 0])
    assert [(b.job, b.count) for b in node.claim(8, {job: 2})] == [(job, 1)]


def test_array_jumps_over_cancelled_intervals(cluster: Cluster) -> None:
    node = cluster.node(cpus=8)
    job = cluster.submit(12)
    cluster.store.cancel(job, [(0, 1), (4, 6), (8, 8), (11, 11)], by="ann")
    batches = node.claim(8, {job: 8})
    assert [(b.first, b.count) for b in batches] == [(2, 2), (7, 1), (9, 2)]
    assert cluster.states(job) == "CA CA R R CA CA CA R CA R R CA"


def test_returned_come_first(cluster: Cluster) -> None:
    node, other = cluster.node("a"), cluster.node("b")
    job = cluster.submit(10)
    [batch] = node.claim(1, {job: 4})
    node.finish(batch, [0, 0, RETURNED, RETURNED])
    found = [(b.first, b.count, b.attempt) for b in other.claim(2, {job: 8})]
    assert found == [(2, 2, 1), (4, 6, 1)]


def test_tasks_of_different_attempts_do_not_share_a_slot(cluster: Cluster) -> None:
    node = cluster.node(cpus=4)
    job = cluster.submit(4)
    [batch] = node.claim(1, {job: 4})
    node.finish(batch, [0, RETURNED, 0, 0])
    node.finish(batch, [RETURNED] * 4)
    found = [(b.first, b.count, b.attempt) for _ in range(3) for b in node.claim(2, {job: 4})]
    assert sorted(found) == [(0, 1, 1), (1, 1, 2), (2, 2, 1)]


def test_stale_entries_of_again_are_skipped(cluster: Cluster) -> None:
    """More than 64 entries of tasks that ended meanwhile: the next claim goes on."""
    node = cluster.node(cpus=200)
    job = cluster.submit(200)
    for batch in node.claim_all():
        node.end(batch, RETURNED)
    cluster.store.cancel(job, [(1, 199)], by="ann")
    asked = node.ask()
    while not asked.batches:
        assert asked.has_more
        asked = node.ask()
    assert [b.first for b in asked.batches] == [0]


def test_held_and_drained(cluster: Cluster) -> None:
    node = cluster.node()
    job = cluster.submit(is_held=True)
    assert node.claim() == []
    cluster.store.drain(node.uid)
    cluster.store.release(job)
    asked = node.ask()
    assert (asked.batches, asked.has_more) == ((), False)
    assert "idle/uid-a" not in cluster.dump()
    cluster.store.resume(node.uid)
    assert len(node.claim()) == 1


def test_old_connection_is_refused(cluster: Cluster) -> None:
    node = cluster.node()
    old = node.store
    node.store = node._agent()
    node.join()
    with pytest.raises(Refused) as caught:
        old.report_and_claim([], 1, {})
    assert caught.value.word == "FENCED"
    old.link.close()


def test_next_due_is_told(cluster: Cluster) -> None:
    node = cluster.node()
    cluster.submit(begin_at=1_700_000_500.0)
    cluster.submit(begin_at=1_700_000_100.0)
    assert node.ask().next_due_at == 1_700_000_100.0
