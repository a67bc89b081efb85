"""qdel, qhold, qrls, qalter as PBS Pro and Torque have them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from qsub_py.cli import common
from qsub_py.cli.shims import acting, args, pbs_words
from qsub_py.cli.shims.altering import alter
from qsub_py.cli.shims.looking import find
from qsub_py.dialect_pbs import PBS, TORQUE
from qsub_py.errors import SpecError

if TYPE_CHECKING:
    from qsub_py.cli.ids import Picked
    from qsub_py.client import Client

_QDEL = (("-W", 1), ("-x", 0), ("-p", 0), ("-m", 1), ("-t", 1), ("-a", 0), ("-b", 1))
_HOLD = (("-h", 1), ("-t", 1))
_UNKNOWN = 153


def qdel(words: Sequence[str], system: str) -> int:
    """Cancel jobs, arrays or tasks; those that have ended are passed over."""
    asked = args.read_getopt(words, _QDEL)
    client, picked, missing = _found(asked.words, asked.last("-t"), "qdel")
    acting.cancel(client, picked)
    return _told("qdel", missing)


def qhold(words: Sequence[str], system: str) -> int:
    """Hold jobs."""
    asked = args.read_getopt(words, _HOLD)
    client, picked, missing = _found(asked.words, asked.last("-t"), "qhold")
    acting.hold(client, picked)
    return _told("qhold", missing)


def qrls(words: Sequence[str], system: str) -> int:
    """Release jobs."""
    asked = args.read_getopt(words, _HOLD)
    client, picked, missing = _found(asked.words, asked.last("-t"), "qrls")
    acting.release(client, picked)
    return _told("qrls", missing)


def qalter(words: Sequence[str], system: str) -> int:
    """Change jobs, by the options of qsub."""
    return alter(TORQUE if system == "torque" else PBS, words, pbs_words.our_id)


def _found(
    words: Iterable[str], tasks: str, tool: str
) -> tuple[Client, list[Picked], list[str]]:  # fmt: skip
    ids = [pbs_words.our_id(word) for word in words]
    if not ids:
        raise SpecError("no job is named", hint=f"write {tool} JOB...")
    if tasks:  # Torque: qdel -t 1-3 12[]
        ids = [f"{one}_[{tasks}]" for one in ids]
    client = common.connect()
    return client, *find(client, ids)


def _told(tool: str, missing: Sequence[str]) -> int:
    acting.complain(tool, missing, "Unknown Job Id {}")
    return _UNKNOWN if missing else 0
