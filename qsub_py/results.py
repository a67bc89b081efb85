"""From entries of a job's result stream to verified outcomes, in order of position.

An entry's signed data say how attempts ended; its codes say which of these ends the server
accepted and as what. Only both together make an outcome.
"""

from __future__ import annotations

import contextlib
import itertools
import pickle
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import TimeoutError as FuturesTimeoutError
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qsub_py.failures import Fetch, load_result
from qsub_py.model import RESULT_VALUE, JobInfo, Outcome, State
from qsub_py.outcomes import Columns, unpack_columns
from qsub_py.signing import verify
from qsub_py.store import ResultEntry, Store
from qsub_py.tracing import Causes

if TYPE_CHECKING:
    from qsub_py.client import Client

#: Columns of a batch, the row in it, and the state's code as the server accepted it.
Row = tuple[Columns, int, int]

_COMPLETED = State.COMPLETED.code
_DEP_FAILED = State.DEP_FAILED.code
#: How many tasks are looked up in one round trip.
_PAGE = 256
#: Of so many nodes an error tells why they could not start a job.
_MOST_NODES = 3
_STATES_AT_ONCE = 65536
#: How long one blocking read lasts; results end it at once.
BLOCK_S = 30.0
#: Who only reads waits for a server that is away as long as it takes.
FOREVER_S = 1e9


def open_entry(client: Client, uid: str, entry: ResultEntry) -> Iterator[tuple[int, Row]]:
    """Verify an entry and yield (position, row) of the ends that count; SignatureError."""
    if entry.is_notice:
        return
    verify(client.ring, entry.signature, "result", client.cluster, uid, entry.data)
    columns, codes, first = unpack_columns(entry.data), entry.codes, entry.first
    for number, position in enumerate(columns.position):
        if 0 <= position - first < len(codes) and codes[position - first]:
            yield position, (columns, number, codes[position - first])


def row_outcome(row: Row) -> Outcome:
    """Return a row as an outcome; where the server decided otherwise, with its state."""
    columns, number, code = row
    outcome = columns.outcome(number)
    return outcome if outcome.state.code == code else replace(outcome, state=State.from_code(code))


def is_value(row: Row) -> bool:
    """Whether a row is a call's return value that stands in the row itself."""
    return row[2] == _COMPLETED and row[0].result_kind[row[1]] == RESULT_VALUE


def row_value(row: Row, fetch: Fetch) -> Any:
    """Return a row's value or raise its failure."""
    if is_value(row):
        return pickle.loads(row[0].result[row[1]])
    return load_result(row_outcome(row), fetch)


def as_row(outcome: Outcome) -> Row:
    """Return an outcome that has no entry (cancelled before it began) as a row."""
    values = [[getattr(outcome, name)] for name in Columns._fields]
    values[1] = [outcome.state.code]
    return Columns(*values), 0, outcome.state.code


def fetcher(client: Client) -> Fetch:
    """Return a function that reads large results by their signed reference."""
    return lambda reference: client.ask(lambda store: store.large_result(reference))


def silent_ends(store: Store, info: JobInfo, positions: Iterable[int]) -> dict[int, Outcome]:
    """Return outcomes, made of the states alone, of those tasks that have ended."""
    ends, reason = {}, _reason(info)
    # A cancelled job shows every position as cancelled, also those it does not have.
    for first, last in runs(p for p in positions if p < info.total):
        for at in range(first, last + 1, _STATES_AT_ONCE):
            count = min(last + 1 - at, _STATES_AT_ONCE)
            for number, (state, attempt) in enumerate(store.states(info.id, at, count)):
                if state.is_terminal:
                    ends[at + number] = Outcome(at + number, state, attempt, reason=reason)
    return ends


def _reason(info: JobInfo) -> str:
    """Return why a job ended as a whole; where no node could start it, what was in the way."""
    if info.state is not State.FAILED:
        return info.reason
    nodes = [f"{name}: {sentence}" for name, sentence in info.unfit.items()]
    return "; ".join([info.reason, *nodes[:_MOST_NODES]])


def runs(positions: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of the runs of consecutive numbers."""
    for _, group in itertools.groupby(enumerate(positions), lambda pair: pair[1] - pair[0]):
        numbers = [number for _, number in group]
        yield numbers[0], numbers[-1]


def ended_outcomes(client: Client, info: JobInfo, positions: Sequence[int]) -> Iterator[Outcome]:
    """Yield the verified outcomes of those tasks that have ended, in the order given."""
    for at in range(0, len(positions), _PAGE):
        page = positions[at : at + _PAGE]
        ends = client.ask(lambda store: silent_ends(store, info, page))  # noqa: B023
        for entry in client.ask(lambda store: store.results_of(info.id, list(ends))):  # noqa: B023
            for position, row in open_entry(client, info.uid, entry):
                # An older entry may still speak of a task that was run again.
                if position in ends and row[2] == ends[position].state.code:
                    ends[position] = row_outcome(row)
        yield from (ends[position] for position in page if position in ends)


class OrderedRows:
    """A job's ends in order of position, each as soon as it and all before it are known."""

    def __init__(self, client: Client, info: JobInfo) -> None:
        self._client, self._info = client, info
        self._total, self._is_open = info.total, info.is_open
        self._waiter = client.waiter()
        self._ready: dict[int, Row] = {}
        self._position = self._after = 0
        #: States changed without a result; what ended so must be looked up ...
        self._must_look = False
        #: ... and was, up to this position, since the last notice (None: there was none).
        self._looked_to: int | None = None

    def next(self, deadline: float | None = None) -> Row:
        """Return the next row; StopIteration after the last, TimeoutError at the deadline.

        `deadline` is a time of time.monotonic().
        """
        while True:
            row = self._ready.pop(self._position, None)
            if row is not None:
                self._position += 1
                return row
            if self._position >= self._total and not self._is_open:
                self._waiter.close()
                raise StopIteration
            self._read(deadline)

    def ready_values(self) -> list[Any]:
        """Take the values that are ready next, up to the first row that is something else."""
        values: list[Any] = []
        ready, position = self._ready, self._position
        with contextlib.suppress(Exception):  # not there yet, or will raise when its turn comes
            while is_value(row := ready[position]):
                values.append(pickle.loads(row[0].result[row[1]]))
                del ready[position]
                position += 1
        self._position = position
        return values

    def _read(self, deadline: float | None) -> None:
        block_s = BLOCK_S if deadline is None else min(BLOCK_S, deadline - time.monotonic())
        if self._must_look or self._is_past_look():
            self._look()
        elif not self._drain(max(block_s, 0.0)) and block_s <= 0:
            raise FuturesTimeoutError(
                f"task {self._position} of job {self._info.id} has not ended yet"
            )

    def _is_past_look(self) -> bool:
        return self._looked_to is not None and self._looked_to <= self._position < self._total

    def _drain(self, block_s: float) -> bool:
        """Take in what is new; return whether there was anything."""
        request = {self._info.id: self._after}
        found = self._client.retry(lambda: self._waiter.wait(request, block_s))
        entries = found.get(self._info.id, [])
        for entry in entries:
            self._after = entry.number
            self._must_look = self._must_look or entry.is_notice
            for position, row in open_entry(self._client, self._info.uid, entry):
                if position >= self._position:
                    self._ready[position] = row
        return bool(entries)

    def _look(self) -> None:
        """Learn which tasks ended without a result, once every older entry is read."""
        self._must_look = False
        info = self._client.ask(lambda store: store.job(self._info.id), patience_s=FOREVER_S)
        self._info, self._total, self._is_open = info, info.total, info.is_open
        self._looked_to = min(self._total, self._position + _STATES_AT_ONCE)
        positions = range(self._position, self._looked_to)
        ends = self._client.ask(
            lambda store: silent_ends(store, info, positions), patience_s=FOREVER_S
        )
        while self._drain(0.0):
            pass
        for position, outcome in ends.items():
            self._ready.setdefault(position, as_row(outcome))


class Values:
    """The values of a job's tasks in order; a failed task raises at its place.

    After a failure the iteration may go on with the next task. `job` is the job's id.
    """

    def __init__(self, client: Client, info: JobInfo, deadline: float | None = None) -> None:
        self.job = info.id
        self._client = client
        self._rows = OrderedRows(client, info)
        self._fetch = fetcher(client)
        self._deadline = deadline
        #: Values that come next, the last one first.
        self._loaded: list[Any] = []

    def __iter__(self) -> Values:
        return self

    def __next__(self) -> Any:
        if self._loaded:
            return self._loaded.pop()
        row = self._rows.next(self._deadline)
        if row[2] == _DEP_FAILED:
            raise Causes(self._client).failure(self.job, row_outcome(row)) or RuntimeError
        value = row_value(row, self._fetch)
        self._loaded = self._rows.ready_values()
        self._loaded.reverse()
        return value
