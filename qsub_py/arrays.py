"""Arrays of tasks as users write them, and references to jobs and tasks (`12_[1-5,9]`).

Pure. Turns text into `Segments` and `JobRef` and back; what exists is the store's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from qsub_py.errors import SpecError
from qsub_py.model import ONE_TASK, Segments
from qsub_py.text import check_name, quoted

#: Task numbers fit in 31 bits.
MAX_INDEX = 2**31 - 1
MAX_TASKS = 10_000_000
MAX_PARTS = 10_000
MAX_JOB_ID = 2**53 - 1
#: One reference names at most so many jobs (each costs a look-up).
MAX_JOBS = 100_000
#: Up to here overlapping parts are merged by looking at every task.
MAX_MERGED = 1_000_000

ARRAY_GRAMMAR = "write 1-100, 1-100:2 (step), 0,3,7-9 (list); %8 at the end runs 8 at a time"
ID_GRAMMAR = "write 12, 12_3, 12[3], 12.3, 12.NAME, 12_[1-5,9], 12-20, last or @~1"

_PART = re.compile(r"(\d{1,18})(?:-(\d{1,18})(?::(\d{1,18}))?)?", re.ASCII)
_LIMIT = re.compile(r"%(\d{1,18})(?=,|$)", re.ASCII)
_REF = re.compile(r"(?:@~(\d{1,18})|(last|@)|(\d{1,18})(?:-(\d{1,18}))?)(.*)", re.ASCII | re.DOTALL)

Part = tuple[int, int, int]


class ArraySpec(NamedTuple):
    """What `--array` says: the tasks, how many may run at once (0: all), was anything double."""

    segments: Segments
    limit: int = 0
    is_merged: bool = False


def parse_array(text: str) -> ArraySpec:
    """Read `1-100:2%8,205`: ranges (first-last[:step]) and numbers, `%N` once.

    Tasks keep the order and the numbers written; a number written twice counts once, where
    it came first. Raises SpecError, also above MAX_TASKS tasks or MAX_PARTS parts.
    """
    body, limit = _split_limit(text)
    parts = [_parse_part(part, text) for part in body.split(",")]
    if len(parts) > MAX_PARTS:
        raise SpecError(f"an array of {len(parts)} parts; the limit is {MAX_PARTS}")
    total = Segments(tuple(parts)).count
    if total > MAX_TASKS:
        raise SpecError(f"array {quoted(text)} has {total} tasks; the limit is {MAX_TASKS}")
    if len(parts) > 100 or _overlap(parts):
        parts = _merge(parts, total, text)
    segments = Segments(tuple(parts))
    return ArraySpec(segments, limit, segments.count != total)


def is_limit(text: str) -> bool:
    """Whether it is `%N` alone: how many tasks run at once, of whatever numbers them."""
    return text.startswith("%")


def parse_limit(text: str) -> ArraySpec:
    """Read `%N` alone, the numbers being those of something else; raises SpecError."""
    rest, limit = _split_limit(text)
    if rest or not limit:
        raise SpecError(f"{quoted(text)} is no limit", hint="write %8 to run 8 at a time")
    return ArraySpec(ONE_TASK, limit)


def parse_share(text: str) -> str:
    """Read a number of tasks or a share of them, "5" or "10%"; raises SpecError."""
    match = re.fullmatch(r"\d{1,9}(%?)", text, re.ASCII)
    if not match or (match[1] and int(text[:-1]) > 100):
        raise SpecError(f"{quoted(text)} is no number of tasks", hint="write 5 or 10%")
    return text


def _split_limit(text: str) -> tuple[str, int]:
    """Return the text without its `%N`, and N (0 when there is none)."""
    found = _LIMIT.findall(text)
    if not found:
        return text, 0
    if len(found) > 1 or not 0 < int(found[0]) <= MAX_INDEX:
        raise SpecError(f"bad limit in array {quoted(text)}: %N once, N from 1: {ARRAY_GRAMMAR}")
    return _LIMIT.sub("", text), int(found[0])


def _parse_part(part: str, text: str) -> Part:
    match = _PART.fullmatch(part.strip())
    if not match:
        raise SpecError(f"bad part {quoted(part)} in array {quoted(text)}: {ARRAY_GRAMMAR}")
    first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
    if last < first:
        raise SpecError(f"{quoted(part)} in array {quoted(text)} runs backwards: {ARRAY_GRAMMAR}")
    if step < 1:
        raise SpecError(f"the step in {quoted(part)} must be at least 1: {ARRAY_GRAMMAR}")
    if last > MAX_INDEX:
        raise SpecError(f"{quoted(part)} in array {quoted(text)}: numbers end at {MAX_INDEX}")
    if last - first < step:
        return first, first, 1
    return first, last - (last - first) % step, step


def _overlap(parts: list[Part]) -> bool:
    """Whether two parts may share a number (their spans do)."""
    spans = sorted(parts)
    return any(left[1] >= right[0] for left, right in pairwise(spans))


def _merge(parts: list[Part], total: int, text: str) -> list[Part]:
    if total > MAX_MERGED:
        raise SpecError(
            f"parts of array {quoted(text)} overlap or are too many to compare in {total} tasks; "
            f"write it in at most 100 parts that do not overlap"
        )
    return list(_runs(list(dict.fromkeys(Segments(tuple(parts))))))


def _runs(numbers: list[int]) -> Iterator[Part]:
    """Yield ascending runs of equal step that make up `numbers`, in order."""
    at = 0
    while at < len(numbers):
        end, first = at, numbers[at]
        step = numbers[at + 1] - first if at + 1 < len(numbers) else 1
        while step > 0 and end + 1 < len(numbers) and numbers[end + 1] - numbers[end] == step:
            end += 1
        if end - at < 2 and step != 1:  # a pair such as 3,7 is no range
            end = at
        yield first, numbers[end], step if end > at else 1
        at = end + 1


def format_array(segments: Segments, limit: int = 0, *, width: int = 0) -> str:
    """Return what `parse_array` reads: `5-1024%8`; with `width`, cut at a part by `...`."""
    shown: list[str] = []
    used = 0
    for part in map(_format_part, segments.parts):
        used += len(part) + 1
        if width and used > width and shown:
            shown.append("...")
            break
        shown.append(part)
    return ",".join(shown) + (f"%{limit}" if limit else "")


def _format_part(part: Part) -> str:
    first, last, step = part
    if first == last:
        return f"{first}"
    return f"{first}-{last}" if step == 1 else f"{first}-{last}:{step}"


@dataclass(frozen=True, slots=True)
class JobRef:
    """Jobs `first` to `last`, or the `back`-th before the user's newest one; maybe some tasks."""

    first: int = 0
    last: int = 0
    #: 0: the newest job, 1: the one before; None: `first` and `last` say which.
    back: int | None = None
    #: The indices of the tasks meant; None: all.
    indices: Segments | None = None
    #: The name of the one task meant (`12.NAME`), or "".
    task_name: str = ""

    @property
    def jobs(self) -> range:
        """The job numbers; empty for a symbolic reference."""
        return range(self.first, self.last + 1) if self.back is None else range(0)

    @property
    def is_whole(self) -> bool:
        """Whether no task was singled out."""
        return self.indices is None and not self.task_name

    def __str__(self) -> str:
        job = f"{self.first}" if self.first == self.last else f"{self.first}-{self.last}"
        if self.back is not None:
            job = f"@~{self.back}" if self.back else "last"
        if self.task_name:
            return f"{job}.{self.task_name}"
        if self.indices is None:
            return job
        tasks = format_array(self.indices)
        return f"{job}_{tasks}" if tasks.isdigit() else f"{job}_[{tasks}]"


def parse_task_ids(text: str) -> JobRef:
    """Read one reference to jobs or tasks, in any form that qstat shows; raises SpecError."""
    match = _REF.fullmatch(text)
    if not match:
        raise SpecError(f"bad job id {quoted(text)}: {ID_GRAMMAR}")
    back, symbol, first, last, rest = match.groups()
    indices, name = _parse_tasks(rest, text)
    if symbol or back:
        return JobRef(back=int(back or 0), indices=indices, task_name=name)
    low, high = int(first), int(last or first)
    if low < 1 or high < low or high > MAX_JOB_ID:
        raise SpecError(f"no job can have the id {quoted(text)}: {ID_GRAMMAR}")
    if high - low >= MAX_JOBS:
        raise SpecError(f"{quoted(text)} names {high - low + 1} jobs; the limit is {MAX_JOBS}")
    if high > low and rest:
        raise SpecError(f"tasks belong to one job, not to a range: {quoted(text)}: {ID_GRAMMAR}")
    return JobRef(low, high, indices=indices, task_name=name)


def _parse_tasks(rest: str, text: str) -> tuple[Segments | None, str]:
    """Return (indices, task name) of what follows the job number."""
    if not rest:
        return None, ""
    body = rest[1:] if rest[0] in "_." else rest
    if body.startswith("[") and body.endswith("]"):
        body = body[1:-1]
    elif rest[0] not in "_.":
        raise SpecError(f"bad job id {quoted(text)}: {ID_GRAMMAR}")
    if rest[0] == "." and body and not body[0].isdigit() and not rest.startswith(".["):
        return None, check_name(body, what="task name")
    try:
        return parse_array(body).segments, ""
    except SpecError as error:
        raise SpecError(f"bad tasks in {quoted(text)}: {error}") from None


def parse_all_task_ids(words: Iterable[str]) -> list[JobRef]:
    """Read several references, all before anything is done with the first; raises SpecError."""
    return [parse_task_ids(word) for word in words]
