"""How soon a call runs again after SIGKILL of what ran it."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import qsub_py
from benchmarks import processes
from benchmarks.work import add, mark, marks

if TYPE_CHECKING:
    from benchmarks.ours import Ours

_PATIENCE_S = 60.0
_LONG_S = 600.0


class Recovery:
    """The kills, each against a job of its own."""

    def __init__(self, system: Ours) -> None:
        self.system = system
        self.folder = Path(tempfile.mkdtemp(dir=Path.home()))

    def measure(self) -> dict[str, float]:
        """Return the seconds of each kind."""
        return {
            "kill_runner": self._until_again("runner"),
            "kill_keeper": self._until_again("keeper"),
            **self._without_agent(),
        }

    def _until_again(self, role: str) -> float:
        path = str(self.folder / role)
        future = qsub_py.submit(mark, path, _LONG_S)
        processes.wait_for(lambda: marks(path), timeout_s=_PATIENCE_S)
        victim = marks(path)[0][1] if role == "runner" else self.system.pids()[role][0]
        killed_at = time.time()
        os.kill(victim, signal.SIGKILL)
        processes.wait_for(lambda: len(marks(path)) > 1, timeout_s=_PATIENCE_S)
        future.cancel()
        self.system.one(1)
        return marks(path)[1][0] - killed_at

    def _without_agent(self) -> dict[str, float]:
        """Kill the agent of a running command; a new call proves that another one works."""
        path = self.folder / "command"
        job = self.system.submit_command(script=f"echo $$ > {path}; exec sleep {_LONG_S:.0f}")
        processes.wait_for(lambda: path.exists() and path.read_text().strip(), timeout_s=20)
        command = int(path.read_text())
        killed_at = time.monotonic()
        os.kill(self.system.pids()["agent"][0], signal.SIGKILL)
        future = qsub_py.submit(add, 1, 1)
        stopped_s, seen_at = 0.0, killed_at
        while not future.done() and time.monotonic() < killed_at + _PATIENCE_S:
            time.sleep(0.002)
            now = time.monotonic()
            stopped_s += 0.0 if _runs(command) else now - seen_at
            seen_at = now
        future.result(timeout=0)
        self.system.client.ask(lambda store: store.cancel(job, None, by="bench"))
        return {"kill_agent": stopped_s, "agent_back": seen_at - killed_at}


def _runs(pid: int) -> bool:
    """Whether a process is there and not stopped."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in "ZXTt"
