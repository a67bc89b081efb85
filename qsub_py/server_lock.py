"""Lock files that say what runs: held by the process itself, so they cannot be stale.

Part of `server`. flock(2) belongs to the open file, which a child inherits; the kernel lets
go of it when the last process that has it open is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from qsub_py.errors import ConfigError, StoreBusy


@contextlib.contextmanager
def locked(path: Path, deadline: float) -> Iterator[None]:
    """Hold a lock file; raises StoreBusy when another process holds it until `deadline`."""
    fd = _open(path)
    try:
        while not _try(fd):
            if time.monotonic() > deadline:
                raise StoreBusy(
                    f"another process has been starting the server in {path.parent} for too long",
                    hint="it may be reading a large file: see server.log there",
                )
            time.sleep(0.01)
        yield
    finally:
        # By name: a child that another thread forked meanwhile has a copy of the descriptor.
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        cure = "set QSUB_STATE_DIR to a local directory you can write to"
        raise ConfigError(f"cannot write {path}: {error.strerror}", hint=cure) from None


def _try(fd: int, how: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # ENOLCK: a network file system without locks
        cure = "set QSUB_STATE_DIR to a directory on a local disk"
        raise ConfigError(f"cannot lock: {error.strerror}", hint=cure) from None
    return True


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock, by a shared glimpse at it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _try(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def spawn_locked(argv: Sequence[str], path: Path, *, wait_s: float) -> int:
    """Start a process that holds a lock file for as long as it lives; return its pid.

    Waits for whoever glimpses at the lock, or for a predecessor that is about to end; raises
    StoreBusy when it stays held.
    """
    from qsub_py.server_start import spawn

    fd = _open(path)
    try:
        give_up_at = time.monotonic() + wait_s
        while not _try(fd):
            if time.monotonic() >= give_up_at:
                raise StoreBusy(f"{path} is held", hint="try again")
            time.sleep(0.001)
        return spawn(argv, directory=path.parent, keep_fds=[fd])
    finally:
        os.close(fd)
