"""The embedded server: found, started when it is needed, asked how it is, and stopped.

A Valkey (or Redis) process of its own that serves one user of one host through a unix
socket. It must not know what is stored in it. Two locks say all there is to know: whoever
holds `start.lock` starts or stops it; `server.lock` is held by the server process itself,
which inherits it, so it is free exactly when no server (or child of one) lives, whatever
stale pid files and sockets a crash left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from qsub_py.errors import ConfigError, StoreBusy, StoreUnavailable
from qsub_py.server_link import Answer, info, ping
from qsub_py.server_lock import is_locked, locked, spawn_locked
from qsub_py.text import safe

#: How long a server may be without its socket file before it is restarted.
LOST_SOCKET_S = 10.0
STOP_S = 30.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server is and what opens it; the password is not shown by repr."""

    url: str
    password: str = field(repr=False)
    pid: int
    dir: Path
    socket: Path
    #: Where it listens on 127.0.0.1 too; 0: nowhere.
    port: int = 0


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """How the server of a directory is; numbers are 0 unless it is `running`."""

    #: running, loading, stopped, silent (it does not answer), denied (another password).
    state: str
    pid: int = 0
    socket: str = ""
    program: str = ""
    version: str = ""
    uptime_s: float = 0.0
    clients: int = 0
    memory_bytes: int = 0
    maxmemory_bytes: int = 0
    appendfsync: str = ""
    #: Whether its files are put on the disk every second (or by itself).
    is_synced: bool = False


def ensure(
    directory: Path,
    *,
    binary: str = "",
    maxmemory_bytes: int = 0,
    appendfsync: str = "no",
    port: str = "0",
    wait_s: float = 60.0,
) -> Endpoint:
    """Return the server of `directory`, started if need be, when it answers.

    Costs one connection and one round trip when it runs. However many processes ask at once,
    they get the same one; one that runs keeps its `port` (see `server_start.loopback_port`) until
    it is stopped. Waits up to `wait_s` for it to read its files. Raises ConfigError
    (directory, program), StoreBusy (still reading), StoreUnavailable (dead or silent).
    """
    there = running(directory)
    if there:
        return there
    # Only the few commands that find no server pay for this import (10 ms).
    from qsub_py import server_start

    directory = server_start.private_dir(directory)
    socket = server_start.socket_path(directory)
    deadline = time.monotonic() + wait_s
    with locked(directory / "start.lock", deadline):
        if not _join(directory, socket, deadline):
            _start(directory, socket, binary, maxmemory_bytes, appendfsync, port, deadline)
    return _endpoint(directory, socket)


def running(directory: Path) -> Endpoint | None:
    """Return the server of `directory` if it answers at once; starts none.

    This is the path of nearly every command. Raises StoreUnavailable when it is silent.
    """
    try:
        directory = directory.resolve()
        record = _record(directory)
        socket = Path(record["socket"])
        if os.lstat(socket.parent).st_uid != os.geteuid():
            return None  # below /tmp, and now somebody else's: do not tell them the password
        password = _password(directory)
    except (OSError, KeyError):
        return None
    answer = ping(socket, password)
    if answer is Answer.SILENT:
        raise _silent(directory)
    if answer is not Answer.READY:
        return None
    endpoint = _endpoint(directory, socket)
    if record["appendfsync"] == "no":
        _watch(directory, endpoint.pid, wait_s=0.0)
    return endpoint


def _watch(directory: Path, pid: int, *, wait_s: float) -> None:
    """Start the process that syncs the server's files, unless it runs."""
    if not wait_s and is_locked(directory / "sync.lock"):
        return
    from qsub_py.server_start import watcher_argv

    argv = watcher_argv(directory, pid)
    with contextlib.suppress(StoreBusy):
        spawn_locked(argv, directory / "sync.lock", wait_s=wait_s)


def _endpoint(directory: Path, socket: Path) -> Endpoint:
    port = int(_record(directory).get("port", 0))
    return Endpoint(_url(socket), _password(directory), _pid(directory), directory, socket, port)


def _password(directory: Path) -> str:
    return (directory / "password").read_text("ascii").strip()


def _url(socket: Path) -> str:
    from urllib.parse import quote

    return "unix://" + quote(os.fsencode(socket))


def _record(directory: Path) -> dict[str, str]:
    """Return what the starter wrote: socket, program, appendfsync, port; {} if it did not."""
    try:
        raw = json.loads((directory / "server.json").read_bytes())
        found = {key: str(raw[key]) for key in ("socket", "program", "appendfsync")}
        return {**found, "port": str(int(raw.get("port", 0)))}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _pid(directory: Path) -> int:
    """Return the pid that the server itself wrote before it began to listen; 0 if none."""
    try:
        return int((directory / "server.pid").read_text())
    except (OSError, ValueError):
        return 0


def _is_alive(directory: Path) -> bool:
    return is_locked(directory / "server.lock")


def _join(directory: Path, socket: Path, deadline: float, *, is_new: bool = False) -> bool:
    """Wait for a server that lives already; False when there is none (any more)."""
    lost_at = time.monotonic() + LOST_SOCKET_S
    pause = 0.002
    while _is_alive(directory):
        answer = ping(socket, _password(directory))
        if answer is Answer.READY:
            return True
        if answer is Answer.DENIED:
            raise ConfigError(
                f"the server in {directory} has another password than {directory}/password",
                hint=f"stop it (kill {_pid(directory)}) and try again",
            )
        if answer is Answer.SILENT and not is_new:
            raise _silent(directory)
        if not socket.exists() and time.monotonic() > lost_at:
            if is_new:
                return False
            _terminate(directory, deadline)  # somebody removed its socket; its data are safe
        if time.monotonic() > deadline:
            raise _late(answer, directory)
        time.sleep(pause)
        pause = min(0.1, pause * 1.5)
    return False


def _silent(directory: Path) -> StoreUnavailable:
    return StoreUnavailable(
        f"the server in {directory} (pid {_pid(directory)}) does not answer",
        hint="it may be stopped or busy; see server.log there",
    )


def _late(answer: Answer, directory: Path) -> StoreBusy | StoreUnavailable:
    if answer is not Answer.LOADING:
        return _silent(directory)
    return StoreBusy(
        f"the server in {directory} is still reading its files", hint="try again later"
    )


def _start(
    directory: Path,
    socket: Path,
    binary: str,
    maxmemory: int,
    appendfsync: str,
    port: str,
    deadline: float,
) -> None:
    """Start a server and wait until it answers; the caller holds start.lock."""
    from qsub_py import server_start

    program = server_start.find_program(binary, directory)
    record = {"socket": str(socket), "program": program, "appendfsync": appendfsync}
    log = directory / "server.log"
    try:
        loopback = server_start.loopback_port(directory, port)
        record["port"] = str(loopback)
        password = server_start.password_of(directory)
        conf = server_start.write_conf(
            directory, socket, password,
            maxmemory_bytes=maxmemory, appendfsync=appendfsync, port=loopback,
        )  # fmt: skip
        for leftover in (directory / "server.pid", socket):
            leftover.unlink(missing_ok=True)
        server_start.write_private(directory / "server.json", json.dumps(record) + "\n")
        log_size = log.stat().st_size if log.exists() else 0
    except OSError as error:
        raise ConfigError(f"cannot write to {directory}: {error.strerror}") from None
    pid = spawn_locked([program, str(conf)], directory / "server.lock", wait_s=2.0)
    if not _join(directory, socket, deadline, is_new=True):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # it runs, but it is no server
        raise _stillborn(program, log, log_size)
    if appendfsync == "no":
        _watch(directory, _pid(directory), wait_s=2.0)


def _stillborn(program: str, log: Path, log_size: int) -> StoreUnavailable:
    """Return the error for a program that ended or does not listen, with its last words."""
    lines: list[str] = []
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(log_size)
        text = file.read(100_000).decode("utf-8", "replace")
        lines = [line for line in text.splitlines() if line]
    alarms = [line for line in lines if " # " in line and "WARNING" not in line]
    said = safe((alarms or lines or ["it said nothing"])[-1])
    return StoreUnavailable(f"{program} did not start: {said}", hint=f"see {log}")


def _terminate(directory: Path, deadline: float) -> None:
    """End the server and wait until it is gone; SIGKILL at `deadline` loses nothing either."""
    pid = _pid(directory)
    if not _is_server(pid, directory):
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        while _is_alive(directory):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                deadline += STOP_S
            time.sleep(0.005)


def _is_server(pid: int, directory: Path) -> bool:
    """Whether a pid from a file is still our server: it works in its directory."""
    if not pid:
        return False
    try:
        return os.readlink(f"/proc/{pid}/cwd") == str(directory)
    except FileNotFoundError:
        return not os.path.isdir("/proc/self")  # no /proc: trust the file
    except OSError:
        return False


def stop(directory: Path, *, wait_s: float = STOP_S) -> bool:
    """Stop the server of `directory`; returns whether one was running.

    Its data stay. Raises StoreUnavailable when it cannot be ended.
    """
    directory = directory.resolve()
    if not (directory / "server.lock").exists():
        return False
    deadline = time.monotonic() + wait_s
    with locked(directory / "start.lock", deadline + 1.0):
        if not _is_alive(directory):
            return False
        _terminate(directory, deadline)
        if _is_alive(directory):
            raise StoreUnavailable(
                f"the server in {directory} (pid {_pid(directory)}) could not be stopped"
            )
    return True


def status(directory: Path) -> ServerStatus:
    """Return how the server of `directory` is; starts nothing and never raises for a dead one."""
    directory = directory.resolve()
    record = _record(directory)
    if not record or not _is_alive(directory):
        return ServerStatus("stopped")
    socket, fsync = Path(record["socket"]), record["appendfsync"]
    password = _password(directory)
    state = ping(socket, password)
    facts: dict[str, str] = {}
    if state is Answer.READY:
        with contextlib.suppress(OSError, StoreUnavailable):
            facts = info(socket, password)
    return ServerStatus(
        state=state.value,
        pid=_pid(directory),
        socket=str(socket),
        program=record["program"],
        version=facts.get("valkey_version") or facts.get("redis_version", ""),
        uptime_s=float(facts.get("uptime_in_seconds", 0)),
        clients=int(facts.get("connected_clients", 0)),
        memory_bytes=int(facts.get("used_memory", 0)),
        maxmemory_bytes=int(facts.get("maxmemory", 0)),
        appendfsync=fsync,
        is_synced=fsync != "no" or is_locked(directory / "sync.lock"),
    )
