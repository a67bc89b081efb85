"""Results of other calls among the arguments of a call: how a chunk of calls refers to them.

A call that needs some is b"I", the tasks whose results it needs as runs of (job, uid of the job,
first position, count), then its pickled arguments, in which a result stands as a persistent id:
its number among these tasks. Chunks with such calls have a small letter for a tag ("r", "z"). All
of it is signed with the chunk, so nobody can swap inputs. Pure, and the runner's too: only the
standard library.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

MARK = b"I"
_COUNT = struct.Struct("<I")
_RUN = struct.Struct("<Q8sII")
#: Tags of chunks in which calls with inputs may be.
TAGS = (b"r", b"z")


class Run(NamedTuple):
    """Results of contiguous tasks of one job."""

    job: int
    uid: str
    first: int
    size: int


class Place(NamedTuple):
    """One task: its job, the uid of that job, its position."""

    job: int
    uid: str
    position: int


def runs_of(places: Iterable[Place]) -> list[Run]:
    """Return tasks as runs, in the same order."""
    found: list[Run] = []
    for job, uid, position in places:
        last = found[-1] if found else None
        if last and last[:2] == (job, uid) and last.first + last.size == position:
            found[-1] = last._replace(size=last.size + 1)
        else:
            found.append(Run(job, uid, position, 1))
    return found


def merged(runs: Iterable[Run]) -> list[Run]:
    """Return the tasks of runs each once, in as few runs as may be, in order of position."""
    found: list[Run] = []
    for run in sorted(set(runs)):
        last = found[-1] if found else None
        if last and last[:2] == run[:2] and run.first <= last.first + last.size:
            end = max(last.first + last.size, run.first + run.size)
            found[-1] = last._replace(size=end - last.first)
        else:
            found.append(run)
    return found


def with_inputs(runs: Sequence[Run], data: bytes) -> bytes:
    """Return a pickled call with the tasks whose results it needs."""
    packed = (_RUN.pack(r.job, bytes.fromhex(r.uid), r.first, r.size) for r in runs)
    return b"".join((MARK, _COUNT.pack(len(runs)), *packed, data))


def read_inputs(data: bytes | memoryview) -> tuple[list[Run], int]:
    """Return the runs of a call and where its arguments begin; none and 0 when it needs none."""
    if data[:1] != MARK:
        return [], 0
    (count,) = _COUNT.unpack_from(data, 1)
    at = 1 + _COUNT.size
    runs = []
    for _ in range(count):
        job, uid, first, size = _RUN.unpack_from(data, at)
        runs.append(Run(job, uid.hex(), first, size))
        at += _RUN.size
    return runs, at


def calls_of(chunk: bytes, first: int, count: int) -> list[bytes]:
    """Return `count` pickled calls of a chunk, from its `first`th on."""
    data = zlib.decompress(chunk[1:]) if chunk[:1] in (b"Z", b"z") else chunk[1:]
    (total,) = _COUNT.unpack_from(data)
    sizes = struct.unpack_from(f"<{total}I", data, 4)
    ends = list(accumulate(sizes, initial=4 + 4 * total))
    return [data[ends[i] : ends[i + 1]] for i in range(first, min(first + count, total))]
