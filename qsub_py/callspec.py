"""What a user may ask for a call (cpus, memory, time ...), and the spec of a job of calls."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qsub_py.config import Config, user_name
from qsub_py.errors import SpecError
from qsub_py.globs import check_glob
from qsub_py.model import JobSpec, Segments
from qsub_py.policy import Notice, Retry
from qsub_py.policy_text import Asked, read_notice, read_retry
from qsub_py.terms import Terms
from qsub_py.terms_text import AskedTerms, parse_nodes, read_terms
from qsub_py.text import check_name
from qsub_py.units import parse_duration, parse_size

if TYPE_CHECKING:
    from qsub_py.shipping import Parcel

#: Calls are numbered as they come; how many there will be is not known.
_ANY_NUMBER = Segments(((0, 2**31 - 1, 1),))


@dataclass(frozen=True, slots=True)
class Resources:
    """Checked options of the jobs that an Executor makes; hashable."""

    cpus: int = 1
    mem_bytes: int = 0
    gpus: int = 0
    time_s: float = 0.0
    name: str = ""
    priority: int = 0
    queue: str = "main"
    nodelist: tuple[str, ...] = ()
    terms: Terms | None = None
    python: str = ""
    env: tuple[tuple[str, str], ...] = ()
    limit: int = 0
    ship: tuple[str, ...] = ()
    ship_ignore: tuple[str, ...] = ()
    fetch: tuple[str, ...] = ()
    #: Most bytes to ship, to fetch of a task, to fetch of a job.
    file_limits: tuple[int, int, int] = (0, 0, 0)
    retry: Retry | None = None
    notice: Notice | None = None
    calls_per_runner: int = 0


def read_resources(
    config: Config,
    *,
    cpus: int | None = None,
    mem: str | int | None = None,
    gpus: int = 0,
    time: str | float | None = None,
    name: str = "",
    priority: int = 0,
    queue: str | None = None,
    nodelist: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    constraint: str | None = None,
    licenses: str | Sequence[str] = (),
    rate: str | None = None,
    python: str = "",
    env: Mapping[str, str] | None = None,
    limit: int = 0,
    ship: str | Sequence[str] = (),
    ship_ignore: str | Sequence[str] = (),
    fetch: str | Sequence[str] = (),
    retries: int | None = None,
    backoff: str | float | None = None,
    retry_on: str | Sequence[str] | None = None,
    on_oom: str | float | None = None,
    on_timeout: str | float | None = None,
    signal: str | None = None,
    max_tasks_per_child: int | None = None,
) -> Resources:
    """Return the options of a call, checked; defaults are the configuration's. SpecError.

    `mem`: "4G", or bytes as an int; `time`: "1h", "90s", "1:30:00", or seconds as a number;
    `backoff`: the same, or "10s,5m"; `on_oom`: "mem*2" or 2; `on_timeout`: "time*2" or 2.
    `ship`: files and folders, `ship_ignore`: rules as in .gitignore, `fetch`: patterns.
    """
    mem_bytes = _memory(config.job.mem if mem is None else mem)
    time_s = _limit(config.job.time if time is None else time)
    asked = _on_failure(retries, backoff, retry_on, on_oom, on_timeout, signal)
    return Resources(
        cpus=_whole(config.job.cpus if cpus is None else cpus, "cpus", least=1),
        mem_bytes=mem_bytes,
        gpus=_whole(gpus, "gpus"),
        time_s=time_s,
        name=name,
        priority=_whole(priority, "priority", least=-(10**6)),
        queue=check_name(config.job.queue if queue is None else queue, what="queue"),
        nodelist=parse_nodes(",".join(_several(nodelist))) if nodelist else (),
        terms=read_terms(AskedTerms(_several(exclude), constraint, _several(licenses), rate, "")),
        python=os.path.expanduser(python),
        env=tuple(sorted((str(key), str(value)) for key, value in (env or {}).items())),
        limit=_whole(limit, "limit"),
        ship=_texts(ship),
        ship_ignore=_texts(ship_ignore),
        fetch=tuple(check_glob(pattern) for pattern in _texts(fetch)),
        file_limits=_file_limits(config),
        retry=read_retry(asked, mem_bytes=mem_bytes, time_s=time_s, requeue=True),
        notice=read_notice(asked, time_s=time_s),
        calls_per_runner=_per_child(max_tasks_per_child),
    )


def _memory(mem: str | int) -> int:
    found: int = _read(parse_size, mem, "mem") if isinstance(mem, str) else _whole(mem, "mem")
    return found


def _limit(time: str | float) -> float:
    found: float = _read(parse_duration, time, "time") if isinstance(time, str) else _seconds(time)
    return found


def _per_child(calls: int | None) -> int:
    return 0 if calls is None else _whole(calls, "max_tasks_per_child", least=1)


def _file_limits(config: Config) -> tuple[int, int, int]:
    job = config.job
    return parse_size(job.ship_limit), parse_size(job.fetch_limit), parse_size(job.fetch_total)


def _on_failure(
    retries: int | None,
    backoff: str | float | None,
    retry_on: str | Sequence[str] | None,
    on_oom: str | float | None,
    on_timeout: str | float | None,
    signal: str | None,
) -> Asked:
    return Asked(
        None if retries is None else _whole(retries, "retries"), _text(backoff, after="s"),
        retry_on if isinstance(retry_on, str) or retry_on is None else ",".join(retry_on),
        _text(on_oom, "mem*"), _text(on_timeout, "time*"), signal, dashes="",
    )  # fmt: skip


def _several(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if value and isinstance(value, str) else tuple(value)


def _texts(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(os.fspath(text) for text in value)


def pack_files(resources: Resources) -> tuple[Parcel, ...]:
    """Return what is shipped, as it is now; raises SpecError."""
    if not resources.ship:
        return ()
    from qsub_py.shipping import make_parcels

    return make_parcels(resources.ship, base=_cwd(), ignore=resources.ship_ignore,
                        limit=resources.file_limits[0])  # fmt: skip


def _text(value: str | float | None, before: str = "", after: str = "") -> str | None:
    """Return an option given as a number as it is written."""
    return value if isinstance(value, str) or value is None else f"{before}{value:.6f}{after}"


def _read(parse: Callable[[str], Any], text: str, name: str) -> Any:
    try:
        return parse(text) if text else 0
    except SpecError as error:
        raise SpecError(f"{name}: {error}", hint=error.hint) from None


def _whole(value: Any, name: str, *, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise SpecError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise SpecError(f"{name} must be at least {least}, not {value}")
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e10:
        raise SpecError(f'time must be seconds or a text such as "1h", not {value!r}')
    return float(value)


def call_spec(
    resources: Resources, function: bytes, shown: str, parcels: Sequence[Parcel] = ()
) -> JobSpec:  # fmt: skip
    """Return the spec of an open job of calls of a packed function, shown as "module:name"."""
    return JobSpec(
        kind="call",
        name=resources.name or shown.rpartition(":")[2] or "call",
        owner=user_name(),
        function_sha=hashlib.sha256(function).hexdigest(),
        function_name=shown,
        python_minor="{}.{}".format(*sys.version_info),
        python=resources.python,
        python_hint="" if resources.python else sys.executable,
        path=_own_path(),
        cwd=_cwd(),
        env=_environment() | dict(resources.env),
        umask=_umask(),
        segments=_ANY_NUMBER,
        is_array=True,
        cpus=resources.cpus,
        mem_bytes=resources.mem_bytes,
        gpus=resources.gpus,
        time_s=resources.time_s,
        queue=resources.queue,
        nodelist=resources.nodelist,
        terms=resources.terms,
        ship=tuple(parcel.ship for parcel in parcels),
        fetch=resources.fetch,
        fetch_bytes=resources.file_limits[1] if resources.fetch else 0,
        fetch_job_bytes=resources.file_limits[2] if resources.fetch else 0,
        is_cwd_optional=True,
        retry=resources.retry,
        notice=resources.notice,
        calls_per_runner=resources.calls_per_runner,
    )


def shown_name(fn: Callable[..., Any]) -> str:
    """Return how a callable is shown: "module:qualname"."""
    if isinstance(fn, functools.partial):
        return shown_name(fn.func)
    kind = fn if hasattr(fn, "__qualname__") else type(fn)
    return f"{getattr(kind, '__module__', None) or ''}:{getattr(kind, '__qualname__', 'call')}"


def _environment() -> dict[str, str]:
    from qsub_py.environ import exported

    return exported(("ALL",), os.environ)


def _own_path() -> tuple[str, ...]:
    """Return the directories of sys.path that hold the user's own modules."""
    installed = ("site-packages", "dist-packages")
    found = [os.path.abspath(path) for path in sys.path if os.path.isdir(path or ".")]
    return tuple(
        path
        for path in dict.fromkeys(found)
        if not path.startswith((sys.base_prefix + os.sep, sys.prefix + os.sep))
        and not any(part in path for part in installed)
    )


def _cwd() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise SpecError(
            "the working directory was deleted", hint="change to one that exists"
        ) from None


def _umask() -> int:
    # os.umask would change it for a moment, for all threads.
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            return next(int(line.split()[1], 8) for line in file if line.startswith("Umask:"))
    except (OSError, StopIteration):
        return 0o022
