"""Suspending jobs and tasks, and what of a job is suspended now."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from qsub_py.errors import JobNotFound
from qsub_py.store import Store
from qsub_py.store_core import StoreCore
from qsub_py.store_rows import decoded, read_ranges


@dataclass(frozen=True, slots=True)
class Suspended:
    """What of a job is suspended: all of it, or ranges of positions."""

    is_whole: bool = False
    ranges: tuple[tuple[int, int], ...] = ()

    def has(self, position: int) -> bool:
        """Whether this task is, if it runs."""
        return self.is_whole or any(first <= position <= last for first, last in self.ranges)


@dataclass(frozen=True, slots=True)
class SuspendReply:
    """What a suspend or resume met: "ok", "ended", "whole" or "many"; whom it told."""

    word: str
    running: int = 0
    orders: tuple[tuple[str, str, int], ...] = ()


def change(store: Store, job: int, first: int, last: int, verb: str) -> SuspendReply:
    """`suspend` or `resume` positions of a job (-1, -1: the whole job); JobNotFound."""
    reply = store._call("suspend", job, first, last, verb)
    word = decoded(reply[0])
    if word == "gone":
        raise JobNotFound(f"there is no job {job}")
    if word != "ok":
        return SuspendReply(word)
    return SuspendReply(word, int(reply[1]), tuple(store._told(reply[2:])))


def suspended(store: StoreCore, jobs: Collection[int]) -> dict[int, Suspended]:
    """Return what is suspended of each of these jobs."""
    rows = store.link.pipeline([("HMGET", store.keys.job(job), "susp", "sx") for job in jobs])
    return {
        job: Suspended(row[0] == b"1", read_ranges(decoded(row[1] or b"")))
        for job, row in zip(jobs, rows, strict=True)
    }
