"""Which points of a sweep are new: what `--extend` adds to the sweeps that a job has.

Pure. A grid less a grid is at most one grid for each axis, and ranges less ranges are ranges, so
neither is expanded; only samples, rows and side-by-side axes are compared point by point.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from qsub_py.errors import SpecError
from qsub_py.sweep import Axis, Params, Piece, Sweep, Table, of_list, value_key

#: At most so many points are compared one by one, and so many values of an axis.
MAX_COMPARED = 1_000_000
_MAX_VALUES = 10_000
#: At most so many grids, pieces of an axis, runs of positions; else the points are listed.
_MAX_PARTS = 1000
_MAX_STRIDE = 100

Split = tuple[list[Piece], list[Piece]]


class _TooLarge(Exception):
    """This cannot be split without looking at every value."""


def less(new: Sweep, known: Sequence[Sweep]) -> list[Sweep]:
    """Return sweeps of the points of `new` that none of `known` has; raises SpecError.

    All have the same names, in any order.
    """
    if all(map(_is_grid, (new, *known))):
        try:
            return _grids_less(new, known)
        except _TooLarge:
            pass
    if new.count > MAX_COMPARED:
        raise SpecError(
            f"{new.count} points are too many to look for new ones among them one by one",
            hint="write ranges whose values are not in the job, or submit another job",
        )
    return _points_less(new, known)


def joined(sweeps: Sequence[Sweep], name: str) -> Axis | None:
    """Return all values that a parameter has in grids; None when one of them is no grid."""
    pieces: list[Piece] = []
    for sweep in sweeps:
        axis = next((a for a in sweep.axes if isinstance(a, Axis) and a.name == name), None)
        if axis is None:
            return None
        try:
            pieces += split(axis, Axis(name, tuple(pieces)))[1]
        except _TooLarge:
            return None
    return Axis(name, tuple(pieces))


def distinct(axis: Axis) -> Axis:
    """Return an axis whose values are there once, where that can be told without a long look."""
    pieces: list[Piece] = []
    for piece in axis.pieces:
        if piece.kind == "list":
            piece = of_list(list({value_key(v): v for v in reversed(piece.args)}.values())[::-1])
        try:
            pieces += split(Axis(axis.name, (piece,)), Axis(axis.name, tuple(pieces)))[1]
        except _TooLarge:
            return axis
    return Axis(axis.name, tuple(pieces))


def _is_grid(sweep: Sweep) -> bool:
    is_whole = sweep.sample is None and sweep.picks is None
    return is_whole and all(isinstance(axis, Axis) for axis in sweep.axes)


# -- grids ---------------------------------------------------------------------------------


def _grids_less(new: Sweep, known: Sequence[Sweep]) -> list[Sweep]:
    grids = [[axis for axis in new.axes if isinstance(axis, Axis)]]
    for sweep in known:
        by_name = {axis.name: axis for axis in sweep.axes if isinstance(axis, Axis)}
        grids = [part for grid in grids for part in _grid_less(grid, by_name)]
        if len(grids) > _MAX_PARTS:
            raise _TooLarge
    return [Sweep(tuple(axes), keywords=new.keywords) for axes in grids]


def _grid_less(grid: list[Axis], known: dict[str, Axis]) -> Iterator[list[Axis]]:
    """Yield grids, disjoint: axis by axis the values that are new, with all of the rest."""
    shared: list[Axis] = []
    for at, axis in enumerate(grid):
        inside, outside = split(axis, known[axis.name])
        if outside:
            yield [*shared, Axis(axis.name, tuple(outside)), *grid[at + 1 :]]
        if not inside:
            return
        shared.append(Axis(axis.name, tuple(inside)))


def split(axis: Axis, known: Axis) -> Split:
    """Return the values of an axis that another one has, and those it has not."""
    inside: list[Piece] = []
    outside = list(axis.pieces)
    for other in known.pieces:
        rest: list[Piece] = []
        for piece in outside:
            found, left = _split_piece(piece, other)
            inside += found
            rest += left
        outside = rest
        if len(inside) + len(outside) > _MAX_PARTS:
            raise _TooLarge
    return inside, outside


def _split_piece(piece: Piece, other: Piece) -> Split:
    if piece.kind == "range" and other.kind == "range":
        return _split_range(piece, other)
    if piece.kind == other.kind != "list" and piece.args == other.args:
        low = max(other.start - piece.start, 0)
        return _cut(piece, low, min(other.start + other.count - piece.start, piece.count))
    if piece.kind == "list" or (piece.count <= _MAX_VALUES and other.count > _MAX_VALUES):
        values = [piece.value(number) for number in range(piece.count)]
        found = [v for v in values if other.find(v) is not None]
        left = [v for v in values if other.find(v) is None]
        return [of_list(found)] * bool(found), [of_list(left)] * bool(left)
    if other.count > _MAX_VALUES:
        raise _TooLarge
    numbers = {piece.find(other.value(number)) for number in range(other.count)}
    hits = sorted(number for number in numbers if number is not None)
    return [piece.slice(number, 1) for number in hits], list(_between(piece, hits))


def _between(piece: Piece, hits: Iterable[int]) -> Iterator[Piece]:
    at = 0
    for number in (*hits, piece.count):
        if number > at:
            yield piece.slice(at, number - at)
        at = number + 1


def _cut(piece: Piece, low: int, high: int) -> Split:
    """Return the values of numbers low..high-1, and the others."""
    if high <= low:
        return [], [piece]
    ends = ((0, low), (high, piece.count - high))
    return [piece.slice(low, high - low)], [piece.slice(at, n) for at, n in ends if n > 0]


def _split_range(piece: Piece, other: Piece) -> Split:
    """Split a range by another: the numbers that fall into it are every r-th of a stretch."""
    digits = max(0, piece.args[2], other.args[2])
    first, step = _scaled(piece, digits)
    known, pace = _scaled(other, digits)
    common = math.gcd(step, pace)
    if (known - first) % common:
        return [], [piece]
    stride = abs(pace) // common
    start = (known - first) // common * pow(step // common, -1, stride) % stride
    last = known + (other.count - 1) * pace
    ends = sorted((_number(min(known, last), first, step), _number(max(known, last), first, step)))
    low, high = max(0, math.ceil(ends[0])), min(piece.count - 1, math.floor(ends[1]))
    start = low + (start - low) % stride
    if start > high:
        return [], [piece]
    if stride == 1:
        return _cut(piece, low, high + 1)
    if stride > _MAX_STRIDE:
        raise _TooLarge
    return _strided(piece, start, high, stride)


def _strided(piece: Piece, start: int, high: int, stride: int) -> Split:
    hits = (high - start) // stride + 1
    stop = start + hits * stride
    inside, outside = _cut(piece, start, min(stop, piece.count))
    (stretch,) = inside
    for offset in range(1, stride):
        outside += _every(stretch, offset, stride)
    return _every(stretch, 0, stride), outside


def _every(piece: Piece, offset: int, stride: int) -> list[Piece]:
    first, step, digits = piece.args
    count = -(-(piece.count - offset) // stride)
    first += (piece.start + offset) * step
    return [Piece("range", (first, step * stride, digits), 0, count)] * (count > 0)


def _scaled(piece: Piece, digits: int) -> tuple[int, int]:
    first, step, own = piece.args
    factor = 10 ** (digits - max(own, 0))
    return (first + piece.start * step) * factor, step * factor


def _number(value: int, first: int, step: int) -> int | float:
    whole, rest = divmod(value - first, step)
    return whole + 0.5 if rest else whole


# -- point by point ------------------------------------------------------------------------


def _points_less(new: Sweep, known: Sequence[Sweep]) -> list[Sweep]:
    runs: list[tuple[int, int]] = []
    for position, params in enumerate(new):
        if any(sweep.find(params) is not None for sweep in known):
            continue
        if runs and sum(runs[-1]) == position:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((position, 1))
    if not runs:
        return []
    if runs == [(0, new.count)]:
        return [new]
    if len(runs) <= _MAX_PARTS:
        return [Sweep(new.axes, new.sample, tuple(runs), new.keywords)]
    rows = [tuple(params.values()) for params in _picked(new, runs)]
    return [Sweep((Table(new.names, len(rows), tuple(rows)),), keywords=new.keywords)]


def _picked(sweep: Sweep, runs: Iterable[tuple[int, int]]) -> Iterator[Params]:
    for first, count in runs:
        yield from (sweep.at(position) for position in range(first, first + count))
