"""Processes by pid: children, processor time, signals. Linux's /proc, nothing else."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Return the pids of a process's children."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def tree(pid: int) -> list[int]:
    """Return a process and all below it, parents first."""
    found = [pid]
    for child in children(pid):
        found += tree(child)
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def cpu_s(pid: int) -> float:
    """Return the processor time of a process itself, 0 when it is gone."""
    try:
        parts = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(parts[11]) + int(parts[12])) * _TICK_S


def inside(folder: Path) -> list[int]:
    """Return the processes that work in a folder or have it in their environment."""
    found, needle = [], os.fsencode(folder)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                words = os.fsencode(os.readlink(entry / "cwd"))
                if needle in words or needle in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to processes, some of which may have ended."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def end(pids: Iterable[int], *, patience_s: float = 5.0) -> None:
    """End trees of processes: SIGTERM to the roots, then SIGKILL to all that is left."""
    roots = list(pids)
    everyone = [pid for root in roots for pid in tree(root)]
    send(roots, signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: not any(map(is_alive, roots)), timeout_s=patience_s)
    send(filter(is_alive, everyone), signal.SIGKILL)


def wait_for(condition: Callable[[], object], *, timeout_s: float, pause_s: float = 0.005) -> None:
    """Return when the condition is true; TimeoutError after a while."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s:.0f} s")
        time.sleep(pause_s)
