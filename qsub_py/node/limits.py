"""When a running task is looked at: after 0.1 s, at its warning, at its limit."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any

from qsub_py.node.batch import LONG_S, Verdict
from qsub_py.node.judge import signal_name

#: Who gets the signal before the limit: the main process, all others, or everybody.
MAIN, REST, ALL = "main", "rest", "all"


@dataclass(frozen=True, slots=True)
class Limits:
    """The times of a job's tasks, in seconds that they have run; 0: none."""

    limit_s: float
    grace_s: float
    signal: int = 0
    signal_at_s: float = 0.0
    whom: str = ALL

    @classmethod
    def of(cls, common: dict[str, Any]) -> Limits:
        """Read them from the common part of a `run` order."""
        limit, grace = common["limit_s"], common["grace_s"]
        if not limit or not common.get("notice"):
            return cls(limit, grace)
        number, before, whom = common["notice"]
        # A limit that grew less than the warning's time: at once.
        return cls(limit, grace, number, max(limit - before, 0.001), whom)

    def first_look_s(self) -> float:
        """Return after how long a task is looked at first."""
        return min(t for t in (LONG_S, self.limit_s, self.signal_at_s) if t)

    def wait_s(self, ran: float, *, was_told: bool, was_warned: bool) -> float:
        """Return how long until the next look; 0: none is due."""
        times = [self.limit_s] if self.limit_s else []
        times += [] if was_told else [LONG_S]
        times += [self.signal_at_s] if self.signal and not was_warned else []
        return max(min(times) - ran, 0.001) if times else 0.0

    def must_warn(self, ran: float) -> bool:
        """Whether the warning is due."""
        return bool(self.signal) and ran >= self.signal_at_s

    def must_end(self, ran: float) -> bool:
        """Whether the limit is reached."""
        return bool(self.limit_s) and ran >= self.limit_s

    def verdict(self) -> Verdict:
        """Return why it ends at its limit."""
        return Verdict("TIMEOUT", f"time limit of {self.limit_s:g} s", self.grace_s)

    def died_of_warning(self, code: int) -> str:
        """Return why, when a process that was warned died of just that; else ""."""
        if not self.signal or code != -self.signal or code == -signal.SIGKILL:
            return ""
        before = self.limit_s - self.signal_at_s
        return (f"time limit of {self.limit_s:g} s: killed by the {signal_name(self.signal)} that "
                f"warns {before:g} s before")  # fmt: skip
