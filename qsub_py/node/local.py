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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qsub_py.activation import find_environment
from qsub_py.config import Config, redact
from qsub_py.errors import ConfigError, NodeError, SpecError
from qsub_py.node import edition, hardware, install, interpreters, turns
from qsub_py.node import gpus as devices
from qsub_py.node.settings import NodeSettings
from qsub_py.text import check_name

#: A host may be slow; an agent that ends is noticed at once.
_WAIT_S = 60.0


class AgentEnded(NodeError):
    """The agent that was started has ended before it joined."""


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
    pythons: tuple[str, ...] = ()
    #: Options of a node that ran already which are others now.
    changed: tuple[str, ...] = ()
    #: Whether the agent of a node that ran was started anew (a change, or another version).
    was_restarted: bool = False


def start(
    config: Config,
    *,
    name: str = "",
    cpus: int | None = None,
    mem_bytes: int | None = None,
    gpus: int | None = None,
    features: tuple[str, ...] = (),
    queues: tuple[str, ...] = (),
    alias: str = "",
    way: str = "",
    env: str = "",
    avoid_busy_gpus: bool = False,
) -> NodeStarted:
    """Start a node here and return once it has joined; NodeError, SpecError, ConfigError.

    What is None or empty is found on this machine. A node that runs keeps it as it was; what is
    given and other than before is applied by a new agent, and its tasks go on.
    """
    name = check_name(name or _own_name(config), what="node name")
    if cpus is not None and not 1 <= cpus <= 4096:
        raise SpecError(f"a node has 1 to 4096 cpus, not {cpus}")
    given: dict[str, Any] = {
        "cpus": cpus, "mem_bytes": mem_bytes, "gpus": gpus, "features": features or None,
        "queues": queues or None, "alias": alias or None, "way": way or None,
        "env": find_environment(env, os.environ) if env else None,
        "avoid_busy_gpus": avoid_busy_gpus or None,
    }  # fmt: skip
    given = {option: value for option, value in given.items() if value is not None}
    with turns.alone(config):
        if alias:
            check_only(config, name)
        node_dir = _node_dir(config, name)
        if is_running(node_dir):
            return _adjust(config, node_dir, given)
        _found(config, node_dir, name, given).save(node_dir)
        launch(node_dir)
        install.refresh(config)
        return _started(node_dir, was_running=False)


def check_only(config: Config, name: str) -> None:
    """Raise NodeError where a head has a node here under another name: both would give out
    the same cpus."""
    names = _names_of_heads(config)
    if names and name not in names:
        raise NodeError(
            f"this host has a node already, which is called {names[0]}",
            hint=f"to give it the other name, stop that one first: qnode stop {names[0]}",
        )


def _own_name(config: Config) -> str:
    """Return the name by which a head started the node here, else the host's."""
    return (*_names_of_heads(config), socket.gethostname().split(".")[0])[0]


def _names_of_heads(config: Config) -> list[str]:
    return [settings.name for settings, _, runs in local_nodes(config) if runs and settings.alias]


def _found(config: Config, node_dir: Path, name: str, given: dict[str, Any]) -> NodeSettings:
    """Return the settings of a node that does not run: what is given, and what is found."""
    settings = NodeSettings(
        _uid(node_dir), name, hardware.cpus(), hardware.mem_bytes(), 0, config.cluster, config.url
    )
    there = devices.find() if given.get("gpus") != 0 else ()
    settings = replace(settings, gpus=len(there), devices=there)
    return _sized(replace(settings, **given))


def _sized(settings: NodeSettings) -> NodeSettings:
    return replace(settings, devices=settings.devices[: settings.gpus])


def _adjust(config: Config, node_dir: Path, given: dict[str, Any]) -> NodeStarted:
    """Apply what is given to a node that runs; nothing is done when it is so already."""
    old = NodeSettings.load(node_dir)
    if old.url != config.url:
        where = f"the server at {redact(old.url)}" if old.url else "the embedded server"
        raise NodeError(
            f"node {old.name} runs already, for {where}",
            hint="stop it first (qnode stop), or give the new one a --name of its own",
        )
    changed = tuple(option for option, value in given.items() if getattr(old, option) != value)
    if not changed and joined_build(node_dir) == build():
        return _started(node_dir, was_running=True)
    new = replace(old, **given)
    if "gpus" in changed:
        new = _sized(replace(new, devices=devices.find()))
    new.save(node_dir)
    try:
        launch(node_dir)
    except AgentEnded:
        old.save(node_dir)  # its former agent is at work, or will be in a moment
        raise
    install.refresh(config)
    return _started(node_dir, was_running=True, changed=changed)


def local_nodes(config: Config) -> list[tuple[NodeSettings, Path, bool]]:
    """Return (settings, directory, whether its agent runs) of the cluster's nodes here."""
    found = []
    folder = config.state_path() / "nodes"
    for node_dir in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            settings = NodeSettings.load(node_dir)
            if settings.cluster == config.cluster:
                found.append((settings, node_dir, is_running(node_dir)))
        except (OSError, ValueError, TypeError):
            continue
    return found


def ensure(config: Config) -> list[str]:
    """Start the agents of this cluster's nodes here that are dead and were not stopped.

    Returns their names. Raises NodeError when one does not come up, after trying the others.
    """
    done: list[str] = []
    failed: list[NodeError] = []
    for settings, node_dir, runs in local_nodes(config):
        if runs or (node_dir / "stopped").exists():
            continue
        try:
            with turns.alone(config):
                if is_running(node_dir):
                    continue
                launch(node_dir)
            done.append(settings.name)
        except NodeError as error:
            failed.append(NodeError(f"node {settings.name}: {error}", hint=error.hint))
    for complaint in failed:
        raise complaint
    return done


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


def _started(
    node_dir: Path, *, was_running: bool, changed: tuple[str, ...] | None = None
) -> NodeStarted:
    settings = NodeSettings.load(node_dir)
    return NodeStarted(
        settings.name, settings.uid, settings.cpus, settings.mem_bytes, settings.gpus, was_running,
        node_dir, tuple(settings.pythons), changed or (), was_restarted=changed is not None,
    )  # fmt: skip


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


# -- the agent's process -------------------------------------------------------------------


def agent_argv(node_dir: Path) -> list[str]:
    """Return the command line that runs the node's agent, whatever its starter's environment is.

    The keeper starts it again with what it was itself started with: that may be another copy.
    """
    home = edition.home()
    path = [word for word in os.environ.get("PYTHONPATH", "").split(os.pathsep) if word]
    if home.name not in ("site-packages", "dist-packages"):
        path.insert(0, str(home))
    words = os.pathsep.join(dict.fromkeys(path))
    env = [f"PYTHONPATH={words}"] if words else ["-u", "PYTHONPATH"]
    return ["/usr/bin/env", *env, sys.executable, "-m", "qsub_py.node", str(node_dir)]


def build() -> str:
    """Return what tells agents apart that one would replace: version, place, interpreter."""
    return f"{edition.name()} {sys.executable}"


def joined_build(node_dir: Path) -> str:
    """Return `build` of the agent that joined last."""
    try:
        return (node_dir / "joined").read_text("utf-8", "surrogateescape")
    except OSError:
        return ""


def launch(node_dir: Path) -> None:
    """Start the agent of a node whose settings are written; NodeError unless it joins.

    One that runs is replaced, and not before the new one has come so far as to do that itself:
    what cannot even be imported leaves the old agent at its work.
    """
    settings = NodeSettings.load(node_dir)
    replace(settings, pythons=interpreters.find(settings.env)).save(node_dir)
    for name in ("joined", "failed", "stopped"):
        (node_dir / name).unlink(missing_ok=True)
    with open(node_dir / "agent.log", "ab") as log:
        process = subprocess.Popen(
            [*agent_argv(node_dir), "--replace"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )
    _await_joined(node_dir, process)


def _await_joined(node_dir: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _WAIT_S
    log = f"its log says why: {node_dir / 'agent.log'}"
    while time.monotonic() < deadline:
        # Asked before the files are looked for: what it wrote before its end is found.
        has_ended = process.poll() is not None
        if (node_dir / "joined").exists():
            return
        failed = node_dir / "failed"
        if failed.exists():
            message, _, hint = failed.read_text("utf-8").partition("\n")
            raise AgentEnded(message, hint=hint)
        if has_ended:
            raise AgentEnded("the node's agent ended at once", hint=log)
        time.sleep(0.02)
    raise NodeError(f"the node did not come up in {_WAIT_S:.0f} s", hint=log)
