"""A real sshd on a loopback port, with keys and known_hosts of its own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from env import alive, wait_until
from qsub_py.ssh import Route

CONF = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {dir}/host_key
AuthorizedKeysFile {dir}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
MaxStartups 100
"""


def find() -> str | None:
    """Return the sshd of this machine."""
    return shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


class Sshd:
    """One sshd; `stop` kills it with its sessions, `start` starts it on the same port."""

    def __init__(self, directory: Path, options: str = "") -> None:
        self.dir = directory
        directory.mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        for name in ("host_key", "user_key"):
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name]
            subprocess.run(words, check=True)
        shutil.copy(directory / "user_key.pub", directory / "authorized_keys")
        key = (directory / "host_key.pub").read_text().split()
        line = f"[127.0.0.1]:{self.port} {key[0]} {key[1]}\n"
        (directory / "known_hosts").write_text(line)
        self.set(options)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def set(self, options: str) -> None:
        """Write the configuration; in force at the next start."""
        conf = CONF.format(port=self.port, dir=self.dir) + options + "\n"
        (self.dir / "sshd_config").write_text(conf)

    def start(self) -> None:
        """Start it and wait until it answers."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        words = [str(find()), "-D", "-f", self.dir / "sshd_config", "-E", self.dir / "log"]
        self._process = subprocess.Popen(words)
        wait_until(self._answers, what="sshd answers")

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                return probe.recv(4) == b"SSH-"
        except OSError:
            return False

    def stop(self) -> None:
        """Kill it and all its sessions."""
        if self._process is not None:
            pids = [self._process.pid, *_below(self._process.pid)]
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()
            for pid in pids:
                wait_until(lambda pid=pid: not alive(pid), what="a session of sshd ends")
            self._process = None

    def cut(self) -> None:
        """Kill the sessions, not the listener."""
        assert self._process is not None
        for pid in _below(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def sessions(self) -> list[int]:
        """Return the pids of the sessions' processes."""
        assert self._process is not None
        return list(_below(self._process.pid))

    def route(self) -> Route:
        """Return how to reach it."""
        return Route(
            "h1",
            "127.0.0.1",
            pwd.getpwuid(os.geteuid()).pw_name,
            port=self.port,
            identity_files=(str(self.dir / "user_key"),),
            identities_only=True,
            identity_agent="none",
            known_hosts=(str(self.dir / "known_hosts"),),
            strict="yes",
        )


def _below(pid: int) -> Iterator[int]:
    """Yield the descendants of a process."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == pid:
                    yield int(entry.name)
                    yield from _below(int(entry.name))
