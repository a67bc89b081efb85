"""qstat and qselect as Grid Engine has them."""

from __future__ import annotations

from collections.abc import Sequence

from qsub_py.cli import common
from qsub_py.cli.shims import args, sge_words
from qsub_py.cli.shims.looking import RECENT_S, Row, Wanted, look
from qsub_py.config import user_name
from qsub_py.errors import SpecError
from qsub_py.model import State
from qsub_py.text import safe

_QSTAT = (("-j", 1), ("-q", 1), ("-u", 1), ("-s", 1), ("-g", 1), ("-r", 0), ("-t", 0), ("-ne", 0))
_STATES = {
    "r": {State.RUNNING, State.COMPLETING}, "p": {State.PENDING}, "s": {State.SUSPENDED},
    "h": {State.PENDING}, "z": {state for state in State if state.is_terminal},
    "a": {state for state in State if not state.is_terminal},
}  # fmt: skip


def qstat(words: Sequence[str]) -> int:
    """Print my jobs (-u NAME or '*': others'), or of -j JOB what is known."""
    asked = args.read_words(words, _QSTAT)
    if asked.words:
        raise SpecError(f"qstat: {asked.words[0]!r} is no option", hint="write -j JOB")
    if asked.has("-j"):
        return _described(asked.all("-j"))
    users = frozenset(asked.all("-u") or (user_name(),))
    states = _states(asked.last("-s", "a"))
    client = common.connect()
    has_ended = any(state.is_terminal for state in states)
    since = client.ask(lambda store: store.now()) - RECENT_S if has_ended else None
    wanted = Wanted(
        frozenset() if users & {"*", '"*"', "'*'"} else users,
        frozenset(part.partition("@")[0] for part in asked.all("-q")), states=states, since=since,
        is_each=asked.has("-g") and "d" in asked.last("-g"), has_nodes=True,
    )  # fmt: skip
    rows: Sequence[Row] = look(client, (), wanted).rows
    if "h" in asked.last("-s") and "p" not in asked.last("-s"):
        rows = [row for row in rows if row.state is not State.PENDING or row.is_held]
    for line in sge_words.lines(rows):
        print(safe(line))
    return 0


def _states(text: str) -> frozenset[State]:
    unknown = set(text) - set(_STATES) - set("uoijdSN")
    if unknown:
        raise SpecError(f"qstat -s: {''.join(sorted(unknown))!r} is not known here")
    return frozenset(state for one in text for state in _STATES.get(one, ()))


def _described(words: Sequence[str]) -> int:
    client = common.connect()
    ids = [sge_words.our_id(word) for word in words]
    seen = look(client, ids, Wanted(is_whole=True, has_spec=True, has_reasons=True))
    rows = [row for row in seen.rows if not row.state.is_terminal]
    for line in (line for row in rows for line in sge_words.described(row)):
        print(safe(line))
    gone = [*seen.missing, *(str(row.job.id) for row in seen.rows if row.state.is_terminal)]
    if gone:
        common.complain("Following jobs do not exist:")
        for word in gone:
            common.complain(word)
    return int(bool(gone))


def qselect(words: Sequence[str]) -> int:
    """Print the queues on the nodes that serve them."""
    asked = args.read_words(words, (("-q", 1), ("-u", 1), ("-l", 1)))
    wanted = set(asked.all("-q"))
    for node in common.connect().ask(lambda store: store.nodes()):
        for queue in node.queues or ("main",):
            if not wanted or queue in wanted:
                print(safe(f"{queue}@{node.name}"))
    return 0
