"""qsub --to slurm: the job as a script for sbatch, for the day the lab outgrows its boxes.

Nothing is submitted. What Slurm has no word for is either told in a comment of the script, or,
where the job would be another one without it, refused. A sweep becomes an array with a table
of its points.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from signal import Signals

from qsub_py.cli.draft import Draft
from qsub_py.cli.dry_run import failure_lines, sweep_of
from qsub_py.cli.options import Request
from qsub_py.dialect_signs import directives
from qsub_py.errors import SpecError
from qsub_py.model import JobSpec
from qsub_py.sweep import Params
from qsub_py.sweep_fill import fill, text_of, used
from qsub_py.terms import Terms, shown_rate
from qsub_py.text import quoted
from qsub_py.units import format_array

#: Slurm's own limit (MaxArraySize) is 1001 where nobody changed it.
MOST_POINTS = 1000
_SHELLS = ("sh", "bash", "dash", "ksh", "zsh", "ash")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_ENVIRONMENTS = ("VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV")


def script_of(system: str, draft: Draft, request: Request) -> str:
    """Return the script that makes the same job there; raises SpecError for what it cannot."""
    if system != "slurm":
        raise SpecError(f"--to: {quoted(system)} is not known", hint="write --to slurm")
    _check(draft)
    shebang, body = _body(draft)
    heads = [f"#SBATCH --{name}" + (f"={shlex.quote(value)}" if value else "")
             for name, value in _options(draft, request)]  # fmt: skip
    remarks = [f"# {remark}" for remark in _remarks(draft)]
    prelude = [*_surroundings(draft, request, "\n".join(body)), *_table(draft)]
    parts = [[shebang, *heads], remarks, prelude, body]
    return "\n\n".join("\n".join(part) for part in parts if part).rstrip("\n") + "\n"


def _check(draft: Draft) -> None:
    """Raise SpecError for what would be another job in Slurm."""
    spec = draft.spec
    if spec.kind == "call":
        raise SpecError("--to: a call of a function is no script",
                        hint="write a script that calls it")  # fmt: skip
    if any(wish.ref is not None for wish in draft.wishes) or draft.is_or:
        raise SpecError("--to: ids of jobs here mean nothing to Slurm",
                        hint="leave --dependency out, and give it to sbatch")  # fmt: skip
    if draft.rule is not None:
        raise SpecError("--to: sbatch runs a job once", hint="leave --every and --cron out")
    if len(spec.nodelist) > 1:
        raise SpecError("--to: Slurm's --nodelist asks for all of the nodes, not for one of them",
                        hint="name one, or none")  # fmt: skip
    sweep = sweep_of(draft)
    if sweep is None:
        return
    if sweep.count > MOST_POINTS:
        raise SpecError(f"--to: a table of {sweep.count} points is too long for a script",
                        hint=f"at most {MOST_POINTS}: see --sample")  # fmt: skip
    for option, pattern in (("--output", spec.output), ("--error", spec.error)):
        if used(pattern, sweep.names):
            raise SpecError(f"--to: Slurm cannot put parameters into {option}",
                            hint="put %a into it")  # fmt: skip


# -- options ---------------------------------------------------------------------------------


def _options(draft: Draft, request: Request) -> Iterator[tuple[str, str]]:
    spec = draft.spec
    yield "job-name", spec.name
    yield from _size(spec)
    if spec.time_s:
        yield "time", _time(spec.time_s)
    if spec.is_array:
        yield "array", _array(draft)
    yield "chdir", spec.cwd
    for name, pattern in (("output", spec.output), ("error", spec.error)):
        if pattern:
            yield name, _pattern(pattern, is_array=spec.is_array)
    if spec.queue != "main":
        yield "partition", spec.queue
    if spec.nodelist:
        yield "nodelist", spec.nodelist[0]
    if spec.terms is not None:
        yield from _terms(spec.terms)
    for name, value in (("comment", spec.comment), ("account", spec.account),
                        ("begin", draft.begin)):  # fmt: skip
        if value:
            yield name, value
    if draft.priority:
        yield "nice", str(-draft.priority)
    if draft.is_held:
        yield "hold", ""
    if draft.wishes:
        yield "dependency", "singleton"
    if spec.notice is not None:
        number = spec.notice.signal
        name = Signals(number).name.removeprefix("SIG") if number in set(Signals) else str(number)
        shell = "B:" if spec.notice.is_shell_only else ""
        yield "signal", f"{shell}{name}@{math.ceil(spec.notice.before_s)}"
    yield "requeue" if spec.requeue else "no-requeue", ""
    exported = [text for text in request.export if not _is_negative(text)]
    if exported and exported != ["ALL"]:
        yield "export", ",".join(exported)


def _terms(terms: Terms) -> Iterator[tuple[str, str]]:
    for name, value in (("exclude", ",".join(terms.exclude)), ("constraint", terms.constraint),
                        ("licenses", ",".join(terms.licenses))):  # fmt: skip
        if value:
            yield name, value


def _size(spec: JobSpec) -> Iterator[tuple[str, str]]:
    procs = spec.procs if spec.procs > 1 and spec.cpus % spec.procs == 0 else 1
    if procs > 1:
        yield "nodes", "1"
        yield "ntasks", str(procs)
    yield "cpus-per-task", str(spec.cpus // procs)
    if spec.mem_bytes:
        is_whole = spec.mem_bytes % 2**20 == 0
        yield "mem", f"{spec.mem_bytes >> 20}M" if is_whole else f"{-(-spec.mem_bytes >> 10)}K"
    if spec.gpus:
        yield "gpus", str(spec.gpus)


def _time(seconds: float) -> str:
    days, rest = divmod(math.ceil(seconds), 86400)
    hours, rest = divmod(rest, 3600)
    return f"{f'{days}-' if days else ''}{hours:02}:{rest // 60:02}:{rest % 60:02}"


def _array(draft: Draft) -> str:
    sweep = sweep_of(draft)
    if sweep is None:
        return format_array(draft.spec.segments, draft.limit)
    return f"0-{sweep.count - 1}" + (f"%{draft.limit}" if draft.limit else "")


def _pattern(pattern: str, *, is_array: bool) -> str:
    """Return an output pattern in Slurm's letters: its %j is not the number users know."""
    if not is_array:
        return pattern
    return re.sub(
        r"%(\d*)(.)", lambda m: f"%{m[1]}A_%a" if m[2] == "j" else m[0], pattern, flags=re.DOTALL
    )


def _is_negative(text: str) -> bool:
    return text.startswith("-") or ",-" in text


def _remarks(draft: Draft) -> Iterator[str]:
    """Yield what of the job Slurm has no word for."""
    spec = draft.spec
    for line in failure_lines(spec):
        if not line.startswith("SIG"):
            yield f"Not in Slurm: {line}."
    if spec.terms is not None and spec.terms.rate:
        yield f"Not in Slurm: at most {shown_rate(spec.terms.rate)} tasks are started."
    if draft.deadline:
        yield f"Not in Slurm: what has not begun by {draft.deadline} is cancelled."
    if draft.max_fails:
        yield f"Not in Slurm: an end when more than {draft.max_fails} of the tasks have failed."
    if spec.skip_if_exists:
        yield f"Not in Slurm: tasks whose {spec.skip_if_exists} exists are skipped."
    if spec.ship:
        yield "Not in Slurm: files that travel. Copy them there: " + " ".join(
            one.name for one in spec.ship)  # fmt: skip
    if spec.fetch:
        yield "Not in Slurm: files that come back. Copy them: " + " ".join(spec.fetch)
    if spec.compat in ("pbs", "sge"):
        yield f"The script was written for {spec.compat.upper()}, whose variables Slurm lacks."
    last = max(part[1] for part in spec.segments.parts)
    if spec.is_array and not spec.sweep and last > MOST_POINTS:
        yield f"Slurm may not take numbers up to {last}: `scontrol show config`, MaxArraySize."


# -- what runs -------------------------------------------------------------------------------


def _body(draft: Draft) -> tuple[str, list[str]]:
    """Return the `#!` line, and what follows all that is set; raises SpecError."""
    spec, is_sweep = draft.spec, bool(draft.spec.sweep)
    words = list(spec.argv)
    if spec.script is None:
        return "#!/bin/sh", ['exec "$@"' if is_sweep else f"exec {shlex.join(words)}"]
    interpreter = _interpreter(spec)
    is_shell = os.path.basename(interpreter[-1 if "env" in interpreter[0] else 0]) in _SHELLS
    if is_shell and not spec.script_path.endswith(".py"):
        gone = {line.number for line in directives(spec.script) if line.is_in_head}
        lines = spec.script.splitlines()
        has_head = lines[:1] != [] and lines[0].startswith("#!")
        text = [line for at, line in enumerate(lines, 1)
                if at not in gone and not (at == 1 and has_head)]  # fmt: skip
        first = [f"set -- {shlex.join(words)}"] if words and not is_sweep else []
        return lines[0] if has_head else "#!/bin/sh", [*first, *text]
    if not spec.script_path:
        raise SpecError(f"--to: a script for {interpreter[0]} must be a file",
                        hint="name the file instead of standard input")  # fmt: skip
    rest = '"$@"' if is_sweep else shlex.join(words)
    return "#!/bin/sh", [f"exec {shlex.join([*interpreter, spec.script_path])} {rest}".rstrip()]


def _interpreter(spec: JobSpec) -> list[str]:
    if spec.script_path.endswith(".py"):
        return [spec.python or spec.python_hint]
    line = (spec.script or "").partition("\n")[0]
    return (line[2:].split() if line.startswith("#!") else []) or ["/bin/sh"]


def _surroundings(draft: Draft, request: Request, body: str) -> Iterator[str]:
    """Yield lines that set what jobs find here and not in Slurm."""
    spec = draft.spec
    if request.umask:
        yield f"umask {request.umask}"
    threads = [f"{name}={spec.cpus}" for name in _THREADS if name not in spec.env]
    if threads:
        yield f"export {' '.join(threads)}"
    if request.env:
        names = [f"{name}={shlex.quote(spec.env[name])}" for name in _ENVIRONMENTS
                 if name in spec.env]  # fmt: skip
        first = shlex.quote(spec.env.get("PATH", "").partition(":")[0])
        yield f"export {' '.join(names)} PATH={first}:$PATH"
    dropped = [item[1:] for text in request.export for item in text.split(",") if item[:1] == "-"]
    if dropped:
        yield f"unset {shlex.join(dropped)}"
    known = _variables(draft)
    is_read = body.startswith("exec ")  # what runs in place may read them all
    for name, value in known.items():
        if is_read or re.search(rf"\b{name}\b", body):
            yield f"export {name}={value}"


def _variables(draft: Draft) -> Mapping[str, str]:
    """Return our variables in Slurm's terms."""
    spec, sweep = draft.spec, sweep_of(draft)
    parts = spec.segments.parts if sweep is None else ((0, sweep.count - 1, 1),)
    count = spec.segments.count if sweep is None else sweep.count
    found = {
        "QSUB_JOB_ID": '"${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}"',
        "QSUB_TASK_ID": '"${SLURM_ARRAY_TASK_ID:-0}"',
        "QSUB_TASK_COUNT": str(count),
        "QSUB_TASK_MIN": str(min(part[0] for part in parts)),
        "QSUB_TASK_MAX": str(max(part[1] for part in parts)),
        "QSUB_TASK_STEP": str(parts[0][2]),
        "QSUB_ATTEMPT": '"$((${SLURM_RESTART_COUNT:-0} + 1))"',
        "QSUB_JOB_NAME": '"$SLURM_JOB_NAME"',
        "QSUB_NODE": '"$SLURMD_NODENAME"',
        "QSUB_CPUS": str(spec.cpus),
        "QSUB_SUBMIT_DIR": '"$SLURM_SUBMIT_DIR"',
        "QSUB_SCRATCH": '"${QSUB_SCRATCH:-${TMPDIR:-/tmp}}"',
    }
    return found | ({"QSUB_SCRIPT": shlex.quote(spec.script_path)} if spec.script_path else {})


def _table(draft: Draft) -> Iterator[str]:
    """Yield the points of a sweep: what each task runs with."""
    sweep = sweep_of(draft)
    if sweep is None:
        return
    yield 'case "$SLURM_ARRAY_TASK_ID" in'
    for at in range(sweep.count):
        params = sweep.at(at)
        words = shlex.join(fill(word, params) for word in draft.spec.argv)
        yield f"{at}) export {_settings(params)}"
        yield f"   set -- {words};;" if words else "   set --;;"
    yield "esac"


def _settings(params: Params) -> str:
    pairs = [("QSUB_PARAMS", json.dumps(params, separators=(",", ":")))]
    for name, value in params.items():
        names = dict.fromkeys((f"QSUB_PARAM_{name}", f"QSUB_PARAM_{name.upper()}"))
        pairs += [(one, text_of(value)) for one in names]
    return " ".join(f"{name}={shlex.quote(value)}" for name, value in pairs)
