"""Changing jobs that were submitted: what they ask for, their place in the queue."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from qsub_py.errors import JobNotFound
from qsub_py.model import JobInfo, JobSpec
from qsub_py.store import Store, lane_of, retry_fields
from qsub_py.store_link import Argument
from qsub_py.store_rows import decoded

#: What retry.lua reads of a job that has no policy (any more).
_NO_RETRY: dict[str, Argument] = {"retries": 0, "retry_node": 0}


@dataclass(frozen=True, slots=True)
class Change:
    """What is to become of a job; None: as it is."""

    #: The signature that the spec had when it was read.
    old_signature: bytes
    spec: JobSpec | None = None
    spec_bytes: bytes = b""
    signature: bytes = b""
    priority: int | None = None
    limit: int | None = None
    #: 0.0: at once.
    begin_at: float | None = None
    #: 0.0: none.
    deadline_at: float | None = None
    #: It may be done only while nothing of the job has begun.
    is_for_pending: bool = False
    #: Those that run its tasks are told of their new time limit.
    has_new_time: bool = False


@dataclass(frozen=True, slots=True)
class Altered:
    """What became of it: "ok", "ended", "lost", "begun" or "fired"; whom it told."""

    word: str
    orders: tuple[tuple[str, str, int], ...] = ()


def alter(store: Store, job: JobInfo, change: Change) -> Altered:
    """Change a job if its spec is still the one that was read; JobNotFound."""
    spec = change.spec
    shown: dict[str, Argument] = {}
    if spec:
        shown |= {
            "name": spec.name, "queue": spec.queue, "cpus": spec.cpus, "mem": spec.mem_bytes,
            "gpus": spec.gpus, "time": spec.time_s, "requeue": int(spec.requeue),
            **(retry_fields(spec) or _NO_RETRY),
        }  # fmt: skip
    order = json.dumps({"op": "limit", "job": job.id, "uid": job.uid, "first": 0, "last": -1})
    reply = store._call(
        "alter", job.id, change.old_signature, int(change.is_for_pending), change.spec_bytes,
        change.signature, lane_of(spec, job.uid) if spec and change.is_for_pending else "",
        _said(change.priority), _said(change.limit), _ms(change.begin_at),
        order if change.has_new_time else "", _ms(change.deadline_at),
        *(word for pair in shown.items() for word in pair),
    )  # fmt: skip
    word = decoded(reply[0])
    if word == "gone":
        raise JobNotFound(f"there is no job {job.id}")
    return Altered(word, tuple(store._told(reply[2:])))


def _ms(at: float | None) -> int | str:
    return "" if at is None else math.ceil(at * 1000)


def _said(number: int | None) -> str:
    return "" if number is None else str(number)
