"""Which jobs and tasks the words of a command name: `12`, `12_[1-5]`, `12-20`, `last`, `@~1`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qsub_py.config import user_name
from qsub_py.errors import JobNotFound, SpecError
from qsub_py.model import JobInfo, JobSpec, Segments
from qsub_py.units import JobRef, parse_all_task_ids

if TYPE_CHECKING:
    from qsub_py.client import Client

#: Newest jobs looked through for `last` and `@~N`.
_RECENT = 10_000


@dataclass(frozen=True, slots=True)
class Picked:
    """A job, and which of its tasks (ranges of positions, first and last; None: all)."""

    job: JobInfo
    ranges: tuple[tuple[int, int], ...] | None = None

    @property
    def shown(self) -> str:
        """How messages call it."""
        return f"job {self.job.id}" if self.ranges is None else f"tasks of job {self.job.id}"

    def positions(self) -> Iterator[int]:
        """Yield the positions of the tasks."""
        for first, last in self.ranges if self.ranges is not None else [(0, self.job.total - 1)]:
            yield from range(first, last + 1)

    @property
    def count(self) -> int:
        """How many tasks are meant."""
        if self.ranges is None:
            return self.job.total
        return sum(last - first + 1 for first, last in self.ranges)


def parse(words: Sequence[str]) -> list[JobRef]:
    """Read all words before anything is done with the first; raises SpecError."""
    return parse_all_task_ids(word for text in words for word in _listed(text))


def _listed(text: str) -> list[str]:
    """Split `12,13` at commas outside brackets."""
    parts, depth = [""], 0
    for char in text:
        depth += (char == "[") - (char == "]")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part for part in parts if part] or [text]


def find(client: Client, ref: JobRef) -> Iterator[Picked]:
    """Yield what `ref` names; raises JobNotFound, SpecError.

    Of a range the jobs that exist are taken; one at least must.
    """
    if ref.back is not None:
        numbers: Iterable[int] = [_recent(client, ref.back)]
    else:
        numbers = ref.jobs
    found = 0
    for number in numbers:
        try:
            job = _job(client, number)
        except JobNotFound:
            if ref.first == ref.last:
                raise
            continue
        found += 1
        yield Picked(job, None if ref.is_whole else _ranges(client, job, ref))
    if not found:
        raise JobNotFound(f"there is no job from {ref.first} to {ref.last}")


def _job(client: Client, number: int) -> JobInfo:
    return client.ask(lambda store: store.job(number))


def parse_one(word: str) -> JobRef:
    """Read a word that names one job (with or without tasks); raises SpecError."""
    refs = parse([word])
    if len(refs) != 1 or (refs[0].back is None and refs[0].first != refs[0].last):
        raise SpecError(f"{word}: one job at a time")
    return refs[0]


def find_one(client: Client, ref: JobRef) -> Picked:
    """Return the one job that `ref` names; raises JobNotFound."""
    return next(find(client, ref))


def _recent(client: Client, back: int) -> int:
    me = user_name()
    jobs = client.ask(lambda store: store.jobs(active=True, ended=True, limit=_RECENT))
    mine = sorted(job.id for job in jobs if job.owner == me)
    if back >= len(mine):
        raise JobNotFound(f"you have {len(mine)} jobs" if mine else "you have no jobs yet")
    return mine[-1 - back]


def spec_of(client: Client, job: JobInfo) -> JobSpec:
    """Return the verified spec of a job; raises JobNotFound, SignatureError, PayloadError."""
    return client.spec(job)


def _ranges(client: Client, job: JobInfo, ref: JobRef) -> tuple[tuple[int, int], ...]:
    if ref.task_name or ref.indices is None:
        raise SpecError(f"job {job.id} has no task called {ref.task_name!r}")
    if job.is_array:
        segments = spec_of(client, job).segments
    else:
        segments = Segments(((0, max(job.total - 1, 0), 1),))
    found = list(_positions(segments, ref.indices))
    if sum(last - first + 1 for first, last in found) < ref.indices.count:
        missing = next(i for i in ref.indices if segments.position(i) is None)
        raise JobNotFound(f"job {job.id} has no task {missing}")
    return tuple(found)


def _positions(segments: Segments, indices: Segments) -> Iterator[tuple[int, int]]:
    """Yield ranges of positions for indices; a run of indices becomes one range."""
    for first, last, step in indices.parts:
        before = 0
        for low, high, stride in segments.parts:
            if step in (1, stride) and (step == 1 or (first - low) % stride == 0):
                start = max(0, -(-(first - low) // stride))
                end = (min(last, high) - low) // stride
                if start <= end and min(last, high) >= low:
                    yield before + start, before + end
            else:
                numbers = range(first, last + 1, step)
                yield from (
                    (before + (i - low) // stride,) * 2
                    for i in numbers
                    if low <= i <= high and (i - low) % stride == 0
                )
            before += (high - low) // stride + 1
