"""The keeper's end of its agent: the socket it listens on, and starting a dead agent again.

One connection at a time is the agent's: the one that said hello last. The keeper never waits
for it; what it must not miss is kept by the ledger, not here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence

from qsub_py.node.keeper_link import short_socket_path
from qsub_py.node.wire import VERSION, Channel, Header, frame
from qsub_py.node.workplace import Workplace

#: Between two starts of an agent: the silence, doubled each time up to so many silences.
_MAX_BACKOFF = 6
#: A turn of the loop that took longer was spent stopped or suspended: no sign of silence.
_GAP_S = 3.0
#: An agent whose connection ended is dead unless it is back within this time.
_DEAD_S = 1.0
_PEER = struct.Struct("3i")
_PONG: Header = {"op": "pong", "version": VERSION}


def log(text: str) -> None:
    """Write a line to the keeper's log."""
    print(time.strftime("%Y-%m-%d %H:%M:%S"), text, file=sys.stderr, flush=True)


class AgentLine:
    """Connections from agents, one of them in charge."""

    def __init__(self, place: Workplace, handle: Callable[[Header, bytes], None]) -> None:
        self._place = place
        self._handle = handle
        self._listener = self._listen(place.node_dir)
        self._agent: Channel | None = None
        self._outbox: list[bytes] = []
        self.pid = 0
        self.heard_at = time.monotonic()
        place.poller.watch(self._listener.fileno(), self._accept)

    @staticmethod
    def _listen(node_dir: str) -> socket.socket:
        """Bind the socket. Our lock says that whoever bound it before is dead."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{node_dir}/keeper.sock")
        with short_socket_path(node_dir) as path:
            sock.bind(path)
        os.chmod(f"{node_dir}/keeper.sock", 0o600)
        sock.listen(16)
        return sock

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        if _peer(sock)[1] != os.getuid():
            sock.close()
            return
        channel = Channel(sock)
        self._place.poller.watch(channel.fileno(), lambda: self._readable(channel))

    def _readable(self, channel: Channel) -> None:
        try:
            if channel.waiting:
                self._write(channel)
            frames = channel.receive()
        except (OSError, ValueError) as error:
            if channel is self._agent and not isinstance(error, ConnectionError):
                log(f"agent: {error}")
            self._close(channel)
            return
        for header, body in frames:
            self._take(channel, header, body)

    def _take(self, channel: Channel, header: Header, body: bytes) -> None:
        """Obey the agent; answer a ping to anybody; a hello makes its sender the agent."""
        if channel is self._agent:
            self.heard_at = time.monotonic()
        if header.get("op") == "ping":
            if channel is self._agent:
                # In its turn, so that it comes after all that a hello before it asked for.
                self.post(frame(_PONG))
            else:
                self._send(channel, _PONG)
            return
        if header.get("op") == "hello" and channel.fileno() >= 0:
            self._greet(channel)
        if channel is self._agent:
            self._handle(header, body)

    def _greet(self, channel: Channel) -> None:
        if self._agent is not None and self._agent is not channel:
            self._close(self._agent)
        self._agent = channel
        self._outbox.clear()
        self.heard_at = time.monotonic()
        with socket.socket(fileno=os.dup(channel.fileno())) as sock:
            self.pid = _peer(sock)[0]

    def _send(self, channel: Channel, header: Header) -> None:
        try:
            channel.send(header)
            self._place.poller.ask(channel.fileno(), writing=channel.waiting)
        except OSError:
            self._close(channel)

    def post(self, frame: bytes) -> None:
        """Send a frame to the agent at the end of the turn; none there: it is not kept."""
        if self._agent is not None:
            self._outbox.append(frame)

    def flush(self) -> None:
        """Send what this turn has to say."""
        if self._outbox and self._agent is not None:
            frames, self._outbox = self._outbox, []
            try:
                self._agent.send_all(frames)
                self._ask(self._agent)
            except OSError:
                self._close(self._agent)

    def _write(self, channel: Channel) -> None:
        channel.flush()
        self._ask(channel)

    def _ask(self, channel: Channel) -> None:
        self._place.poller.ask(channel.fileno(), writing=channel.waiting)

    def _close(self, channel: Channel) -> None:
        if channel.fileno() >= 0:
            self._place.poller.leave(channel.fileno())
        channel.close()
        if channel is self._agent:
            self._agent = None
            self._outbox.clear()

    @property
    def connected(self) -> bool:
        """Whether the agent's connection stands."""
        return self._agent is not None

    def close(self) -> None:
        """Stop listening and hang up."""
        self.flush()
        if self._agent is not None:
            self._close(self._agent)
        self._listener.close()
        with contextlib.suppress(OSError):
            os.unlink(f"{self._place.node_dir}/keeper.sock")


def _peer(sock: socket.socket) -> tuple[int, int, int]:
    """Return (pid, uid, gid) of who connected."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    pid, uid, gid = _PEER.unpack(data)
    return pid, uid, gid


class Supervisor:
    """Starts the agent again when it is dead, or silent for too long."""

    def __init__(
        self, place: Workplace, line: AgentLine, argv: Sequence[str], silence_s: float
    ) -> None:
        self._place = place
        self._line = line
        self._argv = argv
        self._silence_s = silence_s
        self._backoff_s = silence_s
        self._not_before = 0.0
        #: pid of the agent that we started last, 0 when it has ended.
        self._started = 0
        self._last_look = time.monotonic()

    def learn(self, argv: Sequence[str]) -> None:
        """Hear from an agent how it is started, which may be another version, elsewhere.

        One that we started meanwhile, as the former was, must not get its place later.
        """
        if self._started not in (0, self._line.pid):
            with contextlib.suppress(OSError):
                os.kill(self._started, signal.SIGKILL)
        if argv and list(argv) != list(self._argv):
            log(f"the agent is now: {' '.join(argv)}")
            self._argv = argv

    def look(self) -> None:
        """Call about once a second, after the sockets were read."""
        moment = time.monotonic()
        gap, self._last_look = moment - self._last_look, moment
        if gap > _GAP_S:
            self._line.heard_at += gap
        if not self._line.pid or not self._argv:
            return
        silent_s = moment - self._line.heard_at
        limit_s = self._silence_s if self._line.connected else min(_DEAD_S, self._silence_s)
        if silent_s > limit_s and moment >= self._not_before:
            self._restart(moment, silent_s)
        elif moment > self._not_before + self._silence_s * _MAX_BACKOFF:
            self._backoff_s = self._silence_s

    def _restart(self, moment: float, silent_s: float) -> None:
        log(f"the agent (pid {self._line.pid}) is silent for {silent_s:.1f} s: starting another")
        self._not_before = moment + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, _MAX_BACKOFF * self._silence_s)
        self._kill_old()
        env = {os.fsencode(k): os.fsencode(v) for k, v in os.environ.items()}
        argv = [os.fsencode(word) for word in self._argv]
        os.chdir("/")
        path = f"{self._place.node_dir}/agent.log"
        out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            tree = self._place.children.start(
                argv,
                env,
                path=argv[0],
                cookie=b"",
                moves={1: out, 2: out},
                reaped=lambda status, _: self._ended(status),
            )
            self._started = tree.pid
        except OSError as error:
            log(f"cannot start the agent: {error}")
        finally:
            os.close(out)

    def _ended(self, status: int) -> None:
        log(f"the agent ended with status {status}")
        self._started = 0

    def _kill_old(self) -> None:
        """Kill the silent agent, if its pid is still a process that holds our connection."""
        if self._line.connected:
            with contextlib.suppress(OSError):
                os.kill(self._line.pid, signal.SIGKILL)
