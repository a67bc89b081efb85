"""When waiting jobs start: the line of `qstat --why`, and `qstat --start`."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from qsub_py import render
from qsub_py.cli import common
from qsub_py.cli.shapes import RIGHT, place_cell
from qsub_py.estimate import Estimate, line_of, starts
from qsub_py.model import JobInfo, State
from qsub_py.store_running import running_batches

if TYPE_CHECKING:
    from qsub_py.cli.qstat import Scene
    from qsub_py.client import Client

_HEADINGS = ("JOBID", "NAME", "USER", "ST", "START", "NODELIST(REASON)")
#: As many as the store lists.
_MOST_ACTIVE = 10_000
#: Parts of a lane that no estimate knows of: licences, rate (see store.lane_of).
_LICENSES = 9


def estimates(client: Client, scene: Scene, wanted: Collection[int]) -> dict[int, Estimate]:
    """Return when the next task of each of these jobs starts; held ones are not in it."""
    active = client.ask(lambda store: store.jobs(active=True, ended=False))
    nodes = [node for node in scene.nodes if node.state == "up"]
    by_id = {job.id: job for job in active}
    running = client.ask(lambda store: running_batches(store, nodes, by_id))
    limited = {job.id for job in active if _waits_for_more(job)}
    if len(active) >= _MOST_ACTIVE:  # the oldest are not among them
        return {}
    found = starts(set(wanted) - limited, line_of(active), nodes, running, now=scene.now)
    unknown = Estimate(None, "it needs licences or has a rate")
    return found | dict.fromkeys(limited & set(wanted), unknown)


def _waits_for_more(job: JobInfo) -> bool:
    return any(job.lane.split("|")[_LICENSES:])


def sentence(found: Estimate, now: float) -> str:
    """Return an estimate for a person."""
    if found.at is None:
        return f"no estimate of its start: {found.cause}"
    return f"starts at about {_clock(found.at, now)} at the latest, {found.cause}"


def _clock(moment: float, now: float) -> str:
    """Return a time of day, with the date when that is not today's."""
    then, today = time.localtime(moment), time.localtime(now)
    form = "%H:%M" if then[:3] == today[:3] else "%Y-%m-%d %H:%M"
    return time.strftime(form, then)


def show_starts(client: Client, scene: Scene, *, header: bool, as_json: bool) -> None:
    """Print the jobs that wait with the times at which they start at the latest."""
    jobs = [found.job for found in scene.picked if found.job.counts.get(State.PENDING)]
    found = estimates(client, scene, [job.id for job in jobs])
    if as_json:
        render.show_json([
            {"id": job.id, "start_at": one.at if one else None, "cause": one.cause if one else ""}
            for job, one in ((job, found.get(job.id)) for job in jobs)
        ])  # fmt: skip
        return
    rows = []
    for job in jobs:
        one = found.get(job.id)
        at = _clock(one.at, scene.now) if one and one.at is not None else "-"
        place = place_cell(job, scene.whys.get(job.id))
        rows.append((str(job.id), job.name, job.owner, job.state.short, at, place))
    if rows:
        render.show(render.Table(_HEADINGS, tuple(rows), RIGHT), header=header)
    elif scene.picked:
        common.complain("no jobs that wait")
