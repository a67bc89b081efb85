"""finish.lua: what a report of ends is believed, and once."""

from __future__ import annotations

import dataclasses

import pytest

from qsub_py.model import Batch, State
from qsub_py.store_node import Refused
from store.driver import CA, CD, GB, LOST, NF, RETURNED, START_MS, TO, Cluster, F, Node


@pytest.fixture
def node(cluster: Cluster) -> Node:
    return cluster.node("a")


def claim_one(node: Node, count: int = 1, **options: object) -> Batch:
    """Submit a job and claim all of it in one slot."""
    job = node.cluster.submit(count, **options)
    [batch] = node.claim(1, {job: count})
    assert batch.count == count
    return batch


def test_all_keys(cluster: Cluster, node: Node) -> None:
    batch = claim_one(node, 3)
    report = {"bad_exits": ((1, 7),), "tails": ((0, b"ab"), (1, b"xyz")), "blobs": ("big",)}
    assert cluster.once(lambda: node.finish(batch, [CD, F, 0], **report)) == {
        "st:1": b"\x31\x41\x11", "j:1/c1": "1", "j:1/c3": "1", "j:1/c4": "1",
        "j:1/exit": "7", "j:1/exit_at": "1", "j:1/tails": "5", "tail:1/0": "ab", "tail:1/1": "xyz",
        "j:1/rseq": "1", "res:1/1-0": {"f": "0", "c": "\x03\x04\x00", "d": "data", "s": "sig"},
        "rx:1": b"\0\0\0\1\0\0\0\1", "blobs:1/big": True,
        "slots:uid-a/1": f"1|0|3|1|0|{START_MS}|1|{2 * GB}||1|001|0|ann|60",
    }  # fmt: skip
    assert cluster.once(lambda: node.finish(batch, [0, 0, TO])) == {
        "st:1": b"\x31\x41\x61", "j:1/c1": "0", "j:1/c6": "1",
        "j:1/rseq": "3", "res:1/2-0": {"f": "0", "c": "\0\0\x06", "d": "data", "s": "sig"},
        "res:1/3-0": {"x": "1"}, "rx:1": b"\0\0\0\1\0\0\0\1\0\0\0\2",
        "slots:uid-a/1": None, "on:1/uid-a": None, "node:uid-a/cpus_free": "2",
        "node:uid-a/mem_free": str(4 * GB), "j:1/ended": str(START_MS), "active/1": None,
        "ended/1": float(START_MS),
    }  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [{"slot": 9}, {"attempt": 2}, {"epoch": 1}, {"uid": "another"}, {"job": 2}, {"job": 99}],
)
def test_fencing_token(cluster: Cluster, node: Node, wrong: dict) -> None:
    batch = claim_one(node, 2)
    cluster.submit()
    stale = dataclasses.replace(batch, **wrong)
    assert cluster.changes(lambda: node.finish(stale, [CD, CD])) == {}
    assert node.finish(batch, [CD, CD]) == 2


def test_another_node_cannot_speak(cluster: Cluster, node: Node) -> None:
    batch, other = claim_one(node), cluster.node("b")
    assert cluster.changes(lambda: other.finish(batch, [CD])) == {}


@pytest.mark.parametrize("word", ["FENCED", "RUNID", "lapsed"])
def test_refused(cluster: Cluster, node: Node, word: str) -> None:
    batch = claim_one(node)
    uid, inc, run = node.store._me()
    if word == "lapsed":
        cluster.node("b")
        node.lapse()
        word = "FENCED"
    else:
        node.store._me = lambda: {  # type: ignore[method-assign]
            "FENCED": (uid, int(inc) - 1, run), "RUNID": (uid, inc, "run-other"),
        }[word]  # fmt: skip
    before = cluster.dump()
    with pytest.raises(Refused) as caught:
        node.finish(batch, [CD])
    assert caught.value.word == word
    assert cluster.dump() == before


def test_codes_that_say_nothing(cluster: Cluster, node: Node) -> None:
    batch = claim_one(node, 8)
    assert cluster.changes(lambda: node.finish(batch, [0, 1, 2, 10, 11, 12, 16, 200])) == {}
    assert cluster.changes(lambda: node.finish(batch, [17, 19, 21, 24, 25, 31, 68, 255])) == {}
    assert cluster.changes(lambda: node.finish(batch, [])) == {}


def test_several_groups_in_one_call(cluster: Cluster) -> None:
    node = cluster.node(cpus=8)
    job = cluster.submit(6)
    batches = node.claim(3, {job: 2})
    replies = []

    def finish_all() -> None:
        groups = [w for b in batches for w in node_report(b)]
        replies.append(cluster.call("finish", *node.store._me(), *groups))

    cluster.once(finish_all)
    assert replies == [[b"ok", 0, 2, 2, 2], [b"ok", 0, 0, 0, 0]]
    assert cluster.store.job(job).has_ended


def node_report(batch: Batch) -> tuple:
    """Return the group of arguments of a batch all of whose tasks completed."""
    codes = bytes([CD] * batch.count)
    return (batch.job, batch.uid, batch.slot, batch.epoch, batch.attempt, codes, b"d", b"s", "",
            "", "", "", "", "", "")  # fmt: skip


def test_lost_runs_again_and_thrice_is_enough(cluster: Cluster, node: Node) -> None:
    job = cluster.submit()
    for attempt in (1, 2, 3):
        assert cluster.states(job) == "PD"
        [batch] = node.claim()
        assert batch.attempt == attempt
        cluster.once(lambda batch=batch: node.finish(batch, [LOST]))
    assert cluster.bytes_of(job) == [("NF", 3)]
    assert cluster.store.job(job).has_ended


def test_lost_is_counted_once_an_attempt(cluster: Cluster, node: Node) -> None:
    """An agent that joins again takes its batch back and tells all once more."""
    job = cluster.submit()
    [batch] = node.claim()
    for _ in range(4):
        node.finish(batch, [LOST])
        node.join()
    node.finish(batch, [LOST])
    assert cluster.field(f"ct:{job}", "0") == "1:1"
    assert cluster.states(job) == "PD"


def test_lost_without_requeue(cluster: Cluster, node: Node) -> None:
    batch = claim_one(node, requeue=False)
    node.finish(batch, [LOST])
    assert cluster.bytes_of(batch.job) == [("NF", 1)]


def test_returned_from_the_tail_is_not_counted(cluster: Cluster, node: Node) -> None:
    batch = claim_one(node, 4)
    assert cluster.once(lambda: node.finish(batch, [0, 0, RETURNED, RETURNED])) == {
        "st:1": b"\x11\x11\0\0", "j:1/c1": "2", "again:1": ["2:2"],
        "slots:uid-a/1": f"1|0|2|1|0|{START_MS}|1|{2 * GB}||2|11|0|ann|60",
        "lane:1|0|0|main|||ann/1": 1.0, "lanes/1|0|0|main|||ann": 1.0,
    }  # fmt: skip


def test_returned_from_the_middle_is_counted(cluster: Cluster, node: Node) -> None:
    """Its number stays with the batch, which goes on: a replay must find another one."""
    batch, other = claim_one(node, 3), cluster.node("b")
    cluster.once(lambda: node.finish(batch, [0, RETURNED, 0]))
    assert cluster.bytes_of(batch.job) == [("R", 1), ("PD", 1), ("R", 1)]
    [again] = other.claim()
    assert (again.first, again.attempt) == (1, 2)
    assert cluster.changes(lambda: node.finish(batch, [0, RETURNED, 0])) == {}


@pytest.mark.parametrize("codes", [(0, 0, RETURNED, RETURNED), (RETURNED,) * 4])
def test_returned_again_while_another_runs_it(
    cluster: Cluster, node: Node, codes: tuple[int, ...]
) -> None:
    batch, other = claim_one(node, 4), cluster.node("b")
    node.finish(batch, codes)
    [again] = other.claim(1, {batch.job: 4})
    assert again.attempt == 1
    assert cluster.changes(lambda: node.finish(batch, codes)) == {}
    assert cluster.changes(lambda: node.finish(batch, [0, 0, CD, LOST])) == {}
    assert other.end(again) == again.count


def test_returned_ends_when_the_job_is_cancelled(cluster: Cluster, node: Node) -> None:
    batch = claim_one(node, 3)
    cluster.store.cancel(batch.job, None, by="ann")
    assert cluster.states(batch.job) == "CG CG CG"
    node.finish(batch, [RETURNED, LOST, CD])
    assert cluster.states(batch.job) == "CA CA CD"


def test_attempts_above_14(cluster: Cluster, node: Node) -> None:
    job, other = cluster.submit(2), cluster.node("b")
    for attempt in range(1, 19):
        [batch] = node.claim()
        assert (batch.first, batch.attempt) == (0, attempt)
        cluster.call("finish", *node.store._me(), *node_report(batch)[:5], bytes([13]), *[""] * 9)
    assert cluster.field(f"at:{job}", "0") == "18"
    [batch] = node.claim()
    assert batch.attempt == 19
    stale = dataclasses.replace(batch, attempt=18)
    assert cluster.changes(lambda: node.finish(stale, [CD])) == {}
    node.finish(batch, [RETURNED])
    [again] = other.claim()
    assert (again.first, again.attempt) == (0, 19)
    other.finish(again, [CD])
    assert cluster.bytes_of(job) == [("CD", 15), ("PD", 0)]


def test_return_from_15_to_14(cluster: Cluster, node: Node) -> None:
    job = cluster.submit()
    for _ in range(14):
        [batch] = node.claim()
        cluster.call("finish", *node.store._me(), *node_report(batch)[:5], bytes([13]), *[""] * 9)
    for _ in range(3):
        [batch] = node.claim()
        assert batch.attempt == 15
        node.finish(batch, [RETURNED])
        assert cluster.bytes_of(job) == [("PD", 14)]
    assert not [name for name in cluster.dump() if name.startswith("at:")]


def test_exit_code_is_the_lowest_positions(cluster: Cluster, node: Node) -> None:
    batch = claim_one(node, 4)
    node.finish(batch, [0, 0, F, 0], bad_exits=((2, 5),))
    node.finish(batch, [0, 0, 0, F], bad_exits=((3, 6),))
    assert cluster.store.job(batch.job).exit_code == 5
    node.finish(batch, [0, F, 0, 0], bad_exits=((1, -9),))
    assert cluster.store.job(batch.job).exit_code == -9


def test_exit_code_of_what_is_not_accepted(cluster: Cluster, node: Node) -> None:
    batch = claim_one(node, 2)
    node.finish(batch, [CD, 0])
    node.finish(batch, [F, CD], bad_exits=((0, 5),))
    assert cluster.states(batch.job) == "CD CD"
    assert cluster.store.job(batch.job).exit_code is None


def test_tails_have_a_budget(cluster: Cluster) -> None:
    node = cluster.node(cpus=4)
    batch, piece = claim_one(node, 20), b"x" * 2**20
    for at in range(20):
        code = CD if at < 12 else F
        codes = [0] * at + [code] + [0] * (19 - at)
        node.finish(batch, codes, tails=((at, piece),))
    kept = [at for at in range(20) if cluster.store.tail(batch.job, at)]
    assert kept == [*range(8), *range(12, 20)], "8 MB of successes, 16 MB with failures"


def test_result_of_one_in_many(cluster: Cluster) -> None:
    node = cluster.node(cpus=8)
    job = cluster.submit(100)
    batches = [b for _ in range(5) for b in node.claim(1, {job: 20})]
    for number, batch in enumerate(batches):
        node.finish(batch, [CD] * 20, data=b"part %d" % number)
    assert [e.data for e in cluster.store.results_of(job, [0, 45, 59, 99])] == [
        b"part 0", b"part 2", b"part 4",
    ]  # fmt: skip
    assert cluster.store.job(job).counts[State.COMPLETED] == 100


@pytest.mark.parametrize("code", [CD, F, CA, TO, NF])
def test_what_was_told_to_end_keeps_its_own_end(cluster: Cluster, node: Node, code: int) -> None:
    batch = claim_one(node)
    cluster.store.cancel(batch.job, [(0, 0)], by="ann")
    assert cluster.states(batch.job) == "CG"
    node.finish(batch, [code])
    assert cluster.store.job(batch.job).state is State.from_code(code)
