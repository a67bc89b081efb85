"""Quantities as users write them: durations, sizes, begin times, and back again.

Pure: the current time is an argument. Also the one place to import all parsers of user
text from (arrays and ids live in `arrays`, names and patterns in `text`).
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise

from qsub_py.arrays import (
    ArraySpec,
    JobRef,
    format_array,
    parse_all_task_ids,
    parse_array,
    parse_task_ids,
)
from qsub_py.errors import SpecError
from qsub_py.text import check_name, check_pattern, expand_pattern, is_per_task, quoted, safe

__all__ = [
    "ArraySpec",
    "JobRef",
    "check_name",
    "check_pattern",
    "expand_pattern",
    "format_array",
    "format_duration",
    "format_size",
    "is_per_task",
    "parse_all_task_ids",
    "parse_array",
    "parse_begin",
    "parse_deadline",
    "parse_duration",
    "parse_patience",
    "parse_size",
    "parse_task_ids",
    "quoted",
    "safe",
]

DURATION_GRAMMAR = (
    "write 90s, 30m, 2h, 1d, 1h30m, minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS "
    "or UNLIMITED"
)
SIZE_GRAMMAR = "write 4G, 512M, 1.5T (K M G T P, powers of 1024); a bare number is megabytes"
BEGIN_GRAMMAR = (
    "write now+1hour, 16:00, 4:30PM, today, tomorrow, midnight, noon, 2026-01-20, "
    "2026-01-20T12:34, 01/20 or 'tomorrow 16:00'"
)

#: 100 years: anything longer is a typing error, and stays exact in a float.
MAX_DURATION_S = 100 * 365.25 * 86400
#: The store counts in Lua numbers.
MAX_SIZE_BYTES = 2**53 - 1

_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
#: How many of a unit make the next larger one.
_ROOM = {"s": 60, "m": 60, "h": 24, "d": 7, "w": 5300}
_LETTERS = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)([smhdw])", re.ASCII)
_COLONS = re.compile(r"(?:(\d{1,12})-)?(\d{1,12})(?::(\d{1,12}))?(?::(\d{1,12}))?", re.ASCII)
_UNLIMITED = ("unlimited", "infinite")


def parse_duration(text: str, *, bare_s: float = 60.0) -> float:
    """Return a duration in seconds; 0.0 means no limit; raises SpecError.

    Slurm's forms (sbatch(1), --time) and `1h30m`. As in Slurm a bare number is minutes
    (`bare_s` seconds each), `0`, `UNLIMITED` and `INFINITE` ask for no limit, and `0:90:00`
    is an hour and a half; but `1h90m` is refused as a likely slip.
    """
    word = text.strip().lower()
    if word in _UNLIMITED:
        return 0.0
    match = _COLONS.fullmatch(word)
    seconds = _colon_seconds(match, bare_s) if match else _letter_seconds(word, text)
    if seconds > MAX_DURATION_S:
        raise SpecError(f"{quoted(text)} is longer than 100 years: {DURATION_GRAMMAR}")
    return seconds


def _colon_seconds(match: re.Match[str], bare_s: float) -> float:
    days, first, second, third = match.groups()
    if days is not None:  # D-HH[:MM[:SS]]
        hours = 24 * int(days) + int(first)
        return 3600.0 * hours + 60.0 * int(second or 0) + int(third or 0)
    if third is not None:
        return 3600.0 * int(first) + 60.0 * int(second) + int(third)
    if second is not None:
        return 60.0 * int(first) + int(second)
    return bare_s * int(first)


def _letter_seconds(word: str, text: str) -> float:
    """Read `1h30m`: units from large to small, none so large that the one before overflows."""
    pairs = _LETTERS.findall(word)
    if not pairs or "".join(number + unit for number, unit in pairs) != word:
        raise SpecError(f"bad time {quoted(text)}: {DURATION_GRAMMAR}")
    sizes = [_UNIT_S[unit] for _, unit in pairs]
    if any(small >= large for large, small in pairwise(sizes)):
        raise SpecError(f"bad time {quoted(text)}: larger units come first: {DURATION_GRAMMAR}")
    for number, unit in pairs[1:]:
        if Decimal(number) >= _ROOM[unit]:
            raise SpecError(
                f"bad time {quoted(text)}: {number}{unit} after a larger unit must be below "
                f"{_ROOM[unit]}{unit}"
            )
    return float(sum(Decimal(number) * _UNIT_S[unit] for number, unit in pairs))


def format_duration(seconds: float) -> str:
    """Return whole seconds as squeue(1) shows them: `0:05`, `1:02:03`, `1-02:03:04`."""
    if seconds > MAX_DURATION_S:
        return "UNLIMITED"
    whole = max(0, int(seconds))
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}-{hour:02}:{minute:02}:{second:02}"
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def format_span(seconds: float) -> str:
    """Return how long something takes as it is said and typed: `1.5s`, `40s`, `1h30m`, `2d`.

    Whole seconds above a minute.
    """
    if seconds < 60:
        return f"{seconds:g}s"
    left, parts = int(seconds), []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        parts += [f"{count}{unit}"] if count else []
    return "".join(parts)


_SIZE = re.compile(r"(\d{1,16}(?:\.\d{1,9})?)\s?(?:([kmgtp])(?:i?b)?|(b))?", re.ASCII)
_PREFIXES = "KMGTP"


def parse_size(text: str, *, bare_bytes: int = 2**20) -> int:
    """Return a size in bytes; raises SpecError.

    Powers of 1024 as in Slurm; a bare number is megabytes (`bare_bytes` each), `512B` bytes.
    0 is returned as it is: what it means is the option's business.
    """
    match = _SIZE.fullmatch(text.strip().lower())
    if not match:
        raise SpecError(f"bad size {quoted(text)}: {SIZE_GRAMMAR}")
    number, prefix, single = match.groups()
    factor = bare_bytes
    if prefix or single:
        factor = 1024 ** (_PREFIXES.index(prefix.upper()) + 1) if prefix else 1
    size = int(Decimal(number) * factor)
    if size > MAX_SIZE_BYTES:
        raise SpecError(f"size {quoted(text)} is over the limit of 8P: {SIZE_GRAMMAR}")
    return size


def format_size(size_bytes: int) -> str:
    """Return a size for a table: `0`, `512B`, `4G`, `1.5T`; one decimal, so off by up to 5 %."""
    if size_bytes < 1024:
        return f"{size_bytes}B" if size_bytes > 0 else "0"
    value, power = size_bytes / 1024, 0
    while value >= 1023.95 and power < len(_PREFIXES) - 1:
        value, power = value / 1024, power + 1
    return f"{value:.1f}".removesuffix(".0") + _PREFIXES[power]


_CLOCK = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?\s?([ap]m)?", re.ASCII)
_NAMED_CLOCKS = {"midnight": 0, "elevenses": 11, "noon": 12, "fika": 15, "teatime": 16}
_FROM_NOW = re.compile(r"now(?:\s*\+\s*(\d{1,12})\s*([a-z]*))?", re.ASCII)
_WORDS_S = {
    "": 1,
    **{name: _UNIT_S[name[0]] for name in ("second", "minute", "hour", "day", "week")},
    **{name + "s": _UNIT_S[name[0]] for name in ("second", "minute", "hour", "day", "week")},
    **_UNIT_S,
    "sec": 1,
    "min": 60,
}
_ISO = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})", re.ASCII)
_US = re.compile(r"(\d\d)/(\d\d)(?:/(\d\d(?:\d\d)?))?", re.ASCII)
_SHORT_US = re.compile(r"(\d\d)(\.?)(\d\d)\2(\d\d)", re.ASCII)
#: What stands between a day and a time, and inside a time.
_BETWEEN = re.compile(r"(?<=[\dy])[t-](?=\d{1,2}:)|(?<=[wy])t(?=\d)|(?<=\d)t(?=[a-z])", re.ASCII)
_HALF = re.compile(r"(?<=\d) (?=[ap]m\b)", re.ASCII)


def parse_begin(text: str, *, now: float) -> float:
    """Return when a job may begin, in epoch seconds; raises SpecError.

    Slurm's forms (sbatch(1), --begin) in the local time zone. A time of day that is past
    means tomorrow's, a day without a year the next one; a day without a time is its midnight.
    A date in the past is returned.
    """
    word = " ".join(text.lower().split())
    try:
        begin_at = _from_now(word, now)
        return _local(word, now) if begin_at is None else begin_at
    except (ValueError, OverflowError, OSError):
        raise SpecError(f"bad time {quoted(text)}: {BEGIN_GRAMMAR}") from None


def parse_deadline(text: str, *, now: float, begin_at: float = 0.0) -> float:
    """Return until when a job may begin: the forms of `parse_begin`; raises SpecError."""
    deadline_at = parse_begin(text, now=now)
    if deadline_at <= now:
        raise SpecError(f"{quoted(text)} is over already", hint="write a later time")
    if deadline_at <= begin_at:
        raise SpecError(f"{quoted(text)} is not after --begin", hint="write a later time")
    return deadline_at


def parse_patience(text: str) -> float:
    """Return how many seconds after a due time a job may begin ("now+30min"); raises SpecError."""
    try:
        patience_s = _from_now(" ".join(text.lower().split()), 0.0)
    except ValueError:
        patience_s = None
    if not patience_s:
        raise SpecError(
            f"{quoted(text)} is one time, but this runs again and again",
            hint="write how long after each due time: now+30min",
        )
    return patience_s


def _from_now(word: str, now: float) -> float | None:
    match = _FROM_NOW.fullmatch(word)
    if not match:
        return None
    count, unit = match.groups()
    if unit is not None and unit not in _WORDS_S:
        raise ValueError(unit)
    delay = int(count or 0) * _WORDS_S[unit or ""]
    if delay > MAX_DURATION_S:
        raise ValueError(delay)
    return now + delay


def _local(word: str, now: float) -> float:
    """Return the epoch seconds of a day, a time of day or both; raises ValueError."""
    present = datetime.fromtimestamp(now)
    today = present.replace(hour=0, minute=0, second=0, microsecond=0)
    words = _HALF.sub("", _BETWEEN.sub(" ", word)).split()
    days = [day for day in (_day(one, today) for one in words) if day is not None]
    clocks = [_time_of_day(one) for one in words if _day(one, today) is None]
    if not words or len(days) > 1 or len(clocks) > 1:
        raise ValueError(word)
    if days:
        return (days[0] + (clocks[0] if clocks else timedelta())).timestamp()
    moment = today + clocks[0]
    if moment <= present:
        moment += timedelta(days=1)
    return moment.timestamp()


def _day(word: str, today: datetime) -> datetime | None:
    """Return a day's midnight, None when the word is no day; raises ValueError."""
    if word in ("today", "tomorrow"):
        return today + timedelta(days=word == "tomorrow")
    if match := _ISO.fullmatch(word):
        return datetime(int(match[1]), int(match[2]), int(match[3]))
    if match := _SHORT_US.fullmatch(word):
        return datetime(2000 + int(match[4]), int(match[1]), int(match[3]))
    match = _US.fullmatch(word)
    if not match:
        return None
    if match[3] is None:  # the next one
        day = datetime(today.year, int(match[1]), int(match[2]))
        return day if day >= today else day.replace(year=today.year + 1)
    year = int(match[3])
    return datetime(year + (2000 if year < 100 else 0), int(match[1]), int(match[2]))


def _time_of_day(word: str) -> timedelta:
    if word in _NAMED_CLOCKS:
        return timedelta(hours=_NAMED_CLOCKS[word])
    match = _CLOCK.fullmatch(word)
    if not match:
        raise ValueError(word)
    hour, minute, second, half = int(match[1]), int(match[2]), int(match[3] or 0), match[4]
    if half:
        if not 1 <= hour <= 12:
            raise ValueError(word)
        hour = hour % 12 + (12 if half == "pm" else 0)
    if hour > 23 or minute > 59 or second > 59:
        raise ValueError(word)
    return timedelta(hours=hour, minutes=minute, seconds=second)
