"""scancel: end jobs or tasks, or send them a signal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qsub_py.cli import common
from qsub_py.cli.ids import Picked
from qsub_py.cli.qcancel import read_signal
from qsub_py.cli.shims import acting, args, slurm_words
from qsub_py.cli.shims.args import Args
from qsub_py.cli.shims.looking import find, names
from qsub_py.config import user_name
from qsub_py.errors import SpecError

if TYPE_CHECKING:
    from qsub_py.client import Client

_SCANCEL = (
    ("-s --signal", 1), ("-b --batch", 0), ("-f --full", 0), ("-u --user", 1), ("--me", 0),
    ("-n --name --jobname", 1), ("-p --partition", 1), ("-t --state", 1), ("-q --quiet", 0),
    ("-Q", 0), ("-v --verbose", 0), ("--ctld -c", 0), ("-M --clusters --cluster", 1),
    ("-H --hurry", 0), ("--cron", 0),
)  # fmt: skip


def scancel(words: Sequence[str]) -> int:
    """Cancel jobs, or with --signal tell their programs something; ended ones are passed over.

    A signal goes to what a script started, with --batch to its shell, with --full to all.
    """
    asked = args.read_getopt(words, _SCANCEL)
    number = read_signal(asked.last("-s") or None)
    ids = slurm_words.our_ids(part for word in asked.words for part in word.split())
    if not (ids or any(map(asked.has, ("-u", "--me", "-n", "-p", "-t")))):
        raise SpecError("no job is named", hint="write scancel JOB...")
    client = common.connect()
    picked, missing = _chosen(client, asked, ids)
    if number is None or number == 9:
        acting.cancel(client, picked)
    else:
        whom = "main" if asked.has("-b") else "all" if asked.has("-f") else "steps"
        acting.signal(client, (one for one in picked if not one.job.has_ended), number, whom)
    if not asked.has("-q"):
        acting.complain("scancel", missing, "error: Kill job error on job id {}: Invalid job id"
                        " specified")  # fmt: skip
    return int(bool(missing))


def _chosen(client: Client, asked: Args, ids: Sequence[str]) -> tuple[list[Picked], list[str]]:
    users = names((*asked.all("-u"), *((user_name(),) if asked.has("--me") else ())))
    queues, called = names(asked.all("-p")), names(asked.all("-n"))
    states = slurm_words.read_states(asked.last("-t")) if asked.has("-t") else None
    if ids:
        picked, missing = find(client, ids)
    else:
        active = client.ask(lambda store: store.jobs(active=True, ended=False))
        picked, missing = list(map(Picked, active)), []
        users = users or names((user_name(),))
    picked = [
        one for one in acting.in_states(client, picked, states)
        if (not users or one.job.owner in users) and (not queues or one.job.queue in queues)
        and (not called or one.job.name in called)
    ]  # fmt: skip
    return picked, missing
