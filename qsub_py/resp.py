"""The server's protocol (RESP2) over a unix socket, in the standard library alone.

The embedded server is reached so, by every command: redis-py, which store_link.py uses for
redis:// and rediss://, takes longer to import (0.1 s) than a whole `qstat` may take. Errors
of the socket are OSError; what the server refuses is `Refusal`.
Protocol: https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable, Sequence
from io import BufferedReader
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Argument = str | bytes | int | float


class Refusal(Exception):
    """The server's own error reply."""


def encode(commands: Iterable[Sequence[Argument]]) -> bytes:
    """Return commands as the bytes of one write."""
    out: list[bytes] = []
    for words in commands:
        out.append(b"*%d\r\n" % len(words))
        for word in words:
            data = word if isinstance(word, bytes) else str(word).encode("utf-8", "surrogateescape")
            out += (b"$%d\r\n" % len(data), data, b"\r\n")
    return b"".join(out)


class UnixConnection:
    """A connection to a server's unix socket (`unix://[user:password@]/path[?db=N]`)."""

    def __init__(self, url: str, password: str, timeout_s: float) -> None:
        parts = urlsplit(url)
        if parts.scheme != "unix" or not parts.path:
            raise ValueError(f"{url!r} is not unix:///path")
        self._path = unquote(parts.path)
        self._user = unquote(parts.username or "")
        self._password = password or unquote(parts.password or "")
        self._database = parse_qs(parts.query).get("db", ["0"])[0]
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None
        self._file: BufferedReader | None = None

    def connect(self) -> None:
        """Connect and authenticate; OSError, Refusal."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._wait_at_most(self._timeout_s)
        self._socket.connect(self._path)
        self._file = BufferedReader(socket.SocketIO(self._socket, "r"), 65536)
        if self._password:
            user = (self._user,) if self._user else ()
            self.send([("AUTH", *user, self._password)])
            self.read(None)
        if self._database != "0":
            self.send([("SELECT", self._database)])
            self.read(None)

    def disconnect(self) -> None:
        """Close it; the next `connect` begins anew."""
        for thing in (self._file, self._socket):
            if thing is not None:
                with contextlib.suppress(OSError):
                    thing.close()
        self._socket = self._file = None

    def fileno(self) -> int:
        """Return the socket's descriptor; -1 while there is none."""
        return self._socket.fileno() if self._socket is not None else -1

    def send(self, commands: Iterable[Sequence[Argument]]) -> None:
        """Send commands in one write."""
        if self._socket is None:
            raise ConnectionError("not connected")
        self._socket.sendall(encode(commands))

    def read(self, timeout_s: float | None) -> Any:
        """Return the next reply (bytes, int, None, lists), waiting as long as told."""
        if timeout_s is None:
            return self._reply()
        self._wait_at_most(timeout_s)
        try:
            return self._reply()
        finally:
            if self._socket is not None:
                self._wait_at_most(self._timeout_s)

    def _wait_at_most(self, seconds: float) -> None:
        """Limit each wait in the kernel; Python's own timeouts cost a poll before each call."""
        assert self._socket is not None
        limit = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, option, limit)

    def _reply(self) -> Any:
        assert self._file is not None
        line = self._file.readline() or b""
        if not line.endswith(b"\r\n"):
            raise ConnectionError("it closed the connection, or was silent for too long")
        kind, text = line[:1], line[1:-2]
        if kind == b"$":
            size = int(text)
            return self._bytes(size) if size >= 0 else None
        if kind == b":":
            return int(text)
        if kind == b"*":
            count = int(text)
            return [self._reply() for _ in range(count)] if count >= 0 else None
        if kind == b"+":
            return text
        if kind == b"-":
            raise Refusal(text.decode("utf-8", "replace"))
        raise ConnectionError(f"not a reply: {line[:40]!r}")

    def _bytes(self, size: int) -> bytes:
        assert self._file is not None
        data = self._file.read(size + 2) or b""
        if len(data) < size + 2:
            raise ConnectionError("it closed the connection, or was silent for too long")
        return data[:-2]
