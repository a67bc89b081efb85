"""Where contenders play: a private home, the peers' server and environment, the processes.

Everything is ended when the stage closes; nothing listens on a network.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import processes
from benchmarks.driver import SCRIPTS, Driver
from qsub_py import server

_VENV = Path(os.environ.get("BENCH_VENV") or SCRIPTS.parent / ".bench-venv")
_PACKAGES = ("celery[redis]", "rq", "huey", "loky", "hiredis", "redis", "py-spy",
             "scikit-learn")  # fmt: skip
_CLASSES = {
    "qsub_py": "ours:Ours",
    "celery": "queues:Celery",
    "rq": "queues:RQ",
    "huey": "queues:Huey",
    "loky": "pools:Loky",
    "futures": "pools:Pool",
    "xargs": "limits:Xargs",
    "parallel": "limits:Parallel",
    "spawn": "limits:Spawn",
    "lua": "prototype:Prototype",
    "python": "commands:PythonStart",
}
_IN_VENV = ("celery", "rq", "huey", "loky")
#: They need a server, which is not ours.
_ON_SERVER = ("celery", "rq", "huey", "lua")


#: Configuration of the user's, and what makes a Python compile our modules at each start.
_DROPPED = ("QSUB_", "XDG_", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")


class Stage:
    """The contenders' processes, each started when first needed."""

    def __init__(self, *, with_peers: bool) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="qsub-bench-"))
        self._drivers: dict[str, Driver] = {}
        self._with_peers = with_peers
        self._server: server.Endpoint | None = None

    def __enter__(self) -> Stage:
        if self._with_peers:
            peers_python()
        return self

    def __exit__(self, *_: object) -> None:
        for driver in self._drivers.values():
            driver.close()
        self._sweep()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _sweep(self) -> None:
        """End what belongs to no tree: servers, and nodes, whose processes restart each other."""
        for _ in range(20):
            left = processes.inside(self.folder)
            if not left:
                return
            processes.send(left, signal.SIGKILL)
            time.sleep(0.05)

    def driver(self, name: str) -> Driver:
        """Return the process of a contender; raises ContenderFailed."""
        if name not in self._drivers:
            python = peers_python() if name in _IN_VENV else sys.executable
            log = self.folder / f"{name}.log"
            self._drivers[name] = Driver(
                f"benchmarks.{_CLASSES[name]}", python, self._environ(name), log
            )
        return self._drivers[name]

    def _environ(self, name: str) -> dict[str, str]:
        """Return variables that know no configuration but defaults."""
        home = self.folder / "home"
        home.mkdir(mode=0o700, exist_ok=True)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(_DROPPED)}
        path = os.pathsep.join(filter(None, (str(SCRIPTS), os.environ.get("PYTHONPATH"))))
        found = kept | {"HOME": str(home), "PYTHONPATH": path}
        if name in _ON_SERVER:
            self._server = self._server or server.ensure(self.folder / "server")
            found |= {
                "BENCH_SOCKET": str(self._server.socket), "BENCH_PASSWORD": self._server.password
            }  # fmt: skip
        return found


def peers_python() -> str:
    """Return the interpreter of the peers' environment, which is made at the first use."""
    python = _VENV / "bin" / "python"
    ready, wanted = _VENV / "ready", " ".join(_PACKAGES)
    if not ready.exists() or ready.read_text() != wanted:
        print(f"installing the peers in {_VENV}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(_VENV)], check=True)
        words = [str(python), "-m", "pip", "install", "-q", *_PACKAGES]
        subprocess.run(words, check=True, stdout=sys.stderr)
        (_VENV / ".gitignore").write_text("*\n")
        ready.write_text(wanted)
    return str(python)


def py_spy() -> str | None:
    """Return the program that looks into running Pythons, where there is one."""
    inside = _VENV / "bin" / "py-spy"
    return str(inside) if inside.exists() else shutil.which("py-spy")
