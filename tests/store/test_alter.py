"""alter.lua: what is asked for, the place in the queue, and who wins when two change a job."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from qsub_py.model import JobSpec, State
from qsub_py.store_alter import Altered, Change, alter
from store.driver import CD, GB, START_MS, Cluster, F, Node


def change(cluster: Cluster, job: int, *, old: bytes = b"sig", **more: Any) -> Altered:
    return alter(cluster.store, cluster.store.job(job), Change(old, **more))


def respec(job: int, new: bytes = b"sig2", **fields: Any) -> dict[str, Any]:
    """Return the part of a change that is a new spec."""
    spec = dataclasses.replace(JobSpec("command", "j", "ann"), **fields)
    return {"spec": spec, "spec_bytes": b"spec2", "signature": new}


def claimed(node: Node, most: int = 1) -> list[int]:
    return [batch.job for batch in node.claim(most)]


def test_pending_job_moves_to_another_lane(cluster: Cluster) -> None:
    node, job = cluster.node(cpus=2), cluster.submit(cpus=8)
    assert claimed(node) == []
    made = respec(job, cpus=2, mem_bytes=GB, queue="main", name="new")
    changed = cluster.once(lambda: change(cluster, job, is_for_pending=True, **made))
    assert changed[f"j:{job}/spec"] == "spec2"
    assert changed[f"j:{job}/ver"] == "1"
    assert changed["lanes/8|0|0|main|||ann"] is None
    assert cluster.store.job(job).name == "new"
    [batch] = node.claim()
    assert (batch.cpus, batch.mem_bytes, batch.version) == (2, GB, 1)
    assert cluster.store.signed_spec(job).version == 1


def test_priority_puts_it_before_others(cluster: Cluster) -> None:
    """Its lane's rank must follow, though the job stands in it already."""
    node = cluster.node()
    first, other, last = cluster.submit(), cluster.submit(owner="bob"), cluster.submit()
    cluster.once(lambda: change(cluster, last, priority=5))
    assert claimed(node, 2) == [last, first]
    cluster.once(lambda: change(cluster, other, priority=-5))
    assert cluster.store.job(other).priority == -5


def test_lower_priority_lets_another_lane_go_first(cluster: Cluster) -> None:
    node, first, other = cluster.node(cpus=1), cluster.submit(), cluster.submit(owner="bob")
    change(cluster, first, priority=-1)
    assert claimed(node) == [other]


def test_limit_of_tasks(cluster: Cluster) -> None:
    node = cluster.node(cpus=4)
    job = cluster.submit(10, limit=1)
    [batch] = node.claim(4)
    cluster.once(lambda: change(cluster, job, limit=3))
    assert claimed(node, 4) == [job, job]
    change(cluster, job, limit=1)
    node.end(batch)
    assert claimed(node, 4) == []
    change(cluster, job, limit=0)
    assert claimed(node, 4) == [job, job]


def test_begin(cluster: Cluster) -> None:
    node, job = cluster.node(), cluster.submit()
    cluster.once(lambda: change(cluster, job, begin_at=START_MS / 1000 + 60))
    assert claimed(node) == []
    cluster.once(lambda: change(cluster, job, begin_at=0.0))
    assert claimed(node) == [job]


def test_a_lost_race(cluster: Cluster) -> None:
    job = cluster.submit()
    assert change(cluster, job, **respec(job)).word == "ok"
    before = cluster.dump()
    assert change(cluster, job, **respec(job, b"sig3")).word == "lost"
    assert change(cluster, job, priority=3).word == "lost"
    assert cluster.dump() == before
    assert change(cluster, job, old=b"sig2", **respec(job, b"sig3")).word == "ok"


def test_what_has_begun_keeps_what_it_asked_for(cluster: Cluster) -> None:
    """A task may be claimed between the look and the change."""
    node, job = cluster.node(), cluster.submit(3)
    [batch] = node.claim()
    before = cluster.dump()
    assert change(cluster, job, is_for_pending=True, **respec(job, cpus=2)).word == "begun"
    node.end(batch)
    assert change(cluster, job, is_for_pending=True, **respec(job, cpus=2)).word == "begun"
    assert cluster.field(f"j:{job}", "spec") == "spec"
    assert before["lanes/1|0|0|main|||ann"] == cluster.dump()["lanes/1|0|0|main|||ann"]


def test_holders_hear_of_a_new_time(cluster: Cluster) -> None:
    node, job = cluster.node(), cluster.submit(3)
    node.claim()
    made = respec(job, time_s=60.0)
    [(name, _, seq)] = change(cluster, job, has_new_time=True, **made).orders
    assert name == "a"
    assert json.loads(node.orders()[seq])["op"] == "limit"
    assert cluster.store.job(job).time_s == 60.0
    [batch] = node.claim()
    assert batch.version == 1, "what was claimed later is of the new spec"


def test_ended_and_unknown(cluster: Cluster) -> None:
    node, job = cluster.node(), cluster.submit()
    [batch] = node.claim()
    node.end(batch, CD)
    assert change(cluster, job, priority=1).word == "ended"
    cancelled = cluster.submit()
    cluster.store.cancel(cancelled, None, by="ann")
    assert change(cluster, cancelled, priority=1).word == "ended"


def test_classes_of_retries_move_too(cluster: Cluster) -> None:
    from qsub_py.policy import Retry

    node = cluster.node(cpus=1)
    retry = Retry(count=3, backoff_s=0.0, mem_factor=2.0)
    job = cluster.submit(mem_bytes=GB, retry=retry)
    [batch] = node.claim()
    node.finish(batch, [7 + 16])
    other = cluster.submit(owner="bob", priority=1)
    change(cluster, job, priority=2)
    [again] = node.claim()
    assert (again.job, again.level) == (job, 16)
    node.finish(again, [F])
    assert claimed(node) == [other]
    assert cluster.store.job(job).state is State.FAILED
