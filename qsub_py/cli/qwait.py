"""qwait: wait until jobs or tasks have ended."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from qsub_py.cli import common, ids
from qsub_py.cli.ids import Picked
from qsub_py.errors import SpecError
from qsub_py.model import Outcome, State

if TYPE_CHECKING:
    from qsub_py.client import Client


@click.command("qwait")
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@click.option("--timeout", metavar="TIME", help="Give up after this long, with exit code 75.")
@common.options
def qwait(jobs: tuple[str, ...], timeout: str | None) -> int:
    """Wait for JOBS to end; the exit code is theirs (the first that is not 0)."""
    from qsub_py.cli.waiting import wait
    from qsub_py.units import parse_duration

    refs = ids.parse(jobs)
    limit = parse_duration(timeout, bare_s=1.0) if timeout is not None else None
    if limit is not None and limit <= 0:
        raise SpecError("--timeout must be above 0", hint="leave it out to wait for ever")
    client = common.connect()
    picked = [found for ref in refs for found in ids.find(client, ref)]
    if any(found.ranges is not None for found in picked):
        return _wait_tasks(client, picked, limit)
    return wait(client, [found.job.id for found in picked], command="qwait", timeout=limit)


def _wait_tasks(client: Client, picked: Sequence[Picked], timeout: float | None) -> int:
    deadline = None if timeout is None else time.monotonic() + timeout
    codes: list[int] = []
    for found in picked:
        positions = list(found.positions())
        while not _have_ended(client, found):
            left = 1.0 if deadline is None else deadline - time.monotonic()
            if left <= 0:
                common.complain(f"qwait: {found.shown} have not ended yet")
                return 75
            client.wait(found.job.id, timeout=min(left, 1.0))
        codes += [exit_code_of(outcome) for outcome in client.outcomes(found.job.id, positions)]
    return next((code for code in codes if code), 0)


def _have_ended(client: Client, picked: Picked) -> bool:
    ranges = picked.ranges if picked.ranges is not None else ((0, picked.job.total - 1),)
    return all(_has_ended(client, picked.job.id, first, last) for first, last in ranges)


def _has_ended(client: Client, job: int, first: int, last: int) -> bool:
    states = client.ask(lambda store: store.states(job, first, last - first + 1))
    return all(state.is_terminal for state, _ in states)


def exit_code_of(outcome: Outcome) -> int:
    """Return the exit code that stands for one task's end."""
    special = {
        State.TIMEOUT: 124,
        State.OUT_OF_MEMORY: 137,
        State.NODE_FAIL: 1,
        State.DEP_FAILED: 1,
    }
    if outcome.state in special:
        return special[outcome.state]
    if outcome.state is State.CANCELLED and not outcome.started_at:
        return 3
    return 128 + outcome.signal if outcome.signal else outcome.exit_code


def main(words: Sequence[str] | None = None) -> None:
    """Run qwait (console script)."""
    common.main(qwait, words)
