"""cancel.lua: what waits ends now, what runs is told, and nothing else is touched."""

from __future__ import annotations

import json

import pytest

from qsub_py.errors import JobNotFound, StoreError
from qsub_py.model import State
from store.driver import CA, CD, START_MS, Cluster

LANE = "1|0|0|main|||ann"


def cancel(cluster: Cluster, job: int, *ranges: tuple[int, int]) -> list:
    """Cancel without tending to what is left."""
    replies = [cluster.call("cancel", job, a, b, "ann") for a, b in ranges or ((-1, -1),)]
    return replies[0]


def test_whole_all_keys(cluster: Cluster) -> None:
    node = cluster.node()
    job = cluster.submit(1_000_000)
    [batch] = node.claim(1, {job: 2})
    order = {"op": "cancel", "job": 1, "uid": "uid-of-token-1", "first": 0, "last": -1, "by": "ann",
             "upto": 1}  # fmt: skip
    changed = cluster.changes(lambda: cancel(cluster, job))
    assert json.loads(changed.pop("orders:uid-a/1")) == order
    assert changed.pop("inbox:uid-a")
    assert changed == {
        "j:1/fate": "5", "j:1/c1": "0", "j:1/c2": "2", "j:1/c5": "999998",
        "j:1/why": "cancelled by ann", "j:1/rseq": "1", "res:1/1-0": {"x": "1"},
        "node:uid-a/oseq": "1", f"lane:{LANE}/1": None, f"lanes/{LANE}": None,
    }  # fmt: skip
    node.end(batch, CA)
    assert cluster.store.job(job).has_ended
    assert cluster.changes(lambda: cancel(cluster, job)) == {}


def test_whole_again_only_tells_again(cluster: Cluster) -> None:
    node = cluster.node()
    job = cluster.submit(3)
    node.claim()
    cancel(cluster, job)
    changed = cluster.changes(lambda: cancel(cluster, job))
    assert changed.keys() - {"inbox:uid-a"} == {"orders:uid-a/2", "node:uid-a/oseq"}
    assert cluster.states(job) == "CG CA CA"


def test_whole_of_what_never_began(cluster: Cluster) -> None:
    job = cluster.submit(10, begin_at=1_800_000_000.0, is_held=True)
    changed = cluster.once(lambda: cancel(cluster, job))
    assert changed["due/1"] is None
    assert changed["ended/1"] == START_MS
    assert cluster.states(job) == " ".join(["CA"] * 10)


def test_orders_are_done_when_acknowledged(cluster: Cluster) -> None:
    node = cluster.node()
    job = cluster.submit(2)
    node.claim()
    reply = cluster.store.cancel(job, None, by="ann")
    assert (reply.cancelled, reply.running, reply.had_ended) == (1, 1, False)
    assert reply.orders == (("a", "uid-a", 1),)
    assert cluster.store.orders_done(reply.orders) == list(reply.orders)
    assert list(node.orders()) == [1]
    assert list(node.orders()) == [1], "it stands until it is acknowledged"
    assert node.store.renew([1])[1] == []
    assert node.store.renew([1])[1] == []
    assert cluster.store.orders_done(reply.orders) == []


def test_an_order_is_for_the_slots_of_its_time(cluster: Cluster) -> None:
    node = cluster.node(cpus=4)
    job = cluster.submit(2)
    batches = node.claim(2)
    cluster.store.cancel(job, [(0, 0)], by="ann")
    node.end(batches[0], CA)
    cluster.store.requeue(job, [(0, 0)], {State.CANCELLED})
    [again] = node.claim()
    assert (again.first, again.attempt) == (0, 2)
    [text] = node.orders().values()
    assert batches[0].slot <= json.loads(text)["upto"] < again.slot, "it was not acknowledged yet"
    cluster.store.cancel(job, [(0, 0)], by="ann")
    assert json.loads(node.orders()[2])["upto"] == again.slot


def test_what_is_claimed_while_its_reply_is_on_the_way(cluster: Cluster) -> None:
    """The order comes after the reply, as the agent asks for one after the other; or never."""
    node = cluster.node()
    job = cluster.submit(2)
    [batch] = node.claim()
    cluster.store.cancel(job, [(0, 0)], by="ann")
    assert cluster.states(job) == "CG PD"
    assert json.loads(node.orders()[1])["upto"] == batch.slot
    node.held.clear()  # the reply was lost
    node.join()
    assert cluster.states(job) == "CA PD"


def test_range_past_the_cursor_all_keys(cluster: Cluster) -> None:
    job = cluster.submit(1_000_000)
    changed = cluster.once(lambda: cancel(cluster, job, (10, 999_000)))
    assert changed == {
        "j:1/cx": "10-999000", "j:1/c5": "998991", "j:1/rseq": "1", "res:1/1-0": {"x": "1"},
    }  # fmt: skip


def test_range_around_the_cursor(cluster: Cluster) -> None:
    node, other = cluster.node("a"), cluster.node("b")
    job = cluster.submit(10)
    [one] = node.claim(1, {job: 3})
    [two] = other.claim(1, {job: 3})
    node.finish(one, [CD, 0, 0])
    reply = cancel(cluster, job, (0, 7))
    assert reply[:4] == [b"ok", 2, 5, 0]
    assert cluster.states(job) == "CD CG CG CG CG CG CA CA PD PD"
    order = {"op": "cancel", "job": 1, "uid": "uid-of-token-1", "first": 0, "last": 7, "by": "ann",
             "upto": 1}  # fmt: skip
    assert [json.loads(text) for text in node.orders().values()] == [order]
    assert [json.loads(text) for text in other.orders().values()] == [order]
    node.finish(one, [0, CA, CD])
    other.finish(two, [CA] * 3)
    assert cluster.states(job) == "CD CA CD CA CA CA CA CA PD PD"


def test_range_of_waiting_again(cluster: Cluster) -> None:
    node = cluster.node()
    job = cluster.submit(4)
    [batch] = node.claim(1, {job: 4})
    node.finish(batch, [14] * 4)
    changed = cluster.once(lambda: cancel(cluster, job, (1, 2)))
    assert changed["st:1"] == b"\0\x50\x50\0"
    assert [(b.first, b.count) for b in node.claim(2, {job: 4})] == [(0, 1), (3, 1)]


def test_ranges_merge(cluster: Cluster) -> None:
    job = cluster.submit(100)
    for ranges in [(10, 19), (40, 49), (30, 35), (5, 9), (20, 29), (33, 41)]:
        cancel(cluster, job, ranges)
    assert cluster.field("j:1", "cx") == "5-49"
    assert cluster.field("j:1", "c5") == "45"


def test_ranges_that_are_nothing(cluster: Cluster) -> None:
    job = cluster.submit(10)
    assert cluster.changes(lambda: cancel(cluster, job, (12, 20))) == {}
    assert cluster.changes(lambda: cancel(cluster, job, (7, 3))) == {}


def test_no_more_than_256_intervals(cluster: Cluster) -> None:
    job = cluster.submit(10_000)
    for at in range(256):
        cancel(cluster, job, (10 + at * 4, 10 + at * 4))
    with pytest.raises(StoreError, match="256 separate ranges"):
        cluster.store.cancel(job, [(9000, 9000)], by="ann")
    assert cluster.field("j:1", "c5") == "256"
    cluster.store.cancel(job, [(10, 9999)], by="ann")
    assert cluster.field("j:1", "cx") == "10-9999"


def test_passed_intervals_are_forgotten(cluster: Cluster) -> None:
    node = cluster.node(cpus=8)
    job = cluster.submit(100)
    cancel(cluster, job, (2, 3))
    cancel(cluster, job, (6, 7))
    node.claim(4, {job: 2})
    cancel(cluster, job, (50, 51))
    assert cluster.field("j:1", "cx") == "50-51"


def test_all_by_ranges_ends_the_job(cluster: Cluster) -> None:
    job = cluster.submit(10)
    for at in range(0, 10, 2):
        cancel(cluster, job, (at, at + 1))
    assert cluster.store.job(job).has_ended


def test_unknown_and_ended(cluster: Cluster) -> None:
    with pytest.raises(JobNotFound):
        cluster.store.cancel(7, None, by="ann")
    job = cluster.submit()
    cluster.store.cancel(job, None, by="ann")
    assert cluster.store.cancel(job, None, by="ann").had_ended


def test_range_of_an_open_job_is_of_what_is_there(cluster: Cluster) -> None:
    job = cluster.submit(0, is_open=True)
    uid = cluster.uid(job)
    cluster.store.append(job, uid, 0, 4, b"", b"")
    cancel(cluster, job, (2, 100))
    cluster.store.append(job, uid, 4, 2, b"", b"")
    assert cluster.states(job) == "PD PD CA CA PD PD"


def test_range_at_a_lost_node_touches_only_the_range(cluster: Cluster) -> None:
    """What must not be reissued stays with its node, but a cancel must not wait for it."""
    node = cluster.node("a")
    cluster.node("b")
    job = cluster.submit(8, requeue=False)
    [batch] = node.claim(1, {job: 8})
    node.lapse()
    assert cluster.states(job) == "R R R R R R R R"
    cancel(cluster, job, (1, 2))
    assert cluster.states(job) == "R CA CA R R R R R"
    assert node.join() == {batch.slot: b"10011111"}
    node.end(batch)
    assert cluster.states(job) == "CD CA CA CD CD CD CD CD"


def test_cancelled_and_then_lost_ends(cluster: Cluster) -> None:
    node = cluster.node("a")
    cluster.node("b")
    job = cluster.submit(4, requeue=False)
    [batch] = node.claim(1, {job: 4})
    cancel(cluster, job, (1, 2))
    assert cluster.states(job) == "R CG CG R"
    node.lapse()
    assert cluster.states(job) == "R CA CA R"
    assert node.join() == {batch.slot: b"1001"}
    cancel(cluster, job)
    node.lapse()
    assert cluster.states(job) == "CA CA CA CA"
    assert cluster.store.job(job).has_ended


def test_whole_at_a_lost_node_ends(cluster: Cluster) -> None:
    node = cluster.node("a")
    cluster.node("b")
    job = cluster.submit(4, requeue=False)
    [batch] = node.claim(1, {job: 3})
    node.lapse()
    cancel(cluster, job)
    assert cluster.states(job) == "CA CA CA CA"
    assert node.join() == {batch.slot: b"000"}
