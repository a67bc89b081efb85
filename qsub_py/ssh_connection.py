"""A connection to one host: commands, streams, forwarded ports, and knowing when it is dead."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

from qsub_py.ssh_route import Route
from qsub_py.ssh_stream import Stream


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command on a host ended."""

    code: int
    stdout: bytes
    stderr: bytes


class Connection:
    """An authenticated connection to one host; safe to use from several threads."""

    route: Route

    def run(self, command: str, stdin: bytes = b"", *, timeout_s: float = 30) -> Finished:
        """Run a command to its end; raises SshLost, and SshError when time is up."""
        raise NotImplementedError

    def open(self, command: str) -> Stream:
        """Start a command and return its stream."""
        raise NotImplementedError

    def forward_back(self, dial: Callable[[], socket.socket]) -> int:
        """Join each connection to a loopback port of the host, chosen there, to `dial()` here.

        Returns the port. Raises ForwardRefused when the host's sshd forbids it.
        """
        raise NotImplementedError

    def open_tcp(self, host: str, port: int) -> socket.socket:
        """Return a socket whose other end is a TCP connection made by the host."""
        raise NotImplementedError

    def is_alive(self) -> bool:
        """Whether the connection stands, as far as one knows here."""
        raise NotImplementedError

    def wait_dead(self, timeout_s: float | None = None) -> bool:
        """Wait until the connection is gone; False when it still stands."""
        raise NotImplementedError

    def close(self) -> None:
        """End it, and the jumps under it; never waits for the network."""
        raise NotImplementedError

    def __enter__(self) -> Connection:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()
