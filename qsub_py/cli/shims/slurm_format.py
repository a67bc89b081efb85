"""Tables as squeue, sacct and sinfo write them: which fields, how wide, with or without heads.

Pure. A field is a name and a width; what its cell says is the caller's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from qsub_py.errors import SpecError
from qsub_py.text import quoted

T = TypeVar("T")
_LETTER = re.compile(r"%(\.?)(\d{0,4})([A-Za-z]|%)")
_LONG = re.compile(r"(\w+)(?::([.+-]?)(\d*)(\w*))?")
_SACCT = re.compile(r"(\w+)(?:%(-?)(\d+))?")


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """A field that a tool knows: its heading, its cell, its usual width (0: as long as it is)."""

    heading: str
    cell: Callable[[T], str]
    width: int = 10


@dataclass(frozen=True, slots=True)
class Field(Generic[T]):
    """A column as it was asked for; with `text` only that."""

    column: Column[T] | None = None
    width: int = 0
    is_right: bool = False
    text: str = ""

    def shown(self, cell: str) -> str:
        """Return a cell as wide as asked for."""
        if not self.width:
            return cell
        return (cell.rjust if self.is_right else cell.ljust)(self.width)[: self.width]


def by_letters(text: str, letters: Mapping[str, Column[T]], tool: str) -> tuple[Field[T], ...]:
    """Read `%.18i %t`; raises SpecError for letters that are not known here."""
    fields: list[Field[T]] = []
    at = 0
    for match in _LETTER.finditer(text):
        fields.append(Field(text=text[at : match.start()]))
        at, letter = match.end(), match[3]
        if letter == "%":
            fields.append(Field(text="%"))
            continue
        if letter not in letters:
            known = " ".join(f"%{one}" for one in letters)
            raise SpecError(f"{tool}: no field {quoted(match[0])}", hint=f"known: {known}")
        fields.append(Field(letters[letter], int(match[2] or 0), bool(match[1])))
    return (*fields, Field(text=text[at:]))


def by_names(text: str, names: Mapping[str, Column[T]], tool: str) -> tuple[Field[T], ...]:
    """Read squeue's `JobID:12,State`; widths are 20 unless said."""
    fields: list[Field[T]] = []
    for word in text.split(","):
        match = _LONG.fullmatch(word.strip())
        if match is None:
            raise SpecError(f"{tool}: {quoted(word)} is no field")
        column = _named(match[1], names, tool)
        fields.append(Field(column, int(match[3] or 20), match[2] == "."))
    return tuple(fields)


def by_sacct(text: str, names: Mapping[str, Column[T]], tool: str) -> tuple[Field[T], ...]:
    """Read sacct's `jobid,state%20`: set to the right, `%-20` to the left."""
    fields: list[Field[T]] = []
    for word in text.split(","):
        match = _SACCT.fullmatch(word.strip())
        if match is None:
            raise SpecError(f"{tool}: {quoted(word)} is no field")
        column = _named(match[1], names, tool)
        is_left = match[2] == "-" or column.heading == "JobID"
        fields.append(Field(column, int(match[3] or column.width), not is_left))
    return tuple(fields)


def _named(word: str, names: Mapping[str, Column[T]], tool: str) -> Column[T]:
    if word.lower() not in names:
        raise SpecError(f"{tool}: no field {quoted(word)}", hint=f"known: {','.join(names)}")
    return names[word.lower()]


def lines(fields: Sequence[Field[T]], rows: Sequence[T], *, header: bool) -> list[str]:
    """Return the lines of squeue's and sinfo's tables."""
    heads = [_line(fields, lambda column: column.heading)] if header else []
    return heads + [_line(fields, lambda column: column.cell(row)) for row in rows]  # noqa: B023


def _line(fields: Sequence[Field[T]], cell: Callable[[Column[T]], str]) -> str:
    return "".join(
        field.text if field.column is None else field.shown(cell(field.column)) for field in fields
    ).rstrip(" ")


def columns(fields: Sequence[Field[T]], rows: Sequence[T], *, header: bool) -> list[str]:
    """Return the lines of sacct's table: a blank between columns, dashes below the heads.

    What does not fit ends in `+`, but ids are whole.
    """
    known = [field for field in fields if field.column is not None]
    heads = [field.column.heading for field in known if field.column is not None]
    table = [[field.column.cell(row) for field in known if field.column] for row in rows]
    out = []
    if header:
        out.append(_joined(known, [head[: one.width or None] for head, one in zip(heads, known)]))  # noqa: B905
        out.append(" ".join("-" * max(field.width, 1) for field in known) + " ")
    for cells in table:
        out.append(_joined(known, [_cut(cell, one) for cell, one in zip(cells, known)]))  # noqa: B905
    return out


def _joined(fields: Sequence[Field[T]], cells: Sequence[str]) -> str:
    pairs = zip(fields, cells, strict=True)
    return "".join((c.rjust if f.is_right else c.ljust)(f.width) + " " for f, c in pairs)


def _cut(cell: str, field: Field[T]) -> str:
    is_id = field.column is not None and field.column.heading == "JobID"
    if len(cell) <= field.width or not field.width or is_id:
        return cell
    return cell[: field.width - 1] + "+"


def parsable(
    fields: Sequence[Field[T]], rows: Sequence[T], *, header: bool, delimiter: str, ends: bool
) -> list[str]:
    """Return the lines of `sacct --parsable2` (`ends`: --parsable, a delimiter at the end)."""
    known = [field.column for field in fields if field.column is not None]
    table = [[column.heading for column in known]] if header else []
    table += [[column.cell(row) for column in known] for row in rows]
    return [delimiter.join(cells) + delimiter * ends for cells in table]
