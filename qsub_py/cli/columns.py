"""The format of `qstat -o`: names with commas (`id,name,state`) or squeue's letters (`%.8i %j`)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from qsub_py.cli.shapes import COLUMNS, RIGHT
from qsub_py.errors import SpecError
from qsub_py.render import Table
from qsub_py.text import did_you_mean, quoted

_LETTERS = {letter: name for name, (_, letter, _cell) in COLUMNS.items()}
_SYNONYMS = {"user": "owner", "jobid": "id", "job": "id", "memory": "mem", "partition": "queue",
             "elapsed": "time", "nodelist": "nodes",
             "started": "started_at", "ended": "ended_at", "exit": "exit_code"}  # fmt: skip
_FIELD = re.compile(r"%(\.?)(\d{0,3})([A-Za-z])")


@dataclass(frozen=True, slots=True)
class Format:
    """Which columns to show; in squeue's form also the text between and the widths."""

    names: tuple[str, ...]
    #: Text before each field, then after the last; empty in the form with commas.
    between: tuple[str, ...] = ()
    #: (set to the right, width or 0) of each field.
    widths: tuple[tuple[bool, int], ...] = ()

    def lines(self, table: Table, *, header: bool) -> list[str]:
        """Return the lines of a table of these columns in squeue's form."""
        rows = [table.headings] * header + list(table.rows)
        return ["".join(self._pieces(row)).rstrip() for row in rows]

    def _pieces(self, row: tuple[str, ...]) -> list[str]:
        pieces = [self.between[0]]
        for cell, (is_right, width), after in zip(row, self.widths, self.between[1:], strict=True):
            if width:
                cell = (cell.rjust if is_right else cell.ljust)(width)[:width]
            pieces += [cell, after]
        return pieces


def parse_format(text: str) -> Format:
    """Read what `-o` says; raises SpecError."""
    if "%" in text:
        return _by_letters(text)
    names = []
    for word in text.split(","):
        name = _SYNONYMS.get(word.strip().lower(), word.strip().lower())
        if name not in COLUMNS:
            cure = did_you_mean(name, COLUMNS) or "known: " + ",".join(COLUMNS)
            raise SpecError(f"-o: no column {quoted(word)}", hint=cure)
        names.append(name)
    return Format(tuple(names))


def _by_letters(text: str) -> Format:
    names, widths, between, at = [], [], [], 0
    for match in _FIELD.finditer(text):
        if match[3] not in _LETTERS:
            known = " ".join(f"%{letter}" for letter in _LETTERS)
            raise SpecError(f"-o: no column {quoted(match[0])}", hint=f"known: {known}")
        names.append(_LETTERS[match[3]])
        widths.append((bool(match[1]), int(match[2] or 0)))
        between.append(text[at : match.start()])
        at = match.end()
    if not names or "%" in "".join(between) + text[at:]:
        raise SpecError(f"-o: cannot read {quoted(text)}", hint="write id,name,state or '%i %j %T'")
    return Format(tuple(names), (*between, text[at:]), tuple(widths))


def heading_row(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the headings of columns."""
    return tuple(COLUMNS[name][0] for name in names)


def make_table(names: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> Table:
    """Return a table of job columns."""
    return Table(heading_row(names), rows, RIGHT)
