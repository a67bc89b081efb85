"""qdel, qhold, qrls, qalter as Grid Engine has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qsub_py.cli import common
from qsub_py.cli.ids import Picked
from qsub_py.cli.shims import acting, args, sge_words
from qsub_py.cli.shims.altering import alter
from qsub_py.cli.shims.looking import find
from qsub_py.dialect_sge import SGE
from qsub_py.errors import SpecError

if TYPE_CHECKING:
    from qsub_py.client import Client

_QDEL = (("-u", 1), ("-f", 0), ("-t", 1))
_HOLD = (("-h", 1), ("-t", 1), ("-u", 1))


def qdel(words: Sequence[str]) -> int:
    """Cancel jobs (12, 12.3, 12 -t 1-3) or all of a user; ended ones are passed over."""
    client, picked, missing = _found(words, _QDEL, "qdel")
    acting.cancel(client, picked)
    return _told(missing)


def qhold(words: Sequence[str]) -> int:
    """Hold jobs."""
    client, picked, missing = _found(words, _HOLD, "qhold")
    acting.hold(client, picked)
    return _told(missing)


def qrls(words: Sequence[str]) -> int:
    """Release jobs."""
    client, picked, missing = _found(words, _HOLD, "qrls")
    acting.release(client, picked)
    return _told(missing)


def qalter(words: Sequence[str]) -> int:
    """Change jobs, by the options of qsub."""
    return alter(SGE, words, sge_words.our_id)


def _found(
    words: Sequence[str], table: args.Table, tool: str
) -> tuple[Client, list[Picked], list[str]]:
    asked = args.read_words(words, table)
    ids = [sge_words.our_id(part) for word in asked.words for part in word.split(",") if part]
    if asked.last("-t"):
        ids = [f"{one}_[{asked.last('-t')}]" for one in ids]
    users = set(asked.all("-u"))
    if not ids and not users:
        raise SpecError("no job is named", hint=f"write {tool} JOB...")
    client = common.connect()
    if ids:
        return client, *find(client, ids)
    active = client.ask(lambda store: store.jobs(active=True, ended=False))
    return client, [Picked(job) for job in active if {job.owner, "*"} & users], []


def _told(missing: Sequence[str]) -> int:
    for word in missing:
        common.complain(f'denied: job "{word}" does not exist')
    return int(bool(missing))
