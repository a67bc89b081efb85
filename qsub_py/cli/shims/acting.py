"""Ending, holding, signalling jobs for another system's tools, quietly where that one is quiet.

What is asked is in the store when these return; nodes are given a moment to confirm it, since
the tools that call have time-outs of a few seconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from qsub_py.cli import common
from qsub_py.cli.ids import Picked
from qsub_py.cli.qcancel import in_state
from qsub_py.config import user_name
from qsub_py.model import State

if TYPE_CHECKING:
    from qsub_py.cli.confirming import Order
    from qsub_py.client import Client

#: Tools wait 2 s for the command that cancels.
_CONFIRM_S = 0.5


def cancel(client: Client, picked: Iterable[Picked]) -> None:
    """Cancel jobs or tasks; those that have ended are passed over."""
    me = user_name()
    orders: list[Order] = []
    for found in picked:
        if not found.job.has_ended:
            job, parts = found.job.id, found.ranges
            reply = client.ask(lambda store: store.cancel(job, parts, by=me))  # noqa: B023
            orders += reply.orders
    _await(client, orders)


def _await(client: Client, orders: Sequence[Order]) -> None:
    deadline, pause = time.monotonic() + _CONFIRM_S, 0.005
    while orders and client.ask(lambda store: store.orders_done(orders)):
        if time.monotonic() > deadline:
            return
        time.sleep(pause)
        pause *= 1.5


def signal(client: Client, picked: Iterable[Picked], number: int, whom: str) -> None:
    """Send a signal to what runs; `whom`: all, steps (all but a script's shell), main."""
    orders: list[Order] = []
    for found in picked:
        job = found.job
        for first, last in found.ranges if found.ranges is not None else ((0, -1),):
            text = {"op": "signal", "job": job.id, "uid": job.uid, "first": first, "last": last,
                    "signal": number, "whom": whom}  # fmt: skip
            orders += client.ask(lambda store: store.order(job.id, json.dumps(text)))  # noqa: B023
    _await(client, orders)


def hold(client: Client, picked: Iterable[Picked]) -> None:
    """Hold whole jobs."""
    _each(picked, "held", lambda job: client.ask(lambda store: store.hold(job)))


def release(client: Client, picked: Iterable[Picked]) -> None:
    """Release whole jobs."""
    _each(picked, "released", lambda job: client.ask(lambda store: store.release(job)))


def _each(picked: Iterable[Picked], done: str, action: Callable[[int], bool]) -> None:
    from qsub_py.errors import SpecError

    for found in picked:
        if found.ranges is not None:
            raise SpecError(f"tasks of job {found.job.id} are {done} with their whole job")
        action(found.job.id)


def in_states(
    client: Client, picked: Sequence[Picked], states: frozenset[State] | None
) -> list[Picked]:
    """Return what is in these states: of a job of many tasks those that are."""
    if states is None or {State.PENDING, State.RUNNING} <= states:
        return list(picked)
    found = [in_state(client, one, state) for one in picked for state in states]
    return [one for one in found if one.ranges]


def complain(tool: str, missing: Sequence[str], text: str) -> None:
    """Say which ids name nothing; `text` has a place for one."""
    for word in missing:
        common.complain(f"{tool}: {text.format(word)}")
