"""When a schedule fires: every so many seconds, or as cron says in a time zone.

Client and node compute alike; the server, which knows no time zones, only compares and sets.
Days on which clocks change are as in Debian's cron (and cronsim): a job at a fixed time that is
skipped runs right after the gap, one that would come twice runs once; with `*` in minute or
hour it runs by the hours that really pass.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone, tzinfo
from functools import lru_cache
from itertools import islice
from pathlib import Path

from qsub_py.errors import SpecError
from qsub_py.text import quoted
from qsub_py.units import format_span

SKIP, QUEUE, ALLOW = "skip", "queue", "allow"
OVERLAPS = (SKIP, QUEUE, ALLOW)
ONE, NONE = "one", "none"
CATCH_UPS = (ONE, NONE)
#: A firing that comes so late was missed.
LATE_S = 60.0
#: Missed ones are counted up to here.
_MOST_MISSED = 1000
CRON_GRAMMAR = "write minute hour day month weekday, such as '3 17 * * sun' or '*/10 * * * *'"
_NICKNAMES = {
    "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}  # fmt: skip


class NoTimeZone(SpecError):
    """This host does not know the time zone."""


@dataclass(frozen=True, slots=True)
class Rule:
    """When a schedule fires. Times are whole milliseconds; 0: none."""

    every_ms: int = 0
    cron: str = ""
    timezone: str = "UTC"
    until_ms: int = 0
    overlap: str = SKIP
    catch_up: str = ONE

    def to_bytes(self) -> bytes:
        """Return canonical JSON, which is signed with the spec."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Rule:
        """Read `to_bytes` back; raises TypeError, ValueError."""
        return cls(**json.loads(data))

    @property
    def shown(self) -> str:
        """Return it as a user writes it."""
        if self.every_ms:
            return f"every {format_span(self.every_ms / 1000)}"
        return f"{self.cron} ({self.timezone})"

    def first(self, now_ms: int) -> int:
        """Return the first time from `now_ms` on, 0 when there is none."""
        return self._bounded(now_ms if self.every_ms else self._cron_after(now_ms - 1))

    def after(self, due_ms: int) -> int:
        """Return the time that follows `due_ms`, which was one; 0 when it was the last."""
        if self.every_ms:
            return self._bounded(due_ms + self.every_ms)
        return self._bounded(self._cron_after(due_ms))

    def _bounded(self, at: int) -> int:
        return 0 if self.until_ms and at > self.until_ms else at

    def _cron_after(self, ms: int) -> int:
        return next((at for at in self._cron(ms) if at > ms), 0)

    def _cron(self, ms: int, *, reverse: bool = False) -> Iterator[int]:
        # Not at the top: it costs time in each command, and few need it.
        from cronsim import CronSim

        start = datetime.fromtimestamp(ms // 1000, zone(self.timezone))
        for moment in CronSim(self.cron, start, reverse=reverse):
            yield int(moment.timestamp()) * 1000

    def look(self, due_ms: int, now_ms: int) -> Look:
        """Return what is to be done at `now_ms` about a schedule that was due at `due_ms`."""
        if self.every_ms:
            last = due_ms + (now_ms - due_ms) // self.every_ms * self.every_ms
            if self.until_ms:
                last = min(last, due_ms + (self.until_ms - due_ms) // self.every_ms * self.every_ms)
            missed = (last - due_ms) // self.every_ms
        else:
            last, missed = self._cron_last(due_ms, now_ms)
        following = self.after(last)
        if self.catch_up == NONE and now_ms - last > LATE_S * 1000:
            return Look(0, missed + 1, following)
        return Look(last, missed, following)

    def _cron_last(self, due_ms: int, now_ms: int) -> tuple[int, int]:
        """Return the last time up to `now_ms`, and how many came before it from `due_ms` on."""
        until = min(now_ms, self.until_ms or now_ms)
        following = list(islice(self._cron(due_ms), _MOST_MISSED))
        past = [at for at in following if due_ms < at <= until]
        if len(past) < len(following) or not past:
            return (past[-1], len(past)) if past else (due_ms, 0)
        # More than are counted: the last from the other side.
        last = next(at for at in self._cron(until + 1000, reverse=True) if at <= until)
        return max(last, past[-1]), len(past)

    def times(self, now_ms: int, count: int) -> list[int]:
        """Return the next times."""
        found: list[int] = []
        at = self.first(now_ms)
        while at and len(found) < count:
            found.append(at)
            at = self.after(at)
        return found


@dataclass(frozen=True, slots=True)
class Look:
    """What to do now: the time to fire for (0: none), how many were missed, the next time."""

    fire_ms: int
    missed: int
    next_ms: int


@lru_cache(maxsize=64)
def zone(name: str) -> tzinfo:
    """Return a time zone; raises NoTimeZone."""
    if name == "UTC":
        return timezone.utc
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        raise NoTimeZone(
            f"no time zone {quoted(name)} on this host",
            hint="write a name such as Europe/Berlin or UTC; or install tzdata",
        ) from None


def local_zone() -> str:
    """Return the name of this host's time zone; raises SpecError when it has none."""
    said = os.environ.get("TZ", "").removeprefix(":")
    if said in ("UTC", "UTC0", "GMT"):
        return "UTC"
    if said and not said.startswith("/"):
        zone(said)
        return said
    for path in ("/etc/localtime", said):
        target = os.path.realpath(path) if path else ""
        name = target.partition("/zoneinfo/")[2].removeprefix("posix/").removeprefix("right/")
        if name:
            return "UTC" if name in ("Etc/UTC", "UTC", "UCT", "Etc/UCT", "Zulu") else name
    try:
        text = Path("/etc/timezone").read_text().strip()
    except OSError:
        text = ""
    if text:
        return "UTC" if text == "Etc/UTC" else text
    if datetime.now().astimezone().utcoffset() == datetime.now(timezone.utc).utcoffset():
        return "UTC"
    raise SpecError("this host does not tell the name of its time zone",
                    hint="add --timezone Europe/Berlin (or yours)")  # fmt: skip


def check_cron(text: str) -> str:
    """Return a line of cron as it is kept: five fields; raises SpecError."""
    from cronsim import CronSim, CronSimError

    word = " ".join(text.split()).lower()
    if word.startswith("@"):
        if word not in _NICKNAMES:
            raise SpecError(f"cannot read {quoted(text)}", hint="known: " + " ".join(_NICKNAMES))
        return _NICKNAMES[word]
    if len(word.split()) != 5:
        raise SpecError(f"{quoted(text)} has not five fields: {CRON_GRAMMAR}")
    try:
        next(CronSim(word, datetime.now(timezone.utc)))
    except (CronSimError, StopIteration) as error:
        why = error or "it never comes"
        raise SpecError(f"cannot read {quoted(text)} ({why}): {CRON_GRAMMAR}") from None
    return word
