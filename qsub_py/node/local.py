"""Start a node on this host, and find the ones that are here.

A node lives in a directory of its own under the state directory; its agent holds a lock
there, so a second one for the same node is refused.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from qsub_py.config import Config
from qsub_py.errors import ConfigError, NodeError, SpecError
from qsub_py.node import hardware
from qsub_py.node.settings import NodeSettings
from qsub_py.text import check_name

_WAIT_S = 20.0


@dataclass(frozen=True, slots=True)
class NodeStarted:
    """A node that is up (or was already)."""

    name: str
    uid: str
    cpus: int
    mem_bytes: int
    gpus: int
    was_running: bool
    node_dir: Path


def start(
    config: Config,
    *,
    name: str = "",
    cpus: int | None = None,
    mem_bytes: int | None = None,
    gpus: int | None = None,
    features: tuple[str, ...] = (),
    queues: tuple[str, ...] = ("main",),
) -> NodeStarted:
    """Start a node here and return once it has joined; NodeError, SpecError, ConfigError."""
    name = check_name(name or socket.gethostname().split(".")[0], what="node name")
    cpus = hardware.cpus() if cpus is None else cpus
    mem_bytes = hardware.mem_bytes() if mem_bytes is None else mem_bytes
    gpus = hardware.gpus() if gpus is None else gpus
    if cpus < 1 or cpus > 4096:
        raise SpecError(f"a node has 1 to 4096 cpus, not {cpus}")
    node_dir = _node_dir(config, name)
    settings = NodeSettings(
        _uid(node_dir), name, cpus, mem_bytes, gpus, config.cluster, config.url, features, queues
    )
    if is_running(node_dir):
        old = NodeSettings.load(node_dir)
        if old != settings and (cpus, mem_bytes, gpus) != (old.cpus, old.mem_bytes, old.gpus):
            raise NodeError(
                f"node {name} runs already, with {old.cpus} cpus",
                hint="stop it first (qnode stop), or give the new one a --name of its own",
            )
        return _started(old, node_dir, was_running=True)
    settings.save(node_dir)
    _launch(node_dir)
    _await_joined(node_dir)
    return _started(settings, node_dir, was_running=False)


def local_nodes(config: Config) -> list[tuple[NodeSettings, Path, bool]]:
    """Return (settings, directory, whether its agent runs) of this host's nodes."""
    found = []
    folder = config.state_path() / "nodes"
    for node_dir in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            found.append((NodeSettings.load(node_dir), node_dir, is_running(node_dir)))
        except (OSError, ValueError, TypeError):
            continue
    return found


def is_running(node_dir: Path) -> bool:
    """Whether an agent holds the node's lock."""
    try:
        with open(node_dir / "agent.lock", "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _started(settings: NodeSettings, node_dir: Path, *, was_running: bool) -> NodeStarted:
    return NodeStarted(settings.name, settings.uid, settings.cpus, settings.mem_bytes,
                       settings.gpus, was_running, node_dir)  # fmt: skip


def _node_dir(config: Config, name: str) -> Path:
    node_dir = config.state_path() / "nodes" / f"{config.cluster}.{name}"
    try:
        node_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write {node_dir}: {error.strerror}") from None
    return node_dir


def _uid(node_dir: Path) -> str:
    """Return the node's uid: a new one where the directory is new or was copied from elsewhere."""
    machine = hardware.machine_id()[:12]
    try:
        uid = NodeSettings.load(node_dir).uid
    except (OSError, ValueError, TypeError):
        uid = ""
    return uid if uid.startswith(machine) else f"{machine}{secrets.token_hex(4)}"


def agent_argv(node_dir: Path) -> list[str]:
    """Return the command line that runs the node's agent."""
    return [sys.executable, "-m", "qsub_py.node", str(node_dir)]


def _launch(node_dir: Path) -> None:
    for name in ("joined", "failed"):
        (node_dir / name).unlink(missing_ok=True)
    with open(node_dir / "agent.log", "ab") as log:
        subprocess.Popen(
            agent_argv(node_dir),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=dict(os.environ) | _package_path(),
            start_new_session=True,
        )


def _package_path() -> dict[str, str]:
    """Return the PYTHONPATH with which a new interpreter finds this very package."""
    home = str(Path(__file__).resolve().parents[2])
    if os.path.basename(home) in ("site-packages", "dist-packages"):
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))}


def _await_joined(node_dir: Path) -> None:
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        if (node_dir / "joined").exists():
            return
        failed = node_dir / "failed"
        if failed.exists():
            message, _, hint = failed.read_text("utf-8").partition("\n")
            raise NodeError(message, hint=hint)
        time.sleep(0.02)
    raise NodeError(
        "the node did not come up in 20 s", hint=f"its log says why: {node_dir / 'agent.log'}"
    )
