"""From what was asked for (`Request`) and what is to run (`Work`) to a job's spec.

All input is read and refused here, before anything is sent. Touches no server.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from qsub_py import activation, waits
from qsub_py import environ as environment
from qsub_py.arrays import parse_limit, parse_share
from qsub_py.cli.common import read, whole
from qsub_py.cli.draft import Draft, Work
from qsub_py.cli.files import with_files
from qsub_py.cli.options import Request
from qsub_py.cli.periodic import rule_of, times_of
from qsub_py.cli.script import absolute, current_dir
from qsub_py.cli.times import read_times
from qsub_py.config import user_name
from qsub_py.errors import SpecError
from qsub_py.model import ONE_TASK, JobSpec, Segments
from qsub_py.policy import MAX_RETRIES
from qsub_py.policy_text import Asked, read_notice, read_retry, soft_signal
from qsub_py.terms import Terms
from qsub_py.terms_text import AskedTerms, parse_nodes, read_terms
from qsub_py.units import (
    check_name,
    check_pattern,
    format_array,
    is_per_task,
    parse_array,
    parse_duration,
    parse_size,
    quoted,
)
from qsub_py.waits import Wish

if TYPE_CHECKING:
    from qsub_py.config import Config, JobConfig
    from qsub_py.sweep import Sweep


MAX_CPUS = 1_000_000
MAX_PRIORITY = 1_000_000
MAX_TEXT = 1000
GRACE_S = 10.0


def configured(config: Config, environ: Mapping[str, str], *, by_variable: bool) -> Request:
    """Return the defaults of the configuration: those of QSUB_JOB_* variables, or the others."""

    def pick(name: str) -> str | None:
        is_variable = bool(environ.get(f"QSUB_JOB_{name.upper()}"))
        value = str(getattr(config.job, name))
        return value if value and is_variable == by_variable else None

    export = pick("export")
    return Request(
        cpus=pick("cpus"), mem=pick("mem"), time=pick("time"), queue=pick("queue"),
        output=pick("output"), error=pick("error"), export=(export,) if export else (),
    )  # fmt: skip


def build(
    request: Request,
    work: Work,
    environ: Mapping[str, str],
    limits: JobConfig | None = None,
    sweep: Sweep | None = None,
) -> Draft:
    """Return the job that `request` describes; raises SpecError.

    `limits`: how large what it ships and fetches may be.
    """
    parse = parse_limit if sweep is not None else parse_array
    array = read("--array", parse, request.array) if request.array is not None else None
    spec = with_failure(_with_program(base(request, work), request, work, environ), request)
    spec = replace(spec, terms=terms(request))
    if array is not None:
        spec = replace(spec, segments=array.segments, is_array=True)
    pages: tuple[bytes, ...] = ()
    if sweep is not None:
        from qsub_py.cli.sweep_spec import with_sweep  # here: most jobs sweep over nothing

        spec, request, pages = with_sweep(spec, request, sweep)
    else:
        check_outputs(spec)
    spec, parcels = with_files(spec, request, limits)
    environment.check_size(spec.argv, spec.env)
    rule = rule_of(request)
    read_times(request.begin, request.deadline, now=time.time(), is_periodic=rule is not None)
    wishes, is_or = _wishes(request)
    notes = list(_notes(spec))
    if array is not None and array.is_merged:
        notes.append(f"numbers written twice count once: {_shown_array(array.segments)}")
    return Draft(
        spec,
        function=work.function,
        priority=read_priority(request.priority),
        limit=(array and array.limit) or (int(request.at_once or 0) if spec.is_array else 0),
        is_held=bool(request.hold),
        begin=request.begin or "",
        deadline=request.deadline or "",
        key=_key(request.key),
        wishes=wishes,
        is_or=is_or,
        rule=rule,
        times=times_of(request),
        parcels=parcels,
        max_fails=_share(request.max_fails),
        pages=pages,
        notes=tuple(notes),
    )


def base(request: Request, work: Work) -> JobSpec:
    """Return the spec without its program, environment and array."""
    tasks = int(request.tasks or 1)
    cpus = _number(request.cpus, "--cpus", least=1, most=MAX_CPUS, default=1) * tasks
    return JobSpec(
        kind="call" if work.function else "command",
        name=_name(request.name, work.shown),
        owner=user_name(),
        cwd=_directory(request.chdir),
        umask=int(request.umask, 8) if request.umask else _umask(),
        segments=ONE_TASK,
        cpus=cpus,
        mem_bytes=_memory(request, cpus),
        gpus=_gpus(request),
        time_s=read("--time", parse_duration, request.time) if request.time else 0.0,
        grace_s=_grace(request.grace),
        output=_pattern(request.output, "--output"),
        error=_pattern(request.error, "--error"),
        requeue=request.requeue is not False,
        queue=read("--queue", check_name, "main" if request.queue is None else request.queue),
        nodelist=_nodelist(request.nodelist),
        comment=_text(request.comment, "--comment"),
        account=_text(request.account, "--account"),
        is_cwd_optional=bool(work.function) and request.chdir is None,
        skip_if_exists=_pattern(request.skip_if_exists, "--skip-if-exists"),
        compat=request.compat or "",
        procs=min(int(request.procs or 0), cpus),
    )


def _with_program(
    spec: JobSpec, request: Request, work: Work, environ: Mapping[str, str]
) -> JobSpec:
    """Add what runs, with which interpreter, in which environment."""
    directory = activation.find_environment(request.env, environ)
    python = environment.interpreter(request.python, directory, environ)
    env = activation.activated(environment.exported(request.export, environ), directory)
    spec = replace(spec, env=env, python=python.python, python_hint=python.hint)
    if work.function:
        minor = f"{sys.version_info.major}.{sys.version_info.minor}"
        environment.check_minor(python.python, minor)
        return replace(
            spec,
            python_hint="" if python.python else sys.executable,
            function_sha=hashlib.sha256(work.function).hexdigest(),
            function_name=work.function_name,
            is_bare_call=True,
            argv=work.argv,
            python_minor=minor,
            path=work.path,
        )
    argv = work.argv
    if work.is_large_python:
        argv = (python.python or python.hint, *argv)
    return replace(spec, argv=argv, script=work.script, script_path=work.script_path)


def with_failure(spec: JobSpec, request: Request) -> JobSpec:
    """Add what is done when a task fails, and before its limit."""
    retries = _number(request.retries, "--retries", least=0, most=MAX_RETRIES, default=-1)
    asked = Asked(
        None if retries < 0 else retries, request.backoff, request.retry_on, request.on_oom,
        request.on_timeout, request.signal or soft_signal(request.soft_signal, spec.time_s),
        bool(request.requeue_exit),
    )  # fmt: skip
    return replace(
        spec,
        retry=read_retry(asked, mem_bytes=spec.mem_bytes, time_s=spec.time_s, requeue=spec.requeue),
        notice=read_notice(asked, time_s=spec.time_s),
    )


# -- single options ------------------------------------------------------------------------


def _number(text: str | None, option: str, *, least: int, most: int, default: int) -> int:
    return default if text is None else whole(text, option, least=least, most=most)


def _name(given: str | None, shown: str) -> str:
    if given is not None:
        return read("--name", check_name, given)
    return (
        re.sub(r"[^\w.+@:=-]", "_", os.path.basename(shown), flags=re.ASCII)[:128].lstrip("-")
        or "job"
    )


def _memory(request: Request, cpus: int) -> int:
    if request.mem and request.mem_per_cpu:
        raise SpecError("--mem and --mem-per-cpu exclude each other", hint="leave one out")
    option, text = (
        ("--mem-per-cpu", request.mem_per_cpu) if request.mem_per_cpu else ("--mem", request.mem)
    )
    if text is None:
        return 0
    size = read(option, parse_size, text)
    if size == 0:
        raise SpecError(
            f"{option} must be above 0", hint="leave it out for the node's share per cpu"
        )
    return size * cpus if option == "--mem-per-cpu" else size


def _gpus(request: Request) -> int:
    if request.gres is None:
        return _number(request.gpus, "--gpus", least=0, most=10_000, default=0)
    match = re.fullmatch(r"gpu(?::(?:[A-Za-z_]\w*:)?(\d{1,4}))?", request.gres)
    if not match:
        raise SpecError(f"--gres: {quoted(request.gres)} is not gpu:N", hint="write --gpus N")
    number = int(match[1] or 1)
    if request.gpus is not None and request.gpus != str(number):
        raise SpecError("--gpus and --gres say different things", hint="leave one out")
    return number


def _grace(text: str | None) -> float:
    if text is None:
        return GRACE_S
    return read("--grace", lambda word: parse_duration(word, bare_s=1.0), text)


def _directory(text: str | None) -> str:
    if text is None:
        return current_dir()
    if not text:
        raise SpecError("--chdir is empty", hint="write a directory, or leave it out")
    path = absolute(os.path.expanduser(text))
    if os.path.exists(path) and not os.path.isdir(path):
        raise SpecError(f"--chdir: {quoted(path)} is not a directory")
    return path


def _pattern(text: str | None, option: str) -> str:
    return read(option, check_pattern, os.path.expanduser(text)) if text else ""


def check_outputs(
    spec: JobSpec, is_own: Callable[[str], bool] = is_per_task, cure: str = ""
) -> None:  # fmt: skip
    """Raise SpecError when output cannot go where the patterns say, or all tasks' to one file.

    `is_own`: whether a pattern gives each task a file of its own; `cure`: how else it could.
    """
    for option, pattern in (("--output", spec.output), ("--error", spec.error)):
        if not pattern:
            continue
        path = os.path.join(spec.cwd, pattern)
        if path.endswith("/") or os.path.isdir(path):
            raise SpecError(
                f"{option}: {quoted(pattern)} is a directory",
                hint="name a file in it, such as %j.out",
            )
        is_file = os.path.isfile(path) or not os.path.exists(path)
        if spec.segments.count > 1 and is_file and not is_own(pattern):
            raise SpecError(
                f"{option}: all {spec.segments.count} tasks would write to {quoted(pattern)}",
                hint="put %a (task) or %j (12_3) into it" + cure,
            )


def _nodelist(texts: tuple[str, ...]) -> tuple[str, ...]:
    return read("--nodelist", parse_nodes, ",".join(texts)) if texts else ()


def terms(request: Request) -> Terms | None:
    """Return on which terms it may start, None when nothing was said; raises SpecError."""
    asked = AskedTerms(request.exclude, request.constraint, request.licenses, request.rate)
    return read_terms(asked)


def _text(text: str | None, option: str) -> str:
    if text is not None and len(text) > MAX_TEXT:
        raise SpecError(f"{option} is longer than {MAX_TEXT} characters")
    return text or ""


def read_priority(text: str | None) -> int:
    """Return a priority, 0 when nothing was said."""
    return _number(text, "--priority", least=-MAX_PRIORITY, most=MAX_PRIORITY, default=0)


def _wishes(request: Request) -> tuple[tuple[Wish, ...], bool]:
    wishes: tuple[Wish, ...] = ()
    is_or = False
    if request.dependency is not None:
        wishes, is_or = read("--dependency", waits.parse, request.dependency)
    if request.after and is_or:
        raise SpecError("--after cannot be one of several choices (`?`)", hint="leave it out")
    for text in request.after:
        wishes += read("--after", waits.parse_after, text)
    return tuple(dict.fromkeys(wishes)), is_or


def _share(text: str | None) -> str:
    return "" if text is None else read("--max-fails", parse_share, text)


def _key(text: str | None) -> str:
    if text is None:
        return ""
    if not text or len(text) > 256:
        raise SpecError("--key takes 1 to 256 characters")
    return text


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _notes(spec: JobSpec) -> list[str]:
    notes = []
    if not os.path.isdir(spec.cwd):
        notes.append(f"the directory {spec.cwd} does not exist on this host")
    if (
        spec.script
        and spec.script_path
        and not spec.script_path.endswith(".py")
        and not spec.script.startswith("#!")
    ):
        notes.append(f"{os.path.basename(spec.script_path)} has no #! line: /bin/sh runs it")
    return notes


def _shown_array(segments: Segments) -> str:
    return format_array(segments, width=60)
