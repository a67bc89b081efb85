"""The files of a cluster's tunnels on the head: hosts, lock, control socket, log.

Standard library only: the supervisor knows no more of the system than this. What is written
here holds no secret.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

#: sun_path holds 108 bytes; a longer path is reached through a descriptor of its directory.
_SHORT_PATH = 100


@dataclass(frozen=True, slots=True)
class Entry:
    """One host's tunnel, as it lies in hosts.json."""

    #: The `Route` as JSON; read by the worker alone.
    route: str
    #: "back": a port of the host leads to the server here. "pull": a socket here leads to the
    #: server there.
    kind: str = "back"
    #: What is run there at each connection, one safe line for its login shell: it rewrites the
    #: host's record, or starts the host's server.
    command: str = ""
    #: What that command gets on its standard input, beside the port and the password.
    message: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Entry:
        """Read what `to_dict` gave; what a newer version added is left out."""
        return cls(**{name: raw[name] for name in cls.__slots__ if name in raw})


def take_lock(path: Path) -> int | None:
    """Take a lock for as long as we live; return its descriptor, None when another has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for _ in range(20):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            time.sleep(0.005)  # whoever glimpses at it holds it for a moment
    os.close(fd)
    return None


class Place:
    """The directory of one cluster's tunnels."""

    def __init__(self, directory: Path) -> None:
        self.dir = directory
        self.hosts = directory / "hosts.json"
        self.lock = directory / "tunnel.lock"
        self.socket = directory / "tunnel.sock"
        self.log = directory / "tunnel.log"

    def read(self) -> dict[str, Entry]:
        """Return the hosts by name; none when the file is missing or damaged."""
        try:
            raw = json.loads(self.hosts.read_bytes())
            return {str(name): Entry.from_dict(fields) for name, fields in raw.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def write(self, entries: Mapping[str, Entry]) -> None:
        """Replace the list of hosts; an empty one is no file at all."""
        if not entries:
            self.hosts.unlink(missing_ok=True)
            return
        text = json.dumps({name: entry.to_dict() for name, entry in entries.items()}, indent=1)
        draft = self.hosts.with_name(".hosts.json")
        draft.touch(mode=0o600)
        draft.write_text(text + "\n", "utf-8")
        draft.replace(self.hosts)

    def is_ours(self, lock: int) -> bool:
        """Whether the lock file that we hold is still the one of this directory."""
        try:
            there, mine = self.lock.stat(), os.fstat(lock)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)

    @contextlib.contextmanager
    def address(self) -> Iterator[str]:
        """Yield a path of the control socket that fits into a socket address."""
        if len(os.fsencode(self.socket)) <= _SHORT_PATH:
            yield str(self.socket)
            return
        handle = os.open(self.dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{handle}/{self.socket.name}"
        finally:
            os.close(handle)
