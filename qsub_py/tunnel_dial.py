"""Connections from the tunnels to the head's embedded server, which is started on demand.

Used from the threads of many hosts at once: one of them starts the server, the others wait.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import replace
from typing import Any
from urllib.parse import unquote, urlsplit

from qsub_py import reach
from qsub_py.config import Config
from qsub_py.errors import QsubError

#: After an attempt to start the server that failed, none for so long.
_PAUSE_S = 2.0
_WAIT_S = 10.0


class Meter:
    """Bytes that went through a tunnel; only looked at, so it needs no lock."""

    def __init__(self) -> None:
        self.sent = self.received = 0


class _Metered(socket.socket):
    """A connection to the server that counts what goes to the host and what comes from it."""

    def __init__(self, meter: Meter) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self._meter = meter

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Take from the server what is for the host."""
        data = super().recv(size, flags)
        self._meter.sent += len(data)
        return data

    def send(self, data: Any, flags: int = 0) -> int:
        """Give the server what came from the host."""
        size = super().send(data, flags)
        self._meter.received += size
        return size


class Dialer:
    """The way to the embedded server of this host."""

    def __init__(self, config: Config) -> None:
        self.config = replace(config, url="")
        self._lock = threading.Lock()
        self._path = ""
        self._password = ""
        self._not_before = 0.0

    def password(self) -> str:
        """Return the server's password; starts the server if need be. QsubError."""
        with self._lock:
            self._serve()
            return self._password

    def dial(self, meter: Meter) -> socket.socket:
        """Return a connection to the server, started if need be; OSError."""
        path = self._path
        if path:
            with contextlib.suppress(OSError):
                return _connected(path, meter)
        try:
            return _connected(self._find(path), meter)
        except QsubError as error:
            raise ConnectionError(str(error)) from error

    def _find(self, dead: str) -> str:
        """Return the server's socket; when the one that was known is `dead`, start the server."""
        with self._lock:
            if self._path and (self._path != dead or _answers(self._path)):
                return self._path
            if time.monotonic() < self._not_before:
                raise ConnectionError("the server does not start")
            self._serve()
            return self._path

    def _serve(self) -> None:
        self._not_before = time.monotonic() + _PAUSE_S
        found = reach.serve(self.config, wait_s=_WAIT_S)
        self._not_before = 0.0
        self._path, self._password = unquote(urlsplit(found.url).path), found.password


def _connected(path: str, meter: Meter) -> socket.socket:
    made = _Metered(meter)
    try:
        made.connect(path)
    except OSError:
        made.close()
        raise
    return made


def _answers(path: str) -> bool:
    try:
        _connected(path, Meter()).close()
    except OSError:
        return False
    return True
