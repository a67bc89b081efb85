"""What is done to the nodes of this host from outside: restart an agent, end all at once."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from qsub_py.config import Config
from qsub_py.errors import NodeError
from qsub_py.node import install, local, turns

_END_S = 10.0
#: Both were gone at so many looks in a row.
_QUIET = 6


def restart(config: Config, names: Sequence[str]) -> list[str]:
    """Start the agents of running nodes (all, or those named) anew; returns their names.

    What the nodes run is not touched. Raises NodeError when there is none.
    """
    here = [(settings, where) for settings, where, is_up in local.local_nodes(config) if is_up]
    unknown = set(names) - {settings.name for settings, _ in here}
    if unknown or not here:
        what = f"called {', '.join(sorted(unknown))} runs" if unknown else "runs"
        raise NodeError(f"no node {what} on this host", hint="start one with `qnode start`")
    chosen = [(settings, where) for settings, where in here if not names or settings.name in names]
    with turns.alone(config):
        for _, node_dir in chosen:
            local.launch(node_dir)
    install.refresh(config)
    return [settings.name for settings, _ in chosen]


def destroy(config: Config, name: str) -> bool:
    """End a node of this host and all it runs, without asking anybody; whether there was one.

    The server hears nothing of it: what ran there runs again when the lease has lapsed.
    """
    found = [where for settings, where, _ in local.local_nodes(config) if settings.name == name]
    for node_dir in found:
        (node_dir / "stopped").touch()  # `ensure` leaves it alone
        _end(node_dir)
    return bool(found)


def is_there(node_dir: Path) -> bool:
    """Whether a node has an agent, or a keeper that holds what it runs until there is one."""
    return local.is_running(node_dir) or bool(_keeper(node_dir))


def _end(node_dir: Path) -> None:
    """End agent and keeper, also one that the other starts again in the middle of it."""
    deadline, quiet = time.monotonic() + _END_S, 0
    while quiet < _QUIET and time.monotonic() < deadline:
        # The keeper by SIGTERM: it ends what it runs.
        pids = ((_keeper(node_dir), signal.SIGTERM), (_agent(node_dir), signal.SIGKILL))
        for pid, how in pids:
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, how)
        quiet = 0 if any(pid for pid, _ in pids) else quiet + 1
        time.sleep(0.05)


def runs_this_package(node_dir: Path) -> bool:
    """Whether a node's agent runs from the same place as this process."""
    home = Path(__file__).resolve().parents[2]
    try:
        environ = Path(f"/proc/{_pid(node_dir, 'agent')}/environ").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return False
    paths = [word[11:] for word in environ if word.startswith(b"PYTHONPATH=")]
    return any(os.fsencode(home) in path.split(b":") for path in paths)


def _agent(node_dir: Path) -> int:
    return _pid(node_dir, "agent") if local.is_running(node_dir) else 0


def _keeper(node_dir: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        pid = _pid(node_dir, "keeper")
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if os.fsencode(node_dir) in words:
            return pid
    return 0


def _pid(node_dir: Path, role: str) -> int:
    return int((node_dir / f"{role}.pid").read_text())
