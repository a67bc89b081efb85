"""Sweeps: named parameters for each task of a job, computed from the task's position.

Pure. A sweep is a product of axes and is never expanded: the axes' numbers are the digits of
the position (mixed radix, the last axis runs fastest), a sample is a keyed permutation of
them. `sweep_text` reads what users write, `sweep_less` takes away what was run already.
"""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from qsub_py.errors import PayloadError
from qsub_py.sweep_shuffle import Shuffle

#: Parameters by name; values are what JSON can hold.
Params = dict[str, Any]
Values = tuple[Any, ...]

#: More points than this cannot even be sampled.
MAX_POINTS = 10**18


@dataclass(frozen=True)
class Piece:
    """Values that follow from their number.

    `kind` is "list" (args: the values), "range" (args: first, step, digits behind the point,
    -1 for whole numbers; first and step in units of the last digit), "linspace" or "logspace"
    (args: first, last, how many, as numpy's). Of these only `count` from number `start` on.
    """

    kind: str
    args: Values
    start: int
    count: int

    def value(self, number: int) -> Any:
        """Return the value of this number, from 0."""
        number += self.start
        if self.kind == "list":
            return self.args[number]
        if self.kind == "range":
            first, step, digits = self.args
            exact = first + number * step
            # A quotient of whole numbers is rounded once: 0:1:0.1 does not drift.
            return exact if digits < 0 else exact / 10**digits
        even = _evenly(self.args, number)
        return even if self.kind == "linspace" else 10.0**even

    def find(self, value: Any) -> int | None:
        """Return the number of a value, or None when it is not among these."""
        if self.kind == "list":
            return self._listed.get(value_key(value))
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        guess = self._guess(value)
        for number in (guess, guess - 1, guess + 1):
            if 0 <= number < self.count and self.value(number) == value:
                return number
        return None

    @cached_property
    def _listed(self) -> dict[str, int]:
        keys = [value_key(v) for v in self.args[self.start : self.start + self.count]]
        return {key: n for n, key in reversed(list(enumerate(keys)))}

    def _guess(self, value: float) -> int:
        first, second = self.args[:2]
        share: float
        try:
            if self.kind == "range":
                digits = max(self.args[2], 0)
                exact = value * 10**digits if isinstance(value, int) else round(value * 10**digits)
                return int((exact - first) // second) - self.start
            if self.kind == "logspace":
                value = math.log10(value)
            share = (value - first) / (second - first) if second != first else 0.0
            return round(share * (int(self.args[2]) - 1)) - self.start
        except (ValueError, OverflowError):
            return -2

    def slice(self, start: int, count: int) -> Piece:
        """Return `count` of these from number `start` on."""
        if self.kind == "list":
            return of_list(self.args[self.start + start : self.start + start + count])
        if self.kind == "range":
            first, step, digits = self.args
            first += (self.start + start) * step
            return Piece("range", (first, step if count > 1 else 1, digits), 0, count)
        return Piece(self.kind, self.args, self.start + start, count)


def of_list(values: Sequence[Any]) -> Piece:
    """Return a piece of these values."""
    return Piece("list", tuple(values), 0, len(values))


def _evenly(args: Values, number: int) -> float:
    """Return numpy.linspace(*args)[number], to the last bit."""
    first, last, count = (float(args[0]), float(args[1]), int(args[2]))
    if number == count - 1 and count > 1:
        return last
    if count < 2:
        return first
    step = (last - first) / (count - 1)
    if step == 0.0:
        return number / (count - 1) * (last - first) + first
    return number * step + first


def value_key(value: Any) -> str:
    """Return the same text for the same value: 1 and 1.0 are one, 1 and "1" and True are not."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True)


@dataclass(frozen=True)
class Axis:
    """One parameter with its values."""

    name: str
    pieces: tuple[Piece, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The one name."""
        return (self.name,)

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(piece.count for piece in self.pieces))

    @property
    def count(self) -> int:
        """How many values."""
        return self._ends[-1] if self.pieces else 0

    def value(self, number: int) -> Any:
        """Return the value of this number."""
        at = bisect.bisect_right(self._ends, number)
        return self.pieces[at].value(number - (self._ends[at - 1] if at else 0))

    def at(self, number: int) -> Values:
        """Return the value of this number, as one of several would be."""
        return (self.value(number),)

    def find(self, values: Values) -> int | None:
        """Return the number of a value, or None."""
        for piece, end in zip(self.pieces, self._ends, strict=True):
            number = piece.find(values[0])
            if number is not None:
                return end - piece.count + number
        return None

    def plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"k": self.name, "v": [_plain_piece(piece) for piece in self.pieces]}


@dataclass(frozen=True)
class Zip:
    """Parameters that run side by side."""

    columns: tuple[Axis, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All names."""
        return tuple(column.name for column in self.columns)

    @property
    def count(self) -> int:
        """How many values each has."""
        return self.columns[0].count

    def at(self, number: int) -> Values:
        """Return the values of this number."""
        return tuple(column.value(number) for column in self.columns)

    def find(self, values: Values) -> int | None:
        """Return the number of these values, or None."""
        return self._rows.get(value_key(values))

    @cached_property
    def _rows(self) -> dict[str, int]:
        return _numbered(self)

    def plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"zip": [column.plain() for column in self.columns]}


#: Returns a page of a table, the rows number * per_page and on.
Page = Callable[[int], Sequence[Values]]


@dataclass(frozen=True)
class Table:
    """Parameters by rows of a file; few stand here, many in pages elsewhere."""

    names: tuple[str, ...]
    count: int
    rows: tuple[Values, ...] = ()
    per_page: int = 0
    #: SHA-256 (hex) of the index of the pages; "": the rows are here.
    sha: str = ""
    page: Page | None = None

    def at(self, number: int) -> Values:
        """Return the values of this row."""
        if not self.sha:
            return self.rows[number]
        if self.page is None:
            raise PayloadError("the rows of this sweep are not at hand")
        return tuple(self.page(number // self.per_page)[number % self.per_page])

    def find(self, values: Values) -> int | None:
        """Return the number of a row, or None."""
        return self._rows.get(value_key(values))

    @cached_property
    def _rows(self) -> dict[str, int]:
        return _numbered(self)

    def plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        if not self.sha:
            return {"k": list(self.names), "rows": [list(row) for row in self.rows]}
        return {"k": list(self.names), "n": self.count, "page": self.per_page, "sha": self.sha}


AnyAxis = Axis | Zip | Table


def _numbered(axis: Zip | Table) -> dict[str, int]:
    keys = (value_key([_same(v) for v in axis.at(number)]) for number in range(axis.count))
    found: dict[str, int] = {}
    for number, key in enumerate(keys):
        found.setdefault(key, number)
    return found


def _same(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass(frozen=True)
class Sweep:
    """The parameters of `count` tasks: a product of axes, a sample of it, some of these."""

    axes: tuple[AnyAxis, ...]
    #: How many points, chosen by which seed; None: all in order.
    sample: tuple[int, int] | None = None
    #: Which of these (first, how many), ascending; None: all.
    picks: tuple[tuple[int, int], ...] | None = None
    #: Which parameters a function gets as keywords; None: not asked.
    keywords: tuple[str, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in the order written."""
        return tuple(name for axis in self.axes for name in axis.names)

    @cached_property
    def grid(self) -> int:
        """How many points the product of the axes has."""
        return math.prod(axis.count for axis in self.axes)

    @cached_property
    def _pick_ends(self) -> list[int]:
        return list(accumulate(count for _, count in self.picks or ()))

    @property
    def count(self) -> int:
        """How many tasks."""
        if self.picks is not None:
            return self._pick_ends[-1] if self.picks else 0
        return self.sample[0] if self.sample else self.grid

    def at(self, position: int) -> Params:
        """Return the parameters of the task at this position; raises IndexError."""
        if not 0 <= position < self.count:
            raise IndexError(position)
        number = position
        if self.picks is not None:
            at = bisect.bisect_right(self._pick_ends, number)
            first, count = self.picks[at]
            number += first + count - self._pick_ends[at]
        if self.sample:
            number = self._shuffle.forward(number)
        values: list[Values] = []
        for axis in reversed(self.axes):
            number, digit = divmod(number, axis.count)
            values.append(axis.at(digit))
        return dict(zip(self.names, (v for part in reversed(values) for v in part), strict=True))

    def find(self, params: Params) -> int | None:
        """Return the position of the task with these parameters, or None."""
        number = 0
        for axis in self.axes:
            digit = axis.find(tuple(_same(params[name]) for name in axis.names))
            if digit is None:
                return None
            number = number * axis.count + digit
        if self.sample:
            number = self._shuffle.backward(number)
            if number >= self.sample[0]:
                return None
        return self._picked(number)

    def _picked(self, number: int) -> int | None:
        if self.picks is None:
            return number
        at = bisect.bisect_right(self.picks, (number, MAX_POINTS)) - 1
        if at < 0:
            return None
        first, count = self.picks[at]
        return self._pick_ends[at] - count + number - first if number < first + count else None

    @cached_property
    def _shuffle(self) -> Shuffle:
        return Shuffle(self.grid, self.sample[1] if self.sample else 0)

    def __iter__(self) -> Iterator[Params]:
        return (self.at(position) for position in range(self.count))

    def plain(self) -> dict[str, Any]:
        """Return it for canonical JSON; `from_plain` reads it back."""
        raw: dict[str, Any] = {"axes": [axis.plain() for axis in self.axes]}
        if self.sample:
            raw["sample"] = list(self.sample)
        if self.picks is not None:
            raw["picks"] = [list(pick) for pick in self.picks]
        if self.keywords is not None:
            raw["keywords"] = list(self.keywords)
        return raw


def _plain_piece(piece: Piece) -> list[Any]:
    if piece.kind == "list":
        return ["list", *piece.args]
    return [piece.kind, piece.start, piece.count, *piece.args]


def _piece(raw: Sequence[Any]) -> Piece:
    kind = raw[0]
    if kind == "list":
        return of_list(raw[1:])
    if kind not in ("range", "linspace", "logspace") or len(raw) != 6:
        raise ValueError(f"no such piece: {kind!r}")
    return Piece(kind, tuple(raw[3:]), raw[1], raw[2])


#: Returns the pages of a table with this index.
Pages = Callable[[str], Page]


def _axis(raw: dict[str, Any], pages: Pages | None) -> AnyAxis:
    if "zip" in raw:
        return Zip(tuple(Axis(c["k"], tuple(map(_piece, c["v"]))) for c in raw["zip"]))
    if "rows" in raw:
        rows = tuple(tuple(row) for row in raw["rows"])
        return Table(tuple(raw["k"]), len(rows), rows)
    if "sha" in raw:
        page = pages(raw["sha"]) if pages else None
        return Table(tuple(raw["k"]), raw["n"], (), raw["page"], raw["sha"], page)
    return Axis(raw["k"], tuple(map(_piece, raw["v"])))


def from_plain(raw: dict[str, Any], pages: Pages | None = None) -> Sweep:
    """Read `Sweep.plain` back; raises ValueError, KeyError, TypeError."""
    sample, picks, keywords = raw.get("sample"), raw.get("picks"), raw.get("keywords")
    return Sweep(
        tuple(_axis(axis, pages) for axis in raw["axes"]),
        (sample[0], sample[1]) if sample else None,
        tuple((first, count) for first, count in picks) if picks is not None else None,
        tuple(keywords) if keywords is not None else None,
    )
