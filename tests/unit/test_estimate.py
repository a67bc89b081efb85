"""When waiting jobs start at the latest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qsub_py.estimate import Estimate, Running, line_of, starts
from qsub_py.model import JobInfo, State
from unit.test_reasons import JOB, NODE, G

NOW = 2000.0
BUSY = replace(NODE, cpus_free=0)


def job(number: int, tasks: int = 1, **more: Any) -> JobInfo:
    return replace(JOB, id=number, counts={State.PENDING: tasks}, **more)


def runs(number: int, ends_at: float | None, *, node: str = "n1", cpus: int = 1) -> Running:
    endless = "" if ends_at else f"job {number} on {node} has no time limit"
    return Running(number, node, cpus, 0, 0, ends_at, endless)


def start(target: JobInfo, *running: Running, line: tuple[JobInfo, ...] = (),
          nodes: tuple[Any, ...] = (BUSY,)) -> Estimate:  # fmt: skip
    return starts({target.id}, line_of([*line, target]), nodes, running, now=NOW)[target.id]


def test_with_room_it_starts_now() -> None:
    assert start(job(12), nodes=(NODE,)).at == NOW


def test_what_ends_first_makes_room() -> None:
    found = start(job(12), runs(8, 3000.0), runs(9, 2500.0))
    assert found == Estimate(2500.0, "when job 9 ends on n1 at its time limit")


def test_a_wide_job_waits_for_all_that_it_needs() -> None:
    assert start(job(12, cpus=2), runs(8, 3000.0), runs(9, 2500.0)).at == 3000.0


def test_who_is_before_it_is_served_first() -> None:
    before = (job(10, time_s=600.0), job(11, time_s=60.0))
    found = start(job(12), runs(8, 3000.0), runs(9, 2500.0), line=before)
    assert found.at == 3000.0 + 60.0
    assert "job 11, which is before it" in found.cause
    assert start(job(12, priority=1), runs(8, 3000.0), runs(9, 2500.0), line=before).at == 2500.0


def test_one_that_fits_passes_one_that_does_not() -> None:
    wide = job(11, cpus=2, time_s=60.0)
    assert start(job(12), runs(8, 3000.0), runs(9, 2500.0), line=(wide,)).at == 2500.0


def test_without_limits_there_is_no_time_but_who_it_is() -> None:
    assert start(job(12, cpus=2), runs(8, None), runs(9, 2500.0)) == Estimate(
        None, "job 8 on n1 has no time limit"
    )
    found = start(job(12), runs(9, 2500.0, cpus=2), line=(job(11, 5),))
    assert found == Estimate(None, "job 11 before it has no time limit")


def test_limits_of_tasks() -> None:
    mine = replace(job(12, 5), limit=1, counts={State.PENDING: 5, State.RUNNING: 1})
    assert start(mine, runs(12, 2700.0), nodes=(replace(NODE, cpus_free=1),)).at == 2700.0
    other = job(11, 9, limit=1, time_s=10.0)
    assert start(job(12), line=(other,), nodes=(NODE,)).at == NOW


def test_begin_times() -> None:
    assert start(job(12, begin_at=2100.0), nodes=(NODE,)) == Estimate(2100.0, "when it may begin")
    failed = job(12, later=1, later_at=2050.0)
    assert start(failed, nodes=(NODE,)).at == 2050.0
    later = job(11, 2, begin_at=2600.0)
    assert start(job(12), runs(9, 2500.0, cpus=2), line=(later,)).at == 2500.0


def test_only_nodes_that_fit_count() -> None:
    other = replace(NODE, name="n2", mem_bytes=64 * G, cpus_free=0)
    target = job(12, mem_bytes=32 * G)
    found = start(target, runs(9, 2500.0), runs(8, None, node="n2"), nodes=(BUSY, other))
    assert found == Estimate(None, "job 8 on n2 has no time limit")
    assert starts({12}, [job(12, cpus=9)], [BUSY], [], now=NOW) == {}, "that is told elsewhere"


def test_past_its_limit_means_soon() -> None:
    at = start(job(12), runs(9, 1000.0)).at
    assert at is not None
    assert NOW < at < NOW + 5


def test_held_jobs_are_not_in_the_line() -> None:
    line = line_of([job(1, is_held=True), job(2, is_suspended=True), job(3), job(4, priority=2)])
    assert [one.id for one in line] == [4, 3]


@pytest.mark.parametrize("many", ["running", "waiting"])
def test_bounded(many: str) -> None:
    running = [runs(8, 3000.0)] * (1001 if many == "running" else 1)
    line = [job(n) for n in range(1, 1002 if many == "waiting" else 2)]
    target = job(5000)
    found = starts({5000}, line_of([*line, target]), [BUSY], running, now=NOW)[5000]
    assert found.at is None
    assert "more than 1000" in found.cause
