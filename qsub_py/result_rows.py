"""The results of a job as rows: index, parameters, how it ended, what came out, spread in columns.

One row a task, made page by page, so that a million tasks need no more memory than a few.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from qsub_py.client import Client
from qsub_py.errors import JobError
from qsub_py.extending import points_of
from qsub_py.failures import load_failure, load_value
from qsub_py.model import RESULT_NONE, JobInfo, JobSpec, Outcome, State
from qsub_py.results import fetcher

_PAGE = 1024
#: A table of more columns than this is none.
MAX_COLUMNS = 1000
#: Columns that all tables have, beside the parameters.
FIXED = ("index", "state", "exit_code", "wall_s")


@dataclass(frozen=True, slots=True)
class Row:
    """One task: its parameters, its end (None: not ended, or never begun), its value or failure."""

    index: int
    state: State
    params: dict[str, Any] = field(default_factory=dict)
    outcome: Outcome | None = None
    has_value: bool = False
    value: Any = None
    failure: BaseException | None = None

    @property
    def exit_code(self) -> int | None:
        """The exit code as a shell shows it, 128 + N for a signal; None when it never ran."""
        end = self.outcome
        if end is None or not end.started_at:
            return None
        return 128 + end.signal if end.signal else end.exit_code

    @property
    def wall_s(self) -> float | None:
        """How long it ran; None when it never did."""
        end = self.outcome
        return end.ended_at - end.started_at if end is not None and end.started_at else None

    @property
    def error(self) -> str:
        """The failure in one line, "" for none."""
        if self.failure is None:
            return ""
        kind = type(self.failure).__name__
        if kind == "RemoteError":
            return str(self.failure)
        return f"{kind}: {self.failure}".removesuffix(": ")

    def results(self) -> dict[str, Any]:
        """Return what came out by column: a dictionary's items, else the one `result`.

        An item that repeats a parameter is left out; one that differs is `result.NAME`.
        """
        if not self.has_value:
            return {}
        if not isinstance(self.value, dict):
            return {"result": self.value}
        found: dict[str, Any] = {}
        for key, value in self.value.items():
            name = str(key)
            if name in self.params and _is_same(self.params[name], value):
                continue
            is_taken = name in self.params or name in FIXED or name == "error"
            found[f"result.{name}" if is_taken else name] = value
        return found


def _is_same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # an array of truths
        return False


def rows(
    client: Client, job: JobInfo, spec: JobSpec, ranges: Sequence[tuple[int, int]] | None = None
) -> Iterator[Row]:
    """Yield the rows of these positions (first, last; None: all); SignatureError."""
    points, fetch = points_of(client, job, spec), fetcher(client)
    for first, last in ranges if ranges is not None else ((0, job.total - 1),):
        for at in range(first, last + 1, _PAGE):
            count = min(_PAGE, last + 1 - at)
            states = client.ask(lambda store: store.states(job.id, at, count))  # noqa: B023
            # What never started has no outcome.
            ran = [at + i for i, (state, n) in enumerate(states) if state.is_terminal and n]
            ends = {end.position: end for end in client.outcomes(job.id, ran)} if ran else {}
            for position, (state, _) in enumerate(states, at):
                params = points.of(position) if points is not None else {}
                yield _row(job, spec.index(position), state, params, ends.get(position), fetch)


def _row(
    job: JobInfo, index: int, state: State, params: dict[str, Any], end: Outcome | None, fetch: Any
) -> Row:
    if end is None and state.is_terminal:
        end = Outcome(0, state, reason=job.reason)
    if end is None:
        return Row(index, state, params)
    failure = load_failure(end, fetch)
    if failure is not None:
        return Row(index, state, params, end, failure=failure)
    has_value = end.result_kind != RESULT_NONE
    try:
        value = load_value(end, fetch)
    except Exception as error:
        failure = JobError(f"the result cannot be read here: {type(error).__name__}: {error}")
        return Row(index, state, params, end, failure=failure)
    return Row(index, state, params, end, has_value=has_value, value=value)


@dataclass
class Columns:
    """The columns of a table: those that any row has, in the order met."""

    params: tuple[str, ...] = ()
    results: dict[str, None] = field(default_factory=dict)
    has_errors: bool = False

    def see(self, row: Row) -> None:
        """Take note of a row; raises JobError when there are too many columns."""
        self.params = self.params or tuple(row.params)
        self.results.update(dict.fromkeys(row.results()))
        self.has_errors = self.has_errors or row.failure is not None
        if len(self.results) > MAX_COLUMNS:
            raise JobError(f"the results have more than {MAX_COLUMNS} different names",
                           hint="--json prints them as they are")  # fmt: skip

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Columns:
        """Return the columns of these rows."""
        found = cls()
        for row in rows:
            found.see(row)
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """All columns."""
        results = [name for name in self.results if name != "result"]
        last = ["result"] * ("result" in self.results) + ["error"] * self.has_errors
        return ("index", *self.params, *FIXED[1:], *results, *last)


def cells(row: Row) -> dict[str, Any]:
    """Return the values of a row by column; what it has not is left out."""
    fixed = {"index": row.index, "state": row.state.name, "exit_code": row.exit_code,
             "wall_s": row.wall_s}  # fmt: skip
    more = {"error": row.error} if row.failure is not None else {}
    return {**fixed, **row.params, **row.results(), **more}


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: numpy's as lists, what is no number null, else repr."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return repr(value)
