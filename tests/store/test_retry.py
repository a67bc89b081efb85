"""Tasks that failed and run again: counts, waits, wishes, and classes with more than the job's."""

from __future__ import annotations

from typing import Any

import pytest

from qsub_py.model import Batch, State
from qsub_py.policy import HOLD, REQUEUE, TRY_AGAIN, Retry
from store.driver import CA, CD, GB, LOST, RETURNED, START_MS, TO, Cluster, F, Node

OOM = 7
LANE = "1|0|0|main|||ann"
AGAIN, RUN_ME, HOLD_ME = 16 * TRY_AGAIN, 16 * REQUEUE, 16 * HOLD
AT_ONCE = Retry(2, 0, 0)


@pytest.fixture
def node(cluster: Cluster) -> Node:
    return cluster.node(cpus=8)


def one(node: Node) -> Batch:
    [batch] = node.claim()
    return batch


def later(cluster: Cluster, job: int) -> dict[int, float]:
    """Return position -> seconds from now until its next attempt."""
    key = f"later:{job}/"
    return {
        int(name[len(key) :]): (value - cluster.now_ms) / 1000
        for name, value in cluster.dump().items()
        if name.startswith(key)
    }


def ripen(cluster: Cluster, seconds: float) -> Any:
    """Let time pass, and a node look after what is due."""
    cluster.set_clock(cluster.now_ms + round(seconds * 1000))
    return cluster.call("promote")


def test_all_keys(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(retry=Retry(3, 10, 60))
    assert cluster.field(f"j:{job}", "retries") == "3"
    batch = one(node)
    found = cluster.once(lambda: node.finish(batch, [AGAIN + F]))
    at = found.pop("later:1/0")
    assert START_MS + 7500 <= at <= START_MS + 12500
    assert found == {
        "st:1": b"\x01", "j:1/c1": "0", "j:1/later": "1", "j:1/later_at": str(int(at)),
        "due/1": at, "rt:1/0": "1:0:0", "on:1/uid-a": None, "slots:uid-a/1": None,
        "node:uid-a/cpus_free": "8", "node:uid-a/mem_free": str(4 * GB),
    }  # fmt: skip
    info = cluster.store.job(job)
    assert (info.later, info.later_at, info.state) == (1, at / 1000, State.PENDING)
    assert node.claim() == []
    cluster.set_clock(int(at) - 1)
    assert cluster.call("promote") == [0, int(at)]
    cluster.set_clock(int(at))
    found = cluster.once(lambda: cluster.call("promote"))
    found = {name: value for name, value in found.items() if name.split("/")[0] != "meta"}
    assert found == {
        "later:1/0": None, "j:1/later": "0", "j:1/later_at": "0", "due/1": None, "again:1": ["0:1"],
        f"lane:{LANE}/1": 1.0, f"lanes/{LANE}": 1.0, "idle/uid-a": None, "inbox:uid-a": ["1"],
    }  # fmt: skip
    again = one(node)
    assert again.attempt == 2
    assert node.end(again) == 1
    assert cluster.states(job) == "CD"


def test_the_waits_double_up_to_their_bound(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(retry=Retry(4, 10, 30))
    for wait in (10, 20, 30, 30):
        node.finish(one(node), [AGAIN + F])
        found = later(cluster, job)[0]
        assert 0.75 * wait <= found <= 1.25 * wait
        ripen(cluster, found)
    node.finish(one(node), [AGAIN + F], bad_exits=((0, 3),))
    assert cluster.bytes_of(job) == [("F", 5)]
    assert cluster.store.job(job).exit_code == 3


def test_tasks_that_fail_together_do_not_come_back_together(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(64, retry=Retry(1, 100, 100))
    [batch] = node.claim(1, {job: 64})
    node.finish(batch, [AGAIN + F] * 64)
    assert len(set(later(cluster, job).values())) > 32


def test_what_is_not_wished_is_an_end(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(4, retry=AT_ONCE)
    [batch] = node.claim(1, {job: 4})
    node.finish(batch, [F, TO, AGAIN + TO, CD], bad_exits=((0, 1), (1, 124), (2, 124)))
    assert cluster.states(job) == "F TO PD CD"
    assert cluster.store.job(job).exit_code == 1


def test_a_wish_without_a_policy_is_an_end(cluster: Cluster, node: Node) -> None:
    job = cluster.submit()
    node.finish(one(node), [AGAIN + F])
    assert cluster.states(job) == "F"


def test_the_exit_code_is_of_tasks_that_ended(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(2, retry=AT_ONCE)
    [batch] = node.claim(1, {job: 2})
    node.finish(batch, [AGAIN + F, F], bad_exits=((0, 5), (1, 6)))
    assert cluster.store.job(job).exit_code == 6


def test_lost_nodes_do_not_count(cluster: Cluster) -> None:
    other = cluster.node("b", cpus=1)
    job = cluster.submit(retry=Retry(1, 0, 0))
    one(other)
    other.lapse()
    node = cluster.node(cpus=1)
    node.finish(one(node), [AGAIN + F])
    assert cluster.bytes_of(job) == [("PD", 2)]
    node.finish(one(node), [AGAIN + F])
    assert cluster.bytes_of(job) == [("F", 3)]


@pytest.mark.parametrize(("on", "ends"), [(("node",), "PD"), (("oom",), "NF")])
def test_died_too_often(cluster: Cluster, node: Node, on: tuple[str, ...], ends: str) -> None:
    job = cluster.submit(retry=Retry(1, 0, 0, on=on))
    for _ in range(3):
        assert cluster.states(job) == "PD"
        node.end(one(node), LOST)
    assert cluster.states(job) == ends
    if ends == "PD":
        node.end(one(node), LOST)
        assert cluster.states(job) == "NF"


def test_a_lost_node_of_a_job_that_must_not_run_again(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(retry=AT_ONCE, requeue=False)
    node.end(one(node), LOST)
    assert cluster.states(job) == "NF"


def test_requeue_at_its_own_wish_has_a_bound(cluster: Cluster, node: Node) -> None:
    job = cluster.submit()
    for attempt in range(1, 101):
        batch = one(node)
        assert batch.attempt == attempt
        node.finish(batch, [RUN_ME + F])
        assert cluster.states(job) == "PD"
    node.finish(one(node), [RUN_ME + F])
    assert cluster.states(job) == "F"
    assert cluster.field(f"rt:{job}", "0") == "0:100:0"


def test_hold_at_its_own_wish(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(2)
    batch = one(node)
    found = cluster.once(lambda: node.finish(batch, [HOLD_ME + F]))
    assert {k: v for k, v in found.items() if k.startswith(("j:", "again", "st:"))} == {
        "again:1": ["0:1"], "st:1": b"\x01", "j:1/c1": "0", "j:1/held": "1", "j:1/held_why": "0",
    }  # fmt: skip
    assert node.claim() == []
    assert cluster.store.job(job).held_why == "0"
    cluster.store.release(job)
    assert cluster.store.job(job).held_why == ""
    assert [(b.first, b.attempt) for b in node.claim(2)] == [(0, 2), (1, 1)]


def test_cancel_while_it_waits(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(3, retry=Retry(1, 10, 10))
    [batch] = node.claim(1, {job: 3})
    node.finish(batch, [AGAIN + F] * 3)
    cluster.store.cancel(job, [(1, 1)], by="ann")
    assert cluster.states(job) == "PD CA PD"
    assert later(cluster, job).keys() == {0, 2}
    cluster.store.cancel(job, None, by="ann")
    assert cluster.states(job) == "CA CA CA"
    assert later(cluster, job) == {}
    assert ripen(cluster, 60) == [0, 0]
    assert cluster.store.job(job).has_ended


def test_a_rerun_begins_its_count_anew(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(retry=Retry(1, 0, 0))
    for _ in range(2):
        node.finish(one(node), [AGAIN + F])
    cluster.store.requeue(job, [(0, 0)], {State.FAILED})
    node.finish(one(node), [AGAIN + F])
    assert cluster.states(job) == "PD"


def test_an_old_entry_does_not_bring_it_back_early(cluster: Cluster, node: Node) -> None:
    """A task that was cancelled and rerun is listed twice; it runs, fails and must wait."""
    job = cluster.submit(2, retry=Retry(1, 10, 10))
    node.end(one(node), RETURNED)
    cluster.store.cancel(job, [(0, 0)], by="ann")
    cluster.store.requeue(job, [(0, 0)], {State.CANCELLED})
    batch = one(node)
    assert batch.first == 0
    node.finish(batch, [AGAIN + F])
    assert [b.first for b in node.claim_all()] == [1]
    ripen(cluster, 20)
    assert [b.first for b in node.claim_all()] == [0]


def test_many_come_due_in_slices(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(600, retry=Retry(1, 10, 10))
    while batches := node.claim(64, {job: 256}):
        for batch in batches:
            node.finish(batch, [AGAIN + F] * batch.count)
    assert cluster.store.job(job).later == 600
    cluster.set_clock(cluster.now_ms + 60_000)
    assert cluster.call("promote")[0] == 256
    node.store.housekeep()
    assert cluster.store.job(job).later == 0
    while batches := node.claim(64, {job: 256}):
        for batch in batches:
            node.end(batch)
    assert cluster.bytes_of(job) == [("CD", 2)] * 600


def test_begin_and_a_retry_are_due_apart(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(2, begin_at=(cluster.now_ms + 5000) / 1000, retry=Retry(1, 10, 10))
    assert node.claim() == []
    ripen(cluster, 5)
    node.finish(one(node), [AGAIN + F])
    assert [b.first for b in node.claim_all()] == [1]
    assert cluster.store.job(job).later == 1


# -- classes -----------------------------------------------------------------------------------


def test_more_memory_after_out_of_memory(cluster: Cluster) -> None:
    small, large = cluster.node("a", mem=2 * GB), cluster.node("b", mem=5 * GB)
    job = cluster.submit(mem_bytes=GB, retry=Retry(5, 0, 0, mem_factor=2.0))
    [batch] = small.claim()
    assert (batch.mem_bytes, batch.level) == (GB, 0)
    found = cluster.once(lambda: small.finish(batch, [AGAIN + OOM]))
    lane = f"1|{2 * GB}|0|main|||ann"
    assert {k: v for k, v in found.items() if k.startswith(("j:", "again", "lane", "rt"))} == {
        "j:1/c1": "0", "j:1/grown": "1", "j:1/classes": "16", "j:1/lane:16": lane,
        "again:1:16": ["0:1"], f"lane:{lane}/1:16": 1.0, f"lanes/{lane}": 1.0, "rt:1/0": "1:0:16",
    }  # fmt: skip
    [batch] = small.claim()
    assert (batch.mem_bytes, batch.level, batch.attempt) == (2 * GB, 16, 2)
    small.finish(batch, [AGAIN + OOM])
    assert small.claim() == []
    [batch] = large.claim()
    assert (batch.mem_bytes, batch.level) == (4 * GB, 32)
    large.finish(batch, [AGAIN + OOM])
    [batch] = large.claim()
    assert batch.mem_bytes == 5 * GB, "no more than the largest node has"
    large.finish(batch, [AGAIN + OOM])
    assert cluster.states(job) == "OOM"
    assert "largest node" in cluster.store.job(job).reason


def test_more_time_after_a_timeout(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(time_s=5, retry=Retry(2, 10, 10, time_factor=2.0))
    node.finish(one(node), [AGAIN + TO])
    assert later(cluster, job).keys() == {0}
    assert node.claim() == []
    ripen(cluster, 20)
    batch = one(node)
    assert batch.level == 1
    node.finish(batch, [AGAIN + F])
    ripen(cluster, 20)
    assert one(node).level == 1, "another failure keeps what it has"


def test_a_grown_task_keeps_its_class(cluster: Cluster, node: Node) -> None:
    """Returned, lost, taken back: it stays what it is."""
    job = cluster.submit(3, mem_bytes=GB, retry=Retry(5, 0, 0, mem_factor=2.0))
    node.finish(one(node), [AGAIN + OOM])
    assert [b.level for b in node.claim_all()] == [0, 0, 16]
    [grown] = [b for b in node.held.values() if b.level == 16]
    node.end(grown, RETURNED)
    again = one(node)
    assert (again.level, again.attempt, again.mem_bytes) == (16, 2, 2 * GB)
    assert {b.slot: b.level for b in node.store.slots()}[again.slot] == 16
    node.end(again, LOST)
    again = one(node)
    assert again.level == 16
    node.lapse()
    node.held = {again.slot: again}
    node.join()
    assert cluster.store.job(job).counts[State.RUNNING] == 1
    assert node.end(again) == 1


def test_a_grown_task_is_cancelled(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(2, mem_bytes=GB, retry=Retry(5, 0, 0, mem_factor=2.0))
    node.finish(one(node), [AGAIN + OOM])
    cluster.store.cancel(job, [(0, 0)], by="ann")
    assert cluster.states(job) == "CA PD"
    assert [b.first for b in node.claim_all()] == [1]
    cluster.store.requeue(job, [(0, 0)], {State.CANCELLED})
    assert [(b.first, b.level) for b in node.claim_all()] == [(0, 0)]


def test_limit_holds_for_all_classes(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(3, limit=1, mem_bytes=GB, retry=Retry(5, 0, 0, mem_factor=2.0))
    node.finish(one(node), [AGAIN + OOM])
    assert len(node.claim_all()) == 1
    assert cluster.states(job).count("R") == 1


def test_grown_and_taken_back_after_a_rollback(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(mem_bytes=GB, retry=Retry(5, 10, 10, mem_factor=2.0))
    node.finish(one(node), [AGAIN + OOM])
    copy = cluster.copy()
    ripen(cluster, 20)
    batch = one(node)
    node.held = {batch.slot: batch}
    cluster.roll_back(copy)
    assert later(cluster, job).keys() == {0}
    assert node.join() == {batch.slot: b"1"}
    assert later(cluster, job) == {}
    assert node.end(batch, LOST) == 1
    assert one(node).level == 16


def test_cancelled_attempt_is_not_tried_again(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(retry=AT_ONCE)
    batch = one(node)
    cluster.store.cancel(job, [(0, 0)], by="ann")
    node.finish(batch, [AGAIN + F])
    assert cluster.states(job) == "F"
    assert CA != F
