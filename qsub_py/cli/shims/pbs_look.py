"""qstat and qselect as PBS Pro and Torque have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from qsub_py.cli import common
from qsub_py.cli.shims import args, pbs_words
from qsub_py.cli.shims.args import Args
from qsub_py.cli.shims.looking import RECENT_S, Row, Seen, Wanted, look, names
from qsub_py.cli.shims.pbs_words import Entry
from qsub_py.errors import SpecError
from qsub_py.model import State
from qsub_py.text import safe

_QSTAT = (
    ("-f", 0), ("-1", 0), ("-F", 1), ("-x", 0), ("-H", 0), ("-B", 0), ("-Q", 0), ("-t", 0),
    ("-J", 0), ("-u", 1), ("-a", 0), ("-i", 0), ("-r", 0), ("-n", 0), ("-s", 0), ("-w", 0),
    ("-p", 0), ("-T", 0), ("-E", 0), ("-D", 1), ("-e", 0), ("-l", 0), ("-q", 0), ("-G", 0),
    ("-M", 0), ("-c", 0),
)  # fmt: skip
_LATER = ("-q", "-G", "-M", "-c", "-p", "-T", "-D")
#: How PBS says that an id is of nobody, or of a job that has ended.
_UNKNOWN, _ENDED = 153, 35


def qstat(words: Sequence[str], system: str) -> int:
    """Print jobs: those named, of a queue, or all; with -x (Torque: always) ended ones too."""
    asked = args.read_getopt(words, _QSTAT)
    for option in _LATER:
        if asked.has(option):
            raise SpecError(f"qstat {option} is not known here")
    if asked.has("-B"):
        return _servers(is_full=asked.has("-f"))
    form = asked.last("-F").lower()
    if form not in ("", "json"):
        raise SpecError(f"qstat -F {form} is not known here", hint="write -F json")
    jobs = [pbs_words.our_id(word) for word in asked.words if pbs_words.is_id(word)]
    if asked.has("-Q"):
        return _queues(asked)
    seen = _seen(asked, jobs, system)
    entries = [Entry(row, seen.now, system) for row in seen.rows]
    hidden: list[Entry] = []
    if system != "torque" and not (asked.has("-x") or asked.has("-H")):
        hidden = [one for one in entries if one.row.state.is_terminal]
        entries = [one for one in entries if not one.row.state.is_terminal]
    if form:
        print(pbs_words.as_json(entries, seen.now))
        return 0
    for line in (pbs_words.full if asked.has("-f") else pbs_words.table)(entries):
        print(safe(line))
    return _told(seen, hidden if jobs else [])


def _seen(asked: Args, jobs: Sequence[str], system: str) -> Seen:
    places = [word for word in asked.words if not pbs_words.is_id(word)]
    queues = names(word.partition("@")[0] for word in places)
    if jobs and places:
        raise SpecError("jobs and queues exclude each other", hint="name one kind")
    is_full, has_ended = asked.has("-f"), asked.has("-x") or asked.has("-H")
    client = common.connect()
    since = None
    if has_ended or system == "torque":
        since = client.ask(lambda store: store.now()) - RECENT_S
    wanted = Wanted(
        names(part.partition("@")[0] for part in asked.all("-u")), queues, since=since,
        is_whole=not (asked.has("-t") or is_full), is_each=asked.has("-t"),
        has_nodes=is_full, has_spec=is_full, has_reasons=is_full, has_ends=is_full,
    )  # fmt: skip
    if is_full and not asked.has("-t"):
        # Each array, and what of it has begun: what waits is told by the array.
        return _with_arrays(lambda one: look(client, jobs, one), wanted)
    return look(client, jobs, wanted)


def _with_arrays(seen: Callable[[Wanted], Seen], wanted: Wanted) -> Seen:
    whole = seen(replace(wanted, is_whole=True))
    if not any(row.job.is_array for row in whole.rows):
        return whole
    rows: list[Row] = []
    tasks: dict[int, list[Row]] = {}
    for row in seen(wanted).rows:
        if row.index is not None:
            tasks.setdefault(row.job.id, []).append(row)
    for row in whole.rows:
        rows += [row, *tasks.get(row.job.id, [])]
    return Seen(tuple(rows), whole.missing, whole.now)


def _told(seen: Seen, hidden: Sequence[Entry]) -> int:
    """Say what was asked for and is not shown; return the exit code."""
    for word in seen.missing:
        common.complain(f"qstat: Unknown Job Id {word}")
    for entry in hidden:
        common.complain(f"qstat: {entry.id} Job has finished, use -x or -H to obtain historical"
                        " job information")  # fmt: skip
    return _UNKNOWN if seen.missing else _ENDED if hidden else 0


def _servers(*, is_full: bool) -> int:
    jobs = common.connect().ask(lambda store: store.jobs(active=True, ended=False))
    running = sum(bool(job.counts.get(State.RUNNING)) for job in jobs)
    if is_full:
        print(f"Server: {pbs_words.SERVER}\n    server_state = Active\n"
              f"    total_jobs = {len(jobs)}\n    default_queue = main\n")  # fmt: skip
        return 0
    print(f"{'Server':<17}{'Max':>6}{'Tot':>6}{'Que':>6}{'Run':>6} Status")
    print(f"{'-' * 16} {' '.join(['-' * 5] * 4)} {'-' * 11}")
    name, total = pbs_words.SERVER, len(jobs)
    print(f"{name:<17}{0:>6}{total:>6}{total - running:>6}{running:>6} Active")
    return 0


def _queues(asked: Args) -> int:
    client = common.connect()
    jobs = client.ask(lambda store: store.jobs(active=True, ended=False))
    served = {queue for node in client.ask(lambda store: store.nodes()) for queue in node.queues}
    found = sorted({"main", *served, *(job.queue for job in jobs)})
    print(f"{'Queue':<17}{'Max':>6}{'Tot':>6} Ena Str{'Que':>6}{'Run':>6} Type")
    print(f"{'-' * 16} {'-' * 5} {'-' * 5} --- --- {'-' * 5} {'-' * 5} ----")
    for queue in found:
        if asked.words and queue not in asked.words:
            continue
        mine = [job for job in jobs if job.queue == queue]
        running = sum(bool(job.counts.get(State.RUNNING)) for job in mine)
        total = len(mine)
        print(f"{queue:<17}{0:>6}{total:>6} yes yes{total - running:>6}{running:>6} Exec")
    return 0


_QSELECT = (("-u", 1), ("-s", 1), ("-N", 1), ("-q", 1), ("-x", 0), ("-H", 0), ("-J", 0), ("-T", 0))


def qselect(words: Sequence[str], system: str) -> int:
    """Print the ids of jobs of these users, states (letters), names, queues."""
    asked = args.read_getopt(words, _QSELECT)
    client = common.connect()
    states = set(asked.last("-s"))
    has_ended = asked.has("-x") or asked.has("-H") or bool(states & set("CFX"))
    since = client.ask(lambda store: store.now()) - RECENT_S if has_ended else None
    seen = look(client, (), Wanted(
        names(part.partition("@")[0] for part in asked.all("-u")),
        names(part.partition("@")[0] for part in asked.all("-q")), names(asked.all("-N")),
        since=since, is_whole=True,
    ))  # fmt: skip
    for row in seen.rows:
        entry = Entry(row, seen.now, system)
        if not states or entry.state in states:
            print(entry.id)
    return 0
