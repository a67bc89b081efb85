"""qrerun: run ended tasks again, in the same job."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from qsub_py.cli import common, ids
from qsub_py.cli.ids import Picked
from qsub_py.cli.qstat import read_states
from qsub_py.cli.tree import culprit, lost
from qsub_py.errors import JobNotFound, QsubError, SpecError
from qsub_py.model import JobInfo, State

if TYPE_CHECKING:
    from qsub_py.client import Client

_ENDS = frozenset(state for state in State if state.is_terminal)
_FAILED = _ENDS - {State.COMPLETED, State.CANCELLED}
_STATES_AT_ONCE = 65536


@click.command("qrerun", context_settings={"max_content_width": 100})
@click.argument("jobs", nargs=-1, required=True, metavar="JOB[_TASKS]...")
@click.option("--failed", is_flag=True, help="Those that failed, however: F, TO, OOM, NF, DF.")
@click.option("-s", "--state", "states", metavar="STATES", help="Those in these states: F,CA.")
@click.option(
    "--tree",
    is_flag=True,
    help="What failed, and all that was given up because of it (DEP_FAILED).",
)
@click.option("--all", "everything", is_flag=True, help="All that have ended, completed ones too.")
@common.options
def qrerun(
    jobs: tuple[str, ...], failed: bool, states: str | None, tree: bool, everything: bool
) -> int:
    """Run ended tasks of JOBS again, in the same job, with the next attempt number.

    What waits or runs is left alone. Of a job with many tasks say which: 12_[3,5], --failed,
    --state or --all.

    \b
    Examples:
      qrerun 12 --failed           what failed
      qrerun 12 --state F,CA       what failed, and what was cancelled
      qrerun 12 --tree             what failed, and the jobs that waited for it
      qrerun 12_[3,5]              two tasks, however they ended
    """
    if failed + everything + tree + (states is not None) > 1:
        raise SpecError("--failed, --state, --tree and --all exclude each other", hint="choose one")
    refs = ids.parse(jobs)
    wanted = _wanted(states, failed=failed, everything=everything)
    client = common.connect()
    found: list[Picked] = []
    missing: list[str] = []
    for ref in refs:
        try:
            found += ids.find(client, ref)
        except JobNotFound as error:
            missing.append(str(error))
    for picked in found:  # all of them before anything runs again
        _check(picked, wanted, tree=tree)
    code = int(bool(missing))
    for picked in found:
        if tree:
            _rerun_tree(client, picked.job)
        else:
            code = max(code, _rerun(client, picked, wanted))
    for complaint in missing:
        common.complain(f"qrerun: {complaint}")
    return code


def _check(picked: Picked, wanted: frozenset[State] | None, *, tree: bool) -> None:
    """Raise SpecError when it is not said which tasks, or of which only a job can run again."""
    job = picked.job
    if tree and picked.ranges is not None:
        raise SpecError("--tree is for whole jobs", hint=f"write qrerun {job.id} --tree")
    if not tree and wanted is None and picked.ranges is None and job.total > 1:
        raise SpecError(
            f"job {job.id} has {job.total} tasks: say which run again",
            hint=f"write qrerun {job.id} --failed, --state F,CA, --all, or name tasks:"
            f" {job.id}_[3,5]",
        )


def _wanted(text: str | None, *, failed: bool, everything: bool) -> frozenset[State] | None:
    """Return the states that were asked for, None when nothing was said."""
    if failed:
        return _FAILED
    if everything:
        return _ENDS
    if text is None:
        return None
    found = read_states(text, "--state")
    if found is None:
        return _ENDS
    for state in found:
        if not state.is_terminal:
            raise SpecError(f"--state: what is {state.name} has not ended", hint="write F,TO,CA")
    return found


def _rerun(client: Client, picked: Picked, wanted: frozenset[State] | None) -> int:
    """Run these again; return the exit code."""
    job = picked.job
    wanted = wanted or _ENDS
    count = sum(_count(client, picked, wanted))
    if not count:
        ended = "ended" if wanted == _ENDS else "ended so"
        which = "task" if picked.ranges is None else "such task"
        common.complain(f"qrerun: no {which} of job {job.id} has {ended}: nothing to run again")
        return 0
    ranges = picked.ranges if picked.ranges is not None else ((0, job.total - 1),)
    chosen = set(wanted)
    try:
        client.ask(lambda store: store.requeue(job.id, ranges, chosen))
    except QsubError:
        sys.stdout.flush()
        raise
    stuck = _given_up_again(client, picked) if State.DEP_FAILED in wanted else 0
    count -= stuck
    if stuck:
        tasks = "" if count == 0 else "1 task of " if stuck == 1 else f"{stuck} tasks of "
        common.complain(f"qrerun: {tasks}job {job.id} cannot run: {_obstacle(client, job.id)}")
        if not count:
            return 1
    print(f"job {job.id}: {count} {'task runs' if count == 1 else 'tasks run'} again")
    left = job.counts.get(State.CANCELLED, 0)
    if left and State.CANCELLED not in wanted and picked.ranges is None:
        common.hint(f"qrerun: {left} cancelled tasks stay so; --state F,CA runs them, too")
    return int(stuck > 0)


def _given_up_again(client: Client, picked: Picked) -> int:
    """Return how many of the tasks are DEP_FAILED all the same: what they need has not changed."""
    if not picked.job.counts.get(State.DEP_FAILED):
        return 0
    now = client.ask(lambda store: store.job(picked.job.id))
    return sum(_count(client, replace(picked, job=now), frozenset({State.DEP_FAILED})))


def _obstacle(client: Client, job: int) -> str:
    """Return why a job that was given up cannot run, and what to run again before it."""
    info = client.ask(lambda store: store.job(job))
    reason = info.reason or lost(client, info)
    root = culprit(client, info)
    if root is None:
        return reason
    if any(root.counts.get(state) for state in _FAILED):
        return f"{reason}; this runs both again: qrerun {root.id} --tree"
    return f"{reason}; run that again first: qrerun {root.id} --state CA"


def _rerun_tree(client: Client, job: JobInfo) -> None:
    count = sum(job.counts.get(state, 0) for state in _FAILED)
    if not count:
        common.complain(f"qrerun: no task of job {job.id} has failed: nothing to run again")
        return
    client.ask(lambda store: store.rerun_tree(job.id))
    print(f"job {job.id}: {count} {'task runs' if count == 1 else 'tasks run'} again, and what"
          " was given up because of it waits again")  # fmt: skip


def _count(client: Client, picked: Picked, wanted: frozenset[State]) -> Iterable[int]:
    """Yield how many tasks in these states there are, in parts."""
    job = picked.job
    if picked.ranges is None:
        yield from (job.counts.get(state, 0) for state in wanted)
        return
    for first, last in picked.ranges:
        for at in range(first, last + 1, _STATES_AT_ONCE):
            size = min(_STATES_AT_ONCE, last + 1 - at)
            states = client.ask(lambda store: store.states(job.id, at, size))  # noqa: B023
            yield sum(state in wanted for state, _ in states)


def main(words: Sequence[str] | None = None) -> None:
    """Run qrerun (console script)."""
    common.main(qrerun, words)
