"""Reading what users write of terms: `ws[1-3]`, `gpu&fast|big`, `matlab:2`, `web:10/m`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from qsub_py.errors import SpecError
from qsub_py.terms import NO_TERMS, PERIODS_MS, Terms
from qsub_py.text import check_name, quoted
from qsub_py.units import parse_duration

T = TypeVar("T")

CONSTRAINT_GRAMMAR = "write FEATURE, A&B (both) or A|B (one of them); & binds closer than |"
LICENSE_GRAMMAR = "write NAME or NAME:N, with commas"
RATE_GRAMMAR = "write 10/s, 10/m, 10/h, 10/d or 10/30s; NAME:10/m is shared by all jobs with it"

_WORD = re.compile(r"(?!-)[\w.+@=-]{1,64}", re.ASCII)
_FEATURE = re.compile(r"(?!-)[\w.+@:=-]{1,128}", re.ASCII)
_RATE = re.compile(r"(?:(?P<name>[^:/]*):)?(?P<count>\d{1,7})/(?P<time>[^/]+)", re.ASCII)
_MAX_PERIOD_MS = 366 * 86_400_000
_MAX_LICENSES = 1_000_000


@dataclass(frozen=True, slots=True)
class AskedTerms:
    """The options as text; `dashes` stands before their names in messages."""

    exclude: Sequence[str] = ()
    constraint: str | None = None
    licenses: Sequence[str] = ()
    rate: str | None = None
    dashes: str = "--"


def read_terms(asked: AskedTerms) -> Terms | None:
    """Return the terms that options ask for, None when they ask for none; raises SpecError."""

    def read(name: str, parse: Callable[[str], T], text: str) -> T:
        try:
            return parse(text)
        except SpecError as error:
            raise SpecError(f"{asked.dashes}{name}: {error}", hint=error.hint) from None

    terms = Terms(
        exclude=read("exclude", parse_nodes, ",".join(asked.exclude)) if asked.exclude else (),
        constraint="" if asked.constraint is None
        else read("constraint", parse_constraint, asked.constraint),
        licenses=read("licenses", parse_licenses, ",".join(asked.licenses))
        if asked.licenses else (),
        rate="" if asked.rate is None else read("rate", parse_rate, asked.rate),
    )  # fmt: skip
    return None if terms == NO_TERMS else terms


def parse_nodes(text: str) -> tuple[str, ...]:
    """Read `ws1,ws[2-4]` as names of nodes, each once; raises SpecError."""
    names: list[str] = []
    for word in re.split(r",(?![^\[]*\])", text):
        if "[" in word:
            from qsub_py.hosts import expand_ranges  # here: few names are patterns

            names += expand_ranges(word.strip())
        else:
            names.append(word.strip())
    return tuple(dict.fromkeys(check_name(name, what="node") for name in names))


def parse_constraint(text: str) -> str:
    """Read `a & b|c` as "a&b|c", its parts in order; raises SpecError."""
    if "!" in text:
        raise SpecError(f"{quoted(text)}: what a node must not have cannot be asked for",
                        hint="name the nodes with exclude instead")  # fmt: skip
    groups = [[word.strip() for word in group.split("&")] for group in text.split("|")]
    for word in (word for group in groups for word in group):
        if not _FEATURE.fullmatch(word):
            raise SpecError(f"{quoted(text)} is no constraint", hint=CONSTRAINT_GRAMMAR)
    return "|".join(sorted({"&".join(sorted(set(group))) for group in groups}))


def parse_licenses(text: str) -> tuple[str, ...]:
    """Read `matlab,ansys:2` as ("ansys:2", "matlab:1"); raises SpecError."""
    counts: dict[str, int] = {}
    for word in (part.strip() for part in text.split(",")):
        name, colon, number = word.partition(":")
        count = int(number) if re.fullmatch(r"\d{1,7}", number, re.ASCII) else 0 if colon else 1
        if not _WORD.fullmatch(name) or not 0 < count <= _MAX_LICENSES:
            raise SpecError(f"{quoted(word)} is no licence", hint=LICENSE_GRAMMAR)
        counts[name] = counts.get(name, 0) + count
    return tuple(f"{name}:{count}" for name, count in sorted(counts.items()))


def parse_rate(text: str) -> str:
    """Read `10/m` as ":10/60000", `web:10/30s` as "web:10/30000"; raises SpecError."""
    match = _RATE.fullmatch(text.strip())
    name = match["name"] if match else None
    if not match or (name is not None and not _WORD.fullmatch(name)):
        raise SpecError(f"{quoted(text)} is no rate", hint=RATE_GRAMMAR)
    try:
        period_ms = PERIODS_MS.get(match["time"]) or round(parse_duration(match["time"]) * 1000)
    except SpecError:
        raise SpecError(f"{quoted(text)} is no rate", hint=RATE_GRAMMAR) from None
    if not int(match["count"]) or not 1000 <= period_ms <= _MAX_PERIOD_MS:
        raise SpecError(f"{quoted(text)}: at least 1 task in 1 second to 1 year", hint=RATE_GRAMMAR)
    return f"{name or ''}:{int(match['count'])}/{period_ms}"
