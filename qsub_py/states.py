"""The states of tasks and jobs."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """A task's or job's state: (code in the state byte, Slurm's two letters)."""

    PENDING = (0, "PD")
    RUNNING = (1, "R")
    COMPLETING = (2, "CG")
    COMPLETED = (3, "CD")
    FAILED = (4, "F")
    CANCELLED = (5, "CA")
    TIMEOUT = (6, "TO")
    OUT_OF_MEMORY = (7, "OOM")
    NODE_FAIL = (8, "NF")
    DEP_FAILED = (9, "DF")
    #: Never stored: a running attempt that is stopped for now, or a suspended job.
    SUSPENDED = (10, "S")

    @property
    def code(self) -> int:
        """The high four bits of the task's byte in the store."""
        return self.value[0]

    @property
    def short(self) -> str:
        """Slurm's abbreviation."""
        return self.value[1]

    @property
    def is_terminal(self) -> bool:
        """Whether a task in this state has ended."""
        return 3 <= self.code <= 9

    @classmethod
    def from_code(cls, code: int) -> State:
        """Return the state of a byte's high nibble; raises KeyError."""
        return _BY_CODE[code]

    @classmethod
    def from_short(cls, short: str) -> State:
        """Return the state with these letters; raises KeyError."""
        return _BY_SHORT[short]


_BY_CODE = {state.value[0]: state for state in State}
_BY_SHORT = {state.value[1]: state for state in State}

#: From the worst end to the best: the state of a job whose tasks ended differently.
WORST_FIRST = (
    State.FAILED, State.OUT_OF_MEMORY, State.TIMEOUT, State.NODE_FAIL, State.DEP_FAILED,
    State.CANCELLED, State.COMPLETED,
)  # fmt: skip
