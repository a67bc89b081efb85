"""How a task that did not succeed looks to the Python caller, and turning outcomes into values.

The exceptions a task ends with, and `load_result`. Imports concurrent.futures, so the commands
import it late.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from typing import Any

from qsub_py.errors import JobError
from qsub_py.model import (
    RESULT_BLOB_ERROR,
    RESULT_BLOB_VALUE,
    RESULT_ERROR,
    RESULT_JSON,
    RESULT_NONE,
    Outcome,
    State,
)

Fetch = Callable[[bytes], bytes]


class RemoteError(JobError):
    """The task failed, and its exception cannot be rebuilt here (or there was none)."""


class TaskTimeout(JobError, TimeoutError):
    """The task ran into its own time limit."""


class TaskOutOfMemory(JobError, MemoryError):
    """The task used more memory than it may."""


class NodeLost(JobError, BrokenExecutor):
    """The node, or the process that ran the task, died too often."""


class DependencyFailed(JobError):
    """What it needs did not come about, so it never ran; its `__cause__` is the first failure."""

    @classmethod
    def of(cls, text: str, cause: BaseException | Future[Any] | None) -> DependencyFailed:
        """Return one with its cause: an exception, or a future that failed or was cancelled."""
        made = cls(text)
        if isinstance(cause, Future):
            ended = cause.done()
            cause = CancelledError() if cause.cancelled() or not ended else cause.exception()
        # Only the first one matters, however long the chain is.
        made.__cause__ = cause.__cause__ or cause if isinstance(cause, cls) else cause
        return made


class RemoteTraceback(Exception):
    """The traceback of the task as text; the `__cause__` of its exception."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


_BY_STATE: dict[State, tuple[type[BaseException], str]] = {
    State.TIMEOUT: (TaskTimeout, "the time limit was reached"),
    State.OUT_OF_MEMORY: (TaskOutOfMemory, "out of memory"),
    State.NODE_FAIL: (NodeLost, "the node was lost"),
    State.CANCELLED: (CancelledError, "cancelled"),
    State.DEP_FAILED: (DependencyFailed, "a job it depends on failed"),
}


def load_result(outcome: Outcome, fetch: Fetch | None = None) -> Any:
    """Return the value of a verified outcome (a command's last line of JSON) or raise its failure.

    `fetch` reads results that were too large to stand in the outcome, by their reference.
    """
    failure = load_failure(outcome, fetch)
    if failure is not None:
        raise failure
    return load_value(outcome, fetch)


def load_value(outcome: Outcome, fetch: Fetch | None = None) -> Any:
    """Return the value of an outcome known to be COMPLETED."""
    if outcome.result_kind == RESULT_NONE:
        return None
    if outcome.result_kind == RESULT_JSON:
        return json.loads(outcome.result)
    return pickle.loads(_result_bytes(outcome, fetch))


def load_failure(outcome: Outcome, fetch: Fetch | None = None) -> BaseException | None:
    """Return the exception a verified outcome stands for, None when it succeeded."""
    if outcome.state is State.COMPLETED:
        return None
    if outcome.state is State.FAILED:
        if outcome.result_kind in (RESULT_ERROR, RESULT_BLOB_ERROR):
            return _rebuild(pickle.loads(_result_bytes(outcome, fetch)))
        return RemoteError(outcome.reason or _exit_text(outcome))
    kind, text = _BY_STATE.get(outcome.state, (RemoteError, f"it is {outcome.state.name}"))
    return kind(outcome.reason or text)


def _result_bytes(outcome: Outcome, fetch: Fetch | None) -> bytes:
    if outcome.result_kind in (RESULT_BLOB_VALUE, RESULT_BLOB_ERROR):
        if fetch is None:
            raise RemoteError("the result is too large to be read without the store")
        return fetch(outcome.result)
    return outcome.result


def _exit_text(outcome: Outcome) -> str:
    if outcome.signal:
        return f"ended by signal {outcome.signal}"
    return f"exit code {outcome.exit_code}"


def _rebuild(error: dict[str, Any]) -> BaseException:
    """Return the runner's exception with its own type where that can be unpickled."""
    failure: BaseException | None = None
    if error.get("pickle"):
        try:
            loaded = pickle.loads(error["pickle"])
            failure = loaded if isinstance(loaded, BaseException) else None
        except Exception:
            failure = None  # its class is not here, or refuses its own arguments
    if failure is None:
        failure = RemoteError(f"{error['type']}: {error['text']}".removesuffix(": "))
    if error.get("traceback"):
        failure.__cause__ = RemoteTraceback(error["traceback"])
    return failure
