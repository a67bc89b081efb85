"""`qresult JOB --plot x=lr y=accuracy by=seed`: columns of the table as lines in a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from qsub_py.errors import JobError, SpecError
from qsub_py.result_rows import Row, cells
from qsub_py.sweep_fill import text_of
from qsub_py.text import did_you_mean, quoted

_GRAMMAR = "write --plot x=lr y=accuracy, and maybe by=seed"
#: Beyond this many lines their names do not fit beside the picture.
_MOST_NAMED = 12
#: Values whose largest is so many times the smallest are spread on a logarithmic scale.
_LOG_SPAN = 50.0


def check_axes(words: Sequence[str]) -> dict[str, str]:
    """Return what is drawn: {"x": column, "y": column, maybe "by"}; raises SpecError."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, column = word.partition("=")
        if name not in ("x", "y", "by") or not equals or not column:
            raise SpecError(f"--plot: {quoted(word)} says nothing", hint=_GRAMMAR)
        if name in found:
            raise SpecError(f"--plot: {name} is given twice", hint=_GRAMMAR)
        found[name] = column
    for name in ("x", "y"):
        if name not in found:
            raise SpecError(f"--plot: {name}= is missing", hint=_GRAMMAR)
    return found


def draw(found: Iterable[Row], words: Sequence[str], path: str, *, title: str) -> None:
    """Draw the tasks that completed into the file `path` and print its name.

    Raises JobError without matplotlib, with nothing to draw, or when the file cannot be written.
    """
    axes = check_axes(words)
    try:
        import matplotlib
    except ImportError:
        raise JobError("--plot needs matplotlib, which is not installed here",
                       hint="pip install 'qsub_py[plot]', or --csv for another program",
                       ) from None  # fmt: skip
    lines = _lines(found, axes)
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, picture = pyplot.subplots(figsize=(7, 4.5))
    _draw_lines(picture, lines, axes)
    picture.set(xlabel=axes["x"], ylabel=axes["y"], title=title)
    picture.grid(alpha=0.3)
    try:
        figure.savefig(path, dpi=120, bbox_inches="tight")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise JobError(f"cannot write {quoted(path)}: {why}") from None
    finally:
        pyplot.close(figure)
    print(path)


Points = dict[Any, list[float]]


def _lines(found: Iterable[Row], axes: dict[str, str]) -> dict[str, Points]:
    """Return by line the y values at each x."""
    lines: dict[str, Points] = {}
    known: dict[str, None] = {}
    for row in found:
        values = cells(row)
        known.update(dict.fromkeys(values))
        x, y = values.get(axes["x"]), _number(values.get(axes["y"]))
        if x is None or y is None:
            continue
        name = text_of(values.get(axes["by"])) if "by" in axes else ""
        key = x if isinstance(x, int | float) and not isinstance(x, bool) else text_of(x)
        lines.setdefault(name, {}).setdefault(key, []).append(y)
    for column in axes.values():
        if known and column not in known:
            cure = did_you_mean(column, known) or "there are: " + ", ".join(known)
            raise JobError(f"--plot: there is no column {quoted(column)}", hint=cure)
    if not lines:
        raise JobError("--plot: no task has ended with a number to draw")
    return lines


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _draw_lines(picture: Any, lines: dict[str, Points], axes: dict[str, str]) -> None:
    places = list(dict.fromkeys(x for points in lines.values() for x in points))
    is_numeric = all(not isinstance(x, str) for x in places)
    if not is_numeric:
        where = {x: at for at, x in enumerate(places)}
        picture.set_xticks(range(len(places)), [text_of(x) for x in places])
    elif min(places) > 0 and max(places) / min(places) >= _LOG_SPAN:
        picture.set_xscale("log")
    names = sorted(lines, key=lambda name: (_number(name) is None, _number(name) or 0.0, name))
    for name in names:
        points = lines[name]
        found = sorted(((x if is_numeric else where[x]), ys) for x, ys in points.items())
        means = [sum(ys) / len(ys) for _, ys in found]
        label = f"{axes['by']}={name}" if "by" in axes else None
        (line,) = picture.plot([x for x, _ in found], means, marker="o", label=label)
        if any(len(ys) > 1 for _, ys in found):
            low, high = [min(ys) for _, ys in found], [max(ys) for _, ys in found]
            shade = line.get_color()
            picture.fill_between([x for x, _ in found], low, high, color=shade, alpha=0.15)
    if "by" in axes and len(lines) <= _MOST_NAMED:
        picture.legend()
