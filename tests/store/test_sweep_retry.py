"""Sweeps, --max-fails and reruns of jobs whose tasks are tried again; schedules of sweeps."""

from __future__ import annotations

import pytest

from qsub_py.model import Batch, State
from qsub_py.periodic import Rule
from qsub_py.policy import REQUEUE, TRY_AGAIN, Retry
from qsub_py.proof import firing_uid
from qsub_py.store_schedules import Schedules
from store.audit import problems
from store.driver import CA, CD, GB, START_MS, Cluster, F, Node

OOM = 7
AGAIN, RUN_ME = 16 * TRY_AGAIN, 16 * REQUEUE
SWEEP = {"axes": [{"k": "a", "v": [["range", 0, 9, 1, 1, -1]]}]}
MINUTE = 60_000


@pytest.fixture
def node(cluster: Cluster) -> Node:
    return cluster.node(cpus=8)


def sweep(cluster: Cluster, count: int, **options: object) -> int:
    return cluster.submit(count, sweep=SWEEP, is_array=True, **options)


def extend(cluster: Cluster, job: int, first: int, count: int) -> None:
    assert cluster.store.extend(job, cluster.uid(job), first, count, b"grid", b"sig")


def ripen(cluster: Cluster) -> None:
    """Let a minute pass, and a node look after what is due."""
    cluster.set_clock(cluster.now_ms + MINUTE)
    cluster.call("promote")
    assert problems(cluster) == []


def run(node: Node, job: int) -> list[tuple[int, int, int]]:
    """Let all that may start end well; returns (position, attempt, class) of each task."""
    batches = node.claim_all({job: 20})
    for batch in batches:
        node.end(batch)
    return sorted((b.first + i, b.attempt, b.level) for b in batches for i in range(b.count))


def say(node: Node, batch: Batch, codes: dict[int, int]) -> int:
    """Report ends of some positions of a batch."""
    return node.finish(batch, [codes.get(batch.first + at, 0) for at in range(batch.count)])


def everywhere(cluster: Cluster, node: Node, **options: object) -> tuple[int, Batch]:
    """Return a job with tasks in all places there are, and the batch that runs 5 and 6.

    0 waits in the list of its class; 1 and 2 for their next try, 2 with more memory; 3 was put
    back; 4 failed, 7 is completed, 8 was cancelled, 9 never began.
    """
    retry = Retry(2, 10, 10, mem_factor=2.0)
    job = sweep(cluster, 10, mem_bytes=GB // 8, retry=retry, **options)
    node.finish(node.claim()[0], [AGAIN + OOM])
    ripen(cluster)
    [batch] = node.claim(1, {job: 7})
    say(node, batch, {1: AGAIN + F, 2: AGAIN + OOM, 3: RUN_ME + F, 4: F, 7: CD})
    cluster.store.cancel(job, [(8, 8)], by="ann")
    assert cluster.states(job) == "PD PD PD PD F R R CD CA PD"
    assert (cluster.store.job(job).later, cluster.field(f"j:{job}", "grown")) == (2, "1")
    assert problems(cluster) == []
    return job, batch


# -- --max-fails ---------------------------------------------------------------------------


def test_only_final_failures_count(cluster: Cluster, node: Node) -> None:
    job = sweep(cluster, 6, max_fails="1", retry=Retry(1, 10, 10))
    [batch] = node.claim(1, {job: 4})
    node.finish(batch, [AGAIN + F] * 4)
    info = cluster.store.job(job)
    assert (info.later, info.counts[State.PENDING], info.reason) == (4, 6, "")
    ripen(cluster)
    tried = [b for b in node.claim_all({job: 4}) if b.attempt == 2]
    codes = {0: AGAIN + F, 1: CD, 2: CD, 3: CD}
    for batch in tried:
        node.finish(batch, [codes[batch.first + i] for i in range(batch.count)])
    assert cluster.states(job) == "F CD CD CD R R", "one may fail"


def test_a_retry_is_no_failure_yet(cluster: Cluster, node: Node) -> None:
    job, batch = everywhere(cluster, node, max_fails="1")
    say(node, batch, {5: AGAIN + F, 6: AGAIN + OOM})
    assert cluster.states(job) == "PD PD PD PD F PD PD CD CA PD"
    ripen(cluster)
    [last] = [b for b in node.claim_all() if b.first == 9]
    found = cluster.once(lambda: node.finish(last, [F]))
    assert (found[f"j:{job}/fate"], found[f"j:{job}/c4"]) == (str(CA), "2")
    assert cluster.store.job(job).reason == "more than 1 of its tasks failed (--max-fails)"
    assert problems(cluster) == []


def test_what_waits_for_a_retry_is_cancelled(cluster: Cluster, node: Node) -> None:
    job, batch = everywhere(cluster, node, max_fails="1")
    say(node, batch, {5: F})
    assert cluster.states(job) == "CA CA CA CA F F CG CD CA CA"
    assert not [name for name in cluster.dump() if name.startswith((f"later:{job}", f"due/{job}"))]
    assert problems(cluster) == []
    say(node, batch, {6: AGAIN + F})
    assert cluster.states(job) == "CA CA CA CA F F F CD CA CA"
    assert cluster.store.job(job).has_ended
    assert problems(cluster) == []


# -- reruns --------------------------------------------------------------------------------


def test_what_failed_runs_again_the_rest_waits_on(cluster: Cluster, node: Node) -> None:
    job, batch = everywhere(cluster, node)
    before = {k: v for k, v in cluster.dump().items() if k.startswith(f"later:{job}")}
    cluster.once(lambda: cluster.store.requeue(job, [(0, 9)], {State.FAILED}))
    assert cluster.states(job) == "PD PD PD PD PD R R CD CA PD"
    assert {k: v for k, v in cluster.dump().items() if k.startswith(f"later:{job}")} == before
    assert problems(cluster) == []
    say(node, batch, {5: CD, 6: CD})
    assert run(node, job) == [(0, 2, 16), (3, 2, 0), (4, 2, 0), (9, 1, 0)]
    ripen(cluster)
    assert run(node, job) == [(1, 2, 0), (2, 2, 16)]
    assert cluster.states(job) == "CD CD CD CD CD CD CD CD CA CD"


def test_a_job_given_up_begins_anew(cluster: Cluster, node: Node) -> None:
    """With the next numbers, what the job asked for, and at once."""
    job, batch = everywhere(cluster, node)
    cluster.store.cancel(job, None, by="ann")
    say(node, batch, {5: CA, 6: CA})
    assert cluster.store.job(job).has_ended
    cluster.once(lambda: cluster.store.requeue(job, [(0, 9)], {State.FAILED, State.CANCELLED}))
    info = cluster.store.job(job)
    assert (info.counts[State.PENDING], info.later, info.reason) == (9, 0, "")
    assert problems(cluster) == []
    assert run(node, job) == [(at, 2 if at < 7 else 1, 0) for at in range(10) if at != 7]


def test_a_fate_is_lifted_for_some(cluster: Cluster, node: Node) -> None:
    job, batch = everywhere(cluster, node, max_fails="1")
    say(node, batch, {5: F})
    say(node, batch, {6: CA})
    cluster.store.requeue(job, [(0, 3)], {State.CANCELLED})
    assert cluster.states(job) == "PD PD PD PD F F CA CD CA CA"
    assert run(node, job) == [(at, 2, 0) for at in range(4)]
    cluster.store.requeue(job, [(0, 9)], {State.FAILED, State.CANCELLED})
    [batch] = [b for b in node.claim_all() if b.first == 4]
    node.finish(batch, [AGAIN + OOM])
    assert cluster.store.job(job).later == 1, "its retries count anew"
    assert problems(cluster) == []


def test_out_of_memory_run_again(cluster: Cluster, node: Node) -> None:
    job = sweep(cluster, 1, mem_bytes=3 * GB, retry=Retry(5, 0, 0, mem_factor=2.0))
    for level in (0, 16):
        [batch] = node.claim()
        assert batch.level == level
        node.finish(batch, [AGAIN + OOM])
    assert cluster.states(job) == "OOM" and "largest node" in cluster.store.job(job).reason
    cluster.once(lambda: cluster.store.requeue(job, [(0, 0)], {State.OUT_OF_MEMORY}))
    assert cluster.store.job(job).reason == ""
    assert run(node, job) == [(0, 3, 0)]


# -- extensions ----------------------------------------------------------------------------


def test_more_points_while_others_wait_for_a_retry(cluster: Cluster, node: Node) -> None:
    job, batch = everywhere(cluster, node)
    extend(cluster, job, 10, 2)
    assert problems(cluster) == []
    say(node, batch, {5: CD, 6: CD})
    assert run(node, job) == [(0, 2, 16), (3, 2, 0), (9, 1, 0), (10, 1, 0), (11, 1, 0)]
    ripen(cluster)
    run(node, job)
    assert cluster.store.job(job).has_ended
    extend(cluster, job, 12, 1)
    [batch] = node.claim()
    node.finish(batch, [AGAIN + OOM])
    assert problems(cluster) == []
    ripen(cluster)
    assert run(node, job) == [(12, 2, 16)], "the class is there already"


# -- schedules -----------------------------------------------------------------------------

OPTIONS = {
    "sweep": SWEEP, "is_array": True, "max_fails": "1", "limit": 4, "pages": (b"index", b"page"),
    "retry": Retry(1, 10, 10, mem_factor=2.0), "mem_bytes": GB, "priority": 2, "time_s": 60,
    "function": b"f" * 100_000, "requeue": False,
}  # fmt: skip


def fired(cluster: Cluster, count: int = 4, **options: object) -> int:
    """Make a schedule; return the job of its first time."""
    made = (Rule(every_ms=MINUTE).to_bytes(), cluster.now_ms, 0, "skip")
    schedule = cluster.submit(count, plan=made, **options)
    info = Schedules(cluster.store).get(schedule)
    assert info is not None
    word, job = Schedules(cluster.store).fire(info, info.next_ms, 0, info.next_ms + MINUTE)
    assert word == "ok" and job
    return job


def test_a_firing_has_all_that_a_submitted_job_has(cluster: Cluster) -> None:
    """fire.lua makes the hash itself: what submit.lua writes must be there, too."""
    rows = []
    for job in (cluster.submit(4, **OPTIONS), fired(cluster, **OPTIONS)):
        rows.append({k.split("/")[1]: v for k, v in cluster.dump().items()
                     if k.startswith(f"j:{job}/")})  # fmt: skip
    one, other = rows
    assert one.keys() - other.keys() == {"token"}
    assert other.keys() - one.keys() == {"sched", "suid", "due", "rule"}
    own = {"uid", "token", "rank", "rows", "fnblob"}
    assert {k: other.get(k) for k in one.keys() - own} == {k: one[k] for k in one.keys() - own}
    assert one["sweep"] == "1" and one["maxfails"] == "1" and one["retries"] == "1"


def test_a_firing_of_a_sweep(cluster: Cluster, node: Node) -> None:
    job = fired(cluster, **{**OPTIONS, "requeue": True, "mem_bytes": GB // 4})
    blob = cluster.store.rows_blob(job)
    assert [cluster.store.piece(blob, n) for n in (0, 1)] == [b"index", b"page"]
    assert cluster.link.command("TTL", cluster.store.keys.blob(blob)) == -1
    extend(cluster, job, 4, 2)
    batches = node.claim_all({job: 2})
    assert sum(b.count for b in batches) == 4, "its limit"
    assert {b.uid for b in batches} == {firing_uid("uid-of-token-1", START_MS)}
    node.finish(batches[0], [AGAIN + OOM, F])
    assert cluster.store.job(job).later == 1
    node.finish(batches[1], [F, CD])
    assert cluster.states(job) == "CA F F CD CA CA"
    cluster.store.requeue(job, [(0, 5)], {State.FAILED, State.CANCELLED})
    assert [at for at, _, _ in run(node, job)] == [0, 1, 2, 4]
    assert run(node, job) == [(5, 1, 0)]
    assert cluster.store.job(job).state is State.COMPLETED


def test_rows_live_as_long_as_the_schedule(cluster: Cluster, node: Node) -> None:
    job = fired(cluster, **{**OPTIONS, "requeue": True})
    schedule, blob = cluster.store.job(job).schedule, cluster.store.rows_blob(job)
    run(node, job)
    cluster.serve(10)
    cluster.store.purge(cluster.now_ms / 1000)
    assert cluster.store.piece(blob, 0) == b"index", "the next firing needs it"
    Schedules(cluster.store).change(schedule, "end", by="ann")
    cluster.serve(10)
    cluster.store.purge(cluster.now_ms / 1000)
    assert not [key for key in cluster.dump() if key.startswith(("blob", "refs", "s:", "j:"))]
