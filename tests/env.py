"""A whole batch system for a test: a home, an embedded server, nodes, the commands.

After HyperQueue's HqEnv. Everything it starts is ended by pid when the test is over.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from qsub_py import calls, client, config, server
from qsub_py.model import JobInfo, State
from qsub_py.node import local
from qsub_py.reach import endpoint
from qsub_py.store import Store
from waiting import wait_until as wait_until


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


class Env:
    """One home directory with what runs from it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.node_dirs: dict[str, Path] = {}

    @property
    def config(self) -> config.Config:
        """The settings in force."""
        return config.load()

    def store(self) -> Store:
        """Connect to the server, started on demand."""
        url, password = endpoint(self.config)
        return Store.connect(url, password=password, cluster=self.config.cluster)

    # -- commands --------------------------------------------------------------------------

    def run(
        self,
        command: str,
        *words: str | Path | int,
        check: bool = True,
        timeout: float = 60,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run one of our commands as a user would, its output captured."""
        argv = [sys.executable, "-m", "qsub_py", command, *map(str, words)]
        options.setdefault("stdin", subprocess.DEVNULL)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, **options)
        if check and done.returncode:
            raise AssertionError(f"{argv[3:]} exited {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def qsub(self, *words: str | Path | int, **options: Any) -> int:
        """Submit and return the job's id."""
        return int(self.run("qsub", *words, **options).stdout)

    # -- nodes -----------------------------------------------------------------------------

    def start_node(self, name: str = "n1", *, cpus: int = 2, gpus: int = 0) -> local.NodeStarted:
        """Start a node here and return once it has joined."""
        started = local.start(self.config, name=name, cpus=cpus, mem_bytes=2**32, gpus=gpus)
        self.node_dirs[name] = started.node_dir
        return started

    def pid(self, role: str, name: str = "n1") -> int:
        """Return the pid of a node's "agent" or "keeper", or of the "server"."""
        if role == "server":
            return server.status(self.config.server_path()).pid
        return int((self.node_dirs[name] / f"{role}.pid").read_text())

    def kill(self, role: str, name: str = "n1", sig: int = signal.SIGKILL) -> int:
        """Send a signal to an agent, keeper or the server; return its pid."""
        pid = self.pid(role, name)
        os.kill(pid, sig)
        return pid

    # -- waiting ---------------------------------------------------------------------------

    def wait_job(self, job: int, *, timeout_s: float = 60.0) -> JobInfo:
        """Return the job when it has ended."""
        with contextlib.closing(self.store()) as store:

            def ended() -> JobInfo | None:
                info = store.job(job)
                return info if info.has_ended else None

            return wait_until(ended, timeout_s=timeout_s, what=f"job {job} ends")

    def wait_state(self, job: int, state: State, *, timeout_s: float = 30.0) -> JobInfo:
        """Return the job when it is in this state."""
        with contextlib.closing(self.store()) as store:

            def there() -> JobInfo | None:
                info = store.job(job)
                return info if info.state is state else None

            return wait_until(there, timeout_s=timeout_s, what=f"job {job} is {state.name}")

    def close(self) -> None:
        """End everything; the next test's Python API connects anew."""
        for used in [*calls._executors.values()]:
            used.shutdown(wait=False, cancel_futures=True)
        calls._forget_after_fork()
        client._forget_after_fork()
        for role in ("agent", "keeper"):
            for name in self.node_dirs:
                with contextlib.suppress(OSError, ValueError):
                    self._end(self.pid(role, name))
        with contextlib.suppress(Exception):
            server.stop(self.config.server_path())
        # Whoever outlived that may have started others meanwhile.
        wait_until(lambda: not _kill_of(self.home), what=f"all that has {self.home} ends")

    def _end(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive(pid), what=f"process {pid} ends")


def _kill_of(home: Path) -> bool:
    """Kill what has this home directory in its environment or command line; was there any?"""
    needle, found = os.fsencode(home) + b"/", False
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                said = b"".join((entry / name).read_bytes() for name in ("environ", "cmdline"))
                if needle in said.replace(b"\0", b"/") and alive(int(entry.name)):
                    os.kill(int(entry.name), signal.SIGKILL)
                    found = True
    return found
