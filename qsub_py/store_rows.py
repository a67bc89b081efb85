"""Rows of the server as values: what the reads of the store give back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qsub_py.model import JobInfo, NodeInfo, State

_RANGE = re.compile(r"(\d+)-(\d+)")
#: Job fields that hold the number of tasks in a state; pending is what remains.
COUNTS = {state: f"c{state.code}" for state in State if 1 <= state.code <= 9}
SHOWN = """
    uid name owner queue kind prio cpus mem gpus time submitted started ended n limit held open
    array begin exit why lane later later_at held_why sched dep wait susp sx
    expire
""".split()  # noqa: SIM905 - a list of words is read as words


@dataclass(frozen=True, slots=True)
class CancelReply:
    """What a cancel (or signal) met: tasks that waited, tasks that ran, and whom it told."""

    cancelled: int
    running: int
    #: The job had ended before.
    had_ended: bool
    #: (node name, node uid, sequence number), done when `orders_done` no longer lists it.
    orders: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, slots=True)
class ResultEntry:
    """One entry of a job's results: signed outcomes, or a notice (no data)."""

    number: int
    first: int
    #: State codes by position from `first`; 0: this entry says nothing of it.
    codes: bytes
    data: bytes
    signature: bytes

    @property
    def is_notice(self) -> bool:
        """Whether it only says that states changed."""
        return not self.data


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """How the server and the cluster are."""

    is_recovering: bool
    lapsed_together: bool
    memory_bytes: int
    memory_limit_bytes: int


def decoded(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def twos(words: Sequence[Any]) -> list[tuple[Any, Any]]:
    return list(zip(words[::2], words[1::2], strict=True))


def pairs(words: Any) -> dict[bytes, bytes]:
    return words if isinstance(words, dict) else dict(twos(words))


def _state_of_byte(byte: int) -> tuple[State, int]:
    code = byte // 16
    return (State.from_code(code) if code <= 9 else State.PENDING), byte % 16


STATE_OF_BYTE = [_state_of_byte(byte) for byte in range(256)]


def entry(entry: Any) -> ResultEntry:
    number, fields = entry
    row = pairs(fields)
    at = int(number.split(b"-")[0])
    if b"d" not in row:
        return ResultEntry(at, 0, b"", b"", b"")
    return ResultEntry(at, int(row[b"f"]), row[b"c"], row[b"d"], row[b"s"])


def read_ranges(text: str) -> tuple[tuple[int, int], ...]:
    """Read "a-b,c-d"."""
    return tuple((int(first), int(last)) for first, last in _RANGE.findall(text))


def when(milliseconds: bytes | None) -> float | None:
    value = float(milliseconds or 0)
    return value / 1000 if value else None


def job_info(
    job: int,
    row: Sequence[Any],
    on: Sequence[bytes],
    unfit: dict[bytes, bytes],
    names: dict[str, str],
    stopped: int = 0,
) -> JobInfo:
    got = {
        name: decoded(value) if value is not None else ""
        for name, value in zip(SHOWN, row, strict=False)
    }
    counts = {state: int(n or 0) for state, n in zip(COUNTS, row[len(SHOWN) :], strict=True)}
    counts[State.PENDING] = int(got["n"]) - sum(counts.values())
    running = counts[State.RUNNING]
    stopped = running if got["susp"] == "1" else min(stopped, running)
    counts[State.RUNNING] -= stopped
    counts[State.SUSPENDED] = stopped
    return JobInfo(
        id=job, uid=got["uid"], name=got["name"], owner=got["owner"], queue=got["queue"],
        kind=got["kind"], priority=int(got["prio"]), cpus=int(got["cpus"]),
        mem_bytes=int(got["mem"]), gpus=int(got["gpus"]), time_s=float(got["time"]),
        submitted_at=float(got["submitted"]) / 1000, started_at=when(got["started"].encode()),
        ended_at=when(got["ended"].encode()), counts=counts, limit=int(got["limit"]),
        is_held=got["held"] == "1", is_open=got["open"] == "1", is_array=got["array"] == "1",
        begin_at=float(got["begin"] or 0) / 1000,
        exit_code=int(got["exit"]) if got["exit"] else None,
        nodes=tuple(sorted(names.get(decoded(uid), decoded(uid)) for uid in on)), reason=got["why"],
        unfit={names.get(decoded(uid), decoded(uid)): decoded(why) for uid, why in unfit.items()},
        lane=got["lane"], later=int(got["later"] or 0), later_at=float(got["later_at"] or 0) / 1000,
        held_why=got["held_why"], schedule=int(got["sched"] or 0),
        unmet=int(got["dep"] or 0), waiting=int(got["wait"] or 0),
        is_suspended=got["susp"] == "1", suspended=read_ranges(got["sx"]),
        deadline_at=float(got["expire"] or 0) / 1000,
    )  # fmt: skip


def node_info(uid: str, row: dict[bytes, bytes], slots: Sequence[bytes], left: float) -> NodeInfo:
    got = {decoded(name): decoded(value) for name, value in row.items()}

    def words(name: str) -> tuple[str, ...]:
        return tuple(word for word in got.get(name, "").split(",") if word)

    return NodeInfo(
        uid=uid, name=got.get("name", "?"), host=got.get("host", ""), state=got.get("state", "?"),
        cpus=int(got.get("cpus", 0)), cpus_free=int(got.get("cpus_free", 0)),
        mem_bytes=int(got.get("mem", 0)), mem_free_bytes=int(float(got.get("mem_free", 0))),
        gpus=int(got.get("gpus", 0)), features=words("features"), queues=words("queues"),
        pythons=words("pythons"), running=sum(int(decoded(s).split("|")[9]) for s in slots),
        version=got.get("version", ""), lease_left_s=max(0.0, left), reason=got.get("reason", ""),
        user=got.get("user", ""), started_at=float(got.get("started", 0)),
        gpus_free=tuple(map(int, words("gpus_free"))), gpus_why=got.get("gpus_why", ""),
        gpus_busy=tuple(map(int, words("gpus_busy"))),
        load=float(got["load"]) if got.get("load") else None, way=got.get("way", ""),
        alias=got.get("alias", ""), boot=got.get("boot", ""),
    )  # fmt: skip
