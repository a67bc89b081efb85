"""The future of one call: a concurrent.futures.Future that costs little.

A program may hold a hundred thousand of them and wait for a few, so the lock that each one
needs for waiting is made when somebody first waits, and a batch of results is settled under
one lock. `home` is what a future asks about its own task.
"""

from __future__ import annotations

import concurrent.futures
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING
from contextlib import suppress
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from qsub_py.inputs import Place

T = TypeVar("T")

#: Held for moments: to give a future its condition, and to settle those without one.
_birth = threading.Lock()


class Home(Protocol):
    """What a future needs to know of the job it is a task of."""

    def place(self, future: Future[Any]) -> Place:
        """Return which task it is or will be, waiting until that is decided."""

    def locate(self, future: Future[Any]) -> tuple[int, int]:
        """Return (job id, position), waiting until the call was sent."""

    def withdraw(self, future: Future[Any]) -> bool:
        """Cancel the call, running or not; False when it has ended."""

    def is_running(self, future: Future[Any]) -> bool:
        """Whether the call runs now."""

    def tail(self, future: Future[Any]) -> bytes:
        """Return the last output of the call."""


class Future(concurrent.futures.Future[T], Generic[T]):
    """The result of a call, now or later."""

    _lock: threading.Condition | None
    #: It may stand among the arguments of another call (payload.Input).
    is_input = True

    def __init__(self, home: Home) -> None:
        # Not the base class's: it would make a condition, a third of the cost of a submit.
        self._home = home
        self._position: int | None = None
        self._lock = None
        self._state = PENDING
        self._result = None
        self._exception = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Callable[[Any], object]] = []

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        if self._lock is None:
            with _birth:
                if self._lock is None:
                    self._lock = threading.Condition()
        return self._lock

    @property
    def id(self) -> str:
        """The task's id, "12_3"; waits until the call was sent. Raises what sending raised."""
        job, position = self._home.locate(self)
        return f"{job}_{position}"

    def result(self, timeout: float | None = None) -> T:
        """Return the call's value or raise what it raised.

        Raises TimeoutError after `timeout` seconds, CancelledError, TaskTimeout,
        TaskOutOfMemory, NodeLost, RemoteError.
        """
        if self._state == FINISHED and self._exception is None:
            return self._result  # type: ignore[return-value]
        return super().result(timeout)

    def done(self) -> bool:
        """Whether the call has ended or was cancelled."""
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED)

    def running(self) -> bool:
        """Whether the call runs now, as the server knows."""
        return not self.done() and self._home.is_running(self)

    def cancel(self) -> bool:
        """Cancel the call, also when it runs; False when it has ended already."""
        if self.done():
            return self.cancelled()
        if not self._home.withdraw(self):
            return self.cancelled()
        return self.mark_cancelled()

    def mark_cancelled(self) -> bool:
        """Become cancelled, tell those who wait; False when it has a result."""
        is_cancelled = super().cancel()
        if is_cancelled and self._state == CANCELLED:
            with suppress(concurrent.futures.InvalidStateError):  # another thread was faster
                self.set_running_or_notify_cancel()
        return is_cancelled

    def logs(self) -> str:
        """Return the end of what the call printed, as the server has it."""
        return self._home.tail(self).decode(errors="replace")

    def place(self) -> Place:
        """Return which task it is; waits until that is decided. Raises what sending raised."""
        return self._home.place(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Future cannot be a result; return its result()")


def settle(results: Iterable[tuple[Future[Any], Any]]) -> None:
    """Give futures their values; all those nobody waits for under one lock."""
    awaited = []
    with _birth:
        for future, value in results:
            if future._lock is not None:
                awaited.append((future, value))
            elif future._state == PENDING:
                future._result = value
                future._state = FINISHED
    for future, value in awaited:
        with suppress(concurrent.futures.InvalidStateError):  # cancelled meanwhile
            future.set_result(value)


def fail(future: Future[Any], failure: BaseException) -> None:
    """Give a future its failure; CancelledError makes it cancelled."""
    if isinstance(failure, concurrent.futures.CancelledError):
        future.mark_cancelled()
        return
    with suppress(concurrent.futures.InvalidStateError):
        future.set_exception(failure)


def _renew_after_fork() -> None:
    # A thread that the child does not have may have held it.
    global _birth
    _birth = threading.Lock()


os.register_at_fork(after_in_child=_renew_after_fork)
