"""A tunnel the other way: a socket of this host leads to the server of another host.

Part of the worker. The socket is there as long as the worker is; who connects while the SSH
connection is not gets the end of the file.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from qsub_py import upstream
from qsub_py.config import Config
from qsub_py.server_start import socket_path
from qsub_py.ssh import Connection
from qsub_py.tunnel_place import Place

LOOPBACK = "127.0.0.1"


class Pull:
    """The socket and what it is joined to."""

    def __init__(self, config: Config, name: str) -> None:
        self._config, self._name = config, name
        self._connection: Connection | None = None
        self._port = 0
        self._trouble: Callable[[], None] = lambda: None
        self.path = socket_path(Place(config.tunnel_path()).dir, "server.sock")
        self._listener = self._listen()
        threading.Thread(target=self._accept, name="pull", daemon=True).start()

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.path.unlink(missing_ok=True)
        listener.bind(os.fspath(self.path))
        self.path.chmod(0o600)
        listener.listen(128)
        return listener

    def close(self) -> None:
        """Stop listening, once."""
        if self._listener.fileno() < 0:
            return
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def lead_to(self, connection: Connection, answer: str, trouble: Callable[[], None]) -> int:
        """Join the socket to the server that answered there; return its port. ValueError.

        `trouble` is called when that server cannot be reached any more.
        """
        told = json.loads(answer)
        self._port = int(told["port"])
        upstream.write(
            self._config,
            url=f"unix://{_quoted(self.path)}",
            way="ssh",
            server=self._name,
            password=str(told["password"]),
        )
        self._connection, self._trouble = connection, trouble
        return self._port

    def let_go(self) -> None:
        """Lead nowhere."""
        self._connection = None

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here = self._listener.accept()[0]
                threading.Thread(target=self._join, args=(here,), daemon=True).start()

    def _join(self, here: socket.socket) -> None:
        connection = self._connection
        try:
            if connection is None:
                raise ConnectionRefusedError
            connection.join_tcp(here, LOOPBACK, self._port)
        except Exception:  # whatever it is: who connected sees the end of the file
            here.close()
            if connection is not None and connection.is_alive():
                self._trouble()


def _quoted(path: Path) -> str:
    from urllib.parse import quote

    return quote(os.fsencode(path))
