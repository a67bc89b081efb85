"""The server's protocol (RESP2) over a socket of this host, in the standard library alone.

The embedded server is reached so, by every command, and a tunnel's end on 127.0.0.1: redis-py,
which store_link.py uses for other hosts and TLS, takes longer to import (0.1 s) than a whole
`qstat` may take. Errors of the socket are OSError; what the server refuses is `Refusal`.
Protocol: https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from io import BufferedReader
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

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
        self._query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self._user = unquote(parts.username or "") or self._query.get("username", "")
        self._password = password or unquote(parts.password or "")
        self._password = self._password or self._query.get("password", "")
        self._database = self._query.get("db", "0")
        self._timeout_s = timeout_s
        self._aim(parts)
        self._socket: socket.socket | None = None
        self._file: BufferedReader | None = None

    def _aim(self, parts: SplitResult) -> None:
        """Take from the URL where to connect to; raises ValueError."""
        if parts.scheme != "unix" or not parts.path:
            raise ValueError("it must be unix:///path")
        self._path = unquote(parts.path)

    def _dial(self) -> None:
        """Connect, with the time limits of each wait set before."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._wait_at_most(self._timeout_s)
        self._socket.connect(self._path)

    def connect(self) -> None:
        """Connect and authenticate; OSError, Refusal."""
        self._dial()
        assert self._socket is not None
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


class LoopbackConnection(UnixConnection):
    """A connection to a port of this host: `redis://[user:password@]127.0.0.1:PORT[/DB]`.

    With `?owner=me` the password goes only to a listener of this user (or of root): when a
    tunnel is down, any other user of the host may listen on its port.
    """

    def _aim(self, parts: SplitResult) -> None:
        if parts.scheme != "redis" or parts.hostname != LOOPBACK:
            raise ValueError(f"it must be redis://{LOOPBACK}:PORT")
        self._port = parts.port or 6379
        self._database = parts.path.strip("/") or self._database

    def _dial(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._wait_at_most(self._timeout_s)
        self._socket.connect((LOOPBACK, self._port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._query.get("owner") == "me" and not is_ours(self._port):
            self.disconnect()
            raise ConnectionError(f"port {self._port} is not ours any more")


LOOPBACK = "127.0.0.1"
_LISTENS = "0A"


def is_ours(port: int) -> bool:
    """Whether this user or root listens on a port of LOOPBACK; True where Linux does not say."""
    ends, uids = _table_addresses(), set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as file:
                uids |= _listeners(file, port, ends)
        except FileNotFoundError:
            if table.endswith("tcp"):
                return True
    return bool(uids) and uids <= {os.geteuid(), 0}


def _table_addresses() -> tuple[str, ...]:
    """Return LOOPBACK and the wildcards as the kernel's tables write them."""
    (number,) = struct.unpack("=I", socket.inet_aton(LOOPBACK))
    (mapped,) = struct.unpack("=I", b"\0\0\xff\xff")
    plain = f"{number:08X}"
    return plain, "0" * 8, "0" * 32, f"{0:016X}{mapped:08X}{plain}"


def _listeners(lines: Iterable[str], port: int, ends: tuple[str, ...]) -> set[int]:
    found = set()
    for number, line in enumerate(lines):
        words = line.split()
        if not number:
            continue  # the heading
        if words[3] != _LISTENS:
            break  # listeners come first, and there may be many connections
        address, _, digits = words[1].partition(":")
        if int(digits, 16) == port and address in ends:
            found.add(int(words[7]))
    return found
