"""What jobs and owners have used, how well, and what would have done.

Pure. The numbers come from the store (lua/lib/account.lua), which adds them up as tasks end.
Efficiencies are those of seff(1): cpu time of wall time times cpus, peak of booked memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MIB = 2**20
#: What is asked for beyond the peak, and beyond the longest run.
MEM_ROOM, TIME_ROOM = 1.2, 1.5
#: Time limits are whole steps: (below s, step s).
_STEPS = ((600, 60), (3600, 300), (6 * 3600, 900), (86400, 3600), (math.inf, 6 * 3600))


@dataclass(frozen=True, slots=True)
class Usage:
    """What the ended tasks of a job have used (attempts that were tried again are not in it)."""

    tasks: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    #: Wall time times cpus.
    booked_s: float = 0.0
    longest_s: float = 0.0
    peak_bytes: int = 0
    #: The most memory that was booked for a task.
    booked_bytes: int = 0
    completed: int = 0
    completed_longest_s: float = 0.0
    completed_peak_bytes: int = 0

    @classmethod
    def from_text(cls, text: str) -> Usage:
        """Read the store's ten numbers; "" is nothing."""
        n = [float(word) for word in text.split()]
        n += [0.0] * (10 - len(n))
        return cls(int(n[0]), n[1] / 1000, n[2] / 1000, n[3] / 1000, n[4] / 1000, int(n[5]),
                   int(n[6]), int(n[7]), n[8] / 1000, int(n[9]))  # fmt: skip

    @property
    def cpu_efficiency(self) -> float | None:
        """The part of the booked cpu time that was used."""
        return self.cpu_s / self.booked_s if self.booked_s > 0 else None

    @property
    def memory_efficiency(self) -> float | None:
        """The part of the booked memory that the largest task used."""
        return self.peak_bytes / self.booked_bytes if self.booked_bytes and self.tasks else None

    @property
    def enough_mem(self) -> str:
        """The `--mem` that would have done for what completed, "" when nothing did."""
        if not self.completed or not self.completed_peak_bytes:
            return ""
        megabytes = math.ceil(self.completed_peak_bytes * MEM_ROOM / MIB)
        if megabytes >= 10 * 1024:
            return f"{math.ceil(megabytes / 1024)}G"
        step = max(10, 10 ** (len(str(megabytes)) - 2))
        return f"{math.ceil(megabytes / step) * step}M"

    @property
    def enough_time_s(self) -> float:
        """The `--time` that would have done for what completed, 0.0 when nothing did."""
        if not self.completed:
            return 0.0
        seconds = max(self.completed_longest_s * TIME_ROOM, 1.0)
        step = next(step for below, step in _STEPS if seconds < below)
        return float(math.ceil(seconds / step) * step)


@dataclass(frozen=True, slots=True)
class DayUse:
    """What an owner's tasks that ended in a span of days used."""

    owner: str
    #: The first day, in days since 1970 (UTC).
    day: int
    tasks: int
    failed: int
    wall_s: float
    cpu_s: float
    booked_s: float

    @classmethod
    def from_text(cls, owner: str, day: int, text: str) -> DayUse:
        """Read the store's five numbers."""
        n = [float(word) for word in text.split()]
        return cls(owner, day, int(n[0]), int(n[1]), n[2] / 1000, n[3] / 1000, n[4] / 1000)

    @property
    def cpu_efficiency(self) -> float | None:
        """The part of the booked cpu time that was used."""
        return self.cpu_s / self.booked_s if self.booked_s > 0 else None

    def __add__(self, other: DayUse) -> DayUse:
        return DayUse(
            self.owner, min(self.day, other.day), self.tasks + other.tasks,
            self.failed + other.failed, self.wall_s + other.wall_s, self.cpu_s + other.cpu_s,
            self.booked_s + other.booked_s,
        )  # fmt: skip


def by_owner(days: list[DayUse]) -> list[DayUse]:
    """Return one sum for each owner, who used most first."""
    sums: dict[str, DayUse] = {}
    for use in days:
        sums[use.owner] = sums[use.owner] + use if use.owner in sums else use
    return sorted(sums.values(), key=lambda use: -use.booked_s)
