"""qresult: show what came out of a job's tasks, as a table, CSV, JSON or a plot."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import click

from qsub_py.cli import common, ids
from qsub_py.cli.result_table import show_table
from qsub_py.errors import JobError, SpecError
from qsub_py.model import State
from qsub_py.result_rows import Columns, Row, cells, plain, rows
from qsub_py.text import safe

#: Up to so many rows are kept rather than read twice.
_KEPT = 4096


@click.command("qresult", context_settings={"max_content_width": 100})
@click.argument("job", metavar="JOB[_TASKS]")
@click.argument("axes", nargs=-1, metavar="[x=NAME y=NAME [by=NAME]]")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV; dictionaries become columns.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; other values as their repr.")
@click.option("--plot", is_flag=True, help="Draw column y over column x, a line for each by.")
@click.option("-o", "--output", metavar="FILE", help="The plot's file (job-JOB.png).")
@common.options
def qresult(
    job: str, axes: tuple[str, ...], as_csv: bool, as_json: bool, plot: bool, output: str | None
) -> int:
    """Show a row for each task of a JOB: its parameters, how it ended, its result.

    The result is what a call returned, or the last line of JSON that a command printed; a
    dictionary's items are columns. The exit code is 1 when one of the tasks has failed.

    \b
    Examples:
      qresult 12                                  the table
      qresult 12 --csv > study.csv                for other programs
      qresult 12 --plot x=lr y=accuracy by=seed -o study.png
    """
    _check(axes, as_csv=as_csv, as_json=as_json, plot=plot, output=output)
    ref = ids.parse_one(job)
    client = common.connect()
    picked = ids.find_one(client, ref)
    spec = ids.spec_of(client, picked.job)
    seen = _Seen()

    def read() -> Iterator[Row]:
        return seen.through(rows(client, picked.job, spec, picked.ranges))

    if plot:
        from qsub_py.cli.plotting import draw

        draw(read(), axes, output or f"job-{picked.job.id}.png", title=f"{picked.job.name}")
    elif as_json:
        _print_json(read())
    elif as_csv:
        _print_csv(*_columns(read, picked.count))
    elif picked.count == 1 and not picked.job.is_array:
        return _print_single(picked.job.id, next(read()))
    else:
        if spec.kind != "call" and not spec.sweep and not _has_any(read()):
            raise JobError(f"job {picked.job.id} has output, but no results: a command's result is"
                           " the last line of JSON it prints", hint=f"see `qlog {picked.job.id}`",
                           )  # fmt: skip
        show_table(picked.job, *_columns(read, picked.count))
    if seen.waiting:
        common.hint(f"qresult: {seen.waiting} of {picked.count} tasks have not ended")
    return int(seen.has_failed)


class _Seen:
    """What is to be said at the end about the rows that went by."""

    def __init__(self) -> None:
        self.waiting = 0
        self.has_failed = False

    def through(self, rows: Iterable[Row]) -> Iterator[Row]:
        self.waiting = 0
        for row in rows:
            self.waiting += not row.state.is_terminal
            is_bad = row.state.is_terminal and row.state is not State.COMPLETED
            self.has_failed = self.has_failed or is_bad
            yield row


def _check(
    axes: Sequence[str], *, as_csv: bool, as_json: bool, plot: bool, output: str | None
) -> None:
    if as_csv + as_json + plot > 1:
        raise SpecError("--csv, --json and --plot exclude each other", hint="choose one")
    if axes and not plot:
        raise SpecError(
            f"{axes[0]} could be meant for --plot", hint="write --plot, or one JOB only"
        )
    if output is not None and not plot:
        raise SpecError("-o is the file of --plot", hint="for the others write > FILE")
    if plot:
        from qsub_py.cli.plotting import check_axes

        check_axes(axes)


def _columns(read: Callable[[], Iterator[Row]], count: int) -> tuple[Columns, Iterable[Row]]:
    """Return the columns and the rows; many rows are read a second time, not kept."""
    if count <= _KEPT:
        kept = list(read())
        return Columns.of(kept), kept
    return Columns.of(read()), read()


def _has_any(found: Iterable[Row]) -> bool:
    return any(row.has_value for row in found)


def _print_single(job: int, row: Row) -> int:
    if not row.state.is_terminal:
        common.complain(f"qresult: job {job} has not ended; `qwait {job}` waits for it")
        return 75
    if row.state is not State.COMPLETED or row.failure is not None:
        common.complain(f"qresult: job {job} {row.state.name}: {row.error}")
        return 1
    if not row.has_value:
        raise JobError(f"job {job} is a command that printed no JSON: it has output, no result",
                       hint=f"see `qlog {job}`")  # fmt: skip
    text = row.value if isinstance(row.value, str) else repr(row.value)
    print(safe(text, keep="\n\t") if sys.stdout.isatty() else text)
    return 0


def _print_json(found: Iterable[Row]) -> None:
    """Print a list, object by object."""
    mark = "["
    for row in found:
        text = json.dumps(_object(row), allow_nan=False, indent=2)
        sys.stdout.write(f"{mark}\n  " + text.replace("\n", "\n  "))
        mark = ","
    sys.stdout.write("\n]\n" if mark == "," else "[]\n")


def _object(row: Row) -> dict[str, Any]:
    return {
        "index": row.index, "params": plain(row.params), "state": row.state.name,
        "exit_code": row.exit_code, "wall_s": row.wall_s, "result": plain(row.value),
        "error": row.error or None,
    }  # fmt: skip


def _print_csv(columns: Columns, found: Iterable[Row]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns.names)
    for row in found:
        values = cells(row)
        writer.writerow([_csv_cell(values.get(name)) for name in columns.names])


def _csv_cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        return json.dumps(plain(value))
    return "" if value is None else value


def main(words: Sequence[str] | None = None) -> None:
    """Run qresult (console script)."""
    common.main(qresult, words)
