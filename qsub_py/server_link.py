"""The few words that starting and stopping a server needs, on a raw socket.

Part of `server`; without redis-py, whose import costs more than the whole of `ensure`.
"""

from __future__ import annotations

import socket
from enum import Enum
from pathlib import Path

from qsub_py.errors import StoreUnavailable


class Answer(Enum):
    """What a server says to a PING."""

    READY = "running"
    LOADING = "loading"
    #: Nobody listens.
    DOWN = "stopped"
    #: Somebody listens and says nothing.
    SILENT = "silent"
    #: It has another password.
    DENIED = "denied"


def ping(path: Path, password: str, *, timeout_s: float = 5.0) -> Answer:
    """Return how the server behind a socket is; never raises for a server that is down."""
    try:
        reply = call(path, password, "PING", timeout_s=timeout_s)
    except (TimeoutError, BlockingIOError):  # EAGAIN: its backlog is full
        return Answer.SILENT
    except (OSError, StoreUnavailable):
        return Answer.DOWN
    if reply.startswith(b"-LOADING"):
        return Answer.LOADING
    if reply.startswith((b"-NOAUTH", b"-WRONGPASS")):
        return Answer.DENIED
    return Answer.READY  # also -MISCONF and -BUSY: it lives, and the store will say what ails it


def info(path: Path, password: str, *, timeout_s: float = 5.0) -> dict[str, str]:
    """Return the fields of INFO; raises OSError or StoreUnavailable."""
    text = call(path, password, "INFO", timeout_s=timeout_s).decode("utf-8", "replace")
    lines = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, _, value in lines if name}


def call(path: Path, password: str, *words: str, timeout_s: float = 5.0) -> bytes:
    """Run one command that answers with a line or a text; returns errors as `-ERR ...`.

    Raises OSError, TimeoutError (a subclass), or StoreUnavailable when the answer breaks off.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(timeout_s)
        link.connect(str(path))
        link.sendall(_packed("AUTH", password) + _packed(*words))
        with link.makefile("rb") as stream:
            granted = _reply(stream.readline())
            if granted.startswith((b"-WRONGPASS", b"-NOAUTH")):
                return granted
            line = _reply(stream.readline())
            if not line.startswith(b"$"):
                return line
            size = int(line[1:])
            body = stream.read(size + 2)
    if len(body) < size + 2:
        raise StoreUnavailable(f"the server at {path} broke off")
    return body[:-2]


def _packed(*words: str) -> bytes:
    parts = [f"*{len(words)}\r\n".encode()]
    for word in words:
        data = word.encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
    return b"".join(parts)


def _reply(line: bytes) -> bytes:
    if not line.endswith(b"\r\n"):
        raise StoreUnavailable("the server broke off")
    return line[:-2]
