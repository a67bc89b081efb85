"""What qsuspend and qresume share: stop what runs of jobs or tasks, let it go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qsub_py.cli import common, ids
from qsub_py.cli.confirming import Order, confirm
from qsub_py.cli.ids import Picked
from qsub_py.errors import JobNotFound
from qsub_py.store_suspend import SuspendReply, change

if TYPE_CHECKING:
    from qsub_py.client import Client


def switch(words: Sequence[str], *, verb: str) -> int:
    """Suspend or resume each job or task; returns when its nodes have obeyed."""
    command = f"q{verb}"
    refs = ids.parse(words)
    client, code = common.connect(), 0
    orders: list[Order] = []
    for ref in refs:
        try:
            for found in ids.find(client, ref):
                code = max(code, _change(client, found, verb, orders))
        except JobNotFound as error:
            common.complain(f"{command}: {error}")
            code = max(code, 1)
    return confirm(client, command, orders) or code


def _change(client: Client, picked: Picked, verb: str, orders: list[Order]) -> int:
    job, command = picked.job, f"q{verb}"
    replies = [
        client.ask(lambda store: change(store, job.id, *part, verb))  # noqa: B023
        for part in (picked.ranges if picked.ranges is not None else ((-1, -1),))
    ]
    complaint = next((text for text in map(_complaint, replies) if text), "")
    for reply in replies:
        orders += reply.orders
    running = sum(reply.running for reply in replies)
    if complaint:
        common.complain(f"{command}: {complaint.format(job=job.id)}")
        return 0 if any(reply.word == "ended" for reply in replies) else 1
    if picked.ranges is not None and not running:
        common.complain(f"{command}: none of these tasks of job {job.id} runs; `qhold {job.id}`"
                        " keeps waiting ones from starting")  # fmt: skip
        return 1
    booked = "; what it has booked stays so" if verb == "suspend" and running else ""
    stopped, going = ("is suspended", "goes on") if picked.ranges is None else (
        "are suspended", "go on")  # fmt: skip
    done = stopped if verb == "suspend" else going
    common.hint(f"{command}: {picked.shown} {done}{booked}")
    return 0


def _complaint(reply: SuspendReply) -> str:
    return {
        "ended": "job {job} has ended already",
        "whole": "job {job} is suspended as a whole: `qresume {job}` lets it go on",
        "many": "that are too many ranges of job {job}; suspend wider ones, or the whole job",
    }.get(reply.word, "")
