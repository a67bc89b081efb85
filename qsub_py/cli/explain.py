"""The long answers of qstat: `--why JOB` and all of a job (`-f JOB`)."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from qsub_py import render
from qsub_py.cli.dry_run import failure_lines, script_line, terms_rows
from qsub_py.cli.ids import spec_of
from qsub_py.cli.shapes import clock, exit_code, limit_cell, memory_cell
from qsub_py.cli.starts import estimates, sentence
from qsub_py.cli.tree import lost, needs
from qsub_py.model import JobInfo, JobSpec, State
from qsub_py.reasons import Line, Why, explain
from qsub_py.sweep import from_plain
from qsub_py.terms import NO_TERMS
from qsub_py.text import safe
from qsub_py.units import format_array, format_duration

if TYPE_CHECKING:
    from qsub_py.cli.qstat import Scene
    from qsub_py.client import Client


def show_why(client: Client, scene: Scene) -> None:
    """Print for each job what it waits for, or how it runs or ended."""
    active = client.ask(lambda store: store.jobs(active=True, ended=False))
    line = Line(active, scene.nodes, now=scene.now)
    starting = estimates(client, scene, [found.job.id for found in scene.picked])
    for found in scene.picked:
        job = found.job
        why = explain(job, scene.nodes, now=scene.now, line=line, limits=scene.limits)
        if why is None:
            job = replace(job, reason=job.reason or lost(client, job))
            print(safe(f"job {job.id} ({job.name}) {_condition(job, scene.now)}"))
            _print_nodes(tuple(job.unfit.items()))
            continue
        count = job.counts.get(State.PENDING, 0)
        whole = f"{count} of {job.total} tasks of job {job.id} ({job.name}) wait"
        subject = f"job {job.id} ({job.name}) waits" if job.total == 1 else whole
        what = needs(client, job) if why.reason == "Dependency" else []
        print(safe(f"{subject}: {why.reason}: {_reason(why, what)}"))
        for one in what if len(what) > 1 else ():
            print(safe(f"  {one}"))
        _print_nodes(why.nodes)
        if job.id in starting:
            print(safe(f"  {sentence(starting[job.id], scene.now)}"))


def _reason(why: Why, what: Sequence[str]) -> str:
    """Return the sentence of a reason; several conditions are named below it."""
    if len(what) > 1:
        return why.sentence.partition(";")[0]
    return what[0] if what else why.sentence


def _print_nodes(nodes: Sequence[tuple[str, str]]) -> None:
    width = max((len(name) for name, _ in nodes), default=0)
    for name, obstacle in nodes:
        print(safe(f"  {name:<{width}}  {obstacle}"))


def _condition(job: JobInfo, now: float) -> str:
    if not job.has_ended:
        if job.state is State.PENDING:
            return "is open: its submitter adds tasks"
        where = f" on {', '.join(job.nodes)}" if job.nodes else ""
        if job.state is State.SUSPENDED:
            return f"is suspended{where}; `qresume {job.id}` lets it go on"
        since = format_duration(now - job.started_at) if job.started_at else "0:00"
        return f"has been running for {since}{where}"
    code = exit_code(job)
    how = f", exit code {code}" if code else ""
    why = f": {job.reason}" if job.reason else ""
    if job.state is State.DEP_FAILED:
        why = f": DependencyNeverSatisfied{why}"
    return f"ended {job.state.name}{how}{why}"


def show_full(client: Client, scene: Scene) -> None:
    """Print all that is known of each job."""
    for number, found in enumerate(scene.picked):
        if number:
            print()
        spec = spec_of(client, found.job)
        why = scene.whys.get(found.job.id)
        reason = f"{why.reason}: {why.sentence}" if why else found.job.reason
        reason = reason or lost(client, found.job)
        more = [("waits for", line) for line in needs(client, found.job)]
        render.show_fields([*_fields(found.job, spec, reason, scene.now), *more])


def _fields(job: JobInfo, spec: JobSpec, reason: str, now: float) -> list[tuple[str, str]]:
    counts = " ".join(f"{state.name.lower()} {n}" for state, n in job.counts.items() if n)
    ran = format_duration((job.ended_at or now) - job.started_at) if job.started_at else "0:00"
    code = exit_code(job)
    pairs = [
        ("job", str(job.id)), ("name", job.name), ("user", job.owner), ("queue", job.queue),
        ("state", job.state.name), ("reason", reason), ("priority", str(job.priority)),
        ("command", command_line(spec)), ("directory", spec.cwd), ("python", _python(spec)),
        ("output", spec.output or "kept by the node (qlog)"),
        ("error", spec.error or "with the output"),
        ("tasks", f"{job.total}" + (f" ({format_array(spec.segments, job.limit, width=60)})"
                                    if job.is_array else "")),
        ("parameters", ", ".join(sweep_names(spec))), ("skip if exists", spec.skip_if_exists),
        ("counts", counts), ("cpus", str(job.cpus)), ("memory", memory_cell(job.mem_bytes)),
        ("gpus", str(job.gpus)), ("time limit", limit_cell(job.time_s)),
        ("nodelist", ",".join(spec.nodelist)), ("requeue", "yes" if spec.requeue else "no"),
        ("submitted", clock(job.submitted_at)), ("may begin", clock(job.begin_at or None)),
        ("deadline", clock(job.deadline_at or None)),
        ("started", clock(job.started_at)), ("ended", clock(job.ended_at)), ("ran", ran),
        ("nodes", ",".join(job.nodes)), ("exit code", "" if code is None else str(code)),
        ("comment", spec.comment), ("account", spec.account),
    ]  # fmt: skip
    pairs += terms_rows(spec.terms or NO_TERMS)
    pairs += [("on failure", line) for line in failure_lines(spec)]
    pairs += [(f"unfit {name}", sentence) for name, sentence in job.unfit.items()]
    return [(name, value) for name, value in pairs if value not in ("", "-")]


def sweep_names(spec: JobSpec) -> tuple[str, ...]:
    """Return the parameters of a sweep."""
    return from_plain(spec.sweep).names if spec.sweep else ()


def command_line(spec: JobSpec) -> str:
    """Return what a job runs, as one line."""
    if spec.kind == "call":
        return spec.function_name
    if spec.script is not None and not spec.script_path:
        return script_line(spec)
    words = [spec.script_path] if spec.script is not None else []
    return shlex.join([*words, *spec.argv])


def _python(spec: JobSpec) -> str:
    if spec.kind == "call" or spec.script_path.endswith(".py"):
        return spec.python or spec.python_hint
    return ""
