"""One thread a connection that moves bytes between channels and what is at this end of them.

Part of `ssh`. A selector watches the sockets; a channel rings when something came for it. No
descriptors per channel, no thread per direction, and a turn never waits: what cannot go on is
left for the next event. (paramiko's `Channel.fileno` makes a pipe a channel, which it may
still write to after it is closed, when the number belongs to another file.)
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time
from typing import Any, Protocol

#: How soon a sender that has filled the window of its channel looks again: nothing says when
#: the other side has made room.
RETRY_S = 0.005
#: The same when there was no room for a second: the reader over there is slow, or stuck.
SLOW_RETRY_S = 0.05
#: The most a turn moves in one direction, so that one busy channel does not starve the others.
TURN_BYTES = 512 * 1024
CHUNK_BYTES = 64 * 1024


class Link(Protocol):
    """What the pump drives; all methods are called in its thread."""

    #: The socket to watch and for what, None and 0 for nothing.
    sock: socket.socket | None
    events: int
    #: The monotonic time at which it wants a turn whatever happens, None for never.
    due_at: float | None
    is_done: bool

    def turn(self) -> None:
        """Do what can be done without waiting."""

    def end(self) -> None:
        """Let go of everything."""


class Bell:
    """What a channel's buffers ring when something came, or their end."""

    def __init__(self, pump: Pump, link: Link) -> None:
        self._pump, self._link = pump, link

    def set(self) -> None:
        """Have the link take its turn; called in paramiko's thread, with a lock held."""
        self._pump.ring(self._link)

    def clear(self) -> None:
        """Do nothing: a turn takes all there is."""


class Pump:
    """The thread, and the links it drives."""

    def __init__(self, name: str) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake_in, selectors.EVENT_READ)
        self._lock = threading.Lock()
        self._rung: dict[Link, None] = {}
        self._links: dict[Link, int] = {}
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name=f"ssh-{name}", daemon=True)
        self._thread.start()

    def ring(self, link: Link) -> None:
        """Have a link take its turn soon; a new one is thereby taken in."""
        with self._lock:
            is_first = not self._rung
            self._rung[link] = None
            if is_first and not self._is_closed:
                with contextlib.suppress(BlockingIOError):
                    os.write(self._wake_out, b"!")

    def close(self) -> None:
        """End all links and the thread, soon; does not wait."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            os.write(self._wake_out, b"!")

    # -- the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_closed:
            for link in self._ready():
                self._drive(link)
        with self._lock:
            left = {**self._links, **self._rung}
        for link in left:
            self._drop(link)
        self._selector.close()
        with self._lock:
            os.close(self._wake_in)
            os.close(self._wake_out)

    def _ready(self) -> dict[Link, None]:
        ready: dict[Link, None] = {}
        for key, _ in self._selector.select(self._wait_s()):
            if key.data is None:
                os.read(self._wake_in, 4096)
            else:
                ready[key.data] = None
        with self._lock:
            ready.update(self._rung)
            self._rung.clear()
        now = time.monotonic()
        ready.update({one: None for one in self._links if one.due_at and one.due_at <= now})
        return ready

    def _wait_s(self) -> float | None:
        due = [link.due_at for link in self._links if link.due_at]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _drive(self, link: Link) -> None:
        if link.is_done:
            return
        try:
            link.turn()
        except Exception:  # of paramiko or of the socket: both mean that the link is over
            link.is_done = True
        if link.is_done:
            self._drop(link)
        else:
            self._watch(link)

    def _watch(self, link: Link) -> None:
        before = self._links.get(link, 0)
        self._links[link] = link.events
        if link.sock is None or link.events == before:
            return
        if not before:
            self._selector.register(link.sock, link.events, link)
        elif link.events:
            self._selector.modify(link.sock, link.events, link)
        else:
            self._selector.unregister(link.sock)

    def _drop(self, link: Link) -> None:
        if self._links.pop(link, 0) and link.sock is not None:
            with contextlib.suppress(KeyError, ValueError, OSError):
                self._selector.unregister(link.sock)
        with contextlib.suppress(Exception):
            link.end()


class Joint:
    """Joins a channel to a socket: bytes both ways, each side's end told to the other."""

    def __init__(self, pump: Pump, channel: Any, sock: socket.socket) -> None:
        self.sock: socket.socket | None = sock
        self.events = selectors.EVENT_READ
        self.due_at: float | None = None
        self.is_done = False
        self._sock, self._channel, self._pump = sock, channel, pump
        self._in = self._out = memoryview(b"")
        self._in_ended = self._out_ended = False
        self._stuck_since: float | None = None
        sock.setblocking(False)
        channel.settimeout(0.0)
        channel.in_buffer.set_event(Bell(pump, self))

    def turn(self) -> None:
        """Move what can be moved, both ways."""
        more = self._take_in()
        more = self._send_out() or more
        if self._in_ended and not self._in and (self._out_ended or self._channel.closed):
            self.is_done = True
        self.events = self._wanted()
        if more:
            self._pump.ring(self)

    def end(self) -> None:
        """Close both."""
        self._sock.close()
        self._channel.close()

    def _wanted(self) -> int:
        events = selectors.EVENT_WRITE if self._in else 0
        if not self._out_ended and not self._out:
            events |= selectors.EVENT_READ
        return events

    def _take_in(self) -> bool:
        """Channel to socket; True when there may be more at once."""
        moved = 0
        while moved < TURN_BYTES:
            if not self._in:
                if self._in_ended:
                    return False
                try:
                    self._in = memoryview(self._channel.recv(CHUNK_BYTES))
                except TimeoutError:
                    return False
                if not self._in:
                    self._in_ended = True
                    self._sock.shutdown(socket.SHUT_WR)
                    return False
            try:
                sent = self._sock.send(self._in)
            except BlockingIOError:
                return False
            self._in = self._in[sent:]
            moved += sent
        return True

    def _send_out(self) -> bool:
        """Socket to channel; True when there may be more at once."""
        moved, self.due_at = 0, None
        while moved < TURN_BYTES:
            if not self._out:
                if self._out_ended:
                    return False
                try:
                    self._out = memoryview(self._sock.recv(CHUNK_BYTES))
                except BlockingIOError:
                    return False
                if not self._out:
                    self._out_ended = True
                    self._channel.shutdown_write()
                    return False
            try:
                sent = self._channel.send(self._out)
            except TimeoutError:
                self._wait_for_window()
                return False
            if not sent:  # closed over there
                self._out, self._out_ended = memoryview(b""), True
                return False
            self._out, self._stuck_since = self._out[sent:], None
            moved += sent
        return True

    def _wait_for_window(self) -> None:
        now = time.monotonic()
        if self._stuck_since is None:
            self._stuck_since = now
        self.due_at = now + (RETRY_S if now - self._stuck_since < 1 else SLOW_RETRY_S)
