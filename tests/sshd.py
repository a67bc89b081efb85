"""A real OpenSSH server for a test, on a loopback port, and an OpenSSH home to come from.

Whoever runs the tests logs in as himself. As root sshd wants /run/sshd, which is made.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from env import alive, wait_until

PROGRAM = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or ""
#: Why these tests cannot run here, "" when they can.
MISSING = "" if PROGRAM and shutil.which("ssh-keygen") else "needs an OpenSSH server and ssh-keygen"


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def make_key(path: Path, *, kind: str = "ed25519", passphrase: str = "", form: str = "") -> Path:
    """Make a key pair with ssh-keygen; return the private half's path."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    argv = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", path.name, "-f", str(path)]
    subprocess.run([*argv, *(["-m", form] if form else [])], check=True)
    return path


def parents() -> dict[int, int]:
    """Return every process with its parent."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                words = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                found[int(entry.name)] = int(words[1])
    return found


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and theirs."""
    all_of, found, left = parents(), [], [pid]
    while left:
        one = left.pop()
        children = [child for child, parent in all_of.items() if parent == one]
        found += children
        left += children
    return found


class Sshd:
    """An OpenSSH server on 127.0.0.1; ends with all it started at `stop`."""

    def __init__(
        self,
        directory: Path,
        *,
        options: Sequence[str] = (),
        host_keys: Sequence[str] = ("ed25519",),
        port: int = 0,
        under: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.port = port or free_port()
        self.user = getpass.getuser()
        self.options = list(options)
        #: What the server is run by, as `unshare`.
        self.under = list(under)
        directory.mkdir(parents=True, exist_ok=True)
        self.host_keys = [make_key(directory / f"host_{kind}", kind=kind) for kind in host_keys]
        self.authorized = directory / "authorized_keys"
        self.authorized.touch()
        self.log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Return the server's pid."""
        assert self._process
        return self._process.pid

    def start(self) -> Sshd:
        """Start the server and return when it listens."""
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        config = self.directory / "sshd_config"
        lines = [
            *self.options,  # the first value of an option counts
            *(f"HostKey {path}" for path in self.host_keys),
            *(f"ListenAddress 127.0.0.1:{self.port}", "PidFile none", "UsePAM no"),
            *("StrictModes no", f"AuthorizedKeysFile {self.authorized}"),
            *("PasswordAuthentication no", "KbdInteractiveAuthentication no"),
            *("PermitRootLogin yes", "LogLevel VERBOSE", "UseDNS no"),
        ]
        config.write_text("".join(f"{line}\n" for line in lines))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.under, PROGRAM, "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._listens, what=f"sshd listens: {self.log.read_text()}")
        return self

    def _listens(self) -> bool:
        assert self._process and self._process.poll() is None, self.log.read_text()
        return "Server listening" in self.log.read_text()

    def authorize(self, key: Path, *, limits: str = "") -> Path:
        """Let a key in; return it."""
        public = key.with_name(f"{key.name}.pub").read_text()
        with self.authorized.open("a") as file:
            file.write(f"{limits} {public}".lstrip())
        return key

    def known_line(self, kind: str = "ed25519", *, name: str = "") -> str:
        """Return the server's line for known_hosts."""
        words = (self.directory / f"host_{kind}.pub").read_text().split()
        return f"{name or f'[127.0.0.1]:{self.port}'} {words[0]} {words[1]}\n"

    def fingerprint(self, kind: str = "ed25519") -> str:
        """Return a host key's fingerprint, as ssh-keygen prints it."""
        argv = ["ssh-keygen", "-l", "-f", str(self.directory / f"host_{kind}.pub")]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()[1]

    def sessions(self) -> list[int]:
        """Return the processes of its connections, with what they started."""
        return descendants(self.pid)

    def signal_sessions(self, sig: int) -> None:
        """Send a signal to each process of its connections."""
        for pid in self.sessions():
            with contextlib.suppress(OSError):
                os.kill(pid, sig)

    def stop(self) -> None:
        """End it and all it started, also what it stopped."""
        if self._process is None:
            return
        left = [*self.sessions(), self.pid]
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        wait_until(lambda: not any(alive(pid) for pid in left), what="sshd ends")
        self._process = None


class Home:
    """The .ssh directory of a test's home."""

    def __init__(self, home: Path) -> None:
        self.path = home
        self.ssh = home / ".ssh"
        self.ssh.mkdir(mode=0o700, exist_ok=True)
        self.known_hosts = self.ssh / "known_hosts"
        self.config = self.ssh / "config"

    def key(self, name: str = "id_ed25519", **how: str) -> Path:
        """Make a key of the user's own."""
        return make_key(self.ssh / name, **how)

    def know(self, *lines: str) -> None:
        """Add lines to known_hosts."""
        with self.known_hosts.open("a") as file:
            file.writelines(lines)

    def host(self, alias: str, sshd: Sshd | int, *lines: str) -> str:
        """Add a Host section to the configuration; return the alias."""
        port = sshd if isinstance(sshd, int) else sshd.port
        section = [f"Host {alias}", "HostName 127.0.0.1", f"Port {port}", *lines]
        with self.config.open("a") as file:
            file.write("\n  ".join(section) + "\n")
        return alias


class Agent:
    """A real ssh-agent."""

    def __init__(self, directory: Path) -> None:
        self.socket = str(directory / "agent")
        argv = ["ssh-agent", "-D", "-a", self.socket]
        self._process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        wait_until(lambda: os.path.exists(self.socket), what="ssh-agent listens")

    def add(self, *keys: Path) -> None:
        """Give it keys (without a passphrase)."""
        env = {**os.environ, "SSH_AUTH_SOCK": self.socket}
        subprocess.run(["ssh-add", "-q", *map(str, keys)], check=True, env=env)

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()
