"""Another host of the cluster, in a test: the same machine with a home of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import qsub_py
from env import Env, alive, wait_until
from qsub_py.config_keys import key_path


class Host:
    """A home directory with its own state, that shares the cluster's key with the head."""

    def __init__(self, home: Path, head: Env) -> None:
        self.home = home
        self.state = home / "state"
        self.environ = {**os.environ, "HOME": str(home), "QSUB_STATE_DIR": str(self.state)}
        head.store().close()  # makes the server
        head.run("qstat")  # makes the key
        keys = home / ".config/qsub_py/keys"
        keys.mkdir(parents=True)
        shutil.copy(key_path("default"), keys)

    def argv(self, module: str = "qsub_py.upstream") -> list[str]:
        """Return the command that rewrites its record (or another), for whoever logs in there."""
        words = ["/usr/bin/env", f"HOME={self.home}", f"QSUB_STATE_DIR={self.state}"]
        package = Path(qsub_py.__file__).parents[1]
        return [*words, f"PYTHONPATH={package}", sys.executable, "-m", module]

    def run(self, command: str, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run one of our commands there."""
        argv = [sys.executable, "-m", "qsub_py", command, *words]
        options = {"capture_output": True, "text": True, "timeout": 60, **options}
        return subprocess.run(argv, env=self.environ, **options)

    def join(self, port: int, password: str | None = None) -> subprocess.CompletedProcess[str]:
        """Rewrite its upstream record, as the head does over SSH."""
        message: dict[str, Any] = {"port": port, "way": "tunnel", "server": "head"}
        if password is not None:
            message["password"] = password
        return self.tell(message)

    def tell(
        self, message: dict[str, Any], module: str = "qsub_py.upstream"
    ) -> subprocess.CompletedProcess[str]:
        """Give `python -m qsub_py.upstream` (or another) a message."""
        return subprocess.run(
            [sys.executable, "-m", module],
            input=json.dumps(message), env=self.environ, capture_output=True, text=True,
        )  # fmt: skip

    def record(self) -> dict[str, str]:
        """Return the upstream record; {} without one."""
        path = self.state / "upstream" / "default.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def pids(self) -> Iterator[int]:
        """Yield the agents and keepers that run from this home."""
        for path in self.state.glob("nodes/*/*.pid"):
            pid = int(path.read_text())
            if alive(pid):
                yield pid

    def agent_log(self) -> str:
        """Return what the agents have logged."""
        return "".join(path.read_text() for path in self.state.glob("nodes/*/agent.log"))

    def close(self) -> None:
        """End what runs there."""
        for _ in range(2):  # a keeper may have started an agent meanwhile
            for pid in list(self.pids()):
                os.kill(pid, 9)
                wait_until(lambda pid=pid: not alive(pid), what="a process of the host ends")
