"""How tables, JSON and progress look; the only module that knows rich, and only on a terminal.

Everything shown passes `safe`: a job's name cannot drive the terminal. Off a terminal tables
are plain aligned text, so that `qstat | awk` keeps working.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from qsub_py.text import safe

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table as RichTable

#: Below this a table is unreadable anyway; narrower terminals wrap it.
LEAST_WIDTH = 40
#: Columns that may be cut to fit the terminal, and how far.
_SHRINKS = frozenset({"NAME", "NODELIST(REASON)", "REASON", "FEATURES", "RESULT", "JOBID"})
_SHRINKS_TO = 16
#: rich lays out about 2,000 rows a second.
_MOST_RICH_ROWS = 500
_STYLES = {
    "R": "green", "CG": "green", "CD": "dim", "PD": "yellow", "S": "yellow",
    "F": "red", "TO": "red", "OOM": "red", "NF": "red", "DF": "red", "CA": "dim",
    "up": "green", "draining": "yellow", "lost": "red", "down": "dim",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text: headings and rows of as many cells."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    #: Headings of columns that are numbers, set to the right.
    right: frozenset[str] = frozenset()


def is_terminal(stream: TextIO | None = None) -> bool:
    """Whether a person looks at this stream (standard output)."""
    try:
        return (stream or sys.stdout).isatty()
    except ValueError:  # closed
        return False


def show(table: Table, *, header: bool = True) -> None:
    """Print a table to standard output: coloured on a terminal, plain text elsewhere."""
    is_plain = not is_terminal() or os.environ.get("TERM") == "dumb"
    if not is_plain and len(table.rows) <= _MOST_RICH_ROWS:
        console = _console(sys.stdout)
        for number, part in enumerate(_parts(table, console.width)):
            print(end="\n" * (number > 0), flush=True)
            least = sum(_least_widths(part)) + 2 * (len(part.headings) - 1)
            console.width = max(console.width, least)
            console.print(_rich(part, header=header))
    else:
        for line in lines(table, header=header):
            print(line)


def lines(table: Table, *, header: bool = True) -> Iterator[str]:
    """Yield the lines of a table as plain text."""
    rows = [table.headings] * header + [tuple(safe(cell) for cell in row) for row in table.rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if heading in table.right else cell.ljust(width)
            for cell, width, heading in zip(row, widths, table.headings, strict=True)
        ]
        yield "  ".join(cells).rstrip()


def show_json(value: Any) -> None:
    """Print a value as JSON."""
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")


def show_fields(pairs: Sequence[tuple[str, str]]) -> None:
    """Print named values, one a line."""
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        print(f"{name:<{width}}  {safe(value)}".rstrip())


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    if console.width < LEAST_WIDTH:
        console.width = LEAST_WIDTH
    return console


def _rich(table: Table, *, header: bool) -> RichTable:
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(box=None, show_header=header, pad_edge=False, header_style="bold")
    for heading, width in zip(table.headings, _widths(table), strict=True):
        shown.add_column(
            heading,
            justify="right" if heading in table.right else "left",
            no_wrap=True,
            overflow="ellipsis",
            min_width=min(width, _SHRINKS_TO) if heading in _SHRINKS else width,
        )
    for row in table.rows:
        cells = [
            Text(safe(cell), style=_style(heading, cell))
            for heading, cell in zip(table.headings, row, strict=True)
        ]
        shown.add_row(*cells)
    return shown


def _widths(table: Table) -> list[int]:
    """Return how wide each column would like to be."""
    rows = [table.headings, *table.rows]
    return [max(len(safe(cell)) for cell in column) for column in zip(*rows, strict=True)]


def _least_widths(table: Table) -> list[int]:
    """Return the widths below which columns would be cut that must not be."""
    pairs = zip(table.headings, _widths(table), strict=True)
    return [min(width, _SHRINKS_TO) if name in _SHRINKS else width for name, width in pairs]


def _parts(table: Table, room: int) -> Iterator[Table]:
    """Yield a table that is wider than the terminal as several, one below the other.

    Only the first may have nothing in its columns.
    """
    for number, block in enumerate(blocks(_least_widths(table), room)):
        rows = tuple(tuple(row[at] for at in block) for row in table.rows)
        if not number or any(any(row[1:]) for row in rows):
            yield Table(tuple(table.headings[at] for at in block), rows, table.right)


def blocks(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Yield the columns that stand side by side: the first with as many others as fit.

    All of them when `room` is 0.
    """
    block, used = [0], widths[0]
    for at in range(1, len(widths)):
        if room and len(block) > 1 and used + 2 + widths[at] > room:
            yield block
            block, used = [0], widths[0]
        block.append(at)
        used += 2 + widths[at]
    yield block


def _style(heading: str, cell: str) -> str:
    return _STYLES.get(cell, "") if heading in ("ST", "STATE") else ""


def watch(make: Callable[[], Table], *, interval_s: float, title: str = "") -> None:
    """Show a table anew every `interval_s` seconds until interrupted."""
    if not is_terminal():
        while True:
            show(make())
            print(flush=True)
            time.sleep(interval_s)
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    def screen() -> Group:
        table = make()
        head = Text(f"{title}  {time.strftime('%H:%M:%S')}  (Ctrl-C ends)\n", style="dim")
        return Group(head, _rich(table, header=True) if table.rows else Text("nothing to show"))

    with Live(console=_console(sys.stdout), screen=True, auto_refresh=False) as live:
        while True:
            live.update(screen(), refresh=True)
            time.sleep(interval_s)


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show a bar on standard error while the block runs; yields update(done, total, note).

    Shows nothing off a terminal.
    """
    if not is_terminal(sys.stderr):
        yield lambda done, total, note: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(bar_width=30),
        MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[note]}", markup=False),
    )  # fmt: skip
    with Progress(*columns, console=_console(sys.stderr), transient=True) as bar:
        number = bar.add_task(safe(label), total=None, note="")
        yield lambda done, total, note: bar.update(
            number, completed=done, total=total, note=safe(note)
        )


class Board:
    """What goes on at several places at once: a line each, gone when it is done."""

    def __init__(self) -> None:
        self._lines: dict[str, str] = {}
        self._live: Live | None = None
        self._lock = threading.RLock()

    def tell(self, name: str, text: str) -> None:
        """Show what is being done at `name`."""
        with self._lock:
            self._lines[name] = text
            self._show()

    def finish(self, name: str, line: str = "") -> None:
        """Take its line away and print how it ended to standard output, if there is a line."""
        with self._lock:
            self._lines.pop(name, None)
            self._show()
            if line and self._live is not None:
                self._live.console.print(_plain(line), soft_wrap=True)
            elif line:
                print(safe(line), flush=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Clear the board while something is asked."""
        with self._lock:
            was_shown = self._live is not None
            self.hide()
            try:
                yield
            finally:
                if was_shown:
                    self.show()

    def show(self) -> None:
        """Begin to show it, below what was printed so far."""
        from rich.live import Live

        # A new one each time: it would clear the lines that were printed meanwhile.
        self._live = Live(_board_table(self._lines), console=_console(sys.stdout), transient=True)
        self._live.start()

    def hide(self) -> None:
        """Clear it from the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _show(self) -> None:
        if self._live is not None:
            self._live.update(_board_table(self._lines))


def _plain(line: str) -> Any:
    from rich.text import Text

    return Text(safe(line))


def _board_table(lines: dict[str, str]) -> RichTable:
    from rich.table import Table as RichTable

    shown = RichTable(box=None, show_header=False, pad_edge=False)
    for name, text in lines.items():
        shown.add_row(_plain(name), _plain(text))
    return shown


@contextmanager
def board() -> Iterator[Board]:
    """Show a `Board` while the block runs; only on a terminal it is more than its last lines."""
    made = Board()
    if not is_terminal() or os.environ.get("TERM") == "dumb":
        yield made
        return
    made.show()
    try:
        yield made
    finally:
        made.hide()
