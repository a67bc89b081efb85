"""Jobs that wait for jobs: conditions, decided when what they are about ends."""

from __future__ import annotations

import pytest

from qsub_py.errors import JobNotFound
from qsub_py.model import State
from qsub_py.waits import Edge, Group
from store.driver import CA, CD, DF, LOST, START_MS, TO, Cluster, F, Node

LANE = "1|0|0|main|||ann"


@pytest.fixture
def node(cluster: Cluster) -> Node:
    return cluster.node(cpus=64)


def run(node: Node, code: int = CD) -> list[int]:
    """Claim all that may start and end it; returns the jobs, in order."""
    batches = node.claim_all()
    for batch in batches:
        node.end(batch, code)
    return [batch.job for batch in batches]


def why(cluster: Cluster, job: int) -> str:
    return cluster.store.job(job).reason


def test_all_keys(cluster: Cluster, node: Node) -> None:
    first = cluster.submit()
    made = cluster.once(lambda: cluster.after("afterok:1", token="t"))
    assert {name: made[name] for name in made if not name.startswith("j:2")} == {
        "active/2": 2.0, "kids:1/2:0": 2.0, "j:1/kids": "1", "deps:2/0": "afterok:1:0:0:1:0",
        "meta/job": "2", "tok:t": b"2",
    }  # fmt: skip
    assert (made["j:2/dep"], made["j:2/after"]) == ("1", "afterok:1:0:0:1")
    [batch] = node.claim_all()
    assert batch.job == first
    done = cluster.once(lambda: node.end(batch))
    assert done["deps:2/0"] == "afterok:1:0:0:1:1"
    assert (done["j:2/dep"], done[f"lane:{LANE}/2"]) == ("0", 2.0)
    assert "todo" not in done
    assert run(node) == [2]


@pytest.mark.parametrize(
    ("kind", "end", "wanted"),
    [
        ("afterok", CD, "CD"), ("afterok", F, "DF"), ("afterok", CA, "DF"), ("afterok", TO, "DF"),
        ("afterany", CD, "CD"), ("afterany", F, "CD"), ("afterany", CA, "CD"),
        ("afternotok", CD, "DF"), ("afternotok", F, "CD"), ("afternotok", CA, "CD"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("had_ended", [False, True])
def test_kinds(
    cluster: Cluster, node: Node, kind: str, end: int, wanted: str, had_ended: bool
) -> None:
    cluster.submit()
    if had_ended:
        run(node, end)
        child = cluster.after(f"{kind}:1")
    else:
        child = cluster.after(f"{kind}:1")
        assert run(node, end) == [1]
    run(node)
    assert cluster.states(child) == wanted
    info = cluster.store.job(child)
    assert info.has_ended
    assert info.state is State.from_short(wanted)


def test_after_is_a_start(cluster: Cluster, node: Node) -> None:
    cluster.submit(2)
    child = cluster.after("after:1")
    [one] = node.claim(1)
    assert cluster.store.job(child).unmet == 1
    [two] = node.claim(1)
    node.store.renew([])
    assert cluster.store.job(child).unmet == 0
    assert [b.job for b in node.claim_all()] == [child]
    assert one.job == two.job == 1


def test_after_a_cancelled_one(cluster: Cluster, node: Node) -> None:
    cluster.submit()
    child = cluster.after("after:1")
    cluster.store.cancel(1, None, by="ann")
    assert run(node) == [child]


def test_reason(cluster: Cluster, node: Node) -> None:
    cluster.submit()
    failed, not_failed = cluster.after("afterok:1"), cluster.after("afternotok:1")
    run(node, F)
    assert why(cluster, failed) == "afterok:1 failed: job 1 FAILED"
    run(node)
    last = cluster.after(f"afternotok:{not_failed}")
    assert why(cluster, last) == f"afternotok:{not_failed} failed: job {not_failed} COMPLETED"
    deep = cluster.after(f"afterok:{failed}")
    assert why(cluster, deep) == f"afterok:{failed} failed: job {failed} DEP_FAILED"


def test_array_fails_at_the_first(cluster: Cluster, node: Node) -> None:
    cluster.submit(3)
    child, patient = cluster.after("afterok:1"), cluster.after("afternotok:1")
    batches = node.claim_all()
    node.end(batches[0], CD)
    assert cluster.states(child) == "PD"
    node.end(batches[1], F)
    assert (cluster.states(child), cluster.states(patient)) == ("DF", "PD")
    node.end(batches[2], CD)
    assert run(node) == [patient]


def test_and_or(cluster: Cluster, node: Node) -> None:
    for _ in range(3):
        cluster.submit()
    all_of = cluster.after("afterok:1", "afterok:2", "afterok:3")
    any_of = cluster.after("afterok:1", "afterok:2", is_or=True)
    none_of = cluster.after("afternotok:2", "afternotok:3", is_or=True)
    one, two, three = node.claim_all()
    node.end(one, F)
    assert cluster.states(all_of) == "DF"
    assert cluster.states(any_of) == "PD"
    node.end(two, CD)
    assert [b.job for b in node.claim_all()] == [any_of]
    assert cluster.states(none_of) == "PD"
    node.end(three, CD)
    assert cluster.states(none_of) == "DF"


def test_or_is_met_once(cluster: Cluster, node: Node) -> None:
    cluster.submit()
    cluster.submit()
    child = cluster.after("afterok:1", "afterok:2", is_or=True)
    one, two = node.claim_all()
    node.end(one, CD)
    [batch] = node.claim_all()
    node.end(two, F)
    assert cluster.states(child) == "R"
    node.end(batch)
    assert cluster.states(child) == "CD"


def test_single_tasks(cluster: Cluster, node: Node) -> None:
    cluster.submit(10)
    one = cluster.after("afterok:1_3")
    some = cluster.after("afterany:1_2-4")
    other = cluster.after("afternotok:1_5")
    batches = {b.first: b for b in node.claim_all()}
    node.end(batches[3], CD)
    assert [b.job for b in node.claim_all()] == [one]
    node.end(batches[2], F)
    assert cluster.states(some) == "PD"
    node.end(batches[4], TO)
    assert [b.job for b in node.claim_all()] == [some]
    node.end(batches[5], CD)
    assert why(cluster, other) == "afternotok:1_5 failed: task 1_5 COMPLETED"
    ended = cluster.after("afterok:1_2"), cluster.after("afterok:1_3"), cluster.after("afterok:1_0")
    assert [cluster.states(job) for job in ended] == ["DF", "PD", "PD"]
    assert why(cluster, ended[0]) == "afterok:1_2 failed: task 1_2 FAILED"
    assert [b.job for b in node.claim_all()] == [ended[1]]


def test_unknown_ids(cluster: Cluster) -> None:
    cluster.submit()
    with pytest.raises(JobNotFound, match="no job 2 to wait for"):
        cluster.after("afterok:1", "afterok:2")
    assert [info.id for info in cluster.store.jobs()] == [1]


def test_cancel_and_hold(cluster: Cluster, node: Node) -> None:
    for _ in range(2):
        cluster.submit()
    ok, done, held = (
        cluster.after("afterok:1"),
        cluster.after("afterany:1"),
        cluster.after("afterok:2", is_held=True),
    )
    cluster.once(lambda: cluster.store.cancel(1, None, by="ann"))
    assert (cluster.states(ok), cluster.states(held)) == ("DF", "PD")
    assert run(node) == [2, done]
    assert run(node) == []
    cluster.store.release(held)
    assert run(node) == [held]


def test_cancel_of_who_waits(cluster: Cluster, node: Node) -> None:
    cluster.submit()
    child = cluster.after("afterok:1")
    grandchild = cluster.after(f"afterany:{child}")
    cluster.store.cancel(child, None, by="ann")
    assert run(node) == [1, grandchild]
    assert cluster.states(child) == "CA"


def test_begin_comes_too(cluster: Cluster, node: Node) -> None:
    cluster.submit()
    child = cluster.after("afterok:1", begin_at=START_MS / 1000 + 60)
    assert run(node) == [1]
    assert run(node) == []
    cluster.set_clock(START_MS + 61_000)
    node.store.housekeep()
    assert run(node) == [child]


def test_open_job_ends_when_closed(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(2, is_open=True)
    child = cluster.after(f"afterok:{job}")
    assert run(node) == [job, job]
    assert cluster.states(child) == "PD"
    cluster.store.close_job(job)
    assert run(node) == [child]


def test_open_job_closed_by_silence(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(1, is_open=True)
    child = cluster.after(f"afterok:{job}")
    run(node)
    for _ in range(210):
        cluster.serve(3)
        node.store.renew([])
    while cluster.call("sweep")[0]:
        pass
    node.store.renew([])
    assert run(node) == [child]


def test_parent_that_runs_again_undoes_nothing(cluster: Cluster, node: Node) -> None:
    cluster.submit()
    child = cluster.after("afterok:1")
    run(node)
    run(node)
    cluster.store.requeue(1, [(0, 0)], {State.COMPLETED})
    run(node, F)
    assert cluster.states(child) == "CD"


def test_lost_node(cluster: Cluster) -> None:
    a, b = cluster.node("a"), cluster.node("b")
    cluster.submit(requeue=False)
    child = cluster.after("afterany:1")
    [batch] = a.claim()
    a.finish(batch, [LOST])
    assert [x.job for x in b.claim_all()] == [child]


def test_hopeless_parent(cluster: Cluster, node: Node) -> None:
    cluster.submit()
    child = cluster.after("afterok:1")
    [batch] = node.claim()
    node.store.give_back(batch, bytes([14]), "no such directory")
    node.store.tend()
    assert cluster.states(child) == "DF"
    assert why(cluster, child) == "afterok:1 failed: job 1 FAILED"


def test_singletons(cluster: Cluster, node: Node) -> None:
    ran: list[int] = []
    first = cluster.after("singleton")
    second, third = cluster.after("singleton"), cluster.after("singleton")
    other = cluster.after("singleton", name="k")
    whose = cluster.after("singleton", owner="bob")
    batches = node.claim_all()
    assert {b.job for b in batches} == {first, other, whose}
    cluster.store.cancel(second, None, by="ann")
    assert node.claim_all() == []
    for batch in batches:
        node.end(batch, F)
    ran += run(node)
    assert ran == [third]
    assert not [name for name in cluster.dump() if name.startswith("same:")]


def test_singleton_in_a_tree(cluster: Cluster, node: Node) -> None:
    cluster.submit(name="k")
    first = cluster.after("singleton", "afterok:1")
    second = cluster.after("singleton")
    assert run(node, F) == [1]
    assert (cluster.states(first), cluster.states(second)) == ("DF", "PD")
    assert run(node) == [second]


def test_singleton_revived(cluster: Cluster, node: Node) -> None:
    first, second = cluster.after("singleton"), cluster.after("singleton")
    assert run(node, F) == [first]
    cluster.store.requeue(first, [(0, 0)], {State.FAILED})
    third = cluster.after("singleton")
    assert sorted(run(node)) == [first, second]
    assert run(node) == [third]


@pytest.mark.parametrize("who", ["node", "client"])
def test_tree_fails_at_once(cluster: Cluster, node: Node, who: str) -> None:
    jobs = [cluster.submit()]
    for _ in range(300):
        jobs.append(cluster.after(f"afterok:{jobs[-1]}"))
    if who == "client":
        cluster.store.cancel(jobs[0], None, by="ann")
    else:
        run(node, F)
        assert node.store.unfinished
        while node.store.unfinished:
            node.store.tend()
    infos = cluster.store.jobs(ended=True)
    assert [info.state for info in infos[1:]] == [State.DEP_FAILED] * 300
    assert infos[-1].reason == f"afterok:{jobs[-2]} failed: job {jobs[-2]} DEP_FAILED"


def test_purge_keeps_what_is_needed(cluster: Cluster, node: Node) -> None:
    cluster.submit()
    blocker = cluster.submit(is_held=True)
    child = cluster.after("afterok:1", f"afterok:{blocker}")
    assert run(node) == [1]
    cluster.serve(3)
    later = cluster.now_ms / 1000 + 1
    cluster.store.purge(later)
    assert cluster.store.job(1).has_ended
    cluster.store.release(blocker)
    run(node)
    assert run(node) == [child]
    cluster.serve(3)
    cluster.store.purge(later + 30)
    left = cluster.dump()
    assert not [name for name in left if name.startswith(("j:", "kids:", "deps:", "uses:", "in:"))]


# -- trees that run again ----------------------------------------------------------------------


def test_rerun_tree(cluster: Cluster, node: Node) -> None:
    cluster.submit(3)
    child = cluster.after("afterok:1")
    deep = cluster.after(f"afterok:{child}", count=2)
    notok = cluster.after(f"afternotok:{child}")
    batches = node.claim_all()
    for batch, code in zip(batches, (CD, F, CD), strict=True):
        node.end(batch, code)
    assert [cluster.states(job) for job in (child, deep, notok)] == ["DF", "DF DF", "PD"]
    cluster.once(lambda: cluster.store.rerun_tree(1))
    assert [cluster.states(job) for job in (1, child, deep)] == ["CD PD CD", "PD", "PD PD"]
    assert why(cluster, child) == ""
    assert cluster.store.job(1).ended_at is None
    assert sorted(run(node)) == [1, notok]
    assert run(node) == [child]
    assert run(node) == [deep, deep]


def test_rerun_tree_fails_again(cluster: Cluster, node: Node) -> None:
    cluster.submit()
    other = cluster.submit()
    child, both = cluster.after("afterok:1"), cluster.after("afterok:1", f"afterok:{other}")
    for batch in node.claim_all():
        node.end(batch, F)
    cluster.store.rerun_tree(1)
    assert (cluster.states(child), cluster.states(both)) == ("PD", "DF")
    assert why(cluster, both) == f"afterok:{other} failed: job {other} FAILED"
    run(node, F)
    assert cluster.states(child) == "DF"


def test_rerun_tree_of_one_that_was_given_up(cluster: Cluster, node: Node) -> None:
    cluster.submit()
    child = cluster.after("afterok:1", begin_at=START_MS / 1000 + 60)
    deep = cluster.after(f"afterok:{child}")
    run(node, F)
    cluster.store.requeue(1, [(0, 0)], {State.FAILED})
    run(node)
    cluster.once(lambda: cluster.store.rerun_tree(child))
    assert (cluster.states(child), cluster.states(deep)) == ("PD", "PD")
    assert run(node) == []
    cluster.set_clock(START_MS + 61_000)
    node.store.housekeep()
    assert run(node) == [child]
    assert run(node) == [deep]


def test_code_of_the_state() -> None:
    assert State.DEP_FAILED.code == DF


def test_rerun_tree_through_single_tasks(cluster: Cluster, node: Node) -> None:
    """A job that waits for both levels of a tree is looked at after both are re-armed."""
    parent = cluster.submit(2)
    middle = cluster.needing(Group(0, 2, (Edge(parent, 0, 1, 1),)), count=2)
    last = cluster.after(f"afterany:{parent}", f"afterok:{middle}")
    assert run(node, F) == [parent, parent]
    assert [cluster.states(job) for job in (middle, last)] == ["DF DF", "DF"]
    cluster.store.rerun_tree(parent)
    assert [cluster.states(job) for job in (middle, last)] == ["PD PD", "PD"]
    assert sorted(run(node)) == [parent, parent]
    assert run(node) == [middle, middle]
    assert run(node) == [last]
