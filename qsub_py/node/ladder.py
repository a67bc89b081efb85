"""End a task in steps: SIGTERM, its grace, SIGKILL."""

from __future__ import annotations

import signal

from qsub_py.node.batch import Verdict
from qsub_py.node.processes import Tree
from qsub_py.node.workplace import Hold, Timer, Workplace, now

_AGAIN_S = 0.1


class Ladder:
    """The steps for one tree; `verdict` is why, once the first was taken."""

    def __init__(self, place: Workplace, tree: Tree, hold: Hold) -> None:
        self.verdict: Verdict | None = None
        self._place = place
        self._tree = tree
        self._hold = hold
        self._timer: Timer | None = None

    def climb(self, verdict: Verdict) -> None:
        """Take the first step; told again, only a shorter grace changes anything."""
        if self.verdict is None:
            self.verdict = verdict
            # Past the fence it must not run another moment, not even to tidy up.
            if verdict.grace_s > 0 and not self._hold.paused:
                self._tree.signal(signal.SIGTERM)
                self._hold.suspend(False)
        elif verdict.grace_s >= self.verdict.grace_s:
            return
        self.stop()
        wait = 0.0 if self._hold.paused else verdict.grace_s
        self._timer = self._place.timers.at(now() + wait, self.destroy)

    def destroy(self) -> None:
        """Take the last step, and again while something forks faster than we look."""
        self.stop()
        self._tree.destroy()
        self._timer = self._place.timers.at(now() + _AGAIN_S, self.destroy)

    def stop(self) -> None:
        """Take no further step: the main process is gone."""
        if self._timer is not None:
            self._timer.cancel()
