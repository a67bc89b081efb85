"""What an SSH transport runs over: a TCP socket, a channel through a jump host, a process.

Part of `ssh`. A Wire adds to the socket what paramiko lacks: it knows when the other side was
last heard, has it asked when it falls silent, and cuts the connection when no answer comes,
in whichever thread reads or writes. It remembers the first bytes, to say what answered.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from qsub_py.errors import HostUnreachable
from qsub_py.ssh_route import Route

#: After so many seconds of silence the other side is asked whether it is there,
QUIET_S = 5.0
#: and after so many more without a word it is taken for dead.
ANSWER_S = 10.0
#: How long one read of the socket waits; a closed wire is noticed at once, not by this.
READ_S = 1.0
#: What is kept of the greeting, for the error text.
GREETING_BYTES = 512


class Wire:
    """A socket with a sense of whether anybody is at its other end."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._sock.settimeout(READ_S)
        self._closed = False  # paramiko asks by this name
        #: Why the wire was cut here, "" when it was not.
        self.cut = ""
        #: The first bytes that came.
        self.greeting = b""
        #: Whether the other side has closed.
        self.has_ended = False
        #: Whether silence counts: a server that waits for a password says nothing.
        self.guarded = False
        #: Asks the other side for a sign of life; False when it cannot be sent just now.
        self.ask: Callable[[], bool] = lambda: False
        self._heard_at = time.monotonic()
        self._asked_at: float | None = None

    # -- what paramiko calls ---------------------------------------------------------------

    def settimeout(self, timeout: float | None) -> None:
        """Keep the wire's own: paramiko's tenth of a second wakes a thread for nothing."""

    def recv(self, size: int) -> bytes:
        """Return what came; raises TimeoutError, and OSError for a dead peer."""
        try:
            data = self._sock.recv(size)
        except TimeoutError:
            self._listen()
            raise
        except OSError:
            self.has_ended = not self._closed
            raise
        if not data:
            self.has_ended = not self._closed
        self._heard_at, self._asked_at = time.monotonic(), None
        if len(self.greeting) < GREETING_BYTES:
            self.greeting += data[:GREETING_BYTES]
        return bytes(data)

    def send(self, data: bytes) -> int:
        """Send some; raises TimeoutError, and OSError for a dead peer."""
        try:
            return int(self._sock.send(data))
        except TimeoutError:
            # The reader may wait for a lock that this writer holds: whoever is stuck looks.
            if self.guarded and time.monotonic() - self._heard_at > QUIET_S + ANSWER_S:
                self._cut()
            raise
        except OSError:
            self.has_ended = not self._closed
            raise

    def getpeername(self) -> Any:
        """Return the address of the other end."""
        return self._sock.getpeername()

    def close(self) -> None:
        """Close it, which wakes whoever waits on it."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError, EOFError):
            if isinstance(self._sock, socket.socket):
                self._sock.shutdown(socket.SHUT_RDWR)
        # A channel says good-bye over the transport below, which may be stuck or gone.
        with contextlib.suppress(Exception):
            self._sock.close()

    # -- signs of life ---------------------------------------------------------------------

    def _listen(self) -> None:
        """Nothing came for a while: ask, and later cut."""
        if not self.guarded:
            return
        now = time.monotonic()
        if self._asked_at is None:
            if now - self._heard_at >= QUIET_S and self.ask():
                self._asked_at = now
        elif now - self._asked_at >= ANSWER_S:
            self._cut()

    def _cut(self) -> None:
        self.cut = f"no sign of life for {QUIET_S + ANSWER_S:.0f} s"
        self.close()
        raise ConnectionResetError(errno.ECONNRESET, self.cut)


# -- ways to a host --------------------------------------------------------------------------


def over_tcp(route: Route) -> Wire:
    """Connect to the host; raises HostUnreachable with the reason."""
    last: OSError | None = None
    for family, kind, protocol, _, address in _addresses(route):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(route.connect_timeout_s)
            sock.connect(address)
        except OSError as error:
            sock.close()
            last = error
        else:
            # Requests and answers are small, and each waits for the other.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return Wire(sock)
    raise _unreachable(route, last)


def _addresses(route: Route) -> list[Any]:
    try:
        return socket.getaddrinfo(route.hostname, route.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        missing = isinstance(error, socket.gaierror) and error.errno in (
            *(socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_SERVICE),
        )
        if not missing:
            raise HostUnreachable(
                f"{route}: its name cannot be looked up just now: {error}",
                hint="see the network and the name server of this machine",
            ) from None
    raise HostUnreachable(
        f"{route}: the name {route.hostname} does not resolve",
        hint=f"check the spelling, or give it a HostName in ~/.ssh/config (Host {route.alias})",
    )


def _unreachable(route: Route, error: OSError | None) -> HostUnreachable:
    where = f"port {route.port}"
    if isinstance(error, ConnectionRefusedError):
        return HostUnreachable(
            f"{route}: {where} refuses the connection",
            hint="is sshd running there, and on that port?",
        )
    if isinstance(error, TimeoutError):
        return HostUnreachable(
            f"{route}: {where} does not answer within {route.connect_timeout_s:g} s",
            hint="is the host up, and no firewall in between?",
        )
    reason = (error and (error.strerror or str(error))) or "it has no address"
    return HostUnreachable(f"{route}: cannot connect to {where}: {reason}", hint="see the network")


def over_process(route: Route) -> Wire:
    """Run the ProxyCommand; its input and output are the wire."""
    shell = os.environ.get("SHELL") or "/bin/sh"
    ours, theirs = socket.socketpair()
    words = LastWords()
    try:
        process = subprocess.Popen(
            [shell, "-c", f"exec {route.proxy_command}"],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=words.file,
        )
    except OSError as error:
        ours.close()
        words.close()
        raise HostUnreachable(
            f"{route}: cannot run the ProxyCommand: {shell}: {error.strerror}",
            hint="see ProxyCommand in ~/.ssh/config",
        ) from None
    finally:
        theirs.close()
    return ProcessWire(ours, process, words)


class LastWords:
    """What a process writes to standard error: a file without a name, which needs no reader."""

    def __init__(self) -> None:
        self.file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115
        self._lock = threading.Lock()
        self._last: str | None = None

    def last(self) -> str:
        """Return the last line, "" for nothing."""
        with self._lock:
            if self._last is None:
                self.file.seek(max(0, self.file.seek(0, os.SEEK_END) - GREETING_BYTES))
                lines = self.file.read().decode("utf-8", "replace").split("\n")
                return next((line.strip() for line in reversed(lines) if line.strip()), "")
            return self._last

    def close(self) -> None:
        """Keep the last line only."""
        last = self.last()
        with self._lock:
            self._last = last
            self.file.close()


class ProcessWire(Wire):
    """The wire of a ProxyCommand, which may have something to say when it fails."""

    def __init__(
        self, sock: socket.socket, process: subprocess.Popen[bytes], words: LastWords
    ) -> None:
        super().__init__(sock)
        self._process, self.words = process, words

    def close(self) -> None:
        """End the command, which usually has ended by itself when its wire closed."""
        if self._closed:
            return
        super().close()
        process = self._process
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            process.terminate()
            process.wait(0.5)
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            if process.poll() is None:
                process.kill()
                process.wait(1)
        self.words.close()
