"""The process that keeps the tunnels' worker alive: `python -m qsub_py.tunnel_supervisor DIR ...`.

One a cluster and state directory, by a lock. Single-threaded, standard library only, so that
nothing in it can hang or be upgraded away. It alone has the secrets that were typed, in memory;
the worker gets them through a pipe, and ends when that pipe does.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

import qsub_py
from qsub_py.tunnel_child import Child
from qsub_py.tunnel_daemon import detach, limit_log
from qsub_py.tunnel_place import Entry, Place, take_lock

Message = dict[str, Any]

#: Without a host it waits so long for one, and ends.
_IDLE_S = 20.0
_TICK_S = 5.0
#: A client that connects and says nothing is cut.
_TALK_S = 5.0
_MOST_BYTES = 1024 * 1024
_PEER = struct.Struct("3i")


def log(text: str) -> None:
    """Write a line to the log."""
    print(time.strftime("%Y-%m-%d %H:%M:%S"), text, file=sys.stderr, flush=True)


class Supervisor:
    """Answers the control socket and restarts the worker."""

    def __init__(self, place: Place, cluster: str, lock: int) -> None:
        self._place, self._lock = place, lock
        self._entries = place.read()
        self._secrets: dict[str, str] = {}
        self._states: dict[str, Message] = {}
        #: Which telling of a host the worker speaks of: what it said before that is old.
        self._serials: dict[str, int] = {}
        self._serial = 0
        self._agent = os.environ.get("SSH_AUTH_SOCK", "")
        self._selector = selectors.DefaultSelector()
        self._clients: dict[socket.socket, tuple[bytearray, float]] = {}
        self._is_over = False
        self._idle_since = time.monotonic()
        argv = [sys.executable, "-m", "qsub_py.tunnel_worker", str(place.dir.parents[1]), cluster]
        self._child = Child(argv, self._selector, self._heard)
        self._listener = self._listen()

    def _listen(self) -> socket.socket:
        """Bind the control socket; our lock says that whoever bound it before is dead."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._place.socket.unlink(missing_ok=True)
        with self._place.address() as address:
            listener.bind(address)
        self._place.socket.chmod(0o600)
        listener.listen(64)
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        return listener

    # -- the loop --------------------------------------------------------------------------

    def run(self) -> None:
        """Work until told to end, or until no host is left."""
        wake_out, wake_in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_in)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        self._selector.register(wake_out, selectors.EVENT_READ, lambda: os.read(wake_out, 64))
        next_tick = 0.0
        while not self._is_over:
            if self._entries and self._child.is_due() and self._child.start():
                self._tell_all()
            for key, _ in self._selector.select(min(_TICK_S, self._child.pause_s())):
                key.data()
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + _TICK_S
                self._tick()
        self._child.kill()
        if self._place.is_ours(self._lock):
            self._place.socket.unlink(missing_ok=True)
        log("ended")

    def _end(self, number: int, frame: object) -> None:
        self._is_over = True

    def _tick(self) -> None:
        """Look after the clock, the log and our own right to be."""
        now = time.monotonic()
        for client, (_, since) in list(self._clients.items()):
            if now > since + _TALK_S:
                self._drop(client)
        self._child.check()
        limit_log(self._place.log)
        if self._entries:
            self._idle_since = now
        elif now > self._idle_since + _IDLE_S:
            self._is_over = True
        if not self._place.is_ours(self._lock):
            self._is_over = True  # the state directory was deleted

    # -- the worker ------------------------------------------------------------------------

    def _tell_all(self) -> None:
        """Give a new worker all that it needs."""
        self._states.clear()
        self._child.send({"op": "agent", "socket": self._agent})
        for name in self._entries:
            self._tell(name)

    def _tell(self, name: str) -> None:
        self._serial += 1
        self._serials[name] = self._serial
        self._child.send(
            {
                "op": "add",
                "name": name,
                "serial": self._serial,
                "entry": self._entries[name].to_dict(),
                "secrets": self._secrets.get(name, ""),
            }
        )

    def _heard(self, message: Message) -> None:
        """Take what the worker says: the state of a host, or a line for the log."""
        if "log" in message:
            log(str(message["log"]))
            return
        name, serial = str(message.get("name", "")), message.get("serial")
        if name in self._entries and serial == self._serials.get(name):
            self._states.setdefault(name, {}).update(message)

    # -- the control socket ----------------------------------------------------------------

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        data = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        if _PEER.unpack(data)[1] != os.geteuid():
            client.close()
            return
        client.setblocking(False)
        self._clients[client] = (bytearray(), time.monotonic())
        self._selector.register(client, selectors.EVENT_READ, lambda: self._read(client))

    def _read(self, client: socket.socket) -> None:
        buffer, _ = self._clients[client]
        try:
            data = client.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        buffer += data
        if b"\n" in data:
            self._answer(client, bytes(buffer))
        if not data or b"\n" in data or len(buffer) > _MOST_BYTES:
            self._drop(client)

    def _answer(self, client: socket.socket, line: bytes) -> None:
        try:
            reply = self._obey(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        with contextlib.suppress(OSError):
            client.settimeout(_TALK_S)
            client.sendall(json.dumps(reply).encode() + b"\n")

    def _drop(self, client: socket.socket) -> None:
        del self._clients[client]
        self._selector.unregister(client)
        client.close()

    def _obey(self, message: Message) -> Message:
        match message["op"]:
            case "hello":
                self._greet(str(message.get("agent", "")))
            case "add":
                self._add(str(message["name"]), message)
            case "remove":
                self._remove(str(message["name"]))
            case "status":
                return {"states": {name: self._state(name) for name in self._entries}}
            case "stop":
                self._is_over = True
            case word:
                raise ValueError(f"unknown word {word!r}")
        return {"pid": os.getpid(), "version": qsub_py.__version__}

    def _greet(self, agent: str) -> None:
        """Take over the user's present ssh-agent; hosts that are not up are tried at once."""
        self._agent = agent or self._agent
        self._child.hurry()
        self._child.send({"op": "agent", "socket": self._agent})
        for facts in self._states.values():
            if facts.get("state") != "up":
                facts["state"] = "connecting"
        self._child.send({"op": "retry"})

    def _add(self, name: str, message: Message) -> None:
        self._entries[name] = Entry.from_dict(message["entry"])
        self._place.write(self._entries)
        if message.get("secrets"):
            self._secrets[name] = str(message["secrets"])
        self._states.pop(name, None)
        self._child.hurry()
        self._tell(name)

    def _remove(self, name: str) -> None:
        self._entries.pop(name, None)
        self._secrets.pop(name, None)
        self._states.pop(name, None)
        self._place.write(self._entries)
        self._child.send({"op": "remove", "name": name})

    def _state(self, name: str) -> Message:
        if self._child.is_up:
            return {"state": "connecting", **self._states.get(name, {})}
        return {"state": "down", "error": "the process of the tunnels is being restarted"}


def main(state_dir: str, cluster: str) -> None:
    """Run the supervisor of a cluster; ends at once when there is one."""
    place = Place(Path(state_dir).absolute() / "tunnel" / cluster)
    place.dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    detach(place.log)
    lock = take_lock(place.lock)
    if lock is None:
        return
    log(f"supervisor {os.getpid()} of cluster {cluster}, version {qsub_py.__version__}")
    try:
        Supervisor(place, cluster, lock).run()
    except Exception:
        import traceback

        log(traceback.format_exc())
        raise


if __name__ == "__main__":
    main(*sys.argv[1:3])
