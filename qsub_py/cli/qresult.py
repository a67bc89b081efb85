"""qresult: show what calls returned."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from qsub_py import render
from qsub_py.cli import common, ids
from qsub_py.cli.shapes import RIGHT
from qsub_py.cli.tasks import task_id
from qsub_py.errors import JobError
from qsub_py.model import Outcome, State
from qsub_py.text import safe

if TYPE_CHECKING:
    from qsub_py.client import Client

_SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Result:
    """How one call ended: its value, or the text of its failure."""

    index: int
    state: State
    value: Any = None
    error: str = ""


@click.command("qresult")
@click.argument("job", metavar="JOB[_TASKS]")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV; dictionaries become columns.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; other values as their repr.")
@common.options
def qresult(job: str, as_csv: bool, as_json: bool) -> int:
    """Show the results of a JOB of calls, of all tasks that have ended."""
    ref = ids.parse_one(job)
    client = common.connect()
    picked = ids.find_one(client, ref)
    spec = ids.spec_of(client, picked.job)
    if spec.kind != "call":
        raise JobError(f"job {picked.job.id} is a command: it has output, not results",
                       hint=f"see `qlog {picked.job.id}`")  # fmt: skip
    positions = None if picked.ranges is None else list(picked.positions())
    outcomes = list(client.outcomes(picked.job.id, positions))
    results = [_result(client, outcome, spec.index(outcome.position)) for outcome in outcomes]
    if as_json:
        render.show_json([_as_json(result) for result in results])
    elif as_csv:
        _print_csv(results)
    elif picked.count == 1 and not picked.job.is_array:
        return _print_single(picked.job.id, results)
    else:
        _print_table(picked, results)
    if len(results) < picked.count:
        common.hint(
            f"qresult: {picked.count - len(results)} of {picked.count} tasks have not ended"
        )
    return int(any(result.state is not State.COMPLETED for result in results))


def _result(client: Client, outcome: Outcome, index: int) -> Result:
    from qsub_py.failures import load_result

    try:
        value = load_result(outcome, lambda ref: client.ask(lambda store: store.large_result(ref)))
        return Result(index, outcome.state, value)
    except BaseException as error:  # whatever the call raised
        if isinstance(error, KeyboardInterrupt) and outcome.state is State.COMPLETED:
            raise
        kind = type(error).__name__
        text = str(error) if kind == "RemoteError" else f"{kind}: {error}".removesuffix(": ")
        return Result(index, outcome.state, error=text)


def _shown(result: Result) -> str:
    text = result.error or (result.value if isinstance(result.value, str) else repr(result.value))
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= _SHOWN_CHARACTERS else one_line[:_SHOWN_CHARACTERS] + "..."


def _print_single(job: int, results: Sequence[Result]) -> int:
    if not results:
        common.complain(f"qresult: job {job} has not ended; `qwait {job}` waits for it")
        return 75
    (result,) = results
    if result.state is not State.COMPLETED:
        common.complain(f"qresult: job {job} {result.state.name}: {result.error}")
        return 1
    value = result.value
    text = value if isinstance(value, str) else repr(value)
    print(safe(text, keep="\n\t") if sys.stdout.isatty() else text)
    return 0


def _print_table(picked: ids.Picked, results: Sequence[Result]) -> None:
    rows = tuple((task_id(picked.job, r.index), r.state.short, _shown(r)) for r in results)
    if rows:
        render.show(render.Table(("JOBID", "ST", "RESULT"), rows, RIGHT))


def _as_json(result: Result) -> dict[str, Any]:
    return {
        "index": result.index,
        "state": result.state.name,
        "result": _plain(result.value),
        "error": result.error or None,
    }


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it; numpy's scalars and arrays by their own lists."""
    for convert in (lambda: value, lambda: value.tolist(), lambda: dict(value)):
        try:
            plain = convert()
            json.dumps(plain, allow_nan=False)
            return plain
        except (TypeError, ValueError, AttributeError, RecursionError):
            continue
    return repr(value)


def _print_csv(results: Sequence[Result]) -> None:
    names: dict[str, None] = {}
    for result in results:
        if isinstance(result.value, dict):
            names.update(dict.fromkeys(map(str, result.value)))
    is_plain = any(not isinstance(r.value, dict) and not r.error for r in results)
    has_errors = any(result.error for result in results)
    head = ["index", "state", *names, *["result"] * is_plain, *["error"] * has_errors]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(head)
    for result in results:
        cells = {"index": result.index, "state": result.state.name, "error": result.error}
        if isinstance(result.value, dict):
            cells |= {str(key): value for key, value in result.value.items()}
        elif not result.error:
            cells["result"] = result.value
        writer.writerow([cells.get(name, "") for name in head])


def main(words: Sequence[str] | None = None) -> None:
    """Run qresult (console script)."""
    common.main(qresult, words)
