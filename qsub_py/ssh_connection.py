"""A connection to one host: commands, streams, forwarded ports, and knowing when it is dead.

Part of `ssh`. Safe to use from several threads. Two threads a connection: paramiko's, which
reads the socket, and the pump, which starts with the first stream or forwarded port.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import paramiko

from qsub_py.errors import ForwardRefused, HostUnreachable, SshError, SshLost
from qsub_py.ssh_pump import Joint, Pump
from qsub_py.ssh_route import Route
from qsub_py.ssh_stream import Stream
from qsub_py.ssh_transport import Transport
from qsub_py.text import safe

#: Seconds for the host to open a channel.
CHANNEL_S = 20.0
LOOPBACK = "127.0.0.1"
#: Codes of RFC 4254, 5.1.
PROHIBITED, CONNECT_FAILED = 1, 2


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command on a host ended."""

    code: int
    stdout: bytes
    stderr: bytes


class Connection:
    """An authenticated connection to one host."""

    def __init__(self, route: Route, transport: Transport, below: Connection | None) -> None:
        self.route = route
        self._transport, self._below = transport, below
        self._pump: Pump | None = None
        self._lock = threading.Lock()
        self._dials: dict[int, Callable[[], socket.socket]] = {}
        self._is_closed = False

    @property
    def host_key(self) -> str:
        """The host's key that was checked, "TYPE BASE64" as in known_hosts."""
        key = self._transport.get_remote_server_key()
        return f"{key.get_name()} {key.get_base64()}"

    # -- commands --------------------------------------------------------------------------

    def run(self, command: str, stdin: bytes = b"", *, timeout_s: float = 30) -> Finished:
        """Run a command to its end; raises SshLost, and SshError when time is up."""
        until = time.monotonic() + timeout_s

        def left() -> float:
            return max(0.0, until - time.monotonic())

        with self.open(command) as stream:
            try:
                with contextlib.suppress(BrokenPipeError):  # it need not read what it is told
                    stream.write(stdin, timeout_s=left())
                stream.close_stdin()
                stdout = b"".join(iter(lambda: stream.read(2**20, left()), b""))
                return Finished(stream.exit_code(left()), stdout, stream.stderr())
            except TimeoutError:
                raise SshError(
                    f"{self.route}: a command did not end within {timeout_s:g} s: {command[:60]!r}",
                    hint="is the host overloaded, or its home directory not answering?",
                ) from None

    def open(self, command: str) -> Stream:
        """Start a command and return its stream; raises SshError and SshLost."""
        channel = self._channel("session")
        stream = Stream(self.route, channel, self._pumping(), self.why_lost)
        try:
            channel.exec_command(command)
        except (paramiko.SSHException, OSError, EOFError):
            stream.close()
            self._check_alive()
            raise SshError(
                f"{self.route}: its sshd does not run commands",
                hint="see ForceCommand and the login shell of the account there",
            ) from None
        return stream

    # -- ports -----------------------------------------------------------------------------

    def forward_back(self, dial: Callable[[], socket.socket]) -> int:
        """Join each connection to a loopback port of the host, chosen there, to `dial()` here.

        Returns the port. Raises ForwardRefused when the host's sshd forbids it, and SshLost.
        """
        pump = self._pumping()
        self._check_alive()
        try:
            port = self._transport.request_port_forward(
                LOOPBACK, 0, lambda channel, _, at: self._arrived(pump, channel, at[1])
            )
        except (paramiko.SSHException, OSError, EOFError):
            self._check_alive()
            raise ForwardRefused(
                f"{self.route}: its sshd does not forward ports",
                hint="AllowTcpForwarding (and PermitListen) in its sshd_config must allow it",
            ) from None
        self._dials[port] = dial
        return int(port)

    def _arrived(self, pump: Pump, channel: Any, port: int) -> None:
        """Take a connection to one of our ports; in paramiko's thread, which must not wait."""
        args = (pump, channel, self._dials.get(port))
        threading.Thread(target=_answer, args=args, name="ssh-dial", daemon=True).start()

    def open_tcp(self, host: str, port: int) -> socket.socket:
        """Return a socket whose other end is a TCP connection made by the host.

        Raises ForwardRefused, HostUnreachable and SshLost.
        """
        ours, theirs = socket.socketpair()
        try:
            self.join_tcp(theirs, host, port)
        except BaseException:
            ours.close()
            theirs.close()
            raise
        return ours

    def join_tcp(self, sock: socket.socket, host: str, port: int) -> None:
        """Join a socket here to a TCP connection made by the host; raises as `open_tcp`."""
        channel = self.open_channel_to(host, port)
        pump = self._pumping()
        pump.ring(Joint(pump, channel, sock))

    def open_channel_to(self, host: str, port: int) -> Any:
        """Return paramiko's channel of a TCP connection made by the host, as `open_tcp`."""
        return self._channel("direct-tcpip", (host, port))

    # -- life ------------------------------------------------------------------------------

    def is_alive(self) -> bool:
        """Whether the connection stands, as far as one knows here."""
        return bool(self._transport.is_active())

    def wait_dead(self, timeout_s: float | None = None) -> bool:
        """Wait until the connection is gone; False when it still stands."""
        self._transport.join(timeout_s)
        return not self.is_alive()

    def why_lost(self) -> str:
        """Return what is known of the end of a connection."""
        if self._is_closed:
            return "the connection was closed here"
        if self._below and not self._below.is_alive():
            return f"the connection to the jump host is lost: {self._below.why_lost()}"
        reason = self._transport.wire.cut or safe(self._transport.goodbye)
        return f"the connection is lost: {reason}" if reason else "the connection is lost"

    def close(self) -> None:
        """End it, and the jumps under it; never waits for the network."""
        self._is_closed = True
        # The lowest first: what lies above says good-bye through it, and could wait for it.
        if self._below:
            self._below.close()
        self._transport.wire.close()
        with contextlib.suppress(Exception):
            self._transport.close()
        with self._lock:
            if self._pump:
                self._pump.close()

    def __enter__(self) -> Connection:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    # -- channels --------------------------------------------------------------------------

    def _pumping(self) -> Pump:
        with self._lock:
            if self._is_closed:
                raise SshLost(f"{self.route}: {self.why_lost()}")
            if self._pump is None:
                self._pump = Pump(self.route.alias)
            return self._pump

    def _check_alive(self) -> None:
        if not self.is_alive():
            raise SshLost(f"{self.route}: {self.why_lost()}", hint="try again")

    def _channel(self, kind: str, address: tuple[str, int] | None = None) -> Any:
        self._check_alive()
        origin = (LOOPBACK, 0) if address else None
        timeout_s = self.route.connect_timeout_s + CHANNEL_S if address else CHANNEL_S
        try:
            return self._transport.open_channel(kind, address, origin, timeout=timeout_s)
        except paramiko.ChannelException as error:
            raise self._refused(error.code, address) from None
        except (paramiko.SSHException, OSError, EOFError) as error:
            self._check_alive()
            late = "imeout" in str(error)
            raise SshError(
                f"{self.route}: no channel within {timeout_s:g} s"
                if late
                else f"{self.route}: no channel: {safe(str(error))}",
                hint="is the host overloaded?",
            ) from None

    def _refused(self, code: int, address: tuple[str, int] | None) -> SshError:
        if address is None:
            return SshError(
                f"{self.route}: its sshd opens no more sessions on this connection",
                hint="MaxSessions in its sshd_config is reached, or forbids sessions",
            )
        where = f"{address[0]}:{address[1]}"
        if code == CONNECT_FAILED:
            return HostUnreachable(
                f"{where} cannot be reached from {self.route}",
                hint="is it up, and does its name resolve over there?",
            )
        return ForwardRefused(
            f"{self.route}: its sshd does not connect to {where} for us",
            hint="AllowTcpForwarding (and PermitOpen) in its sshd_config must allow it",
        )


def _answer(pump: Pump, channel: Any, dial: Callable[[], socket.socket] | None) -> None:
    """Join an arrived connection to a new one here; refuse it when there is nobody."""
    try:
        if dial is None:
            raise ConnectionRefusedError
        pump.ring(Joint(pump, channel, dial()))
    except Exception:  # whatever dial raises: the other side sees a closed connection
        with contextlib.suppress(Exception):
            channel.close()
