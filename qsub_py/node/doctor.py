"""What may keep a node of this host from working well, and what to do about each.

Looks and changes nothing; a check that itself fails is told as such, and the others go on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import qsub_py
from qsub_py.config import Config
from qsub_py.errors import QsubError
from qsub_py.node import (
    cgroups,
    doctor_host,
    doctor_server,
    edition,
    gpus,
    hardware,
    interpreters,
    local,
)
from qsub_py.node.findings import BAD, OK, WARN, Finding
from qsub_py.node.keeper_link import keeper_answers
from qsub_py.node.settings import NodeSettings
from qsub_py.units import format_size

__all__ = ["BAD", "OK", "WARN", "Check", "checks"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    #: "ok", "warn" (works, with a loss), "bad" (does not work).
    verdict: str
    detail: str
    #: What to do, "" when nothing is to be done.
    cure: str = ""


def checks(config: Config) -> list[Check]:
    """Look at everything on this host; takes a few seconds."""
    looks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("version", lambda: _version(config)),
        ("node", lambda: _nodes(config)),
        ("python", _pythons),
        ("home", doctor_host.home),
        ("cache", doctor_host.cache),
        ("disk", lambda: doctor_host.disks(config)),
        ("key", lambda: doctor_server.key(config)),
        ("server", lambda: doctor_server.server(config)),
        ("clock", lambda: doctor_server.clock(config)),
        ("logout", doctor_host.logout),
        ("sshd", lambda: doctor_host.sshd(config)),
        ("cpus", _cpus),
        ("gpus", _gpus),
        ("shm", doctor_host.shm),
        ("limits", doctor_host.limits),
    ]
    return [check for name, look in looks for check in _looked(name, look)]


def _looked(name: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Check]:
    try:
        yield from (Check(name, *finding) for finding in look())
    except QsubError as error:
        yield Check(name, BAD, str(error), error.hint)
    except OSError as error:
        yield Check(name, BAD, f"cannot be looked at: {error}")


def _version(config: Config) -> Iterator[Finding]:
    yield OK, f"qsub_py {qsub_py.__version__} in {edition.home()}, cluster {config.cluster}", ""


def _pythons() -> Iterator[Finding]:
    found = interpreters.find()
    own = f"{sys.executable} ({hardware.python_minor()})"
    yield OK, f"{own}; calls can have {', '.join(found)}", ""


def _nodes(config: Config) -> Iterator[Finding]:
    found = local.local_nodes(config)
    for settings, node_dir, runs in found:
        yield _node(settings, node_dir, runs=runs)
        if settings.env and not Path(settings.env, "bin").is_dir():
            cure = f"make it again, or give another: qnode start --name {settings.name} --env DIR"
            yield BAD, f"{settings.name}: its environment {settings.env} is gone", cure
        lost = [path for path in settings.pythons.values() if not Path(path).exists()]
        if lost:
            yield (
                WARN,
                f"{settings.name}: gone since it started: {', '.join(lost)}",
                f"qnode restart {settings.name}",
            )
    if not found:
        yield WARN, "no node was started on this host", "qnode start"


def _node(settings: NodeSettings, node_dir: Path, *, runs: bool) -> Finding:
    name = settings.name
    if not runs:
        if (node_dir / "stopped").exists():
            return OK, f"{name} was stopped", ""
        return BAD, f"{name}: its agent does not run; see {node_dir}/agent.log", "qnode ensure"
    if not keeper_answers(node_dir):
        detail = f"{name}: its keeper does not answer; see {node_dir}/keeper.log"
        return BAD, detail, f"qnode restart {name}"
    build = local.joined_build(node_dir)
    if build and not build.startswith(f"{edition.name()} "):
        detail = f"{name} runs, as another version: {build.partition(' ')[0]}"
        return WARN, detail, f"qnode restart {name}"
    return OK, f"{name} runs; agent and keeper answer", ""


def _cpus() -> Iterator[Finding]:
    limit, memory = cgroups.cpu_limit(), cgroups.mem_limit()
    words = [f"{hardware.cpus()} cpus, {format_size(hardware.mem_bytes())} for jobs"]
    words += [f"control group: {limit:g} cpus"] if limit else []
    words += [f"control group: {format_size(memory)}"] if memory and memory < 1 << 50 else []
    is_little = limit is not None and limit < 1
    cure = "less than one cpu is ours: ask who runs this container or session"
    yield (WARN if is_little else OK), "; ".join(words), cure if is_little else ""


def _gpus() -> Iterator[Finding]:
    found = gpus.find()
    if not found:
        yield OK, "none", ""
    elif not all(gpu.uuid for gpu in found):
        yield (
            WARN,
            f"{len(found)} device files, but nvidia-smi does not answer",
            "mend the driver; --avoid-busy-gpus needs nvidia-smi",
        )
    else:
        yield OK, ", ".join(f"{gpu.device}: {gpu.name}" for gpu in found), ""
