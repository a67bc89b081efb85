"""--begin and --deadline: from when, and until when, a job may begin."""

from __future__ import annotations

from qsub_py.cli.common import read
from qsub_py.units import parse_begin, parse_deadline, parse_patience


def read_times(
    begin: str | None, deadline: str | None, *, now: float, is_periodic: bool = False
) -> tuple[float, float]:
    """Return when a job may begin (0: at once) and until when (0: any time); raises SpecError.

    Of what is periodic the second is how many seconds after it was due.
    """
    begin_at = read_begin(begin, now=now) if begin else 0.0
    if not deadline:
        return begin_at, 0.0
    if is_periodic:
        return begin_at, read("--deadline", parse_patience, deadline)
    return begin_at, read_deadline(deadline, now=now, begin_at=begin_at)


def read_begin(text: str, *, now: float) -> float:
    """Return when a job may begin; raises SpecError."""
    return read("--begin", lambda word: parse_begin(word, now=now), text)


def read_deadline(text: str, *, now: float, begin_at: float) -> float:
    """Return until when it may, after `begin_at`; raises SpecError."""
    return read("--deadline", lambda word: parse_deadline(word, now=now, begin_at=begin_at), text)
