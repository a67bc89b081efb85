"""Reading what users write of failures: `exit=75,oom`, `10s,5m`, `mem*2`, `B:USR1@60`."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from qsub_py.errors import SpecError
from qsub_py.policy import ANY, BACKOFF_MOST_S, Notice, Retry, make_retry
from qsub_py.text import quoted
from qsub_py.units import format_span, parse_duration

T = TypeVar("T")

RETRY_ON_GRAMMAR = (
    "write exit=75,77 or exit=64-78, signal=KILL, oom, timeout, node, any-failure, with commas"
)
_WORDS = ("oom", "timeout", "node", ANY)
_SIGNAL_BEFORE_S = 60.0
#: A higher factor is a typing error.
_MAX_FACTOR = 100.0


def parse_retry_on(text: str) -> tuple[str, ...]:
    """Read `exit=75,77,oom,signal=9` as ("exit=75", "exit=77", "oom", "signal=9"); SpecError."""
    found: list[str] = []
    kind = ""
    for word in (part.strip() for part in text.split(",")):
        head, equals, value = word.partition("=")
        if equals and head in ("exit", "signal"):
            kind = head
        elif not equals and word in _WORDS:
            kind = ""
            found.append(word)
            continue
        else:
            value = word
        if not kind:
            raise SpecError(f"{quoted(word)} is no reason to retry: {RETRY_ON_GRAMMAR}")
        found += _exits(value) if kind == "exit" else [f"signal={signal_number(value)}"]
    return tuple(dict.fromkeys(found))


def _exits(text: str) -> Iterable[str]:
    match = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?", text, re.ASCII)
    if not match:
        raise SpecError(f"{quoted(text)} is no exit code: {RETRY_ON_GRAMMAR}")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= last <= 255:
        raise SpecError(f"exit codes of a failure are 1 to 255, not {quoted(text)}")
    return [f"exit={code}" for code in range(first, last + 1)]


def signal_number(text: str) -> int:
    """Return the number of `USR1`, `SIGUSR1` or `10`; raises SpecError."""
    word = text.strip().upper()
    if word.isascii() and word.isdigit() and 1 <= int(word) <= 64:
        return int(word)
    name = word if word.startswith("SIG") else f"SIG{word}"
    number = getattr(signal, name, None) if re.fullmatch(r"SIG[A-Z]+\d?", name) else None
    if not isinstance(number, signal.Signals):
        raise SpecError(f"no such signal: {quoted(text)}", hint="write USR1, TERM or a number")
    return int(number)


def parse_backoff(text: str) -> tuple[float, float]:
    """Read `10s` or `10s,5m` (the first wait, the longest) as seconds; raises SpecError."""
    first, comma, most = text.partition(",")
    base_s = parse_duration(first, bare_s=1.0)
    most_s = parse_duration(most, bare_s=1.0) if comma else max(BACKOFF_MOST_S, base_s)
    if most_s < base_s:
        raise SpecError(f"the longest wait is shorter than the first: {quoted(text)}")
    return base_s, most_s


def parse_factor(text: str, what: str) -> float:
    """Read `mem*2` (`what` is "mem") as 2.0; raises SpecError."""
    match = re.fullmatch(rf"\s*{what}\s*\*\s*(\d{{1,3}}(?:\.\d{{1,6}})?)\s*", text, re.ASCII)
    if not match or not 1.0 < float(match[1]) <= _MAX_FACTOR:
        raise SpecError(f"cannot read {quoted(text)}: write {what}*2, {what}*1.5 (above 1)")
    return float(match[1])


def parse_notice(text: str) -> Notice:
    """Read Slurm's `[B:]USR1[@60]` (seconds before the limit, 60); raises SpecError."""
    word, at, time = text.partition("@")
    scope, colon, name = word.rpartition(":")
    if colon and scope.upper() != "B":
        raise SpecError(f"cannot read {quoted(text)}: write USR1@60 or B:USR1@60")
    before_s = parse_duration(time, bare_s=1.0) if at else _SIGNAL_BEFORE_S
    if before_s <= 0:
        raise SpecError(f"{quoted(text)}: the signal must come before the limit")
    return Notice(signal_number(name), before_s, bool(colon))


def soft_signal(text: str | None, time_s: float) -> str | None:
    """Return a --signal of another system, None where it has no limit to come before."""
    return text if text and time_s and parse_notice(text).before_s < time_s else None


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for in case of failure, as text; None where nothing was said."""

    retries: int | None = None
    backoff: str | None = None
    retry_on: str | None = None
    on_oom: str | None = None
    on_timeout: str | None = None
    signal: str | None = None
    obeys_exit: bool = False
    #: How an option is called in messages, before its name ("--" on the command line).
    dashes: str = "--"

    def shown(self, name: str) -> str:
        """Return an option's name as the user writes it."""
        return self.dashes + (name.replace("_", "-") if self.dashes else name)

    def read(self, name: str, parse: Callable[[str], T]) -> T | None:
        """Parse one of the texts; the SpecError names the option."""
        text: str | None = getattr(self, name)
        try:
            return None if text is None else parse(text)
        except SpecError as error:
            raise SpecError(f"{self.shown(name)}: {error}", hint=error.hint) from None


def read_retry(asked: Asked, *, mem_bytes: int, time_s: float, requeue: bool) -> Retry | None:
    """Return the policy asked for, None when there is none to have; raises SpecError."""
    on = asked.read("retry_on", parse_retry_on)
    backoff = asked.read("backoff", parse_backoff)
    mem_factor = asked.read("on_oom", lambda text: parse_factor(text, "mem"))
    time_factor = asked.read("on_timeout", lambda text: parse_factor(text, "time"))
    if mem_factor and not mem_bytes:
        raise SpecError(f"{asked.shown('on_oom')} needs a memory limit to multiply",
                        hint=f"add {asked.shown('mem')} SIZE")  # fmt: skip
    if time_factor and not time_s:
        raise SpecError(f"{asked.shown('on_timeout')} needs a time limit to multiply",
                        hint=f"add {asked.shown('time')} LIMIT")  # fmt: skip
    if on and "node" in on and not requeue:
        raise SpecError(f"{asked.shown('retry_on')} node and {asked.shown('no_requeue')} exclude "
                        "each other", hint="leave one out")  # fmt: skip
    made = make_retry(
        count=asked.retries, backoff=backoff, on=on, mem_factor=mem_factor or 0.0,
        time_factor=time_factor or 0.0, obeys_exit=asked.obeys_exit,
    )  # fmt: skip
    if backoff and not (made and made.count):
        raise SpecError(f"{asked.shown('backoff')} is of no use: nothing is tried again",
                        hint=f"add {asked.shown('retries')} N")  # fmt: skip
    return made


def read_notice(asked: Asked, *, time_s: float) -> Notice | None:
    """Return the signal before the limit; raises SpecError."""
    notice = asked.read("signal", parse_notice)
    if notice is None:
        return None
    if not time_s:
        raise SpecError(f"{asked.shown('signal')} comes before the time limit, and there is none",
                        hint=f"add {asked.shown('time')} LIMIT")  # fmt: skip
    if notice.before_s >= time_s:
        before, limit = format_span(notice.before_s), format_span(time_s)
        raise SpecError(f"{asked.shown('signal')}: {before} before a limit of {limit} is before"
                        " the start")  # fmt: skip
    return notice
