"""Directives of scripts and foreign words of the command line, as requests in our own options.

Not imported by a submission that has neither.

What each system's words mean is in the tables (dialect.py and its family); here stands which
lines are read, who wins over whom, and what is told of it.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import click

from qsub_py.cli import options, words
from qsub_py.cli.options import Request
from qsub_py.cli.script import Script
from qsub_py.dialect import (
    Dialect,
    Item,
    Reading,
    Said,
    placed,
    split_line,
    take_all,
    understand,
)
from qsub_py.dialect_signs import SYSTEMS, Directive, directives, wanted
from qsub_py.dialect_words import BY_MARKER, named
from qsub_py.errors import SpecError
from qsub_py.text import quoted

_OWN = "QSUB"
_NOT_IN_SCRIPTS = (
    "--wrap", "--extend", "--dry-run", "--to", "--help", "--version", "--debug", "--dialect",
    "--ignore-directives",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Understood:
    """What the directives of a script ask for, and what is told of each."""

    request: Request
    said: tuple[Said, ...] = ()
    #: Whose variables the script wants, as its directives tell: slurm, pbs, sge, "".
    system: str = ""


def completed(
    asked: Request, params: list[click.Parameter], script: Script | None,
    others: tuple[Request, Request], environ: Mapping[str, str],
) -> tuple[Request, tuple[Said, ...]]:  # fmt: skip
    """Complete the command line by QSUB_* variables, directives, and the configuration file.

    `others` are the first and the last of them.
    """
    dialect = chosen(asked.dialect, environ)
    written = Understood(Request())
    if script is not None and not asked.ignore_directives:
        written = directed(params, script, dialect)
    by_variable, by_file = others
    request = asked.over(by_variable.over(written.request).over(by_file), is_slurms=True)
    system = compat_of(request.compat, written.system, dialect, script)
    return replace(request, compat=system), written.said


def chosen(asked: str | None, environ: Mapping[str, str]) -> Dialect | None:
    """Return the dialect of --dialect, else of QSUB_DIALECT; None: each line is read as its own."""
    return named(asked if asked is not None else environ.get("QSUB_DIALECT", ""))


def read_words(items: Sequence[Item]) -> Reading:
    """Return what foreign words of the command line say; raises SpecError."""
    return understand(items, _is_dir)


def requested(reading: Reading, params: list[click.Parameter]) -> Request:
    """Return a reading as a request; raises SpecError for options that there are not yet."""
    table = options.table_of(params)
    for said in reading.said:
        for name in said.options:
            if name not in table:
                error = SpecError(f"`{said.text}` needs `{name}`, which is not supported yet",
                                  hint="leave it out")  # fmt: skip
                raise placed(said.where, error)
    extra = reading.extras.get
    return replace(
        options.request_from(reading.options, params), tasks=extra("tasks"), procs=extra("procs"),
        at_once=extra("at_once"), shell=extra("shell"), umask=extra("umask"),
        soft_signal=extra("soft_signal"),
    )  # fmt: skip


def joined(own: Request, reading: Reading, params: list[click.Parameter]) -> Request:
    """Return what the words of one command line say, ours and foreign ones; raises SpecError."""
    foreign = requested(reading, params)
    differing = own.differing(foreign)
    if differing is not None and differing[0] != "export":
        name, rival = (f"--{field.replace('_', '-')}" for field in differing)
        words = [said.text for said in reading.said if rival in said.options]
        raise SpecError(f"{name} and `{' '.join(words) or rival}` say different things",
                        hint="leave one out")  # fmt: skip
    return replace(
        own.over(foreign, is_slurms=True), export=(*foreign.export, *own.export)
    )  # fmt: skip


def directed(params: list[click.Parameter], script: Script, dialect: Dialect | None) -> Understood:
    """Return what the directives of a script ask for: QSUB over SBATCH over PBS over `$`.

    With a dialect only its lines and our own are read. Raises SpecError that says where.
    """
    by_marker: dict[str, list[Directive]] = {}
    for line in directives(script.readable):
        by_marker.setdefault(line.marker, []).append(line)
    own, said = _own(params, by_marker.get(_OWN, []), script)
    requests, system = [own], ""
    for marker, meant in BY_MARKER.items():
        lines = by_marker.get(marker, [])
        table = meant if dialect is None else dialect
        if not any(line.is_in_head for line in lines) or table.marker != marker:
            continue
        reading = _read(table, lines, script)
        _check_places(reading)
        requests.append(requested(reading, params))
        requests.append(options.request_from(table.always, params))
        said += reading.said
        system = system or table.system
    return Understood(reduce(Request.over, requests), said, system)


def _read(dialect: Dialect, lines: Sequence[Directive], script: Script) -> Reading:
    items: list[Item] = []
    for line in lines:
        where = _where(script, line)
        if not line.is_in_head:
            raise SpecError(f"{where}: this #{line.marker} line stands after the first command",
                            hint="move it to the head, or write ## for a comment")  # fmt: skip
        items += take_all(dialect, split_line(line.text, where, line.marker), where)
    return understand(items, _is_dir)


def _check_places(reading: Reading) -> None:
    for said in reading.said:
        if reading.is_program and said.text.startswith("-b"):
            raise SpecError(f"{said.where}: `{said.text}` belongs on the command line")
        if set(said.options) & set(_NOT_IN_SCRIPTS):
            raise SpecError(f"{said.where}: `{said.text}` belongs on the command line")


def _own(
    params: list[click.Parameter], lines: Sequence[Directive], script: Script
) -> tuple[Request, tuple[Said, ...]]:
    """Return what the `#QSUB` lines ask for; raises SpecError."""
    found: list[str] = []
    said: list[Said] = []
    foreign: list[Item] = []
    table = options.table_of(params)
    for line in lines:
        where = _where(script, line)
        parsed = _own_line(split_line(line.text, where, line.marker), table, where)
        found += parsed.options
        foreign += [replace(item, where=where) for item in parsed.foreign]
        if parsed.options:
            said.append(Said(where, line.text, shlex.join(parsed.options)))
    reading = understand(foreign, _is_dir)
    _check_places(reading)
    request = joined(options.request_from(found, params), reading, params)
    return request, (*said, *reading.said)


def _own_line(line: Sequence[str], table: Mapping[str, words.Option], where: str) -> words.Split:
    try:
        parts = words.split(line, table)
    except SpecError as error:
        raise placed(where, error) from None
    if parts.words or parts.is_dashed:
        raise SpecError(f"{where}: {parts.words[0] if parts.words else '--'!r} is no option",
                        hint="a #QSUB line holds options only")  # fmt: skip
    for option in parts.options:
        if option.partition("=")[0] in _NOT_IN_SCRIPTS:
            raise SpecError(f"{where}: {option.partition('=')[0]} belongs on the command line")
    return parts


def compat_of(asked: str | None, directed_system: str, dialect: Dialect | None,
              script: Script | None) -> str:  # fmt: skip
    """Return whose variables a job gets: slurm, pbs, sge, "" for nobody's; raises SpecError."""
    if asked is not None:
        word = {"torque": "pbs"}.get(asked.lower(), asked.lower())
        if word not in (*SYSTEMS, "none"):
            raise SpecError(f"--compat: there is no system {quoted(asked)}",
                            hint="write slurm, pbs, sge or none")  # fmt: skip
        return "" if word == "none" else word
    if dialect is not None:
        return dialect.system
    return directed_system or (wanted(script.readable) if script is not None else "")


def _where(script: Script, line: Directive) -> str:
    return f"{script.shown}, line {line.number}"


def _is_dir(path: str) -> bool:
    return os.path.isdir(os.path.expanduser(path))
