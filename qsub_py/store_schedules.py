"""Schedules in the store: look, fire, hold, release, end."""

from __future__ import annotations

from dataclasses import dataclass

from qsub_py.proof import SignedSpec
from qsub_py.store_core import StoreCore
from qsub_py.store_rows import decoded, pairs


@dataclass(frozen=True, slots=True)
class ScheduleInfo:
    """A schedule as the store has it now. Times are epoch seconds, 0: none."""

    id: int
    uid: str
    name: str
    owner: str
    rule: bytes
    signature: bytes
    spec: bytes
    next_ms: int
    last_job: int
    last_due_at: float
    fired: int
    missed: int
    skipped: int
    #: Firings that wait for the one before them.
    waiting: int
    #: Firings that are still to come; None: any number.
    left: int | None
    is_held: bool
    ended_at: float
    submitted_at: float
    reason: str
    #: What nodes say that cannot compute its times.
    complaint: str

    @property
    def signed(self) -> SignedSpec:
        """What proves it: the uid of a firing is made from these."""
        return SignedSpec(self.spec, self.signature, self.uid, self.uid, 0, self.rule, self.id)


class Schedules:
    """The schedules of a store."""

    def __init__(self, store: StoreCore) -> None:
        self._link, self._keys = store.link, store.keys
        self._prefix = store.keys.prefix

    def get(self, schedule: int) -> ScheduleInfo | None:
        """Return one schedule, None when there is none of this number."""
        found = self.many([schedule])
        return found[0] if found else None

    def all(self, *, ended: bool = False) -> list[ScheduleInfo]:
        """Return the schedules that still fire (and with `ended` the others), oldest first."""
        ids = [int(n) for n in self._link.command("ZRANGE", self._prefix + "schedules", 0, -1)]
        if ended:
            name = self._prefix + "schedules_ended"
            ids += [int(n) for n in self._link.command("ZRANGE", name, 0, -1)]
        return self.many(sorted(ids))

    def many(self, ids: list[int]) -> list[ScheduleInfo]:
        """Return those of the schedules that exist."""
        ask = [("HGETALL", f"{self._prefix}s:{number}") for number in ids]
        waits = [("LLEN", f"{self._prefix}waits:{number}") for number in ids]
        replies = self._link.pipeline([*ask, *waits]) if ids else []
        rows = zip(ids, replies[: len(ids)], replies[len(ids) :], strict=True)
        return [_info(number, pairs(row), int(count)) for number, row, count in rows if row]

    def firings(self, schedule: int, count: int = 100) -> list[tuple[int, float]]:
        """Return its last jobs and when they were due, the newest first."""
        found = self._link.command(
            "ZREVRANGE", f"{self._prefix}fires:{schedule}", 0, count - 1, "WITHSCORES"
        )
        return [
            (int(job), float(at) / 1000) for job, at in zip(found[::2], found[1::2], strict=True)
        ]

    def fire(
        self, info: ScheduleInfo, fire_ms: int, missed: int, next_ms: int
    ) -> tuple[str, int]:  # fmt: skip
        """Say what is to be done about the time it was due; returns (ok stale gone full, job)."""
        reply = self._link.call(
            "fire", self._keys.meta, info.id, info.uid, info.next_ms, fire_ms, missed, next_ms
        )
        return decoded(reply[0]), int(reply[1]) if len(reply) > 1 else 0

    def forget(self, schedule: int) -> None:
        """Look no more for one that is gone."""
        self._link.call("fire", self._keys.meta, schedule, "", 0, 0, 0, 0)

    def complain(self, schedule: int, text: str) -> None:
        """Note why a node cannot compute its times."""
        key = f"{self._prefix}s:{schedule}"
        if self._link.command("EXISTS", key):
            self._link.command("HSET", key, "complaint", text)

    def change(self, schedule: int, verb: str, *, by: str = "") -> tuple[int, int]:
        """Hold, release or end it: (1 done, 0 had ended, -1 there is none; a job that runs)."""
        reply = self._link.call("reschedule", self._keys.meta, schedule, verb, by)
        return int(reply[0]), int(reply[1]) if len(reply) > 1 else 0


def _info(number: int, row: dict[bytes, bytes], waiting: int) -> ScheduleInfo:
    got = {decoded(name): value for name, value in row.items()}

    def text(name: str) -> str:
        return decoded(got.get(name, b""))

    def whole(name: str) -> int:
        return int(float(text(name) or 0))

    left = whole("left")
    return ScheduleInfo(
        id=number, uid=text("uid"), name=text("name"), owner=text("owner"), rule=got["rule"],
        signature=got["sig"], spec=got["spec"], next_ms=whole("next"), last_job=whole("last"),
        last_due_at=whole("last_due") / 1000, fired=whole("fired"), missed=whole("missed"),
        skipped=whole("skipped"), waiting=waiting, left=None if left < 0 else left,
        is_held=text("held") == "1", ended_at=whole("ended") / 1000,
        submitted_at=whole("submitted") / 1000, reason=text("why"), complaint=text("complaint"),
    )  # fmt: skip
