"""What a job waits for: as the user asked for it, and as the store is told.

Pure. `parse` reads Slurm's words (`afterok:12,afterany:13_4`), `correspond` pairs the tasks of
two arrays, `Waits` is what a submission carries (formats: lua/lib/deps.lua).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qsub_py.arrays import JobRef, parse_task_ids
from qsub_py.errors import SpecError
from qsub_py.model import Segments
from qsub_py.text import did_you_mean, quoted

SINGLETON = "singleton"
KINDS = ("afterok", "afterany", "afternotok", "after", "aftercorr")
#: One condition is about at most so many tasks, unless it is about all of a job.
MOST_TASKS = 65_536
#: Two arrays correspond in at most so many runs.
_MOST_RUNS = 256
_MOST_STEP = 16
_GRAMMAR = "write afterok:12, afterok:12:13, afterany:12_3, or several with `,` (and) or `?` (or)"


@dataclass(frozen=True, slots=True)
class Wish:
    """One part of a --dependency: a kind, and what it is about (None: a singleton)."""

    kind: str
    ref: JobRef | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing a whole job waits for; `count` 0 is all of the other job."""

    kind: str
    job: int
    first: int
    count: int
    #: How the user would write the other job or tasks.
    label: str

    def __str__(self) -> str:
        label = self.label.replace(",", "+")  # what the store separates by
        return f"{self.kind}:{self.job}:{self.first}:{self.count}:{label}"


@dataclass(frozen=True, slots=True)
class Edge:
    """Task i of a group needs `count` tasks of a job from position `first + i * step` on."""

    job: int
    first: int
    count: int = 1
    step: int = 0

    def __str__(self) -> str:
        return f"{self.job}:{self.first}:{self.count}:{self.step}"


@dataclass(frozen=True, slots=True)
class Group:
    """Contiguous tasks with inputs of one shape."""

    first: int
    count: int
    edges: tuple[Edge, ...]

    def __str__(self) -> str:
        edges = ";".join(map(str, self.edges))
        return f"{self.first},{self.count},{len(self.edges)}={edges}"


@dataclass(frozen=True, slots=True)
class Waits:
    """What a new job waits for; nothing by default."""

    conditions: tuple[Condition, ...] = ()
    #: One condition that is met is enough.
    is_or: bool = False
    #: Tasks that wait for single tasks; all of the job's are in some group, or none.
    groups: tuple[Group, ...] = ()

    def fields(self) -> dict[str, str | int]:
        """Return the fields of the job in the store that say so."""
        found: dict[str, str | int] = {}
        if self.conditions:
            found["after"] = ",".join(map(str, self.conditions))
            found["asked"] = len(self.conditions)
            if self.is_or and len(self.conditions) > 1:
                found["depor"] = 1
        if self.groups:
            found["corr"] = "|".join(map(str, self.groups))
        return found


NOTHING = Waits()


def parse(text: str) -> tuple[tuple[Wish, ...], bool]:
    """Read a --dependency; returns its parts and whether one of them is enough. SpecError."""
    parts, marks = _split(text)
    if len(marks) > 1:
        raise SpecError(f"`,` (all of them) and `?` (any) do not mix in {quoted(text)}",
                        hint="write one of the two, as in Slurm")  # fmt: skip
    is_or = "?" in marks
    wishes = tuple(wish for part in parts for wish in _wishes(part.strip(), text))
    if is_or and any(wish.kind == "aftercorr" for wish in wishes):
        raise SpecError("aftercorr cannot be one of several choices", hint="leave the `?` out")
    unique = dict.fromkeys(wishes)
    # The store looks for a singleton in the first place.
    return tuple(sorted(unique, key=lambda wish: wish.kind != SINGLETON)), is_or


def parse_after(text: str) -> tuple[Wish, ...]:
    """Read the ids of --after (`12,13 14`): afterok of each; raises SpecError."""
    parts = [part for word in text.split() for part in _split(word)[0] if part]
    if not parts:
        raise SpecError("--after needs the ids of jobs", hint="write --after 12 13")
    return tuple(Wish("afterok", parse_task_ids(part)) for part in parts)


def is_id(word: str) -> bool:
    """Whether a word after `--after` is one more id."""
    return re.fullmatch(r"\d[\d,]*(_(\d+|\[[\d,:-]+\]))?(,[\d_,]+)?", word) is not None


def _split(text: str) -> tuple[list[str], set[str]]:
    """Split at `,` and `?` outside brackets; returns the parts and which of the two there were."""
    parts, marks, depth = [""], set(), 0
    for char in text:
        depth += (char == "[") - (char == "]")
        if char in ",?" and depth == 0:
            parts.append("")
            marks.add(char)
        else:
            parts[-1] += char
    return parts, marks


def _wishes(part: str, text: str) -> Iterator[Wish]:
    kind, *ids = _colons(part)
    if kind == SINGLETON and not ids:
        yield Wish(SINGLETON)
        return
    if kind not in KINDS:
        hint = did_you_mean(kind, (*KINDS, SINGLETON)) or _GRAMMAR
        raise SpecError(f"no dependency {quoted(part or text)}", hint=hint)
    if not ids:
        raise SpecError(f"{kind} of which job? ({quoted(text)})", hint=_GRAMMAR)
    for word in ids:
        if kind == "after" and "+" in word:
            raise SpecError(f"minutes after a start are not known: {quoted(word)}",
                            hint="leave +MINUTES out, or use --begin")  # fmt: skip
        ref = parse_task_ids(word)
        if kind in ("after", "aftercorr") and not ref.is_whole:
            raise SpecError(f"{kind} is about whole jobs, not {quoted(word)}",
                            hint=f"write {kind}:{word.partition('_')[0]}")  # fmt: skip
        yield Wish(kind, ref)


def _colons(part: str) -> list[str]:
    """Split at `:` outside brackets."""
    return re.split(r":(?![^\[]*\])", part)


def correspond(child: Segments, parent: Segments, job: int) -> tuple[Group, ...]:
    """Return groups in which each task waits for the task of `job` with its index; SpecError."""
    groups: list[Group] = []
    before = 0
    for first, last, step in child.parts:
        index = first
        while index <= last:
            count, edge = _run(index, last, step, parent, job)
            groups.append(Group(before, count, (edge,)))
            before += count
            index += count * step
            if len(groups) > _MOST_RUNS:
                raise SpecError(
                    f"the tasks of job {job} are numbered too differently for aftercorr",
                    hint="use afterok, or number both arrays alike",
                )
    return tuple(groups)


def _run(index: int, last: int, step: int, parent: Segments, job: int) -> tuple[int, Edge]:
    """Return how many tasks from `index` on correspond evenly, and to which."""
    before = 0
    for low, high, stride in parent.parts:
        if low <= index <= high and (index - low) % stride == 0:
            at = before + (index - low) // stride
            is_even = step % stride == 0 and step // stride <= _MOST_STEP
            count = (min(last, high) - index) // step + 1 if is_even else 1
            return count, Edge(job, at, 1, max(1, step // stride))
        before += (high - low) // stride + 1
    raise SpecError(f"job {job} has no task {index}, which aftercorr asks for")


def merge(rows: Sequence[tuple[Group, ...]]) -> tuple[Group, ...]:
    """Return groups with the inputs of all of these, cut where any of them is cut."""
    if not rows:
        return ()
    cuts = sorted({group.first for row in rows for group in row})
    total = rows[0][-1].first + rows[0][-1].count if rows[0] else 0
    groups = []
    for first, stop in zip(cuts, [*cuts[1:], total], strict=True):
        edges = tuple(_edge_from(row, first) for row in rows)
        groups.append(Group(first, stop - first, edges))
    return tuple(groups)


def _edge_from(row: tuple[Group, ...], first: int) -> Edge:
    group = next(g for g in row if g.first <= first < g.first + g.count)
    (edge,) = group.edges
    return Edge(edge.job, edge.first + (first - group.first) * edge.step, edge.count, edge.step)
