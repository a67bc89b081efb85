"""Why a task failed, traced to the first cause: through what it needed, and what that needed.

Only reads, when somebody asks for a failure. What says which task needs which is not signed:
it leads to a cause that is, or to none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qsub_py.errors import QsubError
from qsub_py.failures import DependencyFailed, load_failure
from qsub_py.model import Outcome, State

if TYPE_CHECKING:
    from qsub_py.client import Client

#: Causes that are remembered: many tasks fail for one.
_MOST_KNOWN = 10_000

Task = tuple[int, int]


class Causes:
    """Turns outcomes into exceptions; those of tasks that never ran have their first cause."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[Task, tuple[str, BaseException | None]] = {}

    def failure(self, job: int, outcome: Outcome) -> BaseException | None:
        """Return the exception that the outcome of a task of `job` stands for, None for success."""
        if outcome.state is not State.DEP_FAILED:
            return load_failure(outcome, self._read_large)
        text, cause = self._first_cause((job, outcome.position))
        return DependencyFailed.of(text or outcome.reason or "what it needs failed", cause)

    def _read_large(self, reference: bytes) -> bytes:
        return self._client.ask(lambda store: store.large_result(reference))

    def _first_cause(self, task: Task) -> tuple[str, BaseException | None]:
        path: list[Task] = []
        found: tuple[str, BaseException | None] = ("", None)
        while task not in self._known:
            path.append(task)
            try:
                bad = self._bad_input(task)
            except QsubError:  # purged
                bad = None
            if bad is None:
                break
            task, state = bad
            if state is not State.DEP_FAILED:
                found = self._cause(task, state)
                break
        found = self._known.get(task, found)
        if len(self._known) + len(path) > _MOST_KNOWN:
            self._known.clear()
        self._known |= dict.fromkeys(path, found)
        return found

    def _cause(self, task: Task, state: State) -> tuple[str, BaseException | None]:
        job, position = task
        text = f"task {job}_{position}, whose result it needs, ended {state.name}"
        for outcome in self._client.outcomes(job, [position]):
            return text, load_failure(outcome, self._read_large)
        return text, None

    def _bad_input(self, task: Task) -> tuple[Task, State] | None:
        """Return a task that this one needs and that did not complete, and how it ended."""
        for job, first, count in self._client.ask(lambda store: store.needs(*task)):
            states = self._client.ask(lambda store: store.states(job, first, count))  # noqa: B023
            for number, (state, _) in enumerate(states):
                if state.is_terminal and state is not State.COMPLETED:
                    return (job, first + number), state
        return None
