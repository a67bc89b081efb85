"""Tunnels to hosts that cannot reach the embedded server: kept by a process of their own.

What deploying and qnode call: start the supervisor, add and remove hosts, ask how they are.
The supervisor outlives the command; its worker holds the SSH connections. Secrets go to it
over its socket (0600) and are never written down.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import qsub_py
from qsub_py import upstream
from qsub_py.config import Config
from qsub_py.config_paths import private_dir
from qsub_py.errors import NodeError
from qsub_py.server_lock import is_locked
from qsub_py.ssh import Route, Secrets
from qsub_py.tunnel_daemon import spawn
from qsub_py.tunnel_place import Entry, Place

_START_S = 15.0
_ANSWER_S = 10.0
#: One that was started takes its lock within this time, or has failed.
_RESTART_S = 3.0
#: Threads that deploy to many hosts come at once.
_ensuring = threading.Lock()


@dataclass(frozen=True, slots=True)
class TunnelStatus:
    """How the tunnel of one host is."""

    #: up, down, connecting, refused (its sshd forbids to forward ports).
    state: str
    #: The loopback port on the host; 0 unless it is up.
    port: int = 0
    #: Since when, in epoch seconds.
    since: float = 0.0
    #: What is wrong and what to do, in one line.
    error: str = ""
    #: How often the connection was lost since the worker started.
    lost: int = 0
    #: Bytes to and from the host, counted every few seconds.
    sent: int = 0
    received: int = 0


def ensure(config: Config, *, wait_s: float = _START_S) -> int:
    """Return the pid of the supervisor, started if need be; hosts that are down are tried now.

    One of another version is replaced (what it had of typed secrets is gone). Raises NodeError.
    """
    with _ensuring:
        return _ensure(_place(config), time.monotonic() + wait_s)


def _ensure(place: Place, deadline: float) -> int:
    next_start = 0.0
    hello = {"op": "hello", "agent": os.environ.get("SSH_AUTH_SOCK", "")}
    while time.monotonic() < deadline:
        if not is_locked(place.lock) and time.monotonic() >= next_start:
            _start(place)
            next_start = time.monotonic() + _RESTART_S
        reply = _ask(place, hello)
        if reply.get("version") == qsub_py.__version__:
            return int(reply["pid"])
        if reply:
            _ask(place, {"op": "stop"})
            next_start = 0.0
        time.sleep(0.01)
    raise NodeError("the supervisor of the tunnels does not start", hint=f"see {place.log}")


def start(config: Config) -> None:
    """Start the supervisor in the background; it ends at once when there is one. NodeError."""
    _start(_place(config))


def _start(place: Place) -> None:
    state_dir, cluster = place.dir.parents[1], place.dir.name
    spawn("qsub_py.tunnel_supervisor", str(state_dir), cluster, directory=place.dir)


def add(
    config: Config,
    name: str,
    route: Route,
    secrets: Secrets,
    remote_argv: Sequence[str],
    message: Mapping[str, Any] | None = None,
) -> None:
    """Keep a tunnel to a host from now on, or keep it differently; returns at once.

    One that is up and the same is left alone.

    `remote_argv` is run there at each connection, with `message`, the port and the server's
    password as one line of JSON on its standard input (see upstream.py). Raises NodeError.
    """
    entry = Entry(
        route=route.to_json(), command=shlex.join(remote_argv), message=dict(message or {})
    )
    _add(config, name, entry, secrets)


def add_pull(
    config: Config,
    name: str,
    route: Route,
    secrets: Secrets,
    remote_argv: Sequence[str],
    message: Mapping[str, Any] | None = None,
) -> None:
    """Make the server of another host ours: a socket here leads to it, from now on.

    `remote_argv` is run there at each connection, with `message` on its standard input, and
    starts the server (see serving.py). This host's record follows it. Raises NodeError.
    """
    argv, told = shlex.join(remote_argv), dict(message or {})
    _add(config, name, Entry(route.to_json(), "pull", argv, told), secrets)


def _add(config: Config, name: str, entry: Entry, secrets: Secrets) -> None:
    ensure(config)
    known = _place(config).read().get(name)
    if known == entry and status(config).get(name, TunnelStatus("down")).state == "up":
        return  # what runs over it shall not notice
    _must(
        _place(config),
        {"op": "add", "name": name, "entry": entry.to_dict(), "secrets": secrets.to_json()},
    )


def remove(config: Config, name: str, *, keeps_record: bool = False) -> None:
    """End the tunnel of a host; with the last one the supervisor ends. Raises NodeError.

    When it led to the server, this host is on its own again, unless it keeps the record: then
    its commands find no server until the tunnel is there again.
    """
    place = _place(config)
    entries = place.read()
    entry = entries.pop(name, None)
    if is_locked(place.lock):
        _must(place, {"op": "remove", "name": name})
    elif entry:
        place.write(entries)
    if entry and entry.kind == "pull" and not keeps_record:
        upstream.remove(config)


def stop(config: Config) -> None:
    """End the supervisor and all tunnels, until `ensure`; the list of hosts stays."""
    place = _place(config)
    deadline = time.monotonic() + _START_S
    while is_locked(place.lock) and time.monotonic() < deadline:
        _ask(place, {"op": "stop"})
        time.sleep(0.02)


def status(config: Config) -> dict[str, TunnelStatus]:
    """Return how each host's tunnel is, by name; starts nothing."""
    place = _place(config)
    if is_locked(place.lock):
        states = _ask(place, {"op": "status"}).get("states")
        if isinstance(states, dict):
            return {name: _status(facts) for name, facts in states.items()}
    words = "the supervisor of the tunnels does not run; run `qnode ensure`"
    return {name: TunnelStatus("down", error=words) for name in place.read()}


def await_up(
    config: Config, names: Iterable[str], *, timeout_s: float = 30.0
) -> dict[str, TunnelStatus]:
    """Wait until each of these tunnels is up or in trouble; return how they are then."""
    wanted = set(names)
    deadline = time.monotonic() + timeout_s
    while True:
        found = {name: one for name, one in status(config).items() if name in wanted}
        if all(one.state != "connecting" for one in found.values()) and found.keys() == wanted:
            return found
        if time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def _status(facts: Mapping[str, Any]) -> TunnelStatus:
    return TunnelStatus(
        state=str(facts.get("state", "down")),
        port=int(facts.get("port", 0)),
        since=float(facts.get("since", 0.0)),
        error=str(facts.get("error", "")),
        lost=int(facts.get("lost", 0)),
        sent=int(facts.get("sent", 0)),
        received=int(facts.get("received", 0)),
    )


def _place(config: Config) -> Place:
    cure = "set QSUB_STATE_DIR to a local directory you can write to"
    return Place(private_dir(config.tunnel_path(), cure=cure))


def _must(place: Place, message: dict[str, Any]) -> None:
    reply = _ask(place, message)
    if "pid" not in reply:
        said = reply.get("error", "it does not answer")
        raise NodeError(f"the supervisor of the tunnels: {said}", hint=f"see {place.log}")


def _ask(place: Place, message: dict[str, Any]) -> dict[str, Any]:
    """Return the supervisor's answer, {} when there is none."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(_ANSWER_S)
            with place.address() as address:
                link.connect(address)
            link.sendall(json.dumps(message).encode() + b"\n")
            with link.makefile("rb") as stream:
                reply = json.loads(stream.readline() or b"{}")
    except (OSError, ValueError):
        return {}
    return reply if isinstance(reply, dict) else {}


if __name__ == "__main__":
    from qsub_py.tunnel_supervisor import main

    main(*sys.argv[1:3])
