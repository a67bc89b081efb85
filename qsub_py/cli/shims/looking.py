"""What of the queue a foreign status command shows: rows of jobs, and of arrays' tasks.

A plain job is one row; of an array each task that has begun, and all that wait together. So a
million waiting tasks are one row. Knows no system's words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from qsub_py.cli import ids
from qsub_py.cli.ids import Picked
from qsub_py.errors import JobNotFound, SpecError
from qsub_py.model import JobInfo, JobSpec, Outcome, State, TaskInfo

if TYPE_CHECKING:
    from qsub_py.client import Client
    from qsub_py.model import NodeInfo

#: Ended jobs of no given id are shown for so long.
RECENT_S = 3600.0
_MOST = 10_000
Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Row:
    """A job, a task of it that has begun, or tasks of it that wait (or were never begun)."""

    job: JobInfo
    state: State
    #: Of an array's task.
    index: int | None = None
    #: Of tasks that share the row: ranges of their numbers.
    together: tuple[Range, ...] = ()
    node: str = ""
    started_at: float | None = None
    outcome: Outcome | None = None
    reason: str = ""
    spec: JobSpec | None = None

    @property
    def ended_at(self) -> float | None:
        """When it ended, None while it has not."""
        if self.outcome is not None:
            return self.outcome.ended_at or None
        return self.job.ended_at if self.index is None else None

    @property
    def is_held(self) -> bool:
        """Whether it waits for a person or another job, not for a place."""
        return self.state is State.PENDING and (self.job.is_held or self.job.unmet > 0)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which jobs, and how much of each."""

    users: frozenset[str] = frozenset()
    queues: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    #: None: all states.
    states: frozenset[State] | None = None
    #: Jobs of no given id that ended since then (epoch seconds), None: no ended ones.
    since: float | None = None
    #: Each waiting task is a row of its own.
    is_each: bool = False
    #: Arrays are one row each.
    is_whole: bool = False
    has_nodes: bool = False
    has_ends: bool = False
    has_spec: bool = False
    has_reasons: bool = False

    def takes(self, job: JobInfo) -> bool:
        """Whether a job is wanted, but for its state."""
        return (
            (not self.users or job.owner in self.users)
            and (not self.queues or job.queue in self.queues)
            and (not self.names or job.name in self.names)
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found, and the words that name nothing."""

    rows: tuple[Row, ...]
    missing: tuple[str, ...] = ()
    now: float = 0.0


def look(client: Client, words: Sequence[str], wanted: Wanted) -> Seen:
    """Return rows of the jobs that `words` name (our ids), or of all that are wanted."""
    picked, missing = find(client, words) if words else (_all(client, wanted), [])
    explained = _explainer(client) if wanted.has_reasons else None
    rows: list[Row] = []
    for found in picked:
        if wanted.takes(found.job):
            why = explained(found.job) if explained is not None else ""
            rows += [replace(row, reason=why if row.state is State.PENDING else row.job.reason)
                     for row in _rows(client, found, wanted)]  # fmt: skip
    if wanted.states is not None:
        rows = [row for row in rows if row.state in wanted.states]
    return Seen(tuple(rows), tuple(missing), client.ask(lambda store: store.now()))


def find(client: Client, words: Sequence[str]) -> tuple[list[Picked], list[str]]:
    """Return what ids name, and those which name nothing."""
    picked: list[Picked] = []
    missing: list[str] = []
    for word in words:
        for ref in ids.parse([word]):
            try:
                picked += ids.find(client, ref)
            except JobNotFound:
                missing.append(str(ref))
    return picked, missing


def _all(client: Client, wanted: Wanted) -> list[Picked]:
    jobs = client.ask(lambda store: store.jobs(active=True, ended=False))
    if wanted.since is not None:
        from qsub_py.store_account import Accounts

        since, until = wanted.since, client.ask(lambda store: store.now()) + 60
        ended = client.ask(lambda store: Accounts(store).ended(since, until, limit=_MOST))
        known = {job.id for job in jobs}
        jobs = sorted([*jobs, *(job for job in ended if job.id not in known)], key=lambda j: j.id)
    return [Picked(job) for job in jobs]


def _explainer(client: Client) -> Callable[[JobInfo], str]:
    from qsub_py.reasons import Line, explain

    nodes = client.ask(lambda store: store.nodes(gone=True))
    now = client.ask(lambda store: store.now())
    line = Line(client.ask(lambda store: store.jobs(active=True, ended=False)), nodes, now=now)

    def why(job: JobInfo) -> str:
        found = explain(job, nodes, now=now, line=line)
        return found.reason if found is not None else ""

    return why


def _rows(client: Client, picked: Picked, wanted: Wanted) -> list[Row]:
    job = picked.job
    spec = None
    if wanted.has_spec or (job.is_array and not wanted.is_whole):
        spec = ids.spec_of(client, job)
    if not job.is_array or wanted.is_whole:
        return [_job_row(client, job, spec, wanted)]
    assert spec is not None
    is_idle = job.counts.get(State.PENDING, 0) == job.total and picked.ranges is None
    if is_idle and not wanted.is_each:
        parts = _ranges_of(spec)
        return [Row(job, State.PENDING, together=parts, spec=spec)] if parts else []
    return _task_rows(client, picked, spec, wanted)


def _job_row(client: Client, job: JobInfo, spec: JobSpec | None, wanted: Wanted) -> Row:
    outcome = None
    if wanted.has_ends and job.has_ended and job.total == 1:
        outcome = next(iter(client.outcomes(job.id, [0])), None)
    return Row(job, job.state, node=",".join(job.nodes) or (outcome.node if outcome else ""),
               started_at=job.started_at, outcome=outcome, spec=spec)  # fmt: skip


def _ranges_of(spec: JobSpec) -> tuple[Range, ...]:
    if all(step == 1 or first == last for first, last, step in spec.segments.parts):
        return tuple((first, last) for first, last, _ in spec.segments.parts)
    return ranges(sorted(spec.segments))


def ranges(numbers: Iterable[int]) -> tuple[Range, ...]:
    """Return ascending numbers as runs of neighbours (steps are no word of all tools)."""
    found = list(numbers)
    if not found:
        return ()
    cuts = [at for at, (a, b) in enumerate(pairwise(found), 1) if b != a + 1]
    edges = pairwise([0, *cuts, len(found)])
    return tuple((found[first], found[end - 1]) for first, end in edges)


def _task_rows(client: Client, picked: Picked, spec: JobSpec, wanted: Wanted) -> list[Row]:
    job = picked.job
    running: dict[int, TaskInfo] = {}
    if wanted.has_nodes and job.nodes:
        running = {one.position: one for one in client.ask(lambda s: s.running(job.id, spec))}
    begun: list[tuple[int, State]] = []
    groups: dict[State, list[int]] = {}
    for at, state, attempt in _states(client, picked):
        is_idle = state is State.PENDING or (state.is_terminal and not attempt)
        if is_idle and not wanted.is_each:
            groups.setdefault(state, []).append(spec.index(at))
        else:
            begun.append((at, state))
    ends: dict[int, Outcome] = {}
    if wanted.has_ends:
        ended = [at for at, state in begun if state.is_terminal]
        ends = {end.position: end for end in client.outcomes(job.id, ended)} if ended else {}
    rows = [_task_row(job, spec, at, state, running.get(at), ends.get(at)) for at, state in begun]
    return rows + [
        Row(job, state, together=ranges(sorted(indices)), spec=spec)
        for state, indices in groups.items()
    ]


def _task_row(
    job: JobInfo, spec: JobSpec, at: int, state: State, task: TaskInfo | None, end: Outcome | None
) -> Row:
    node = task.node if task else end.node if end else ""
    started = task.started_at if task else (end.started_at or None) if end else None
    return Row(job, state, spec.index(at), node=node, started_at=started, outcome=end, spec=spec)


def _states(client: Client, picked: Picked) -> Iterable[tuple[int, State, int]]:
    """Yield (position, state, attempt) of tasks."""
    job = picked.job
    for first, last in picked.ranges if picked.ranges is not None else ((0, job.total - 1),):
        found = client.ask(lambda s: s.states(job.id, first, last - first + 1))  # noqa: B023
        for at, (state, attempt) in enumerate(found, first):
            if state is State.RUNNING and _is_suspended(job, at):
                state = State.SUSPENDED
            yield at, state, attempt


def _is_suspended(job: JobInfo, at: int) -> bool:
    return job.is_suspended or any(first <= at <= last for first, last in job.suspended)


def nodes(client: Client) -> list[NodeInfo]:
    """Return all nodes that are known."""
    return client.ask(lambda store: store.nodes(gone=True))


def names(words: Iterable[str]) -> frozenset[str]:
    """Return the words, without empty ones; raises SpecError for `*` among others."""
    found = frozenset(word for word in words if word)
    if "*" in found and len(found) > 1:
        raise SpecError("`*` means everybody: leave the other names out")
    return found
