"""A server that restarted, or came up with older data: noticed, told, healed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qsub_py.store_node import Refused
from store.driver import CD, LOST, RETURNED, Cluster


def test_restart_all_keys(cluster: Cluster) -> None:
    node, other = cluster.node("a"), cluster.node("b")
    job = cluster.submit(4)
    batches = node.claim(2)
    cluster.restart()
    with pytest.raises(Refused) as caught:
        node.store.renew([])
    assert caught.value.word == "RUNID"
    changed = cluster.changes(node.hello)
    assert changed == {
        "meta/runid": "run-1", "meta/epoch": "1", "meta/job": "1001", "meta/rec_until": "60000",
        "rec/uid-a": True, "rec/uid-b": True, "node:uid-a/inc": "2", "node:uid-a/req": "0",
        "node:uid-a/reply": "", "node:uid-a/run": "run-1",
    }  # fmt: skip
    assert cluster.store.health().is_recovering
    assert node.store.reconcile(batches) == {b.slot: b"1" for b in batches}
    assert node.ask(1).must_wait
    assert node.end(batches[0]) == 1
    changed = cluster.changes(other.join)
    assert changed == {"rec/uid-b": None, "node:uid-b/inc": "2", "node:uid-b/run": "run-1"}
    assert [b.epoch for b in other.claim()] == [1]
    assert node.end(batches[1]) == 1, "what runs keeps the epoch it was claimed in"
    assert cluster.store.submit(cluster.submission())[0] == 1002
    assert cluster.states(job) == "CD CD R PD"


def test_claims_wait_for_a_lease_at_most(cluster: Cluster) -> None:
    node, _ = cluster.node("a"), cluster.node("b")
    cluster.submit()
    cluster.restart()
    node.join()
    for _ in range(19):
        cluster.serve(3)
        node.store.renew([])
        assert node.ask().must_wait
    cluster.serve(3)
    assert len(node.claim()) == 1
    assert not cluster.store.health().is_recovering


def test_node_that_lapses_is_not_waited_for(cluster: Cluster) -> None:
    node, gone = cluster.node("a"), cluster.node("b")
    cluster.submit()
    for _ in range(15):
        cluster.serve(3)
        node.store.renew([])
    cluster.restart()
    node.join()
    for _ in range(5):
        cluster.serve(3)
        node.store.renew([])
    assert cluster.call("sweep") == [0, 0]
    assert not gone.is_live()
    assert len(node.claim()) == 1


def test_node_that_says_bye_is_not_waited_for(cluster: Cluster) -> None:
    node, gone = cluster.node("a"), cluster.node("b")
    cluster.submit()
    cluster.restart()
    node.join()
    gone.hello()
    gone.store.bye()
    assert len(node.claim()) == 1


def test_second_restart_waits_again(cluster: Cluster) -> None:
    node, other = cluster.node("a"), cluster.node("b")
    cluster.submit()
    cluster.restart()
    node.join()
    cluster.restart()
    other.join()
    assert other.ask().must_wait
    node.join()
    assert len(other.claim()) == 1
    assert cluster.field("meta", "epoch") == "2"


def test_same_number_in_two_batches(cluster: Cluster) -> None:
    """A task left a batch and is taken back in an older one, of a time that was rolled back."""
    node = cluster.node()
    job = cluster.submit(3)
    copy = cluster.copy()
    [old] = node.claim(1, {job: 3})
    cluster.roll_back(copy)
    node.held.clear()
    node.join()
    other = cluster.submit()
    node.store.reconcile([old])
    node.finish(old, [RETURNED] * 3)
    [new] = [b for b in node.claim(2, {job: 3}) if b.job != other]
    node.finish(new, [LOST, CD, 0])
    assert node.store.reconcile([old, new])[new.slot] == b"001"
    assert node.finish(new, [CD] * 3) == 1
    assert node.finish(old, [CD] * 3) == 1
    assert cluster.states(job) == "CD CD CD"


def test_numbers_are_new_after_each_rollback(cluster: Cluster) -> None:
    """Twice the same copy: the store forgets, its nodes remember."""
    node, other = cluster.node("a"), cluster.node("b")
    copy, seen = cluster.copy(), set()
    for order in ((node, other), (other, node), (node, other)):
        cluster.roll_back(copy)
        for each in order:
            each.join()
        job = cluster.submit()
        [batch] = order[0].claim()
        assert {("job", job), ("epoch", batch.epoch)}.isdisjoint(seen)
        seen |= {("job", job), ("epoch", batch.epoch)}
        order[0].held.clear()
        cluster.submit()
        [batch] = order[1].claim()
        seen.add(("epoch", batch.epoch))
        order[1].held.clear()


def test_numbers_are_new_when_all_was_deleted(cluster: Cluster) -> None:
    node = cluster.node()
    for _ in range(3):
        cluster.restart()
        node.join()
    job = cluster.submit()
    cluster.roll_back({})
    node.join()
    assert cluster.field("meta", "epoch") == "4"
    assert cluster.submit() > job


def test_only_page_by_page_and_the_last_ends_it(cluster: Cluster) -> None:
    node = cluster.node(cpus=100)
    cluster.submit(100)
    batches = node.claim_all()
    cluster.restart()
    node.hello()
    words = [w for b in batches[:64] for w in (b.slot, b.job, b.uid, b.first, b.count, "1:0:")]
    slots = ",".join(str(b.slot) for b in batches)
    cluster.call("reconcile", *node.store._me(), 0, slots, *words)
    assert node.ask(1).must_wait
    assert node.store.reconcile(batches) == {b.slot: b"1" for b in batches}
    assert not node.ask(1).must_wait


def test_rolled_back_claims_are_adopted(cluster: Cluster) -> None:
    node, other = cluster.node("a"), cluster.node("b")
    job = cluster.submit(100)
    copy = cluster.copy()
    one = node.claim(1, {job: 3})
    two = other.claim(1, {job: 4})
    three = node.claim(1, {job: 5})
    cluster.roll_back(copy)
    assert node.join() == {one[0].slot: b"111", three[0].slot: b"11111"}
    assert cluster.states(job).split()[:12] == ["R"] * 3 + ["PD"] * 4 + ["R"] * 5
    assert other.join() == {two[0].slot: b"1111"}
    assert cluster.states(job).split()[:13] == ["R"] * 12 + ["PD"]
    for node_, batch in ((node, one[0]), (other, two[0]), (node, three[0])):
        assert node_.end(batch) == batch.count
    assert cluster.store.job(job).counts[cluster.store.states(job, 0, 1)[0][0]] == 12


def test_rolled_back_ends_are_told_again(cluster: Cluster) -> None:
    node = cluster.node()
    job = cluster.submit(3)
    [batch] = node.claim(1, {job: 3})
    copy = cluster.copy()
    node.end(batch)
    assert cluster.store.job(job).has_ended
    cluster.roll_back(copy)
    assert node.join() == {batch.slot: b"111"}
    assert node.end(batch) == 3
    assert cluster.store.job(job).has_ended


def test_rolled_back_claims_and_ends(cluster: Cluster) -> None:
    node = cluster.node()
    job = cluster.submit(3)
    copy = cluster.copy()
    [batch] = node.claim(1, {job: 3})
    node.finish(batch, [CD, 0, RETURNED])
    cluster.roll_back(copy)
    node.join()
    assert node.finish(batch, [CD, 0, RETURNED]) == 2
    assert cluster.states(job) == "CD R PD"


def test_rolled_back_job_is_told_gone(cluster: Cluster) -> None:
    node = cluster.node()
    copy = cluster.copy()
    job = cluster.submit(token="first")
    [batch] = node.claim()
    cluster.roll_back(copy)
    assert node.join() == {batch.slot: b"0"}
    assert node.end(batch) == 0
    assert cluster.submit(token="first") > job, "the client that asks again gets a new id"


def test_rolled_back_appends(cluster: Cluster) -> None:
    node = cluster.node()
    job = cluster.submit(0, is_open=True)
    uid = cluster.uid(job)
    cluster.store.append(job, uid, 0, 2, b"", b"")
    copy = cluster.copy()
    cluster.store.append(job, uid, 2, 2, b"", b"")
    [old] = node.claim(1, {job: 2})
    [new] = node.claim(1, {job: 2})
    cluster.roll_back(copy)
    assert node.join() == {old.slot: b"11", new.slot: b"00"}
    cluster.store.append(job, uid, 2, 2, b"", b"")
    assert cluster.states(job) == "R R PD PD"


def test_rolled_back_append_cuts_a_batch(cluster: Cluster) -> None:
    node = cluster.node()
    job = cluster.submit(0, is_open=True)
    uid = cluster.uid(job)
    cluster.store.append(job, uid, 0, 2, b"", b"")
    copy = cluster.copy()
    cluster.store.append(job, uid, 2, 2, b"", b"")
    [batch] = node.claim(1, {job: 4})
    assert batch.count == 4
    cluster.roll_back(copy)
    assert node.join() == {batch.slot: b"1100"}
    cluster.store.append(job, uid, 2, 2, b"", b"")
    assert node.end(batch, LOST) == 2
    assert cluster.states(job) == "PD PD PD PD"


def test_cancelled_before_its_nodes_are_back(cluster: Cluster) -> None:
    """A range is cancelled of which the server forgot that some of it runs."""
    node = cluster.node()
    job = cluster.submit(20)
    copy = cluster.copy()
    node.claim(1, {job: 4})
    [batch] = node.claim(1, {job: 4})
    cluster.roll_back(copy)
    cluster.store.cancel(job, [(2, 5), (10, 11)], by="ann")
    node.held = {batch.slot: batch}
    assert node.join() == {batch.slot: b"0011"}
    assert cluster.states(job).split()[:13] == (
        ["PD"] * 2 + ["CA"] * 4 + ["R"] * 2 + ["PD"] * 2 + ["CA"] * 2 + ["PD"]
    )
    node.end(batch)
    ran = set()
    while batches := node.claim(2, {job: 8}):
        for b in batches:
            ran |= set(range(b.first, b.first + b.count))
            node.end(b)
    assert ran == {0, 1, 8, 9, *range(12, 20)}
    assert cluster.store.job(job).has_ended


def test_two_holders_after_a_rollback_one_stays(cluster: Cluster) -> None:
    """The server forgot a lapse: the first attempt and the second come back, one of them may."""
    node, other = cluster.node("a"), cluster.node("b")
    job = cluster.submit(2)
    copy = cluster.copy()
    [old] = node.claim(1, {job: 2})
    node.lapse()
    [new] = other.claim(1, {job: 1})
    assert (new.first, new.attempt) == (0, 2)
    cluster.roll_back(copy)
    assert other.join() == {new.slot: b"1"}
    assert node.join() == {old.slot: b"01"}
    assert node.finish(old, [LOST, LOST]) == 1
    assert other.end(new) == 1
    assert cluster.states(job) == "CD PD"


def test_node_that_the_copy_does_not_know_comes_late(cluster: Cluster) -> None:
    """It joined after the copy was made, so nobody waited for it, and its tasks run elsewhere."""
    node = cluster.node("a", cpus=4)
    job = cluster.submit(6)
    copy = cluster.copy()
    late = cluster.node("late")
    [batch] = late.claim(1, {job: 4})
    cluster.roll_back(copy)
    node.join()
    [again] = node.claim(1, {job: 4})
    assert (again.first, again.count, again.attempt) == (0, 4, 1)
    node.finish(again, [0, 0, RETURNED, RETURNED])
    assert late.join() == {batch.slot: b"0011"}
    for codes in ([CD] * 2, [LOST] * 2, [RETURNED] * 2):
        assert late.finish(batch, codes) == 0
    assert node.finish(again, [CD, CD]) == 2
    assert late.finish(batch, [CD] * 4) == 2
    assert cluster.states(job) == "CD CD CD CD PD PD"


@pytest.mark.parametrize("act", ["hold", "cancel", "submit", "release", "requeue"])
def test_clients_work_during_a_recovery(cluster: Cluster, act: str) -> None:
    node, _ = cluster.node("a"), cluster.node("b")
    job = cluster.submit(3)
    node.claim()
    cluster.restart()
    node.join()
    acts: dict[str, Callable[[], object]] = {
        "hold": lambda: cluster.store.hold(job),
        "release": lambda: cluster.store.release(job),
        "cancel": lambda: cluster.store.cancel(job, [(0, 1)], by="ann"),
        "submit": lambda: cluster.submit(),
        "requeue": lambda: cluster.store.requeue(job, [(0, 2)], set()),
    }
    acts[act]()
