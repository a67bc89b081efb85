"""Sending a draft to the server, what is said about it, and waiting for it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from qsub_py.cli import common
from qsub_py.cli.spec import Draft
from qsub_py.reasons import Need, capacity_complaint, fitting_nodes
from qsub_py.units import parse_begin

if TYPE_CHECKING:
    from qsub_py.client import Client
    from qsub_py.model import JobSpec


def submit(draft: Draft, *, does_wait: bool, does_follow: bool) -> int:
    """Submit a job, print its id, and wait for it where asked; return the exit code."""
    client = common.connect()
    job = _send(client, draft)
    print(job, file=sys.stderr if does_follow else sys.stdout, flush=True)
    for note in draft.notes:
        common.hint(f"qsub: {note}")
    if sys.stderr.isatty():
        _advise(client, draft.spec)
    if does_follow:
        from qsub_py.cli.waiting import follow

        return follow(client, job)
    if does_wait:
        from qsub_py.cli.waiting import wait

        return wait(client, [job], command="qsub")
    return 0


def _send(client: Client, draft: Draft) -> int:
    begin_at = parse_begin(draft.begin, now=client.store.now()) if draft.begin else 0.0
    try:
        return client.submit(
            draft.spec,
            function=draft.function,
            priority=draft.priority,
            limit=draft.limit,
            is_held=draft.is_held,
            begin_at=begin_at,
            key=draft.key,
            parcels=draft.parcels,
        )
    except KeyboardInterrupt:
        common.complain(
            "qsub: interrupted; it is not known whether the job was accepted: see qstat"
        )
        raise


def _advise(client: Client, spec: JobSpec) -> None:
    """Tell a person at once what will keep the job from starting."""
    need = Need(spec.cpus, spec.mem_bytes, spec.gpus, spec.queue, spec.nodelist, spec.python_minor)
    nodes = [node for node in client.store.nodes() if node.state in ("up", "draining")]
    if not nodes:
        common.hint("qsub: it waits: no node is running; start one here with `qnode start`")
        return
    complaint = capacity_complaint(need, nodes)
    if complaint:
        common.hint(f"qsub: it waits: {complaint}")
    elif not fitting_nodes(need, nodes):
        common.hint("qsub: it waits: no running node can take it; `qstat --why last` says why")
