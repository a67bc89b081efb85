"""Accounting in the store: what jobs have used, what owners used day by day, and purging."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from qsub_py.account import DayUse, Usage
from qsub_py.errors import StoreError
from qsub_py.model import JobInfo
from qsub_py.store import Store
from qsub_py.store_rows import decoded, pairs

#: Days are kept so long (account.lua).
KEPT_DAYS = 400
_PAGE = 256


class Accounts:
    """The accounts of a store."""

    def __init__(self, store: Store) -> None:
        self._store, self._link = store, store.link
        self._prefix = store.keys.prefix

    def ended(
        self, since: float, until: float, *, limit: int, owner: str | None = None
    ) -> list[JobInfo]:
        """Return jobs (of an owner) that ended between two times (epoch seconds), the last first.

        At most `limit` of them, the last ones.
        """
        found: dict[int, JobInfo] = {}
        for at in count(0, _PAGE):
            page = self._link.command(
                "ZREVRANGEBYSCORE", self._prefix + "ended", f"({until * 1000:.0f}",
                f"{since * 1000:.0f}", "LIMIT", at, _PAGE,
            )  # fmt: skip
            jobs = self._store._jobs([int(number) for number in page])
            found |= {job.id: job for job in jobs if owner in (None, job.owner)}
            if len(page) < _PAGE or len(found) >= limit:
                break
        return sorted(found.values(), key=lambda job: (-(job.ended_at or 0.0), -job.id))[:limit]

    def usage(self, jobs: Sequence[int]) -> dict[int, Usage]:
        """Return what each of these jobs has used."""
        texts = self._link.pipeline([("HGET", f"{self._prefix}j:{job}", "acct") for job in jobs])
        return {
            job: Usage.from_text(decoded(text or b""))
            for job, text in zip(jobs, texts, strict=True)
        }

    def days(self, first: int, last: int) -> list[DayUse]:
        """Return what each owner used on each of these days (days since 1970, UTC)."""
        numbers = range(max(first, last - KEPT_DAYS), last + 1)
        rows = self._link.pipeline([("HGETALL", f"{self._prefix}acct:{day}") for day in numbers])
        return [
            DayUse.from_text(decoded(owner), day, decoded(text))
            for day, row in zip(numbers, rows, strict=True)
            for owner, text in sorted(pairs(row).items())
        ]

    def purge(self, job: int) -> bool:
        """Delete a job that ended, with all that belongs to it; False when it has not ended.

        Raises StoreError when another job still needs it.
        """
        was_there = False
        while reply := int(self._store._call("purge", 0, job)):
            if reply < 0:
                raise StoreError(f"job {job} stays: job {-reply} waits for it")
            was_there = True
        return was_there
