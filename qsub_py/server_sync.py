"""Put what a server has written on the disk, once a second, from outside of it.

Run as a program: `python server_sync.py DIRECTORY PID`; ends with the server, and inherits
the lock that says it is there. The server runs
with `appendfsync no`, which hands each write to the kernel before it answers, so a killed
server loses nothing; this bounds what a power cut loses. (With `everysec` the server holds
writes back while a sync is slow, and loses them when it is killed.) Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time

INTERVAL_S = 1.0


def append_only_files(directory: str) -> list[str]:
    """Return the server's append-only files: of Redis before 7 one, since then a directory."""
    found = []
    for part in ("", "appendonlydir"):
        with contextlib.suppress(OSError):
            names = os.listdir(os.path.join(directory, part))
            found += [os.path.join(directory, part, n) for n in names if n.endswith(".aof")]
    return found


def sync(directory: str, synced: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Sync the files that changed since `synced` (path -> inode, size); return the new state."""
    now = {}
    for path in append_only_files(directory):
        with contextlib.suppress(OSError):  # a rewrite may remove it meanwhile
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                status = os.fstat(fd)
                now[path] = (status.st_ino, status.st_size)
                if now[path] != synced.get(path):
                    os.fsync(fd)
            finally:
                os.close(fd)
    if now.keys() != synced.keys():
        _sync_directories({os.path.dirname(path) for path in now})
    return now


def _sync_directories(directories: set[str]) -> None:
    for directory in directories:
        with contextlib.suppress(OSError):
            fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def wait(pid: int, pidfd: int | None, seconds: float) -> bool:
    """Sleep, at most until the process ends; return whether it has ended."""
    if pidfd is not None:
        return bool(select.select([pidfd], [], [], seconds)[0])
    time.sleep(seconds)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def main(directory: str, pid: int) -> None:
    """Sync until the server `pid` has ended, and once more then."""
    try:
        pidfd = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    except ProcessLookupError:
        return
    except OSError:  # a kernel before 5.3
        pidfd = None
    synced: dict[str, tuple[int, int]] = {}
    has_ended = False
    while not has_ended:
        has_ended = wait(pid, pidfd, INTERVAL_S)
        synced = sync(directory, synced)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
