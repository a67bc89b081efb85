"""`qsub --extend JOB`: more points for a sweep that exists."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields, replace

from qsub_py.cli import common, ids
from qsub_py.cli.options import Request
from qsub_py.cli.sweeps import read_sample, read_sweep
from qsub_py.errors import SpecError
from qsub_py.extending import Extension, plan
from qsub_py.extending import extend as extend_job
from qsub_py.model import JobSpec
from qsub_py.sweep import Axis, Sweep
from qsub_py.sweep_fill import text_of
from qsub_py.sweep_less import joined
from qsub_py.sweep_text import combined
from qsub_py.text import safe

_TAKEN = {
    *("extend", "sweep", "zip", "sample", "seed", "each_line", "from_csv", "from_json"),
    *("wait", "follow", "dry_run", "json"),
}
_FIRST = 5


def extend(asked: Request, words: Sequence[str]) -> int:
    """Add the points that are new; print the job's id, return the exit code."""
    _check(asked, words)
    ref = ids.parse_one(asked.extend or "")
    if not ref.is_whole:
        raise SpecError(f"--extend takes a job, not tasks: {asked.extend}")
    wanted = read_sweep(asked, is_part=True) if _has_points(asked) else None
    client = common.connect()
    job = ids.find_one(client, ref).job
    spec = ids.spec_of(client, job)

    def wish(known: Sequence[Sweep]) -> Sweep:
        return _completed(asked, wanted, known)

    if asked.dry_run:
        print(_described(plan(client, job.id, spec, wish), spec))
        return 0
    added = extend_job(client, job.id, spec, wish)
    told = common.id_as_json(job.id) if asked.json else str(job.id)
    print(told, file=sys.stderr if asked.follow else sys.stdout, flush=True)
    if not added:
        common.complain(f"qsub: job {job.id} has all these points already: nothing was added")
    else:
        common.hint(f"qsub: {added} points were added to job {job.id}")
    if asked.follow or asked.wait:
        from qsub_py.cli.waiting import follow, wait

        return follow(client, job.id) if asked.follow else wait(client, [job.id], command="qsub")
    return 0


def _check(asked: Request, words: Sequence[str]) -> None:
    if words:
        raise SpecError(f"--extend runs what the job runs, so {words[0]} has no place here",
                        hint="write only --extend JOB --sweep NAME=VALUES")  # fmt: skip
    for field in fields(asked):
        if field.name not in _TAKEN and getattr(asked, field.name) not in (None, ()):
            raise SpecError(
                f"--extend keeps all of the job but its points: --{field.name.replace('_', '-')}"
                " cannot be given",
                hint="submit another job, or leave it out",
            )
    if not _has_points(asked) and asked.sample is None:
        raise SpecError("--extend needs new points", hint="write --sweep NAME=VALUES")


def _has_points(asked: Request) -> bool:
    files = (asked.each_line, asked.from_csv, asked.from_json)
    return bool(asked.sweep) or any(name is not None for name in files)


def _completed(asked: Request, wanted: Sweep | None, known: Sequence[Sweep]) -> Sweep:
    """Return the points that are wanted: a parameter not named keeps all values it has."""
    first = known[0]
    drawn = _sample(asked, first)
    if wanted is None:
        return _drawn_from(first, drawn)
    missing = [name for name in first.names if name not in wanted.names]
    axes = {name: joined(known, name) for name in missing}
    lost = [name for name, axis in axes.items() if axis is None]
    if lost:
        raise SpecError(
            f"the values of {lost[0]} do not follow from the job: its parameters run side by side",
            hint="write all parameters: " + " ".join(f"--sweep {name}=..." for name in first.names),
        )
    if not missing:
        return _drawn_from(wanted, drawn)
    named = {axis.name: axis for axis in wanted.axes if isinstance(axis, Axis)}
    both = {**named, **{name: axis for name, axis in axes.items() if axis is not None}}
    others = [axis for axis in wanted.axes if not isinstance(axis, Axis)]
    order = [name for name in (*first.names, *named) if name in both]
    grid = [both[name] for name in dict.fromkeys(order)]
    if others:
        return _drawn_from(Sweep((*others, *grid)), drawn)
    return combined(grid, sample=drawn)


def _sample(asked: Request, first: Sweep) -> tuple[int, int] | None:
    return read_sample(asked, first.sample[1] if first.sample else None)


def _drawn_from(sweep: Sweep, drawn: tuple[int, int] | None) -> Sweep:
    """Return a sweep with another sample; raises SpecError when there are not so many points."""
    if drawn and drawn[0] > sweep.grid:
        raise SpecError(
            f"--sample {drawn[0]} is more than the {sweep.grid} points there are",
            hint="leave --sample out",
        )
    return replace(sweep, sample=drawn, picks=None)


def _described(found: Extension, spec: JobSpec) -> str:
    rows = [
        ("would extend", f"job {found.job.id} ({spec.name})"),
        ("tasks", f"{found.count} more, from {found.first} on"),
    ]
    number = found.first
    for part in found.parts:
        for position in range(part.count):
            if number >= found.first + _FIRST:
                break
            values = (f"{name}={text_of(value)}" for name, value in part.at(position).items())
            rows.append((f"task {number}", " ".join(values)))
            number += 1
    if found.count > _FIRST:
        rows.append(("...", f"and {found.count - _FIRST} more"))
    return "\n".join(f"{name:<13}{safe(value)}" for name, value in rows)
