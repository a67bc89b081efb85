"""A running command on a host, and bytes to and from it.

Part of `ssh`. The pump takes what the command writes as it comes, to both of its outputs, so
neither of them can stop it while somebody writes to it or reads the other.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any

from qsub_py.errors import SshLost
from qsub_py.ssh_pump import CHUNK_BYTES, RETRY_S, TURN_BYTES, Bell, Pump
from qsub_py.ssh_route import Route

#: What is kept of standard error.
STDERR_BYTES = 64 * 1024
#: How much output waits here for a slow reader, before the command has to wait for it.
BUFFER_BYTES = 8 * 2**20


class Stream:
    """A command on the host: bytes both ways, its errors kept apart."""

    # What the pump wants to know: there is no socket here.
    sock: socket.socket | None = None
    events = 0
    due_at: float | None = None

    def __init__(self, route: Route, channel: Any, pump: Pump, why_lost: Any) -> None:
        self.is_done = False
        self._route, self._channel, self._pump = route, channel, pump
        self._why_lost = why_lost
        self._out, self._err = bytearray(), bytearray()
        self._news = threading.Condition()
        self._writers = 0
        self._out_ended = False
        channel.settimeout(0.0)
        channel.in_buffer.set_event(Bell(pump, self))
        channel.in_stderr_buffer.set_event(Bell(pump, self))

    # -- for whoever uses it ---------------------------------------------------------------

    def write(self, data: bytes, *, timeout_s: float | None = None) -> None:
        """Send all of it to the command's standard input.

        Raises SshLost, TimeoutError, and BrokenPipeError when the command no longer reads.
        """
        left, until = memoryview(data), _deadline(timeout_s)
        self._count_writer(1)
        try:
            while left:
                try:
                    sent = self._channel.send(left[:CHUNK_BYTES])
                except TimeoutError:
                    _check(until)
                    time.sleep(RETRY_S)
                    continue
                except (OSError, EOFError):
                    sent = 0
                if not sent:
                    self._check_lost()
                    raise BrokenPipeError(f"{self._route}: the command reads no more")
                left = left[sent:]
        finally:
            self._count_writer(-1)

    def read(self, size: int = 65536, timeout_s: float | None = None) -> bytes:
        """Return up to `size` bytes of its output as soon as there are some, b"" at its end.

        Raises TimeoutError after `timeout_s`, SshLost when the connection is gone.
        """
        until = _deadline(timeout_s)
        with self._news:
            while not self._out and not self._out_ended:
                self._wait(until)
            data = bytes(self._out[:size])
            del self._out[:size]
        if not data:
            self._check_lost()
        self._pump.ring(self)  # there is room again
        return data

    def stderr(self) -> bytes:
        """Return the last bytes (64 kB) of what it wrote to standard error so far."""
        with self._news:
            return bytes(self._err[-STDERR_BYTES:])

    def close_stdin(self) -> None:
        """Let the command read the end of its input."""
        with contextlib.suppress(Exception):
            self._channel.shutdown_write()

    def exit_code(self, timeout_s: float | None = None) -> int:
        """Wait for its end and return its code, -1 when a signal ended it.

        Raises SshLost and TimeoutError.
        """
        if not self._channel.status_event.wait(timeout_s):
            raise TimeoutError(f"{self._route}: the command runs")
        if self._channel.exit_status < 0:
            self._check_lost()
        return int(self._channel.exit_status)

    def close(self) -> None:
        """Let go of it; the command reads an end of file, and sshd hangs up on it."""
        with contextlib.suppress(Exception):
            self._channel.close()
        self._pump.ring(self)

    def __enter__(self) -> Stream:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _wait(self, until: float | None) -> None:
        _check(until)
        self._news.wait(None if until is None else until - time.monotonic())

    def _check_lost(self) -> None:
        """Raise SshLost unless the host itself has ended the command's output."""
        if not self._channel.eof_received and not self._channel.transport.is_active():
            raise SshLost(f"{self._route}: {self._why_lost()}", hint="try again")

    def _count_writer(self, change: int) -> None:
        with self._news:
            self._writers += change
        self._pump.ring(self)

    # -- for the pump ----------------------------------------------------------------------

    def turn(self) -> None:
        """Take what came, as long as somebody reads it (or could not, because he writes)."""
        moved = self._take_err()
        while moved < TURN_BYTES and (len(self._out) < BUFFER_BYTES or self._writers):
            try:
                data = self._channel.recv(CHUNK_BYTES)
            except TimeoutError:
                return
            with self._news:
                self._out += data
                self._out_ended = self.is_done = not data
                self._news.notify_all()
            moved += len(data)
            if not data:
                self._take_err()  # what came between the two looks
                return
        if moved >= TURN_BYTES:
            self._pump.ring(self)

    def _take_err(self) -> int:
        moved = 0
        with contextlib.suppress(TimeoutError):
            while moved < TURN_BYTES:
                data = self._channel.recv_stderr(CHUNK_BYTES)
                if not data:
                    break
                moved += len(data)
                with self._news:
                    self._err += data
                    del self._err[:-STDERR_BYTES]
        return moved

    def end(self) -> None:
        """Tell whoever waits that nothing will come."""
        with self._news:
            self._out_ended = True
            self._news.notify_all()


def _deadline(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else time.monotonic() + timeout_s


def _check(until: float | None) -> None:
    if until is not None and time.monotonic() >= until:
        raise TimeoutError
