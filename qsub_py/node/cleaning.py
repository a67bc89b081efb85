"""Deleting what a node keeps for a while: outputs, files that were brought, spooled scripts."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

#: Folder of the node -> how many days its files are kept.
_DAYS = {"out": 7, "spool": 30, "inputs": 1 / 24}


def clean(node_dir: Path, slots: Iterable[int]) -> None:
    """Delete outputs a week after their end, scripts and functions after a month.

    Scratch directories go unless they are those of `slots`, in a child: they may hold a lot.
    """
    for name, days in _DAYS.items():
        with os.scandir(node_dir / name) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.stat().st_mtime < time.time() - days * 86400:
                        os.unlink(entry.path)
    held = {str(slot) for slot in slots}
    with os.scandir(node_dir / "scratch") as entries:
        remove(e.path for e in entries if e.name.removesuffix(".since") not in held)


def remove(paths: Iterable[str | Path]) -> None:
    """Delete files and folders in a child, which is nobody's zombie (SIGCHLD is ignored)."""
    words = [str(path) for path in paths][:1000]
    if not words:
        return
    with contextlib.suppress(OSError):
        subprocess.Popen(
            ["/bin/rm", "-rf", "--", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
