"""A stand-in for a tunnel's end on a host: a loopback port that is joined to a unix socket.

It can be cut (nothing listens), and be mute (it accepts and never answers), as sshd is while
its connection is dead and it does not know yet.
"""

from __future__ import annotations

import contextlib
import socket
import threading


class Relay:
    """A loopback port; each connection to it is joined to the socket `path`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._open: list[socket.socket] = []
        self.is_mute = False
        self.port = 0
        self.listen()

    def listen(self) -> int:
        """Listen on a new port; return it."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        return self.port

    def cut(self) -> None:
        """Stop listening and break every connection."""
        for one in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                here = listener.accept()[0]
                self._open.append(here)
                if not self.is_mute:
                    there = socket.socket(socket.AF_UNIX)
                    there.connect(self._path)
                    self._open.append(there)
                    for pair in ((here, there), (there, here)):
                        threading.Thread(target=self._copy, args=pair, daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while (data := source.recv(65536)) and not self.is_mute:
                target.sendall(data)
        while self.is_mute and source.fileno() >= 0:
            threading.Event().wait(0.05)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
