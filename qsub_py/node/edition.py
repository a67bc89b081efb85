"""Which copy of the program runs here, and that it is in use.

What cleans old copies takes `.in-use` beside the package exclusively, without waiting; each agent
and keeper that runs from there holds it shared. Standard library only: the keeper calls it.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import qsub_py

_LOCK = ".in-use"
_TRIES = 50


def home() -> Path:
    """Return the directory that holds the package."""
    return Path(__file__).resolve().parents[2]


def name() -> str:
    """Return what tells this copy from another: its version as it was loaded, and its place."""
    return f"{qsub_py.__version__} {home()}"


def hold(place: Path | None = None) -> int | None:
    """Take the shared lock of the copy that runs, until the process ends; return its descriptor.

    None where there is no such file, or no lock can be had on its file system. BlockingIOError
    when the copy is being deleted.
    """
    try:
        descriptor = os.open((place or home()) / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    for attempt in range(_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if attempt == _TRIES - 1:
                raise
            time.sleep(0.02)
        except OSError:
            break
    os.close(descriptor)
    return None


def write_pid(path: Path) -> None:
    """Write down our pid, so that a reader finds the former or ours and no empty file."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(f"{os.getpid()}\n")
    new.replace(path)
