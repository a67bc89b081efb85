"""What is done when a task fails or nears its time limit.

Part of a job's signed spec. The node judges by it whether an end may be tried again; the store
counts the tries. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

#: What a node adds to the state of an end (16 times this) when the task may run again.
TRY_AGAIN, REQUEUE, HOLD = 1, 2, 3
#: Exit codes of a task that knows us (Grid Engine's): run me again; hold me.
REQUEUE_EXIT, HOLD_EXIT = 99, 100
ANY = "any-failure"
MAX_RETRIES = 1000
DEFAULT_RETRIES = 5
BACKOFF_S, BACKOFF_MOST_S = 10.0, 3600.0


@dataclass(frozen=True, slots=True)
class Retry:
    """When and how a task that failed runs again. `on` is as `parse_retry_on` returns it."""

    count: int = 0
    backoff_s: float = BACKOFF_S
    backoff_most_s: float = BACKOFF_MOST_S
    on: tuple[str, ...] = (ANY,)
    #: The next attempt gets so many times the memory after OUT_OF_MEMORY; 0: the same.
    mem_factor: float = 0.0
    #: The same of the time limit after TIMEOUT.
    time_factor: float = 0.0
    #: Exit codes 99 and 100 are wishes of the task.
    obeys_exit: bool = False

    @property
    def does_node(self) -> bool:
        """Whether a task whose node or runner died too often is tried again."""
        return self.count > 0 and ("node" in self.on or ANY in self.on)

    @classmethod
    def from_json(cls, raw: dict[str, object]) -> Retry:
        """Read back what `dataclasses.asdict` made; raises TypeError."""
        on = raw.pop("on", (ANY,))
        if not isinstance(on, (list, tuple)):
            raise TypeError("on is not a list")
        return cls(on=tuple(map(str, on)), **raw)  # type: ignore[arg-type]

    def wish(self, state: str, exit_code: int, signal_number: int) -> int:
        """Return TRY_AGAIN, REQUEUE, HOLD or 0 for an end in this state (its name)."""
        if self.obeys_exit and state == "FAILED" and not signal_number:
            if exit_code == REQUEUE_EXIT:
                return REQUEUE
            if exit_code == HOLD_EXIT:
                return HOLD
        if not self.count or state not in _STATES:
            return 0
        words = {ANY, _STATES[state], f"signal={signal_number}"}
        if not signal_number:
            words.add(f"exit={exit_code}")
        return TRY_AGAIN if words.intersection(self.on) else 0

    def grown(self, mem_bytes: int, time_s: float, level: int) -> tuple[int, float]:
        """Return memory and time limit of an attempt of this level (16 * steps + steps)."""
        memory, time = divmod(level, 16)
        if memory and self.mem_factor:
            mem_bytes = int(mem_bytes * self.mem_factor**memory)
        if time and self.time_factor:
            time_s *= self.time_factor**time
        return mem_bytes, time_s


_STATES = {"FAILED": "failed", "TIMEOUT": "timeout", "OUT_OF_MEMORY": "oom"}


@dataclass(frozen=True, slots=True)
class Notice:
    """A signal some time before the limit."""

    signal: int
    before_s: float
    #: Only the main process, else all but the shell of a script.
    is_shell_only: bool = False


def make_retry(
    *,
    count: int | None = None,
    backoff: tuple[float, float] | None = None,
    on: tuple[str, ...] | None = None,
    mem_factor: float = 0.0,
    time_factor: float = 0.0,
    obeys_exit: bool = False,
) -> Retry | None:
    """Return the policy that options ask for, None when they ask for none.

    A reason to retry without a number of retries means DEFAULT_RETRIES of them. What grows is
    retried, whatever else is.
    """
    grows = ("oom",) * (mem_factor > 0) + ("timeout",) * (time_factor > 0)
    if count is None:
        count = DEFAULT_RETRIES if on or grows else 0
        on = on or grows
    elif on is not None:
        on = (*on, *(word for word in grows if word not in on))
    if not count:
        return Retry(obeys_exit=True, on=()) if obeys_exit else None
    base, most = backoff or (BACKOFF_S, BACKOFF_MOST_S)
    on = (ANY,) if on is None else on
    return Retry(count, base, most, on, mem_factor, time_factor, obeys_exit)
