"""Chunks of calls as they are sent: packed arguments, and what the calls wait for.

Calls whose inputs have one shape make one group (position i of a stage needs position i of the
one before it), so that a stage of a thousand calls costs the store a few records.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from qsub_py.inputs import Run, runs_of, with_inputs
from qsub_py.payload import Needy, join_calls
from qsub_py.waits import Edge, Group

#: A chunk of calls: at most so many, and so many bytes unless one call alone has more.
CHUNK_TASKS = 256
CHUNK_BYTES = 64 * 1024
#: Tasks with more inputs than this stand alone.
_MOST_EDGES = 16
_MOST_STEP = 256
#: The store looks at no more tasks of one input at once.
_EDGE_TASKS = 4096
_REFERENCE_BYTES = 24

PackedCall = bytes | Needy


def size_of(call: PackedCall) -> int:
    """Return about how many bytes a call takes."""
    if isinstance(call, Needy):
        return len(call.data) + _REFERENCE_BYTES * len(call.inputs)
    return len(call)


def chunked(calls: Iterable[PackedCall]) -> Iterator[list[PackedCall]]:
    """Cut calls into parts that make a chunk each."""
    pending: list[PackedCall] = []
    size = 0
    for call in calls:
        more = size_of(call)
        if pending and (len(pending) == CHUNK_TASKS or size + more > CHUNK_BYTES):
            yield pending
            pending, size = [], 0
        pending.append(call)
        size += more
    if pending:
        yield pending


def pack(calls: Sequence[PackedCall], first: int) -> tuple[bytes, str]:
    """Return the chunk of calls from position `first` on, and what they wait for.

    Waits until all their inputs were sent; raises what sending one of them raised.
    """
    if all(type(call) is bytes for call in calls):
        return join_calls(calls), ""  # type: ignore[arg-type]
    needs: list[list[Run]] = []
    data: list[bytes] = []
    for call in calls:
        runs = runs_of(one.place() for one in call.inputs) if isinstance(call, Needy) else []
        needs.append(runs)
        data.append(with_inputs(runs, call.data) if isinstance(call, Needy) else call)
    return join_calls(data, has_inputs=True), "|".join(map(str, groups_of(needs, first)))


def groups_of(needs: Sequence[Sequence[Run]], first: int) -> Iterator[Group]:
    """Yield groups of calls (from position `first` on) that need results, in order."""
    edges: list[tuple[int, int, int]] = []
    steps: tuple[int, ...] | None = None
    start = count = 0
    for offset, runs in enumerate(needs):
        now = _edges(runs)
        if count and now:
            moved = _moved(edges, now, count, steps)
            if moved is not None:
                steps, count = moved, count + 1
                continue
        if count:
            yield _group(first + start, count, edges, steps)
        start, edges, steps, count = offset, now, None, int(bool(now))
    if count:
        yield _group(first + start, count, edges, steps)


def _edges(runs: Sequence[Run]) -> list[tuple[int, int, int]]:
    """Return (job, first position, count) of what a call needs; many are put in order."""
    edges = [(run.job, run.first, run.size) for run in runs]
    if len(edges) <= _MOST_EDGES:
        return edges
    merged: list[tuple[int, int, int]] = []
    for job, first, count in sorted(edges):
        if merged and merged[-1][0] == job and merged[-1][1] + merged[-1][2] == first:
            merged[-1] = (job, merged[-1][1], merged[-1][2] + count)
        else:
            merged.append((job, first, count))
    return merged


def _moved(
    edges: list[tuple[int, int, int]],
    now: list[tuple[int, int, int]],
    count: int,
    steps: tuple[int, ...] | None,
) -> tuple[int, ...] | None:
    """Return how far each input moves from task to task, None when the shapes differ."""
    if len(edges) != len(now) or len(now) > _MOST_EDGES:
        return None
    if any(a[0] != b[0] or a[2] != b[2] for a, b in zip(edges, now, strict=True)):
        return None
    if steps is None:
        found = tuple(b[1] - a[1] for a, b in zip(edges, now, strict=True))
        return found if all(0 <= step <= _MOST_STEP for step in found) else None
    moves = zip(edges, now, steps, strict=True)
    return steps if all(b[1] == a[1] + count * step for a, b, step in moves) else None


def _group(
    first: int, count: int, edges: list[tuple[int, int, int]], steps: tuple[int, ...] | None
) -> Group:
    found: list[Edge] = []
    for (job, start, size), step in zip(edges, steps or (0,) * len(edges), strict=True):
        for at in range(0, size, _EDGE_TASKS):
            found.append(Edge(job, start + at, min(_EDGE_TASKS, size - at), step))
    return Group(first, count, tuple(found))
