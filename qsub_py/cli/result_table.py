"""The table of qresult: numbers short, wide tables in blocks that fit the terminal."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from qsub_py import render
from qsub_py.cli.shapes import seconds
from qsub_py.cli.tasks import task_id
from qsub_py.model import JobInfo
from qsub_py.result_rows import Columns, Row, cells
from qsub_py.sweep_fill import text_of
from qsub_py.text import safe

#: The widths of the columns are those of so many rows; a longer table goes on in them.
_MEASURED = 1000
_CELL = 40
_ERROR_CELL = 200
_HEADINGS = {"index": "JOBID", "state": "ST", "exit_code": "EXIT", "wall_s": "WALL",
             "result": "RESULT", "error": "ERROR"}  # fmt: skip


def show_table(job: JobInfo, columns: Columns, found: Iterable[Row]) -> None:
    """Print the table, page by page when it is long."""
    names = columns.names
    texts = (_texts(job, row, names) for row in found)
    first = list(islice(texts, _MEASURED))
    if not first:
        return
    headings = tuple(_HEADINGS.get(name, name) for name in names)
    right = frozenset(
        heading
        for at, heading in enumerate(headings)
        if heading in ("JOBID", "EXIT", "WALL") or all(_is_number(row[at]) for row in first)
    )
    width = shutil.get_terminal_size().columns if render.is_terminal() else 0
    widths = [max(map(len, column)) for column in zip(headings, *first, strict=True)]
    rest = next(texts, None)
    if rest is None and render.is_terminal():
        for number, block in enumerate(render.blocks(widths, width)):
            print(end="\n" * (number > 0))
            part = tuple(tuple(row[at] for at in block) for row in first)
            render.show(render.Table(tuple(headings[at] for at in block), part, right))
        return
    all_rows = chain(first, [rest] if rest is not None else [], texts)
    for line in _lines(headings, all_rows, widths, right):
        print(line)


def _lines(
    headings: Sequence[str], found: Iterable[Sequence[str]], widths: Sequence[int],
    right: frozenset[str],
) -> Iterator[str]:  # fmt: skip
    for row in chain([headings], found):
        parts = [
            cell.rjust(width) if heading in right else cell.ljust(width)
            for cell, width, heading in zip(row, widths, headings, strict=True)
        ]
        yield "  ".join(parts).rstrip()


def _texts(job: JobInfo, row: Row, names: Sequence[str]) -> tuple[str, ...]:
    values = cells(row)
    values["index"], values["state"] = task_id(job, row.index), row.state.short
    if row.wall_s is not None:
        values["wall_s"] = seconds(row.wall_s)
    return tuple(_cell(values.get(name), name) for name in names)


def _cell(value: Any, name: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        text = value
    elif isinstance(value, bool | int | list | dict):
        text = repr(value) if isinstance(value, list | dict) else text_of(value)
    elif isinstance(value, float):
        text = f"{value:.6g}"
    elif getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return _cell(value.item(), name)
    else:
        text = repr(value)
    text = safe(" ".join(text.split()))
    most = _ERROR_CELL if name in ("error", "result") else _CELL
    return text if len(text) <= most else text[: most - 3] + "..."


def _is_number(text: str) -> bool:
    try:
        float(text or "0")
    except ValueError:
        return False
    return True
