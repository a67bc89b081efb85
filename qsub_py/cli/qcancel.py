"""qcancel (qdel): cancel jobs or tasks, for good, or send them a signal."""

from __future__ import annotations

import json
import signal as signals
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import click

from qsub_py.cli import common, ids, periodic
from qsub_py.cli.confirming import Order, confirm
from qsub_py.cli.ids import Picked
from qsub_py.config import user_name
from qsub_py.errors import JobNotFound, SpecError
from qsub_py.model import JobInfo, State

if TYPE_CHECKING:
    from qsub_py.client import Client
    from qsub_py.units import JobRef


@dataclass
class Tally:
    """What was done so far."""

    code: int = 0
    orders: list[Order] = field(default_factory=list)
    jobs: list[int] = field(default_factory=list)
    #: Tasks that waited, tasks that ran.
    cancelled: int = 0
    running: int = 0


@click.command("qcancel")
@click.argument("jobs", nargs=-1, metavar="[JOB[_TASKS]]...")
@click.option("-n", "--name", metavar="NAME", multiple=True, help="My jobs of this name.")
@click.option("-t", "--state", metavar="STATE", help="Only tasks in this state (PD or R).")
@click.option("-u", "--user", metavar="USER", help="All active jobs of this user.")
@click.option("--all", "everything", is_flag=True, help="All my active jobs.")
@click.option("-s", "--signal", metavar="SIGNAL", help="Send this signal instead of ending them.")
@click.option("--wait", is_flag=True, help="Return when their last process is gone.")
@common.options
def qcancel(jobs: tuple[str, ...], name: tuple[str, ...], state: str | None, user: str | None,
            everything: bool, signal: str | None, wait: bool) -> int:  # fmt: skip
    """Cancel JOBS (12, 12_3, 12_[1-5], 12-20, last).

    Returns when none of their tasks can start any more; what runs is asked to end, and killed
    after its grace time.
    """
    refs = ids.parse(jobs)
    only = _state(state)
    number = read_signal(signal)
    if not (refs or name or user or everything or only):
        raise SpecError("nothing to cancel", hint="name jobs, or write --all for all of yours")
    client, tally = common.connect(), Tally()
    for found in _chosen(client, refs, name, user, tally):
        narrowed = found if only is None else in_state(client, found, only)
        if narrowed.ranges == ():
            continue
        if number is None:
            _cancel(client, narrowed, tally)
        else:
            _send(client, narrowed, number, tally)
    _tell(tally)
    tally.code = confirm(client, "qcancel", tally.orders) or tally.code
    if wait:
        for job in tally.jobs:
            client.wait(job)
    return tally.code


def _chosen(
    client: Client, refs: Sequence[JobRef], names: tuple[str, ...], user: str | None,
    tally: Tally,
) -> Iterator[Picked]:  # fmt: skip
    """Yield what is to be cancelled; a job that does not exist is told, the rest goes on."""
    for ref in refs:
        try:
            for found in ids.find(client, ref):
                if not names or found.job.name in names:
                    yield found
        except JobNotFound as error:
            if periodic.change(client, ref, "end", command="qcancel"):
                continue
            common.complain(f"qcancel: {error}")
            tally.code = 1
    if refs:
        return
    owner = user or user_name()
    active = client.ask(lambda store: store.jobs(active=True, ended=False))
    mine = [job for job in active if job.owner == owner and (not names or job.name in names)]
    if not mine:
        common.complain(f"qcancel: no active jobs of {owner}" + (" of that name" if names else ""))
    yield from map(Picked, mine)


def _cancel(client: Client, picked: Picked, tally: Tally) -> None:
    me, job = user_name(), picked.job
    reply = client.ask(lambda store: store.cancel(job.id, picked.ranges, by=me))
    if reply.had_ended:
        common.complain(f"qcancel: job {job.id} has ended already ({job.state.name})")
        return
    tally.orders += reply.orders
    tally.jobs.append(job.id)
    if not reply.cancelled and not reply.running:
        common.complain(f"qcancel: {picked.shown} have ended already")
    tally.cancelled += reply.cancelled
    tally.running += reply.running


def _tell(tally: Tally) -> None:
    """Tell a person what was done."""
    parts = [f"{tally.cancelled} waiting cancelled"] if tally.cancelled else []
    parts += [f"{tally.running} running told to end"] if tally.running else []
    if parts:
        jobs = f"job {tally.jobs[0]}" if len(tally.jobs) == 1 else f"{len(tally.jobs)} jobs"
        common.hint(f"qcancel: {jobs}: {', '.join(parts)}")


def _send(client: Client, picked: Picked, number: int, tally: Tally) -> None:
    job = picked.job
    if job.has_ended:
        common.complain(f"qcancel: job {job.id} has ended already ({job.state.name})")
        return
    orders: list[Order] = []
    for first, last in picked.ranges if picked.ranges is not None else ((0, -1),):
        orders += _order(client, job, {"op": "signal", "job": job.id, "uid": job.uid,
                                       "first": first, "last": last, "signal": number})  # fmt: skip
    tally.orders += orders
    if not orders:
        common.complain(f"qcancel: {picked.shown}: nothing runs, so no signal was sent")
        tally.code = 1


def _order(client: Client, job: JobInfo, order: dict[str, object]) -> Sequence[Order]:
    return client.ask(lambda store: store.order(job.id, json.dumps(order)))


def in_state(client: Client, picked: Picked, state: State) -> Picked:
    """Narrow to the tasks that are in this state now."""
    ranges: list[tuple[int, int]] = []
    for first, last in picked.ranges if picked.ranges is not None else ((0, picked.job.total - 1),):
        states = _states(client, picked.job.id, first, last)
        for at, found in enumerate(states, first):
            if found is not state:
                continue
            if ranges and ranges[-1][1] == at - 1:
                ranges[-1] = (ranges[-1][0], at)
            else:
                ranges.append((at, at))
    return replace(picked, ranges=tuple(ranges))


def _states(client: Client, job: int, first: int, last: int) -> list[State]:
    pairs = client.ask(lambda store: store.states(job, first, last - first + 1))
    return [state for state, _ in pairs]


def _state(text: str | None) -> State | None:
    if text is None:
        return None
    for state in (State.PENDING, State.RUNNING):
        if text.upper() in (state.short, state.name):
            return state
    raise SpecError(f"--state: {text!r} cannot be cancelled", hint="write PD or R")


def read_signal(text: str | None) -> int | None:
    if text is None:
        return None
    word = text.upper().removeprefix("SIG")
    try:
        number = int(word) if word.isdigit() else signals.Signals[f"SIG{word}"].value
        return signals.Signals(number).value
    except (KeyError, ValueError):
        raise SpecError(
            f"--signal: no signal {text!r}", hint="write USR1, INT, KILL, ..."
        ) from None


def main(words: Sequence[str] | None = None) -> None:
    """Run qcancel or qdel (console scripts)."""
    common.main(qcancel, words)
