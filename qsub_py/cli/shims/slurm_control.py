"""scontrol: show, hold, release, requeue, suspend, resume, change a job."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qsub_py.cli import common
from qsub_py.cli.shims import acting, args, slurm_words
from qsub_py.cli.shims.looking import Row, Wanted, find, look
from qsub_py.errors import SpecError
from qsub_py.model import State
from qsub_py.text import quoted, safe

if TYPE_CHECKING:
    from qsub_py.cli.ids import Picked
    from qsub_py.client import Client

_SCONTROL = (("-o --oneliner", 0), ("-Q --quiet", 0), ("-v --verbose", 0), ("-d --details", 0),
             ("-M --clusters --cluster", 1), ("-a --all", 0))  # fmt: skip
_INVALID = "Invalid job id specified: {}"
#: scontrol update's words -> qalter's options.
_UPDATE = {
    "timelimit": "--time", "jobname": "--name", "name": "--name", "comment": "--comment",
    "account": "--account", "partition": "--queue", "priority": "--priority",
    "arraytaskthrottle": "--array-limit", "numcpus": "--cpus", "cpuspertask": "--cpus",
    "minmemorynode": "--mem", "minmemorycpu": "--mem-per-cpu", "starttime": "--begin",
    "eligibletime": "--begin", "reqnodelist": "--nodelist", "stdout": "--output",
}  # fmt: skip


def scontrol(words: Sequence[str]) -> int:
    """Do what a word of scontrol says."""
    asked = args.read_getopt(words, _SCONTROL)
    verb, *rest = asked.words or ("",)
    name = {"uhold": "hold", "requeuehold": ""}.get(verb.lower(), verb.lower())
    if name == "show":
        return _show(rest, is_short=asked.has("-o"))
    if name == "update":
        return _update(rest)
    if name not in _VERBS:
        raise SpecError(f"scontrol {quoted(verb)} is not known here",
                        hint=f"known: show, update, {', '.join(_VERBS)}")  # fmt: skip
    ids = slurm_words.our_ids(_ids(rest))
    if not ids:
        raise SpecError(f"scontrol {verb}: no job is named")
    if name == "requeue" and _is_own(ids):
        _mark()
        return 0
    client = common.connect()
    picked, missing = find(client, ids)
    _VERBS[name](client, picked)
    acting.complain("scontrol", missing, _INVALID)
    return int(bool(missing))


def _ids(words: Iterable[str]) -> list[str]:
    """Return ids of `12 13`, `12,13`, `jobid=12`."""
    return [re.sub(r"(?i)^job(id)?=", "", word) for word in words if word.lower() != "job"]


# -- running again ---------------------------------------------------------------------------


def _is_own(ids: Sequence[str]) -> bool:
    """Whether a task speaks of itself."""
    job, task = os.environ.get("QSUB_JOB_ID"), os.environ.get("QSUB_TASK_ID")
    has_scratch = bool(os.environ.get("QSUB_SCRATCH"))
    return has_scratch and list(ids) in ([f"{job}_{task}"], [os.environ.get("SLURM_JOB_ID", "")])


def _mark() -> None:
    """Let the keeper know that this task runs again, however it ends (node/launch.py)."""
    from qsub_py.inside import MARK

    (Path(os.environ["QSUB_SCRATCH"]) / MARK).write_text("any")


def _requeue(client: Client, picked: Sequence[Picked]) -> None:
    for found in picked:
        job = found.job
        if not job.has_ended:
            raise SpecError(
                f"job {job.id} has not ended: only a task itself can ask to run again",
                hint=f"write scancel {job.id}, then scontrol requeue {job.id}",
            )
        ends = {state for state in State if state.is_terminal}
        parts = found.ranges if found.ranges is not None else ((0, job.total - 1),)
        client.ask(lambda store: store.requeue(job.id, parts, ends))  # noqa: B023


def _change(verb: str) -> Callable[[Client, Sequence[Picked]], None]:
    def act(client: Client, picked: Sequence[Picked]) -> None:
        from qsub_py.store_suspend import change

        for found in picked:
            for part in found.ranges if found.ranges is not None else ((-1, -1),):
                client.ask(lambda store: change(store, found.job.id, *part, verb))  # noqa: B023

    return act


_VERBS: dict[str, Callable[[Client, Sequence[Picked]], None]] = {
    "hold": acting.hold, "release": acting.release, "requeue": _requeue,
    "suspend": _change("suspend"), "resume": _change("resume"),
}  # fmt: skip


def _update(words: Sequence[str]) -> int:
    """Change a job: `update jobid=12 timelimit=30`."""
    from qsub_py.cli.qalter import qalter

    options: list[str] = []
    jobs: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if name.lower() in ("jobid", "job") and equals:
            jobs += slurm_words.our_ids(value.split(","))
        elif name.lower() in _UPDATE and equals:
            options.append(f"{_UPDATE[name.lower()]}={value}")
        elif name.lower() == "nice" and equals:
            options.append(f"--priority={-int(value) if value.lstrip('-').isdigit() else value}")
        elif word.lower() != "job":
            known = ", ".join(["jobid", *_UPDATE])
            raise SpecError(f"scontrol update: {quoted(word)} is not known here",
                            hint=f"known: {known}")  # fmt: skip
    return common.run(qalter, [*options, *jobs])


# -- showing ---------------------------------------------------------------------------------


def _show(words: Sequence[str], *, is_short: bool) -> int:
    what, *rest = words or ("",)
    kind = what.lower().partition("=")[0]
    if kind in ("hostnames", "hostname"):
        print("\n".join(hosts(rest[0] if rest else os.environ.get("SLURM_JOB_NODELIST", ""))))
        return 0
    if kind not in ("job", "jobs", "jobid"):
        raise SpecError(f"scontrol show {quoted(what)} is not known here",
                        hint="known: job, hostnames")  # fmt: skip
    named = [what.partition("=")[2]] if "=" in what else list(rest)
    ids = slurm_words.our_ids(_ids(part for word in named for part in word.split(",")))
    client = common.connect()
    seen = look(client, ids, Wanted(has_spec=True, has_nodes=True, has_ends=True,
                                    has_reasons=True))  # fmt: skip
    shown = [described(row, seen.now) for row in seen.rows]
    for pairs in shown:
        print(safe(" ".join(pairs)) if is_short else "\n   ".join(map(safe, pairs)) + "\n")
    acting.complain("slurm_load_jobs error", seen.missing, _INVALID)
    return int(bool(seen.missing))


def described(row: Row, now: float) -> list[str]:
    """Return what is known of a job in scontrol's words."""
    job, spec = row.job, row.spec
    array = [] if row.index is None and not row.together else [
        f"ArrayJobId={job.id}", f"ArrayTaskId={slurm_words.task_cell(row)}",
    ]  # fmt: skip
    ran = slurm_words.elapsed(row, now)
    return [
        f"JobId={slurm_words.job_id(row, limit=False)}", *array, f"JobName={job.name}",
        f"UserId={job.owner}", f"Priority={job.priority}",
        f"Account={(spec and spec.account) or '(null)'}",
        f"JobState={slurm_words.long(row.state)}", f"Reason={row.reason.split(' ')[0] or 'None'}",
        f"ExitCode={slurm_words.exit_code(row)}",
        f"Requeue={int(spec.requeue) if spec else 1}",
        f"RunTime={slurm_words.duration(ran, is_full=True)}",
        f"TimeLimit={slurm_words.limit(row, is_full=True)}",
        f"SubmitTime={slurm_words.moment(job.submitted_at)}",
        f"StartTime={slurm_words.moment(row.started_at)}",
        f"EndTime={slurm_words.moment(row.ended_at)}", f"Partition={job.queue}",
        f"NodeList={row.node or '(null)'}", f"BatchHost={row.node or '(null)'}", "NumNodes=1",
        f"NumCPUs={job.cpus}", f"MinMemoryNode={slurm_words.memory(job.mem_bytes)}",
        f"Command={(spec and spec.script_path) or '(null)'}",
        f"WorkDir={spec.cwd if spec else ''}", f"StdOut={(spec and spec.output) or '/dev/null'}",
        f"Comment={(spec and spec.comment) or '(null)'}",
    ]  # fmt: skip


def hosts(text: str) -> list[str]:
    """Return the names that `a[1-3,07],b` means."""
    found: list[str] = []
    for match in re.finditer(r"([^,\[\]]*)(?:\[([^\]]*)\])?([^,\[\]]*)(?:,|$)", text):
        if not match[2]:
            found += [match[0].rstrip(",")] if match[0].rstrip(",") else []
            continue
        for part in match[2].split(","):
            first, _, last = part.partition("-")
            numbers = range(int(first), int(last or first) + 1)
            found += [f"{match[1]}{n:0{len(first)}}{match[3]}" for n in numbers]
    return found
