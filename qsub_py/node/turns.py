"""Turns: what changes the nodes of this host does so alone.

Two starts of one node at once would end each other's agents. The locks belong to the process that
holds them, so they are never stale.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from qsub_py.config import Config
from qsub_py.errors import ConfigError, NodeError

#: Longer than a start takes (30 s for its way, 60 s for the node), but shorter than the head
#: waits for an answer.
_PATIENCE_S = 100.0

_held: dict[str, int] = {}


@contextlib.contextmanager
def alone(config: Config) -> Iterator[None]:
    """Start agents of the cluster here with nobody else at it; NodeError, ConfigError."""
    fd = _open(config, "start")
    try:
        if not _wait(fd):
            raise NodeError(
                "another command has been starting nodes on this host for too long",
                hint="try again; `qnode logs` shows what they say",
            )
        yield
    finally:
        os.close(fd)


def take(config: Config) -> None:
    """Wait for other heads' visits to the cluster's nodes here to end, and be the one at work
    until this process ends.

    One that has lost its head may take long to notice, so the wait has an end; `alone` still
    keeps apart what must never overlap.
    """
    if config.cluster not in _held:
        _held[config.cluster] = fd = _open(config, "visit")
        _wait(fd)


def _open(config: Config, kind: str) -> int:
    path = config.state_path() / f"{kind}.{config.cluster}.lock"
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def _wait(fd: int) -> bool:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        except OSError:  # a file system without locks: as if alone
            return True
