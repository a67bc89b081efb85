"""What waits for others, with retries, classes, holds and schedules: only final ends count."""

from __future__ import annotations

import pytest

from qsub_py.errors import StoreError
from qsub_py.model import Batch, State
from qsub_py.periodic import QUEUE, Rule
from qsub_py.policy import HOLD, REQUEUE, TRY_AGAIN, Retry
from qsub_py.store_schedules import Schedules
from qsub_py.waits import Edge, Group, Waits
from store.driver import CD, GB, LOST, START_MS, TO, Cluster, F, Node

OOM = 7
AGAIN, RUN_ME, HOLD_ME = 16 * TRY_AGAIN, 16 * REQUEUE, 16 * HOLD
ONCE_MORE = Retry(1, 10, 10)
GROW = Retry(3, 0, 0, mem_factor=2.0)
MINUTE = 60_000


@pytest.fixture
def node(cluster: Cluster) -> Node:
    return cluster.node(cpus=8, mem=16 * GB)


def one(node: Node) -> Batch:
    [batch] = node.claim(1000)
    return batch


def corr(parent: int, count: int) -> Group:
    return Group(0, count, (Edge(parent, 0, 1, 1),))


def drain(node: Node) -> None:
    while node.store.unfinished:
        node.store.tend()


def ripen(cluster: Cluster) -> None:
    """Let every backoff pass, and a node look after what is due."""
    cluster.set_clock(cluster.now_ms + 20_000)
    cluster.call("promote")


def children(cluster: Cluster, parent: int) -> dict[str, int]:
    """Return a job for each way to wait for a parent of one task."""
    made = {kind: cluster.after(f"{kind}:{parent}") for kind in ("afterok", "afterany")}
    made["afternotok"] = cluster.after(f"afternotok:{parent}")
    made["single"] = cluster.after(f"afterany:{parent}_0")
    made["input"] = cluster.needing(corr(parent, 1), count=1)
    return made


@pytest.mark.parametrize(("end", "wanted"), [
    (CD, {"afterok": "R", "afterany": "R", "afternotok": "DF", "single": "R", "input": "R"}),
    (F, {"afterok": "DF", "afterany": "R", "afternotok": "R", "single": "R", "input": "DF"}),
    (AGAIN + F,
     {"afterok": "DF", "afterany": "R", "afternotok": "R", "single": "R", "input": "DF"}),
])  # fmt: skip
@pytest.mark.parametrize("first", [AGAIN + F, AGAIN + TO, RUN_ME + F])
def test_nobody_hears_of_a_failure_that_is_tried_again(
    cluster: Cluster, node: Node, first: int, end: int, wanted: dict[str, str]
) -> None:
    parent = cluster.submit(retry=ONCE_MORE)
    made = children(cluster, parent)
    batch = one(node)
    found = cluster.once(lambda: node.finish(batch, [first]))
    touched = {name.split("/")[0] for name in found}
    assert touched.isdisjoint({f"{kind}:{job}" for kind in ("j", "st") for job in made.values()})
    assert not node.store.unfinished
    assert [cluster.states(job) for job in made.values()] == ["PD"] * 5
    if first == RUN_ME + F:
        node.finish(one(node), [AGAIN + F])
    ripen(cluster)
    node.finish(one(node), [end])
    drain(node)
    node.claim_all()
    assert {kind: cluster.states(job) for kind, job in made.items()} == wanted


def test_a_task_whose_node_died_too_often(cluster: Cluster, node: Node) -> None:
    parent = cluster.submit(retry=Retry(1, 0, 0, on=("node",)))
    child = cluster.after(f"afterok:{parent}")
    for _ in range(3):
        node.end(one(node), LOST)
    assert cluster.states(child) == "PD", "the third crash is tried again"
    node.end(one(node), CD)
    assert one(node).job == child


def test_part_of_a_batch_ends(cluster: Cluster, node: Node) -> None:
    parent = cluster.submit(4, retry=ONCE_MORE)
    child = cluster.needing(corr(parent, 4), count=4)
    ok = cluster.after(f"afterok:{parent}")
    [batch] = node.claim(1, {parent: 4})
    node.finish(batch, [CD, AGAIN + F, CD, 0])
    drain(node)
    assert cluster.states(parent) == "CD PD CD R"
    assert {b.first for b in node.claim_all() if b.job == child} == {0, 2}
    node.finish(batch, [0, 0, 0, F])
    drain(node)
    assert (cluster.states(ok), cluster.states(child)) == ("DF", "R PD R DF")


def test_exit_100_keeps_dependants_waiting(cluster: Cluster, node: Node) -> None:
    parent = cluster.submit()
    made = children(cluster, parent)
    node.finish(one(node), [HOLD_ME + F])
    drain(node)
    assert cluster.store.job(parent).is_held
    assert [cluster.states(job) for job in made.values()] == ["PD"] * 5
    assert node.claim_all() == []
    cluster.store.release(parent)
    node.end(one(node))
    drain(node)
    assert {b.job for b in node.claim_all()} == set(made.values()) - {made["afternotok"]}


def test_after_is_a_start_though_some_try_again(cluster: Cluster, node: Node) -> None:
    parent = cluster.submit(2, retry=ONCE_MORE)
    child = cluster.after(f"after:{parent}")
    [first] = node.claim(1)
    node.finish(first, [AGAIN + F])
    assert cluster.store.job(child).unmet == 1
    batch = one(node)
    assert (batch.job, batch.first) == (parent, 1)
    node.store.renew([])
    assert cluster.store.job(child).unmet == 0
    late = cluster.after(f"after:{parent}")
    assert cluster.store.job(late).unmet == 0, "whoever asks later is told the same"


def test_retries_tell_of_a_start_once(cluster: Cluster, node: Node) -> None:
    parent = cluster.submit(2, retry=GROW, mem_bytes=GB)
    cluster.after(f"after:{parent}")
    for batch in node.claim_all({parent: 1}):
        if batch.job == parent:
            node.finish(batch, [AGAIN + OOM])
    drain(node)
    assert "todo" not in cluster.changes(lambda: node.claim(1))


def test_what_needs_others_grows(cluster: Cluster, node: Node) -> None:
    """Its inputs are there for good; only its own final end is told."""
    parent = cluster.submit(2)
    child = cluster.needing(corr(parent, 2), count=2, mem_bytes=GB, retry=GROW)
    last = cluster.needing(corr(child, 2), count=2)
    for batch in node.claim_all():
        node.end(batch)
    drain(node)
    for batch in node.claim_all():
        node.finish(batch, [AGAIN + OOM])
    drain(node)
    assert (cluster.states(child), cluster.states(last)) == ("PD PD", "PD PD")
    cluster.store.requeue(parent, [(0, 0)], {State.COMPLETED})
    grown = [b for b in node.claim_all() if b.job == child]
    assert [(b.level, b.mem_bytes, b.attempt) for b in grown] == [(16, 2 * GB, 2)] * 2
    node.finish(grown[0], [CD])
    node.finish(grown[1], [AGAIN + OOM])
    drain(node)
    assert [(b.job, b.first, b.level) for b in node.claim_all()] == [(child, 1, 32), (last, 0, 0)]


def test_rerun_of_what_grew_waits_for_its_input(cluster: Cluster, node: Node) -> None:
    parent = cluster.submit()
    retry = Retry(1, 0, 0, mem_factor=2.0)
    child = cluster.needing(corr(parent, 1), count=1, mem_bytes=GB, retry=retry)
    node.end(one(node))
    node.finish(one(node), [AGAIN + OOM])
    node.finish(one(node), [AGAIN + OOM])
    assert cluster.states(child) == "OOM"
    cluster.store.requeue(parent, [(0, 0)], {State.COMPLETED})
    cluster.store.requeue(child, [(0, 0)], {State.OUT_OF_MEMORY})
    assert cluster.store.job(child).waiting == 1
    batch = one(node)
    assert batch.job == parent
    node.end(batch)
    drain(node)
    batch = one(node)
    assert (batch.job, batch.level) == (child, 0), "it begins anew with what the job asked for"
    node.finish(batch, [AGAIN + OOM])
    assert one(node).level == 16


def test_cancel_of_all_that_waits_somewhere(cluster: Cluster, node: Node) -> None:
    """Tasks that wait for an input, for their next attempt, in a class, and that may start."""
    parent = cluster.submit(5)
    retry = Retry(3, 10, 10, mem_factor=2.0)
    child = cluster.needing(corr(parent, 5), count=5, mem_bytes=GB, retry=retry)
    for batch in node.claim_all()[:4]:
        node.end(batch)
    drain(node)
    tasks = {b.first: b for b in node.claim(2) + node.claim(1)}
    node.finish(tasks[0], [AGAIN + OOM])
    ripen(cluster)
    node.finish(tasks[1], [AGAIN + F])
    node.finish(tasks[2], [RUN_ME + F])
    drain(node)
    info = cluster.store.job(child)
    assert (info.waiting, info.later) == (1, 1)
    assert cluster.field(f"j:{child}", "grown") == "1"
    cluster.once(lambda: cluster.store.cancel(child, [(0, 4)], by="ann"))
    assert cluster.states(child) == "CA CA CA CA CA"
    cluster.store.requeue(child, [(0, 4)], {State.CANCELLED})
    assert cluster.store.job(child).waiting == 1
    assert sorted(b.first for b in node.claim_all() if b.job == child) == [0, 1, 2, 3]


def test_a_tree_runs_again_with_all_its_retries(cluster: Cluster, node: Node) -> None:
    parent = cluster.submit(retry=ONCE_MORE)
    child = cluster.after(f"afterok:{parent}")
    corresponding = cluster.needing(corr(parent, 1), count=1)
    for _ in range(2):
        node.finish(one(node), [AGAIN + F])
        drain(node)
        ripen(cluster)
    assert [cluster.states(job) for job in (parent, child, corresponding)] == ["F", "DF", "DF"]
    cluster.store.rerun_tree(parent)
    node.finish(one(node), [AGAIN + F])
    drain(node)
    assert [cluster.states(job) for job in (parent, child, corresponding)] == ["PD"] * 3
    ripen(cluster)
    node.end(one(node))
    drain(node)
    assert {b.job for b in node.claim_all()} == {child, corresponding}


# -- schedules ---------------------------------------------------------------------------------


def plan(cluster: Cluster, *, overlap: str = "skip", **options: object) -> int:
    """Make a schedule that is due now and every minute."""
    rule = Rule(every_ms=MINUTE, overlap=overlap)
    return cluster.submit(plan=(rule.to_bytes(), cluster.now_ms, 0, overlap), **options)


def fire(cluster: Cluster, schedule: int, at: int) -> int:
    """Fire as a node does; returns the job, 0 when there is none."""
    info = Schedules(cluster.store).get(schedule)
    assert info is not None
    return Schedules(cluster.store).fire(info, at, 0, info.next_ms + MINUTE * (at > 0))[1]


def test_what_waits_for_a_firing(cluster: Cluster, node: Node) -> None:
    """Its end tells its dependants and wakes the next one in the queue; a retry does neither."""
    schedule = plan(cluster, overlap=QUEUE, retry=ONCE_MORE)
    job = fire(cluster, schedule, START_MS)
    cluster.set_clock(START_MS + MINUTE)
    assert fire(cluster, schedule, START_MS + MINUTE) == 0
    made = children(cluster, job)
    node.finish(one(node), [AGAIN + F])
    drain(node)
    assert cluster.call("promote")[2:] == []
    assert [cluster.states(child) for child in made.values()] == ["PD"] * 5
    ripen(cluster)
    node.end(one(node))
    drain(node)
    assert cluster.call("promote")[2:] == [schedule]
    following = fire(cluster, schedule, 0)
    wanted = {following, *made.values()} - {made["afternotok"]}
    assert {b.job for b in node.claim_all()} == wanted


def test_a_firing_that_is_cancelled(cluster: Cluster, node: Node) -> None:
    schedule = plan(cluster, overlap=QUEUE)
    job = fire(cluster, schedule, START_MS)
    cluster.set_clock(START_MS + MINUTE)
    fire(cluster, schedule, START_MS + MINUTE)
    child = cluster.after(f"afterok:{job}")
    cluster.store.cancel(job, None, by="ann")
    assert cluster.states(child) == "DF"
    assert cluster.call("promote")[2:] == [schedule]
    assert fire(cluster, schedule, 0)


def test_a_schedule_cannot_wait(cluster: Cluster) -> None:
    parent = cluster.submit()
    for waits in (Waits(groups=(corr(parent, 1),)).fields(), {"after": "afterok:1:0:0:1"}):
        with pytest.raises(StoreError, match="a schedule that waits"):
            plan(cluster, waits=waits)
    assert Schedules(cluster.store).all() == []


def test_an_old_firing_that_is_needed_is_kept(cluster: Cluster, node: Node) -> None:
    schedule, blocker = plan(cluster), cluster.submit(is_held=True)
    for number in range(103):
        cluster.set_clock(START_MS + number * MINUTE)
        job = fire(cluster, schedule, cluster.now_ms)
        if number == 0:
            oldest = job
            child = cluster.after(f"afterok:{blocker}", f"afterok:{oldest}")
        node.end(one(node))
    cluster.store.purge(1.0)
    ended = {info.id for info in cluster.store.jobs(active=False, ended=True)}
    assert oldest in ended
    assert len(ended) == 101
    cluster.store.release(blocker)
    node.end(one(node))
    assert one(node).job == child
