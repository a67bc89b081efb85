"""The figures as two tables (reStructuredText, so they can be pasted) or as JSON."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.figures import Measured
from benchmarks.rows import CONTENDERS, OURS, PEERS, Figure, Group

_NO_PEER = {"": "", "lua": "bare Lua", "spawn": "posix_spawn loop", "python": "python -c pass"}


def machine() -> dict[str, Any]:
    """Return on what and when this was measured."""
    return {
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpus": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_1m": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.machine()


def as_json(groups: Sequence[Group], measured: Measured, host: dict[str, Any]) -> dict[str, Any]:
    """Return everything; infinity (never) becomes null."""
    return {
        "machine": host,
        "figures": [
            _figure_json(figure, measured)
            for group in groups for figure in group.figures if _names(figure, measured)
        ],
        "failures": [
            {"group": group, "contender": name, "error": text}
            for (group, name), text in measured.failures.items()
        ],
    }  # fmt: skip


def _figure_json(figure: Figure, measured: Measured) -> dict[str, Any]:
    names = _names(figure, measured)
    ratios = {name: measured.times_better(figure, name) for name in names if name != OURS}
    return {
        "key": figure.key, "title": figure.title, "unit": figure.unit, "goal": figure.goal,
        "goal_met": measured.meets_goal(figure), "limit": figure.limit or None,
        "median": {name: _finite(measured.median(figure.key, name)) for name in names},
        "values": {name: [_finite(v) for v in measured.values[figure.key, name]] for name in names},
        "times_better_than": {name: _finite(ratio) for name, ratio in ratios.items()},
    }  # fmt: skip


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _names(figure: Figure, measured: Measured) -> list[str]:
    return [name for name in CONTENDERS if (figure.key, name) in measured.values]


def tables(groups: Sequence[Group], measured: Measured, host: dict[str, Any]) -> str:
    """Return the text that a run ends with."""
    figures = [f for g in groups for f in g.figures if _names(f, measured)]
    parts = [", ".join(f"{key} {value}" for key, value in host.items())]
    if figures:
        parts += ["Against the others", _ratios(figures, measured)]
        parts += ["Medians (least to most of ours)", _absolutes(figures, measured)]
    parts += [
        f"{group}, {name}: {text}" for (group, name), text in sorted(measured.failures.items())
    ]
    return "\n\n".join(parts) + "\n"


def _ratios(figures: Sequence[Figure], measured: Measured) -> str:
    peers = [
        name for name in (*PEERS, "futures", "xargs", "parallel")
        if any((f.key, name) in measured.values for f in figures)
    ]  # fmt: skip
    head = ["", "unit", OURS, "goal", "", *(f"x {name}" for name in peers), "% of limit", "limit"]
    rows = []
    for figure in figures:
        met = measured.meets_goal(figure)
        share = measured.times_better(figure, figure.limit) if figure.limit else None
        rows.append(
            [
                figure.title, figure.unit, number(measured.median(figure.key, OURS)),
                number(figure.goal), "" if met is None else "ok" if met else "missed",
                *(number(measured.times_better(figure, name)) for name in peers),
                "" if share is None else f"{100 * share:.0f}",
                _NO_PEER[figure.limit],
            ]
        )  # fmt: skip
    return simple_table(head, rows)


def _absolutes(figures: Sequence[Figure], measured: Measured) -> str:
    names = [n for n in CONTENDERS if any((f.key, n) in measured.values for f in figures)]
    rows = []
    for figure in figures:
        cells = [number(measured.median(figure.key, name)) for name in names]
        spread = measured.spread(figure.key, OURS)
        if spread and spread[0] != spread[1]:
            cells[0] += f" ({number(spread[0])} to {number(spread[1])})"
        rows.append([figure.title, figure.unit, *cells])
    return simple_table(["", "unit", *names], rows)


def number(value: float | None) -> str:
    """Write a number with three digits that count."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return "never"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def simple_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an aligned table; all columns but the first to the right."""
    # A first cell must not be empty in a simple table.
    lines = [[head[0] or "\\", *head[1:]], *map(list, rows)]
    widths = [max(1, *map(len, column)) for column in zip(*lines, strict=True)]
    border = "  ".join("=" * width for width in widths)

    def text(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        return "  ".join((first, *rest)).rstrip()

    return "\n".join([border, text(lines[0]), border, *map(text, lines[1:]), border])
