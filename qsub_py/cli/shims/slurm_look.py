"""squeue and sacct: what is in the queue, and what was."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from qsub_py.cli import common
from qsub_py.cli.shims import args, slurm_words
from qsub_py.cli.shims.args import Args
from qsub_py.cli.shims.looking import RECENT_S, Seen, Wanted, look
from qsub_py.cli.shims.slurm_fields import (
    FIELDS,
    LETTERS,
    NAMES,
    NEEDS_ENDS,
    NEEDS_NODES,
    NEEDS_REASONS,
    NEEDS_SPEC,
    At,
)
from qsub_py.cli.shims.slurm_format import (
    Field,
    by_letters,
    by_names,
    by_sacct,
    columns,
    lines,
    parsable,
)
from qsub_py.config import user_name
from qsub_py.errors import SpecError
from qsub_py.model import State
from qsub_py.text import safe
from qsub_py.units import parse_begin

_SQUEUE = (
    ("-j --jobs", 1), ("-o --format", 1), ("-O --Format", 1), ("-t --states", 1), ("-u --user", 1),
    ("--me", 0), ("-p --partition", 1), ("-n --name", 1), ("-h --noheader", 0), ("-r --array", 0),
    ("-l --long", 0), ("-a --all", 0), ("-S --sort", 1), ("-M --clusters --cluster", 1),
    ("--only-job-state", 0), ("--local", 0), ("--federation", 0), ("--sibling", 0),
    ("-A --account", 1), ("-w --nodelist", 1), ("-v --verbose", 0), ("--start", 0),
    ("-P --priority", 0), ("--array-unique", 0), ("--hide", 0), ("--notme", 0),
)  # fmt: skip
_USUAL = "%.18i %.9P %.8j %.8u %.2t %.10M %.6D %R"
_LONG = "%.18i %.9P %.8j %.8u %.8T %.10M %.9l %.6D %R"
_ACTIVE = frozenset((State.PENDING, State.RUNNING, State.SUSPENDED, State.COMPLETING))


def squeue(words: Sequence[str]) -> int:
    """Print the queue; ids that name nothing are passed over."""
    asked = args.read_getopt(words, _SQUEUE)
    for option in ("-A", "-w", "--notme"):
        if asked.has(option):
            raise SpecError(f"squeue: {option} is not known here", hint="leave it out")
    _no_words(asked, "squeue")
    if asked.has("-O"):
        fields = by_names(asked.last("-O"), NAMES, "squeue")
    else:
        usual = _LONG if asked.has("-l") or asked.has("--start") else _USUAL
        fields = by_letters(asked.last("-o") or usual, LETTERS, "squeue")
    states = slurm_words.read_states(asked.last("-t")) if asked.has("-t") else _ACTIVE
    ids = slurm_words.our_ids(asked.all("-j"))
    client = common.connect()
    has_ended = states is None or bool(states - _ACTIVE)
    since = client.ask(lambda store: store.now()) - RECENT_S if has_ended else None
    wanted = Wanted(
        frozenset(asked.all("-u")) | (frozenset((user_name(),)) if asked.has("--me") else set()),
        frozenset(asked.all("-p")), frozenset(asked.all("-n")), states, since,
        is_each=asked.has("-r"), **_needs(fields),
    )  # fmt: skip
    seen = look(client, ids, wanted)
    _print(lines(fields, _ats(seen), header=not asked.has("-h")))
    return 0


def _no_words(asked: Args, tool: str) -> None:
    if asked.words:
        raise SpecError(f"{tool}: {asked.words[0]!r} is no option", hint="write -j for jobs")


def _needs(fields: Sequence[Field[At]]) -> dict[str, bool]:
    """Return what has to be asked of the server for these fields."""
    heads = {field.column.heading for field in fields if field.column is not None}
    return {
        "has_spec": bool(heads & NEEDS_SPEC), "has_nodes": bool(heads & NEEDS_NODES),
        "has_reasons": bool(heads & NEEDS_REASONS), "has_ends": bool(heads & NEEDS_ENDS),
    }  # fmt: skip


def _ats(seen: Seen) -> list[At]:
    return [At(row, seen.now) for row in seen.rows]


def _print(found: Sequence[str]) -> None:
    if found:
        print("\n".join(map(safe, found)))


_SACCT = (
    ("-j --jobs", 1), ("-o --format", 1), ("-n --noheader", 0), ("-P --parsable2", 0),
    ("-p --parsable", 0), ("--delimiter", 1), ("-X --allocations", 0), ("-u --user --uid", 1),
    ("-a --allusers", 0), ("-s --state", 1), ("-S --starttime", 1), ("-E --endtime", 1),
    ("--name", 1), ("-r --partition", 1), ("-b --brief", 0), ("-l --long", 0),
    ("-D --duplicates", 0), ("-M --clusters --cluster", 1), ("--units", 1), ("-L --allclusters", 0),
    ("--array", 0),
    ("-T --truncate", 0), ("--noconvert", 0),
)  # fmt: skip
_USUAL_FIELDS = "jobid,jobname,partition,account,alloccpus,state,exitcode"
_BRIEF = "jobid,state,exitcode"
_SHORT_FIELDS = frozenset(("JobID", "JobIDRaw", "State", "JobName", "Partition", "User", "Cluster",
                           "QOS"))  # fmt: skip


def sacct(words: Sequence[str]) -> int:
    """Print jobs, those that have ended too: named ones, else mine since midnight."""
    asked = args.read_getopt(words, _SACCT)
    _no_words(asked, "sacct")
    text = ",".join(asked.options.get("-o", ()))
    usual = _BRIEF if asked.has("-b") else ",".join(FIELDS) if asked.has("-l") else _USUAL_FIELDS
    fields = by_sacct(text or usual, FIELDS, "sacct")
    seen = _accounted(asked, fields)
    rows, header = _ats(seen), not asked.has("-n")
    if asked.has("-P") or asked.has("-p"):
        delimiter = asked.last("--delimiter", "|")
        _print(parsable(fields, rows, header=header, delimiter=delimiter, ends=asked.has("-p")))
    else:
        _print(columns(fields, rows, header=header))
    return 0


def _accounted(asked: Args, fields: Sequence[Field[At]]) -> Seen:
    ids = slurm_words.our_ids(asked.all("-j"))
    users = frozenset(asked.all("-u"))
    if not (users or asked.has("-a") or ids):
        users = frozenset((user_name(),))
    states = slurm_words.read_states(asked.last("-s")) if asked.has("-s") else None
    heads = {field.column.heading for field in fields if field.column is not None}
    client = common.connect()
    now = client.ask(lambda store: store.now())
    wanted = Wanted(
        users, frozenset(asked.all("-r")), frozenset(asked.all("--name")), states,
        _moment(asked.last("-S"), now) if asked.has("-S") else _midnight(now),
        **(_needs(fields) | {
            "has_ends": bool(heads - _SHORT_FIELDS), "has_spec": bool(heads & NEEDS_SPEC),
            "has_nodes": bool(heads - _SHORT_FIELDS),
        }),
    )  # fmt: skip
    seen = look(client, ids, wanted)
    if not asked.has("-E"):
        return seen
    until = _moment(asked.last("-E"), now)
    return Seen(tuple(r for r in seen.rows if r.job.submitted_at < until), seen.missing, seen.now)


def _midnight(now: float) -> float:
    today = time.localtime(now)
    return time.mktime((today.tm_year, today.tm_mon, today.tm_mday, 0, 0, 0, 0, 0, -1))


def _moment(text: str, now: float) -> float:
    """Read a time of sacct: `2026-11-01`, `now-1hours`, `16:00`."""
    units: Mapping[str, int] = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
    word = text.strip().lower()
    if word.startswith("now-"):
        number = word[4:].rstrip("abcdefghijklmnopqrstuvwxyz")
        unit = word[4 + len(number) :][:1] or "s"
        if number.isdigit() and unit in units:
            return now - int(number) * units[unit]
    return now if word == "now" else _past(text, now)


def _past(text: str, now: float) -> float:
    at = parse_begin(text, now=now)
    is_clock = text.replace(":", "").isdigit() and ":" in text
    return at - 86400 if is_clock and at > now else at
