"""Sending a draft to the server, what is said about it, and waiting for it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from qsub_py.cli import common
from qsub_py.cli.draft import Draft
from qsub_py.cli.periodic import plan_of
from qsub_py.cli.times import read_times
from qsub_py.reasons import Need, capacity_complaint, fitting_nodes
from qsub_py.terms import NO_TERMS
from qsub_py.waits import NOTHING

if TYPE_CHECKING:
    from qsub_py.client import Client
    from qsub_py.model import JobSpec


def submit(
    draft: Draft, *, does_wait: bool, does_follow: bool, told: Callable[[int], str] = str
) -> int:
    """Submit a job, print its id (as `told` writes it), and wait for it where asked.

    Returns the exit code.
    """
    client, began_at = common.connect(), time.time()
    job = _send(client, draft)
    print(told(job), file=sys.stderr if does_follow else sys.stdout, flush=True)
    for note in draft.notes:
        common.hint(f"qsub: {note}")
    if sys.stderr.isatty():
        _advise(client, draft.spec)
    if does_follow:
        from qsub_py.cli.waiting import follow

        return _bring_home(client, job, draft, began_at, follow(client, job))
    if does_wait:
        from qsub_py.cli.waiting import wait

        code = wait(client, [job], command="qsub")
        return _bring_home(client, job, draft, began_at, code)
    return 0


def _bring_home(client: Client, job: int, draft: Draft, began_at: float, code: int) -> int:
    """Write what the job brought back to where it would be had it run here; the exit code.

    What has changed here since qsub was begun stays, as do the files of another task.
    """
    spec = draft.spec
    if not spec.fetch or code == common.EXIT_INTERRUPTED:
        return code
    from qsub_py.gathering import ended_sources, gather

    info = client.ask(lambda store: store.job(job))
    failed = False
    for done in gather(
        ended_sources(client, info, range(info.total)), lambda position: spec.cwd,
        allowed=spec.fetch, may_replace=lambda status: status.st_mtime < began_at,
    ):  # fmt: skip
        if done.error:
            failed = True
            common.complain(
                f"qsub: files of job {job}: {done.error}; `qfetch {job} -o DIR` gets them"
            )
    return code or int(failed)


def _send(client: Client, draft: Draft) -> int:
    begin_at, deadline_at = 0.0, 0.0
    if draft.begin or draft.deadline:
        begin_at, deadline_at = read_times(
            draft.begin, draft.deadline, now=client.store.now(),
            is_periodic=draft.rule is not None,
        )  # fmt: skip
    plan = plan_of(draft, now=client.store.now()) if draft.rule else None
    waits = NOTHING
    if draft.wishes:
        from qsub_py.cli.depend import resolve  # here: it takes the server to tell

        waits = resolve(client, draft)
    try:
        return client.submit(
            draft.spec,
            function=draft.function,
            priority=draft.priority,
            limit=draft.limit,
            is_held=draft.is_held,
            begin_at=begin_at,
            deadline_at=deadline_at,
            key=draft.key,
            parcels=draft.parcels,
            plan=plan,
            max_fails=draft.max_fails,
            pages=draft.pages,
            waits=waits,
        )
    except KeyboardInterrupt:
        common.complain(
            "qsub: interrupted; it is not known whether the job was accepted: see qstat"
        )
        raise


def _advise(client: Client, spec: JobSpec) -> None:
    """Tell a person at once what will keep the job from starting."""
    need = Need(spec.cpus, spec.mem_bytes, spec.gpus, spec.queue, spec.nodelist,
                spec.python_minor, spec.terms or NO_TERMS)  # fmt: skip
    nodes = [node for node in client.store.nodes() if node.state in ("up", "draining")]
    if not nodes:
        common.hint("qsub: it waits: no node is running; start one here with `qnode start`")
        return
    complaint = capacity_complaint(need, nodes)
    if complaint:
        common.hint(f"qsub: it waits: {complaint}")
    elif not fitting_nodes(need, nodes):
        common.hint("qsub: it waits: no running node can take it; `qstat --why last` says why")
