"""What nodes hold now, with the time at which it ends at the latest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qsub_py.estimate import MOST_RUNNING, Running
from qsub_py.model import JobInfo, NodeInfo
from qsub_py.store import Store
from qsub_py.store_rows import decoded


def running_batches(
    store: Store, nodes: Sequence[NodeInfo], jobs: Mapping[int, JobInfo]
) -> list[Running] | None:
    """Return what these nodes hold; None when it is more than can be looked at.

    `jobs`: the active jobs, whose time limits are used.
    """
    prefix = store.keys.prefix
    counts = store.link.pipeline([("HLEN", f"{prefix}slots:{node.uid}") for node in nodes])
    if sum(counts) > MOST_RUNNING:
        return None
    rows = store.link.pipeline([("HVALS", f"{prefix}slots:{node.uid}") for node in nodes])
    parts = [
        (node.name, decoded(text).split("|"))
        for node, texts in zip(nodes, rows, strict=True)
        for text in texts
    ]
    factors = _time_factors(store, {int(part[0]) for _, part in parts if len(part) > 11})
    return [_running(name, part, jobs, factors) for name, part in parts]


def _time_factors(store: Store, jobs: set[int]) -> dict[int, float]:
    """Return by how much the time limit of jobs grows with a retry."""
    texts = store.link.pipeline([("HGET", store.keys.job(job), "time_factor") for job in jobs])
    return {job: float(text or 0) for job, text in zip(jobs, texts, strict=True)}


def _running(
    node: str, part: list[str], jobs: Mapping[int, JobInfo], factors: Mapping[int, float]
) -> Running:
    """Read "job|first|count|attempt|epoch|start|cpus|mem|gpus|left|mask|class" (batch.lua)."""
    number = int(part[0])
    job, gpus = jobs.get(number), len([g for g in part[8].split(",") if g])
    limit_s = job.time_s if job else 0.0
    steps = int(part[11] or 0) % 16 if len(part) > 11 else 0
    if steps and factors.get(number):
        limit_s *= factors[number] ** steps
    endless = "" if limit_s else f"job {number} on {node} has no time limit"
    if job and _is_suspended(job, int(part[1])):
        endless = f"job {number} on {node} is suspended"
    ends_at = None if endless else float(part[5]) / 1000 + limit_s
    return Running(number, node, int(part[6]), int(float(part[7])), gpus, ends_at, endless)


def _is_suspended(job: JobInfo, position: int) -> bool:
    return job.is_suspended or any(a <= position <= b for a, b in job.suspended)
