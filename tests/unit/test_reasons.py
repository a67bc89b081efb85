"""Why a job waits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qsub_py.model import JobInfo, NodeInfo, State
from qsub_py.reasons import Line, Need, Why, capacity_complaint, explain, fitting_nodes, need_of
from qsub_py.terms import Terms

G = 2**30
JOB = JobInfo(
    id=12, uid="u", name="j", owner="ann", queue="main", kind="command", priority=0, cpus=1,
    mem_bytes=0, gpus=0, time_s=0.0, submitted_at=1000.0, started_at=None, ended_at=None,
    counts={State.PENDING: 3}, limit=0, is_held=False, is_open=False, is_array=True, begin_at=0.0,
    exit_code=None, nodes=(), reason="", unfit={}, lane="1|0|0|main|||ann",
)  # fmt: skip
NODE = NodeInfo(
    uid="n", name="n1", host="h", state="up", cpus=2, cpus_free=2, mem_bytes=8 * G,
    mem_free_bytes=8 * G, gpus=0, features=(), queues=("main",), pythons=("3.11",), running=0,
    version="1", lease_left_s=60.0, reason="",
)  # fmt: skip
BUSY = replace(NODE, name="n2", cpus_free=0, running=2)


def why(job: JobInfo, *nodes: NodeInfo, others: tuple[JobInfo, ...] = ()) -> Why:
    found = explain(job, nodes, now=2000.0, line=Line(others, nodes, now=2000.0))
    assert found is not None
    return found


def test_what_does_not_wait_has_no_reason() -> None:
    for job in (
        replace(JOB, counts={State.RUNNING: 3}),
        replace(JOB, counts={State.CANCELLED: 3}, ended_at=1500.0),
        replace(JOB, counts={State.PENDING: 1}, ended_at=1500.0),
    ):
        assert explain(job, [NODE], now=2000.0) is None


def test_the_job_itself() -> None:
    assert why(replace(JOB, is_held=True), NODE).reason == "JobHeldUser"
    assert why(replace(JOB, begin_at=2010.5), NODE).sentence.startswith("it begins in 11s")
    limited = replace(JOB, limit=2, counts={State.PENDING: 1, State.RUNNING: 2})
    assert why(limited, NODE) == Why("JobArrayTaskLimit", "2 tasks run and its own limit is 2")


def test_no_node() -> None:
    assert why(JOB) == Why("ReqNodeNotAvail", "no node is running; start one with `qnode start`")
    lost = replace(NODE, state="lost")
    assert why(JOB, lost).nodes == (("n1", "does not answer"),)


@pytest.mark.parametrize(
    ("needs", "sentence"),
    [
        ({"cpus": 3}, "needs 3 cpus, the largest node has 2"),
        ({"mem_bytes": 16 * G}, "needs 16G of memory, the largest node has 8G"),
        ({"gpus": 1}, "needs 1 gpus, no node has any"),
    ],
)
def test_larger_than_every_node(needs: dict[str, int], sentence: str) -> None:
    found = why(replace(JOB, **needs), NODE, BUSY)  # type: ignore[arg-type]
    assert (found.reason, found.sentence) == ("Resources", sentence)
    assert [name for name, _ in found.nodes] == ["n1", "n2"]


def test_large_enough_but_not_together() -> None:
    small, large = replace(NODE, cpus=8, mem_bytes=G), replace(NODE, name="n2", mem_bytes=9 * G)
    need = Need(4, mem_bytes=8 * G)
    assert capacity_complaint(need, [small, large]) == "no single node has 4 cpus and 8G"
    assert capacity_complaint(need, []) == ""
    assert capacity_complaint(need, [replace(NODE, cpus=4)]) == ""


@pytest.mark.parametrize(
    ("job", "node", "sentence"),
    [
        ({}, {"state": "draining", "reason": "disk"}, "starts nothing new (draining): disk"),
        ({"lane": "1|0|0|main||n7|ann"}, {}, "is not in the job's --nodelist"),
        ({"queue": "fast"}, {}, "does not serve queue fast"),
        ({"lane": "1|0|0|main|3.13||ann"}, {}, "has no Python 3.13"),
        ({"unfit": {"n1": "no such directory: /x"}}, {}, "no such directory: /x"),
    ],
)
def test_no_node_that_may(job: dict[str, object], node: dict[str, object], sentence: str) -> None:
    found = why(replace(JOB, **job), replace(NODE, **node))  # type: ignore[arg-type]
    assert found.reason == "ReqNodeNotAvail"
    assert found.nodes[0] == ("n1", sentence)


def test_nodes_that_are_asked_for_and_not_there_are_named() -> None:
    found = why(replace(JOB, lane="1|0|0|main||n7,n8|ann"), NODE)
    assert found.nodes[1:] == (("n7", "does not run"), ("n8", "does not run"))


def test_busy_nodes() -> None:
    found = why(JOB, BUSY)
    assert (found.reason, found.sentence) == ("Resources", "the nodes that suit it are busy")
    assert found.nodes == (("n2", "0 of 2 cpus free, needed are 1"),)
    full = replace(NODE, mem_free_bytes=G)
    assert (
        why(replace(JOB, mem_bytes=2 * G), full).nodes[0][1] == "1G of memory free, needed are 2G"
    )


def test_priority() -> None:
    before = replace(JOB, id=11)
    assert why(JOB, BUSY, others=(before, JOB)) == Why(
        "Priority", "1 job is before it in the queue", (("n2", "0 of 2 cpus free, needed are 1"),)
    )
    two = (before, replace(JOB, id=99, priority=1), JOB)
    assert why(JOB, BUSY, others=two).sentence == "2 jobs are before it in the queue"
    later = (
        replace(JOB, id=13),
        replace(before, priority=-1),
        replace(before, is_held=True),
        replace(before, queue="fast"),
        replace(before, counts={State.RUNNING: 1}),
        replace(before, limit=1, counts={State.PENDING: 1, State.RUNNING: 1}),
        replace(before, begin_at=2000.5),
        replace(before, later=3),
        replace(before, lane="1|0|0|main||nowhere|ann"),
        replace(before, cpus=3),
    )
    assert why(JOB, BUSY, others=later).reason == "Resources"
    assert why(JOB, NODE).sentence == "it is about to start"


def test_need_is_read_from_job_and_lane() -> None:
    job = replace(JOB, cpus=2, lane="2|0|0|main|3.12|a,b|ann|x|gpu/big")
    terms = Terms(exclude=("x",), constraint="gpu|big")
    assert need_of(job) == Need(2, 0, 0, "main", ("a", "b"), "3.12", terms)
    assert need_of(replace(JOB, lane="")) == Need(1)


def test_excluded_and_without_the_features() -> None:
    terms = Terms(exclude=("n2",), constraint="gpu&fast|big")
    job = replace(JOB, lane="1|0|0|main|||ann|n2|fast&gpu/big")
    nodes = [NODE, BUSY, replace(NODE, name="n3", features=("gpu", "fast"))]
    assert [node.name for node in fitting_nodes(Need(1, terms=terms), nodes)] == ["n3"]
    found = dict(why(job, NODE, BUSY).nodes)
    assert found["n1"] == "lacks what --constraint asks for: fast&gpu|big"
    assert found["n2"] == "is excluded by the job's --exclude"


def test_fitting_nodes() -> None:
    nodes = [NODE, BUSY, replace(NODE, name="n3", cpus=1), replace(NODE, name="n4", state="lost")]
    assert [node.name for node in fitting_nodes(Need(2), nodes)] == ["n1", "n2"]


def test_gpus_that_others_use() -> None:
    wants = replace(JOB, gpus=2, lane="1|0|2|main|||ann")
    node = replace(NODE, gpus=2, gpus_free=(0, 1), gpus_busy=(1,))
    found = why(wants, node, replace(node, name="n2", state="lost"))
    assert found.reason == "GpuBusyOutside"
    assert found.nodes[0] == ("n1", "gpu 1 is used outside of the queue")
    taken = replace(node, name="n3", gpus_free=(0,), gpus_busy=())
    assert why(wants, node, taken).reason == "Resources"
    assert why(wants, node, taken).nodes[1] == ("n3", "1 of 2 gpus free, needed are 2")
    assert why(replace(wants, gpus=1, lane="1|0|1|main|||ann"), node).reason == "Priority"
