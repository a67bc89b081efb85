"""Watches which gpus are used by processes that are not of this node's tasks.

nvidia-smi runs beside the agent and is looked at between other things: it may take seconds, or
hang for ever with its driver, and then what it said last holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from qsub_py.node import gpus, hardware
from qsub_py.node.probe import Probe
from qsub_py.node.processes import stat_of
from qsub_py.node.settings import NodeSettings

_EVERY_S = 5.0
_LOOK_S = 0.1
_ANSWER_S = 10.0
#: So long after an answer that did not come.
_HUNG_S = 60.0
_MUTE = "nvidia-smi does not answer"


class GpuWatch:
    """The gpus that nobody is given now. Until the first answer that is all of them."""

    def __init__(self, settings: NodeSettings, keeper_pid: Callable[[], int]) -> None:
        self._settings, self._keeper_pid = settings, keeper_pid
        self._is_on = settings.avoid_busy_gpus and settings.gpus > 0
        self.busy: tuple[int, ...] = tuple(range(settings.gpus)) if self._is_on else ()
        #: What is wrong with the watch itself, "" when nothing is.
        self.why = ""
        self._probe: Probe | None = None
        self._next = 0.0
        self._unseen: set[int] = set()

    def pause_s(self) -> float:
        """Return how long the loop may sleep for our sake."""
        return max(0.0, self._next - time.monotonic()) if self._is_on else 3600.0

    def turn(self) -> bool:
        """Start or look at nvidia-smi; return whether other gpus are busy than before."""
        if self.pause_s() > 0:
            return False
        self._next = time.monotonic() + _LOOK_S
        if self._probe is None:
            self._probe = Probe(gpus.processes_argv(), timeout_s=_ANSWER_S)
        if not self._probe.poll():
            return False
        answer, self._probe = self._probe.answer, None
        users = None if answer is None else gpus.users(answer)
        before = self.busy, self.why
        if users is None:
            self.why, self._next = _MUTE, time.monotonic() + _HUNG_S
        else:
            self.why, self._next = "", time.monotonic() + _EVERY_S
            self.busy = self._numbers({uuid for pid, uuid in users if self._is_foreign(pid)})
            self._unseen = {pid for pid, _ in users if stat_of(pid) is None}
        return before != (self.busy, self.why)

    def _numbers(self, uuids: set[str]) -> tuple[int, ...]:
        """Return our numbers of the gpus; of a gpu in slices it is not told which is used."""
        devices = self._settings.devices
        found = [n for n, gpu in enumerate(devices) if {gpu.uuid, gpu.whole} & uuids]
        return tuple(found)

    def _is_foreign(self, pid: int) -> bool:
        """Whether a process is none of our keeper's children and theirs.

        One that is not there has ended meanwhile, unless it is told again: then it is in
        another pid namespace, such as the host's, outside of our container.
        """
        keeper = self._keeper_pid()
        for _ in range(1000):
            stat = stat_of(pid)
            if stat is None:
                return pid in self._unseen
            if pid == keeper:
                return False
            if stat[1] <= 1:
                return True
            pid = stat[1]
        return True


def news(watch: GpuWatch) -> dict[str, str]:
    """Return what changes while a node runs, for the store: its load, the gpus of others."""
    busy = ",".join(map(str, watch.busy))
    return {"load": f"{hardware.load():.2f}", "gpus_busy": busy, "gpus_why": watch.why}


def keeper_pid_of(node_dir: Path) -> int:
    """Return the pid of a node's keeper, 0 when it is not known."""
    try:
        return int((node_dir / "keeper.pid").read_text())
    except (OSError, ValueError):
        return 0
