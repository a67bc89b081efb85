"""Our commands on PATH, for programs that run them by name."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import qsub_py

_ROOT = Path(qsub_py.__file__).parents[1]
_NAMES = ("qsub", "qstat", "qcancel", "qwait", "qlog", "qrerun", "qresult")


def commands_on_path(folder: Path) -> dict[str, str]:
    """Return an environment in which our commands are those of this Python."""
    programs = folder / "bin"
    programs.mkdir()
    for name in _NAMES:
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m qsub_py {name} "$@"\n')
        (programs / name).chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    return {**os.environ, "PYTHONPATH": str(_ROOT), "PATH": path}
