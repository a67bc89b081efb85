"""Tasks that wait for single tasks: aftercorr of arrays, calls with the results of others."""

from __future__ import annotations

import random

import pytest

from qsub_py.model import State
from qsub_py.waits import Edge, Group
from store.driver import CA, CD, DF, LOST, RETURNED, Cluster, F, Node


@pytest.fixture
def node(cluster: Cluster) -> Node:
    return cluster.node(cpus=64)


def corr(parent: int, count: int) -> Group:
    return Group(0, count, (Edge(parent, 0, 1, 1),))


def run(node: Node, code: int = CD) -> list[tuple[int, int]]:
    """Claim all that may start and end it; returns (job, position), in order."""
    found = []
    while batches := node.claim(1000, dict.fromkeys(range(1, 9), 64)):
        for batch in batches:
            node.end(batch, code)
            found += [(batch.job, batch.first + i) for i in range(batch.count)]
    return found


def drain(node: Node) -> None:
    """As an agent does at each turn."""
    while node.store.unfinished:
        node.store.tend()


def test_all_keys(cluster: Cluster, node: Node) -> None:
    parent = cluster.submit(4)
    made = cluster.once(lambda: cluster.needing(corr(parent, 4), count=4, token="t"))
    assert {n: made[n] for n in made if not n.startswith("j:2")} == {
        "active/2": 2.0, "in:2/1-0": {"n": "4", "k": "1", "e": "1:0:1:1"}, "j:1/kids": "2",
        "meta/job": "2", "tok:t": b"2", "uses:1/-:2:0:0:1:1:4": 2.0**40,
    }  # fmt: skip
    assert (made["j:2/wait"], made["j:2/gate"]) == ("4", "2")
    batches = node.claim_all()
    done = cluster.once(lambda: node.end(batches[2]))
    assert (done["st:2"], done["again:2"]) == (b"\xb0\xb0\0", ["2:1"])
    assert (done["j:2/wait"], done["j:2/cursor"]) == ("3", "3")
    failed = cluster.once(lambda: node.end(batches[1], F))
    assert (failed["st:2"], failed["j:2/c9"], failed["j:2/wait"]) == (b"\xb0\x90\0", "1", "2")
    assert cluster.states(2) == "PD DF PD PD"
    assert run(node) == [(2, 2)]
    cluster.store.cancel(1, [(0, 3)], by="ann")
    for batch in batches[:1] + batches[3:]:
        node.end(batch, CA)
    assert cluster.states(2) == "DF DF CD DF"
    assert cluster.store.job(2).has_ended


def test_parent_that_had_ended(cluster: Cluster, node: Node) -> None:
    parent = cluster.submit(3)
    batches = node.claim_all()
    for batch, code in zip(batches, (CD, F, CD), strict=True):
        node.end(batch, code)
    child = cluster.needing(corr(parent, 3), count=3)
    assert cluster.states(child) == "PD DF PD"
    assert run(node) == [(child, 0), (child, 2)]


def test_cancelled_parents(cluster: Cluster, node: Node) -> None:
    parent = cluster.submit(6, is_held=True)
    child, deep = cluster.needing(corr(1, 6), count=6), cluster.needing(corr(2, 6), count=6)
    cluster.store.cancel(parent, [(1, 2)], by="ann")
    assert cluster.states(deep) == "PD DF DF PD PD PD"
    cluster.store.cancel(child, [(4, 4)], by="ann")
    assert cluster.states(deep) == "PD DF DF PD DF PD"
    cluster.store.cancel(parent, None, by="ann")
    assert cluster.states(child) == "DF DF DF DF CA DF"
    assert cluster.states(deep) == " ".join(["DF"] * 6)
    after_all = cluster.needing(corr(parent, 6), count=6)
    assert cluster.states(after_all) == " ".join(["DF"] * 6)


def test_two_parents_and_steps(cluster: Cluster, node: Node) -> None:
    a, b = cluster.submit(8), cluster.submit(8)
    group = Group(0, 4, (Edge(a, 0, 1, 2), Edge(b, 1, 2, 2)))
    child = cluster.needing(group, count=4)
    batches = {(x.job, x.first): x for x in node.claim_all()}
    order = list(batches)
    random.Random(1).shuffle(order)
    started, ended = set(), set()
    for key in order:
        node.end(batches[key])
        ended.add(key)
        started |= {x.first for x in node.claim_all()}
        ready = {i for i in range(3)
                 if {(a, 2 * i), (b, 2 * i + 1), (b, 2 * i + 2)} <= ended}  # fmt: skip
        assert started == ready
    assert cluster.states(child) == "R R R DF", "b has no task 8"


def test_requeued_children_look_again(cluster: Cluster, node: Node) -> None:
    parent = cluster.submit(3)
    child = cluster.needing(corr(parent, 3), count=3)
    run(node)
    cluster.store.requeue(parent, [(1, 1)], {State.COMPLETED})
    cluster.store.requeue(child, [(0, 2)], {State.COMPLETED})
    [again] = [b for b in node.claim_all() if b.job == parent]
    assert cluster.states(child) == "R PD R"
    node.end(again)
    assert sorted(run(node)) == [(child, 1)]


def test_returned_and_lost_children(cluster: Cluster, node: Node) -> None:
    parent = cluster.submit(3)
    child = cluster.needing(corr(parent, 3), count=3)
    for batch in node.claim_all():
        node.end(batch)
    [batch] = node.claim(1, {child: 3})
    node.finish(batch, [LOST, RETURNED, RETURNED])
    assert cluster.states(child) == "PD PD PD"
    assert sorted(run(node)) == [(child, 0), (child, 1), (child, 2)]


def test_limit_and_conditions_too(cluster: Cluster, node: Node) -> None:
    parent, gate = cluster.submit(4), cluster.submit(is_held=True)
    waits = {"corr": str(corr(parent, 4)), "after": f"afterok:{gate}:0:0:2", "asked": 1}
    child = cluster.submit(4, limit=2, waits=waits)
    run(node)
    assert run(node) == []
    cluster.store.release(gate)
    [batch] = node.claim_all()
    node.end(batch)
    assert len(node.claim_all()) == 2
    assert cluster.states(child).split().count("R") == 2


def test_rolled_back_store_takes_children_back(cluster: Cluster) -> None:
    node = cluster.node(cpus=8)
    parent = cluster.submit(2)
    child = cluster.needing(corr(parent, 2), count=2)
    [batch] = node.claim(1, {parent: 2})
    keys = cluster.copy()
    node.end(batch)
    [running] = node.claim(1, {child: 2})
    cluster.roll_back(keys)
    node.held = {b.slot: b for b in (batch, running)}
    masks = node.join()
    assert masks == {batch.slot: b"11", running.slot: b"11"}
    assert cluster.states(child) == "R R"
    node.end(batch)
    node.end(running)
    assert cluster.states(child) == "CD CD"


# -- calls -------------------------------------------------------------------------------------


def test_calls_of_one_job_and_of_others(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(0, is_open=True)
    other = cluster.submit(0, is_open=True)
    cluster.calls(job, 4)
    cluster.calls(other, 6, Group(1, 3, (Edge(job, 0, 1, 1),)))
    cluster.calls(job, 2, Group(4, 1, (Edge(other, 0, 6),)), Group(5, 1, (Edge(job, 4),)))
    assert run(node) == [
        (job, 0), (job, 1), (job, 2), (job, 3), (other, 0), (other, 4), (other, 5),
        (other, 1), (other, 2), (other, 3), (job, 4), (job, 5),
    ]  # fmt: skip
    cluster.store.close_job(job)
    assert cluster.store.job(job).has_ended


def test_call_whose_input_is_there(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(0, is_open=True)
    cluster.calls(job, 2)
    first, second = node.claim_all()
    node.end(first)
    node.end(second, F)
    cluster.calls(job, 2, Group(2, 1, (Edge(job, 0),)), Group(3, 1, (Edge(job, 1),)))
    assert cluster.states(job) == "CD F PD DF"
    cluster.calls(job, 1, Group(4, 1, (Edge(99, 1),)))
    assert cluster.states(job) == "CD F PD DF DF"


@pytest.mark.parametrize("many", [False, True])
def test_chord(cluster: Cluster, node: Node, many: bool) -> None:
    job = cluster.submit(0, is_open=True)
    cluster.calls(job, 100)
    edges = [Edge(job, p) for p in range(100)] if many else [Edge(job, 0, 100)]
    random.Random(2).shuffle(edges)
    cluster.calls(job, 2, Group(100, 1, tuple(edges)), Group(101, 1, (Edge(job, 100),)))
    batches = node.claim_all()
    more = node.claim_all()
    batches += more
    while len(batches) < 100:
        node.end(batches[len(batches) - 64])
        batches += node.claim_all()
    for batch in batches[36:-1]:
        node.end(batch)
    assert node.claim_all() == []
    node.end(batches[-1])
    assert run(node) == [(job, 100), (job, 101)]
    assert not [name for name in cluster.dump() if name.startswith("ptr:")]


@pytest.mark.parametrize("many", [False, True])
def test_chord_fails_at_once(cluster: Cluster, node: Node, many: bool) -> None:
    job = cluster.submit(0, is_open=True)
    cluster.calls(job, 60)
    edges = [Edge(job, p) for p in range(60)] if many else [Edge(job, 0, 60)]
    cluster.calls(job, 2, Group(60, 1, tuple(edges)), Group(61, 1, (Edge(job, 60),)))
    batches = node.claim_all()
    node.end(batches[40], F)
    drain(node)
    assert cluster.states(job).split()[60:] == ["DF", "DF"]
    cluster.store.rerun_tree(job)
    assert cluster.states(job).split()[60:] == ["PD", "PD"]
    for batch in batches[:40] + batches[41:]:
        node.end(batch)
    assert run(node) == [(job, 40), (job, 60), (job, 61)]


def test_chain_within_a_job(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(0, is_open=True)
    cluster.calls(job, 1)
    for at in range(1, 300):
        cluster.calls(job, 1, Group(at, 1, (Edge(job, at - 1),)))
    [batch] = node.claim_all()
    node.end(batch, F)
    drain(node)
    assert cluster.states(job) == " ".join(["F"] + ["DF"] * 299)
    cluster.store.rerun_tree(job)
    assert cluster.states(job) == " ".join(["PD"] * 300)
    assert run(node) == [(job, at) for at in range(300)]


def test_cancel_in_the_middle(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(0, is_open=True)
    cluster.calls(job, 1)
    for at in range(1, 5):
        cluster.calls(job, 1, Group(at, 1, (Edge(job, at - 1),)))
    cluster.once(lambda: cluster.store.cancel(job, [(2, 2)], by="ann"))
    assert cluster.states(job) == "PD PD CA DF DF"
    assert run(node) == [(job, 0), (job, 1)]
    cluster.store.cancel(job, None, by="ann")
    assert cluster.store.job(job).has_ended


def test_append_replayed(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(0, is_open=True)
    cluster.calls(job, 2)
    group = Group(2, 2, (Edge(job, 0, 1, 1),))
    uid = cluster.uid(job)

    def append() -> None:
        cluster.store.append(job, uid, 2, 2, b"", b"", inputs=[group])

    cluster.once(append)
    assert run(node) == [(job, 0), (job, 1), (job, 2), (job, 3)]
    assert cluster.changes(append) == {}


def test_whole_job_that_waits_for_a_job_of_calls(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(0, is_open=True)
    cluster.calls(job, 1)
    child = cluster.after(f"afterok:{job}")
    cluster.calls(job, 1, Group(1, 1, (Edge(job, 0),)))
    [batch] = node.claim_all()
    node.end(batch, F)
    assert (cluster.states(job), cluster.states(child)) == ("F DF", "DF")
    assert State.DEP_FAILED.code == DF
