"""Tables of parameters from files: lines, CSV, JSON; and the pages they are stored in.

Pure: the file's text is an argument. A few rows stand in the spec itself; more are packed in
pages of up to 256 kB (zlib, JSON), found by row number, each verified by the index of their
hashes, whose own hash is in the signed sweep.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qsub_py.errors import PayloadError, SpecError
from qsub_py.sweep import Sweep, Table, Values
from qsub_py.sweep_text import MAX_POINT_CHARS, check_names, check_text, value_of
from qsub_py.text import quoted

#: Up to so many bytes of JSON stand in the spec.
INLINE_BYTES = 16 * 1024
PAGE_BYTES = 256 * 1024
_PAGE_ROWS = 1024
_HASH = 32


def from_lines(text: str, shown: str) -> Table:
    """Return a table of the one column `line`: each line that is not blank, as it is."""
    lines = [line.rstrip("\r") for line in text.split("\n")]
    rows = [(check_text(line),) for line in lines if line.strip()]
    return _table(["line"], rows, shown)


def from_csv(text: str, shown: str) -> Table:
    """Return the rows of a CSV file with a header; a column of numbers is numbers.

    The separator is the comma; the tabulator or semicolon where the header has no comma.
    """
    text = text.removeprefix("\ufeff")
    head = text.partition("\n")[0]
    marks = [mark for mark in ",\t;" if mark in head]
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=marks[0] if marks else ",")
    try:
        found = [(lines.line_num, cells) for cells in lines if cells]
    except csv.Error as error:
        raise SpecError(f"{shown}, line {lines.line_num}: {error}") from None
    if not found:
        raise SpecError(f"{shown} is empty", hint="its first line names the columns")
    names = [name.strip() for name in found[0][1]]
    for number, cells in found[1:]:
        if len(cells) != len(names):
            raise SpecError(
                f"{shown}, line {number}: {len(cells)} cells, but {len(names)} columns are named"
            )
    columns = zip(*(cells for _, cells in found[1:]), strict=True)
    return _table(names, list(zip(*map(_typed, columns), strict=True)), shown)


def _typed(cells: Sequence[str]) -> list[Any]:
    """Return a column's cells as numbers where all are (empty: None), else as texts."""
    words = [cell.strip() for cell in cells]
    values = [value_of(word) for word in words]
    numbers = [v for v, word in zip(values, words, strict=True) if word]
    kinds = {type(v) for v in numbers}
    if not numbers or not kinds <= {int, float}:
        return [check_text(cell) for cell in cells]
    as_number: Callable[[Any], Any] = float if float in kinds else int
    return [as_number(v) if word else None for v, word in zip(values, words, strict=True)]


def from_json(text: str, shown: str) -> Table:
    """Return the rows of a list of objects that all have the same names."""
    try:
        rows = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise SpecError(f"{shown} is not JSON: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SpecError(f"{shown} is not a list of objects", hint='write [{"lr": 0.1}, ...]')
    if not rows:
        raise SpecError(f"{shown} has no rows")
    names = list(rows[0])
    for number, row in enumerate(rows):
        if row.keys() != rows[0].keys():
            name = min(row.keys() ^ rows[0].keys())
            has = "has" if name in row else "has no"
            raise SpecError(f"{shown}: object {number} {has} {quoted(name)}, unlike the first one")
        for value in row.values():
            check_text(value if isinstance(value, str) else "")
    return _table(names, [tuple(row[name] for name in names) for row in rows], shown)


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def _table(names: Sequence[str], rows: Sequence[Values], shown: str) -> Table:
    if not rows:
        raise SpecError(f"{shown} has no rows")
    try:
        check_names(names)
    except SpecError as error:
        raise SpecError(f"{shown}: {error}", hint=error.hint) from None
    for number, row in enumerate(rows):
        if sum(len(v) if isinstance(v, str) else 24 for v in row) > MAX_POINT_CHARS:
            raise SpecError(f"{shown}: row {number} has more than {MAX_POINT_CHARS} characters")
        if any(isinstance(v, list | dict) and len(_dumped(v)) > MAX_POINT_CHARS for v in row):
            raise SpecError(f"{shown}: row {number} has more than {MAX_POINT_CHARS} characters")
    return Table(tuple(names), len(rows), tuple(rows))


def _dumped(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


# -- pages ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packed:
    """A sweep fit for a spec, with the pages of its table, the index first; () when it has none."""

    sweep: Sweep
    pages: tuple[bytes, ...] = ()


def pack(sweep: Sweep) -> Packed:
    """Move the rows of a large table out of the sweep into pages."""
    for at, axis in enumerate(sweep.axes):
        if isinstance(axis, Table) and not axis.sha and len(_dumped(axis.plain())) > INLINE_BYTES:
            index, per_page, pages = _paged(axis.rows)
            sha = hashlib.sha256(index).hexdigest()
            away = Table(axis.names, axis.count, (), per_page, sha)
            axes = (*sweep.axes[:at], away, *sweep.axes[at + 1 :])
            return Packed(replace(sweep, axes=axes), (index, *pages))
    return Packed(sweep)


def _paged(rows: Sequence[Values]) -> tuple[bytes, int, list[bytes]]:
    per_page = _PAGE_ROWS
    while True:
        texts = [_dumped(rows[at : at + per_page]) for at in range(0, len(rows), per_page)]
        if per_page == 1 or max(map(len, texts)) <= PAGE_BYTES:
            break
        per_page //= 2
    pages = [zlib.compress(text.encode(), 6) for text in texts]
    return b"".join(hashlib.sha256(page).digest() for page in pages), per_page, pages


class PageReader:
    """The pages of a stored table, fetched when needed and verified; the last few are kept.

    `fetch` returns a piece of the blob by number; raises what it raises, and PayloadError.
    """

    def __init__(self, sha: str, fetch: Callable[[int], bytes], *, keep: int = 4) -> None:
        self._sha, self._fetch, self._keep = sha, fetch, keep
        self._index = b""
        self._pages: dict[int, list[Values]] = {}

    def __call__(self, number: int) -> list[Values]:
        """Return the rows of a page."""
        found = self._pages.pop(number, None)
        if found is None:
            found = self._read(number)
        self._pages[number] = found
        while len(self._pages) > self._keep:
            del self._pages[next(iter(self._pages))]
        return found

    def _read(self, number: int) -> list[Values]:
        if not self._index:
            index = self._fetch(0)
            if hashlib.sha256(index).hexdigest() != self._sha:
                raise PayloadError("the rows of the sweep are not those that were signed")
            self._index = index
        page = self._fetch(number + 1)
        digest = self._index[number * _HASH : (number + 1) * _HASH]
        if hashlib.sha256(page).digest() != digest:
            raise PayloadError("the rows of the sweep are not those that were signed")
        unzip = zlib.decompressobj()
        text = unzip.decompress(page, 64 * PAGE_BYTES)
        return [tuple(row) for row in json.loads(text)]
