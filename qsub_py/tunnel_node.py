"""A host's own way to a server on another host: the `ssh` program, kept running.

`python -m qsub_py.tunnel_node STATE_DIR CLUSTER` is that process; what it needs lies in the
state directory (`join` writes it), with a key that the server's host lets forward one port
and nothing else. Standard library only, for it runs where nothing is installed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from urllib.parse import quote

from qsub_py import upstream
from qsub_py.config import Config
from qsub_py.config_paths import home_dir, private_dir
from qsub_py.errors import ConfigError, NodeError
from qsub_py.server_lock import is_locked
from qsub_py.server_start import socket_path
from qsub_py.text import safe
from qsub_py.tunnel_daemon import detach, limit_log, spawn
from qsub_py.tunnel_place import take_lock

_LEAST_S, _MOST_S = 0.2, 10.0
_SOUND_S = 20.0
_READY_S = 30.0
#: Who waits for the way hears of trouble after so many.
_ATTEMPTS = 3
_ENDED = "ssh ended with code"
_CURE = "set QSUB_STATE_DIR to a local directory you can write to"
#: The name under which known_hosts has the server's host, wherever it is.
_ALIAS = "qsub-server"
_OPTIONS = {
    "ExitOnForwardFailure": "yes",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    "ConnectTimeout": "15",
    "BatchMode": "yes",
    "IdentitiesOnly": "yes",
    "IdentityAgent": "none",
    "StrictHostKeyChecking": "yes",
    "UpdateHostKeys": "no",
    "GlobalKnownHostsFile": "none",
    "HostKeyAlias": _ALIAS,
    "ControlPath": "none",
    "StreamLocalBindUnlink": "yes",
    "StreamLocalBindMask": "0177",
}


def join(
    config: Config,
    *,
    host: str,
    user: str,
    ssh_port: int,
    server_port: int,
    private_key: str,
    host_keys: Sequence[str],
    server: str,
    password: str,
) -> None:
    """Reach the server on 127.0.0.1:`server_port` of `host` from here on, and wait for it.

    `host_keys` are "TYPE BASE64" of that host. Writes this host's record. Raises NodeError with
    what ssh said, and ConfigError.
    """
    if not shutil.which("ssh"):
        raise NodeError("there is no ssh program", hint="install the OpenSSH client there")
    folder = private_dir(config.tunnel_path(), cure=_CURE)
    listens = socket_path(folder, "server.sock")
    settings = {"host": host, "user": user, "ssh_port": ssh_port, "server_port": server_port}
    _write(folder / "node_key", private_key.rstrip("\n") + "\n")
    _write(folder / "node_known_hosts", "".join(f"{_ALIAS} {key}\n" for key in host_keys))
    _write(folder / "node.json", json.dumps({**settings, "socket": str(listens)}) + "\n")
    upstream.write(
        config, url=f"unix://{quote(os.fsencode(listens))}", way="ssh", server=server,
        password=password,
    )  # fmt: skip
    _end(folder)
    for leftover in (listens, folder / "node.log"):
        leftover.unlink(missing_ok=True)
    start(config)
    _await(folder, listens)


def leave(config: Config) -> None:
    """Forget it all; the record of the server, too."""
    folder = config.tunnel_path()
    for name in ("node.json", "node_key", "node_known_hosts"):
        (folder / name).unlink(missing_ok=True)
    _end(folder)
    upstream.remove(config)


def start(config: Config) -> None:
    """Start the process in the background; it ends at once when there is one. NodeError."""
    folder = private_dir(config.tunnel_path(), cure=_CURE)
    spawn("qsub_py.tunnel_node", str(config.state_path()), config.cluster, directory=folder)


def authorize(line: str, comment: str) -> None:
    """Let a key log in here: one line of ~/.ssh/authorized_keys, found again by its comment.

    A former line with that comment is replaced. Raises ConfigError.
    """
    path = home_dir() / ".ssh" / "authorized_keys"
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        old = path.read_text("utf-8", "surrogateescape").splitlines() if path.exists() else []
        new = [one for one in old if not one.endswith(f" {comment}")] + [line]
        if new == old:
            return
        draft = path.with_name(f".authorized_keys.{os.urandom(6).hex()}")
        mode = path.stat().st_mode & 0o777 if old else 0o600
        _write(draft, "\n".join(new) + "\n", mode=mode)
        draft.replace(path.resolve())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def _write(path: Path, text: str, *, mode: int = 0o600) -> None:
    draft = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    draft.replace(path)


def _await(folder: Path, listens: Path) -> None:
    """Wait until ssh listens; NodeError with its last words when it does not."""
    deadline = time.monotonic() + _READY_S
    while not listens.exists():
        lines: list[str] = []
        with contextlib.suppress(OSError):
            lines = (folder / "node.log").read_text("utf-8", "replace").splitlines()
        said = [line for line in lines if line.strip() and _ENDED not in line]
        if len(lines) - len(said) >= _ATTEMPTS or time.monotonic() > deadline:
            raise NodeError(
                f"no SSH to the server's host: {safe(said[-1]) if said else 'ssh said nothing'}",
                hint="that host must be reachable from here, and let the cluster's key in",
            )
        time.sleep(0.02)


def _end(folder: Path) -> None:
    """End the process that runs, and wait until it is gone."""
    deadline = time.monotonic() + _MOST_S
    while is_locked(folder / "node.lock") and time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((folder / "node.pid").read_text()), signal.SIGTERM)
        time.sleep(0.02)


# -- the process ---------------------------------------------------------------------------


class Keeper:
    """Runs ssh, again and again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ssh: subprocess.Popen[bytes] | None = None
        self._is_over = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._is_over = True
        if self._ssh is not None:
            self._ssh.kill()

    def run(self) -> None:
        """Work until told to end, or until the host has left."""
        _kill_former(self._folder)
        for pause_s in self._turns():
            until = time.monotonic() + pause_s * random.uniform(0.5, 1.0)
            while not self._is_over and time.monotonic() < until:
                time.sleep(0.1)
            limit_log(self._folder / "node.log")

    def _turns(self) -> Iterator[float]:
        """Run ssh to its end, yield how long to wait before it is run again."""
        pause_s = 0.0
        while not self._is_over and (found := ssh_argv(self._folder)):
            began_at = time.monotonic()
            self._ssh = subprocess.Popen(found[1], stdin=subprocess.DEVNULL, cwd=found[0])
            _write(self._folder / "ssh.pid", f"{self._ssh.pid}\n")
            if self._is_over:
                self._ssh.kill()
            code = self._ssh.wait()
            if self._is_over:
                return
            print(time.strftime("%Y-%m-%d %H:%M:%S"), _ENDED, code, flush=True)
            was_sound = time.monotonic() > began_at + _SOUND_S
            pause_s = _LEAST_S if was_sound else min(_MOST_S, max(_LEAST_S, 2 * pause_s))
            yield pause_s


def ssh_argv(folder: Path) -> tuple[str, list[str]] | None:
    """Return (directory, command) that keeps the way open; None when the host has left."""
    try:
        told = json.loads((folder / "node.json").read_bytes())
    except (OSError, ValueError):
        return None
    options = {**_OPTIONS, "UserKnownHostsFile": f'"{folder / "node_known_hosts"}"'}
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    listens = Path(told["socket"])
    # Relative to its directory: ssh takes colons and percent signs in a path for its own.
    way = f"./{listens.name}:127.0.0.1:{told['server_port']}"
    place = ["-l", told["user"], "-p", str(told["ssh_port"]), "--", told["host"]]
    key = ["-i", str(folder / "node_key")]
    argv = ["ssh", "-F", "none", "-N", "-T", *words, *key, "-L", way, *place]
    return str(listens.parent), argv


def _kill_former(folder: Path) -> None:
    """End the ssh of a process that was killed before it could."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((folder / "ssh.pid").read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if os.fsencode(folder / "node_key") in words:
            os.kill(pid, signal.SIGKILL)


def main(state_dir: str, cluster: str) -> None:
    """Keep the way open; end at once when another process does."""
    folder = Path(state_dir).absolute() / "tunnel" / cluster
    detach(folder / "node.log")
    lock = take_lock(folder / "node.lock")
    if lock is None:
        return
    _write(folder / "node.pid", f"{os.getpid()}\n")
    Keeper(folder).run()


if __name__ == "__main__":
    main(*sys.argv[1:3])
