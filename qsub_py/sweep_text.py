"""`--sweep` as users write it: `lr=0.1,0.01`, `seed=1:10`, `x=linspace(0,1,11)`, `s='a,b',c`.

Pure. Text in, `Axis` out; SpecError says in one line what is wrong and what to write.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from qsub_py.arrays import MAX_TASKS
from qsub_py.errors import SpecError
from qsub_py.sweep import MAX_POINTS, AnyAxis, Axis, Piece, Sweep, Table, Zip, of_list
from qsub_py.sweep_less import distinct
from qsub_py.text import quoted

GRAMMAR = "write NAME=a,b,c, NAME=1:10, NAME=0:1:0.1, NAME=linspace(0,1,11), NAME=logspace(-4,-1,4)"
#: One value may be so long (it becomes a variable of the task), one point's together so long.
MAX_VALUE_CHARS = 32_768
MAX_POINT_CHARS = 65_536

_NAME = re.compile(r"[A-Za-z_]\w{0,63}", re.ASCII)
_CALL = re.compile(r"\s*(linspace|logspace)\s*\(([^()]*)\)\s*(,|$)")
_QUOTED = re.compile(r"""\s*(?:'([^']*)'|"([^"]*)")\s*(,|$)""", re.DOTALL)
_PLAIN = re.compile(r"([^,]*)(,|$)", re.DOTALL)
_INTEGER = re.compile(r"[+-]?(?:0|[1-9]\d{0,299})", re.ASCII)
_NUMBER = re.compile(
    r"[+-]?(?:(?:0|[1-9]\d{0,299})(?:\.\d{0,299})?|\.\d{1,299})(?:[eE][+-]?\d{1,3})?", re.ASCII
)
_WORDS = {"True": True, "False": False, "None": None}


def check_name(name: str) -> str:
    """Return `name` when it can name a parameter; raises SpecError."""
    if not name:
        raise SpecError("a parameter has no name", hint=GRAMMAR)
    if not _NAME.fullmatch(name):
        raise SpecError(
            f"{quoted(name)} cannot name a parameter",
            hint="use letters, digits and _, not a digit first, at most 64 characters",
        )
    return name


def check_names(names: Sequence[str]) -> None:
    """Raise SpecError for a name that is no name, or there twice."""
    known: dict[str, str] = {}
    for name in names:
        check_name(name)
        if name in known.values():
            raise SpecError(f"the parameter {name} is given twice")
        if name.upper() in known:
            raise SpecError(
                f"the parameters {known[name.upper()]} and {name} differ only in case",
                hint="both would be the variable QSUB_PARAM_" + name.upper(),
            )
        known[name.upper()] = name


def value_of(text: str) -> Any:
    """Return what a word means: a number, True, False, None, or the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    return text


def check_text(text: str) -> str:
    """Return a value's text when a task can have it; raises SpecError."""
    if "\0" in text:
        raise SpecError(f"a value cannot contain a NUL: {quoted(text)}")
    if len(text) > MAX_VALUE_CHARS:
        raise SpecError(
            f"a value has {len(text)} characters; the limit is {MAX_VALUE_CHARS}",
            hint="put it into a file and sweep over the file's name",
        )
    return text


def parse_axis(text: str) -> Axis:
    """Read one `NAME=VALUES`; raises SpecError."""
    name, equals, body = text.partition("=")
    if not equals:
        raise SpecError(f"{quoted(text)} has no =", hint=GRAMMAR)
    name = check_name(name.strip())
    pieces: list[Piece] = []
    words: list[Any] = []
    for item in _items(body, text):
        if isinstance(item, Piece):
            pieces += [of_list(words)] * bool(words) + [item]
            words = []
        else:
            words.append(item)
    pieces += [of_list(words)] * bool(words)
    axis = Axis(name, tuple(pieces))
    if axis.count > MAX_POINTS:
        raise SpecError(f"{name} has {axis.count} values; the limit is {MAX_POINTS}")
    return axis


def _items(body: str, text: str) -> list[Any]:
    """Return the values and pieces between commas outside of quotes and parentheses."""
    items: list[Any] = []
    at, more = 0, True
    while more:
        if match := _CALL.match(body, at):
            items.append(_spaced(match[1], match[2], text))
        elif match := _QUOTED.match(body, at):
            items.append(check_text(match[1] if match[1] is not None else match[2]))
        else:
            match = _PLAIN.match(body, at)
            assert match is not None
            items.append(_item(match[1].strip(), text))
        at, more = match.end(), match[match.lastindex or 0] == ","
    return items


def _item(word: str, text: str) -> Any:
    if not word:
        what = "has no values" if text.strip().endswith("=") else "has an empty value"
        raise SpecError(f"{quoted(text)} {what}", hint=f"an empty text is ''; {GRAMMAR}")
    if word[0] in "'\"":
        raise SpecError(
            f"{quoted(word)} in {quoted(text)} begins with a quote that does not end it",
            hint="quote a value whole, with the other kind of quotes where it contains one",
        )
    if word.count("(") != word.count(")"):  # a comma in a call that is none
        raise SpecError(
            f"{quoted(word)} in {quoted(text)}: a value with a parenthesis needs quotes",
            hint="functions are linspace(FIRST,LAST,COUNT) and logspace(FIRST,LAST,COUNT)",
        )
    parts = word.split(":")
    if len(parts) in (2, 3) and all(_NUMBER.fullmatch(part) for part in parts):
        return _range(parts, word)
    return value_of(check_text(word))


def _range(parts: list[str], word: str) -> Piece:
    first, last, step = (Fraction(part) for part in (*parts, "1")[:3])
    are_whole = all(_INTEGER.fullmatch(part) for part in parts)
    if step == 0:
        raise SpecError(f"the step in {quoted(word)} is 0")
    if (last - first) * step < 0:
        raise SpecError(
            f"{quoted(word)} runs the wrong way",
            hint=f"write {parts[0]}:{parts[1]}:{_turned(parts)}",
        )
    digits = max(map(_digits, parts))
    if not all(math.isfinite(float(part)) for part in parts) or digits > 300:
        raise SpecError(f"{quoted(word)} has a number too large or too fine")
    low, high, pace = (int(number * 10**digits) for number in (first, last, step))
    count = (high - low) // pace + 1
    return Piece("range", (low, pace, -1 if are_whole else digits), 0, count)


def _digits(part: str) -> int:
    """Return how many digits behind the point a number needs."""
    mantissa, _, exponent = part.lower().partition("e")
    return max(0, len(mantissa.partition(".")[2]) - int(exponent or 0))


def _turned(parts: list[str]) -> str:
    step = parts[2] if len(parts) > 2 else "1"
    return step[1:] if step[0] == "-" else f"-{step.lstrip('+')}"


def _spaced(kind: str, body: str, text: str) -> Piece:
    words = [word.strip() for word in body.split(",")]
    is_good = len(words) == 3 and all(_NUMBER.fullmatch(word) for word in words)
    if not is_good or not _INTEGER.fullmatch(words[2]) or int(words[2]) < 1:
        raise SpecError(
            f"cannot read {kind}({body.strip()}) in {quoted(text)}",
            hint=f"write {kind}(FIRST,LAST,COUNT), COUNT from 1",
        )
    first, last, count = float(words[0]), float(words[1]), int(words[2])
    piece = Piece(kind, (first, last, count), 0, count)
    try:
        is_finite = all(math.isfinite(piece.value(n)) for n in (0, count // 2, count - 1))
    except OverflowError:
        is_finite = False
    if not is_finite:
        raise SpecError(f"{kind}({body.strip()}) has values too large", hint="they are 10**x")
    return piece


def combined(
    axes: Sequence[Axis],
    table: Table | None = None,
    *,
    is_zip: bool = False,
    sample: tuple[int, int] | None = None,
    is_part: bool = False,
) -> Sweep:
    """Return the sweep over all axes, the table's rows slowest; raises SpecError.

    `is_zip`: the axes run side by side; else a value written twice counts once.
    `sample`: how many points, by which seed. `is_part`: more will be combined with it, so it
    may have any number of points.
    """
    check_names([*(table.names if table else ()), *(axis.name for axis in axes)])
    parts: list[AnyAxis] = [table] if table else []
    if is_zip:
        parts += _zipped(axes, table)
    else:
        parts += map(distinct, axes)
    sweep = Sweep(tuple(parts), sample)
    if is_part:
        return sweep
    if sweep.grid > MAX_POINTS:
        raise SpecError(f"the grid has {sweep.grid} points; the limit is {MAX_POINTS}")
    if sample and sample[0] > sweep.grid:
        raise SpecError(
            f"--sample {sample[0]} is more than the {sweep.grid} points there are",
            hint="leave --sample out",
        )
    if sweep.count > MAX_TASKS:
        raise SpecError(
            f"the sweep has {sweep.count} points; a job has at most {MAX_TASKS} tasks",
            hint="draw some of them with --sample N, or submit several jobs",
        )
    return sweep


def _zipped(axes: Sequence[Axis], table: Table | None) -> list[AnyAxis]:
    if table is not None:
        raise SpecError("--zip joins what --sweep says, not the rows of a file",
                        hint="write all columns into the file")  # fmt: skip
    if len({axis.count for axis in axes}) > 1:
        lengths = ", ".join(f"{axis.name} has {axis.count}" for axis in axes)
        raise SpecError(f"--zip needs as many values of each parameter: {lengths}")
    return [Zip(tuple(axes))] if len(axes) > 1 else list(axes)
