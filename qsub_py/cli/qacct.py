"""qacct: show what jobs, owners and days have used; delete old jobs."""

from __future__ import annotations

import csv
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from qsub_py import render
from qsub_py.account import Usage
from qsub_py.cli import common, ids
from qsub_py.cli.shapes import (
    RIGHT,
    clock,
    elapsed,
    exit_code,
    limit_cell,
    memory_cell,
    seconds,
    tasks_cell,
)
from qsub_py.config import user_name
from qsub_py.errors import SpecError, StoreError
from qsub_py.model import JobInfo
from qsub_py.store_account import Accounts
from qsub_py.text import safe
from qsub_py.units import format_duration, format_size, parse_begin, parse_duration

if TYPE_CHECKING:
    from qsub_py.client import Client

_HEADINGS = ("JOBID", "NAME", "USER", "STATE", "EXIT", "TASKS", "ELAPSED", "CPUTIME", "CPUEFF",
             "MAXRSS", "MEMEFF")  # fmt: skip
_RIGHT = RIGHT | {"ELAPSED", "CPUTIME", "CPUEFF", "MAXRSS", "MEMEFF", "WALLTIME"}


@dataclass(frozen=True, slots=True)
class Window:
    """Which jobs and days are looked at (epoch seconds), and how they are printed."""

    since: float
    until: float
    #: None: everybody's.
    user: str | None
    limit: int
    form: str
    has_header: bool
    #: Whether one of the times was given.
    is_bounded: bool


@click.command("qacct", context_settings={"max_content_width": 100})
@click.argument("jobs", nargs=-1, metavar="[JOB]...")
@click.option(
    "-S",
    "--since",
    "--starttime",
    "since",
    metavar="TIME",
    help="What ended since then (2026-11-01, 16:00), or so long ago (7d).",
)
@click.option("-E", "--until", "--endtime", "until", metavar="TIME", help="What ended before.")
@click.option("-u", "--user", metavar="USER", help="Jobs of this user (mine).")
@click.option("-a", "--all-users", is_flag=True, help="Jobs of everybody.")
@click.option("--days", is_flag=True, help="Show what was used day by day (UTC).")
@click.option("--owners", is_flag=True, help="Show what each user used.")
@click.option("-n", "--limit", metavar="N", default="1000", help="At most so many jobs (1000).")
@click.option("--noheader", is_flag=True, help="Leave the headings out.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, numbers in seconds and bytes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--purge", is_flag=True, help="Delete JOBs that have ended, or those of --older.")
@click.option("--older", metavar="AGE", help="With --purge: jobs that ended so long ago (7d).")
@click.option("-y", "--yes", is_flag=True, help="With --purge: do not ask.")
@common.options
def qacct(jobs: tuple[str, ...], since: str | None, until: str | None, user: str | None,
          all_users: bool, days: bool, owners: bool, limit: str, noheader: bool, as_csv: bool,
          as_json: bool, purge: bool, older: str | None, yes: bool) -> int:  # fmt: skip
    """Show what my ended jobs have used, the last one first, or all of the JOBs named."""
    now = time.time()
    window = Window(
        _moment(since, "--since", now) if since else 0.0,
        _moment(until, "--until", now) if until else now + 366 * 86400.0,
        None if all_users else user or user_name(), common.whole(limit, "--limit", least=1),
        "json" if as_json else "csv" if as_csv else "table", not noheader,
        bool(since or until),
    )  # fmt: skip
    refs = ids.parse(jobs)
    _check(purge=purge, older=older, has_jobs=bool(refs), sums=days or owners, sure=yes)
    _exclude({"--days": days, "--owners": owners})
    _exclude({"--csv": as_csv, "--json": as_json})
    for ref in refs:
        if not ref.is_whole:
            raise SpecError(f"{ref}: only whole jobs are accounted for", hint=f"see qstat -t {ref}")
    client = common.connect()
    if purge:
        return _purge(client, refs, window, older, is_sure=yes)
    if days or owners:
        _show_days(client, window, by_owner=owners, user=user, everybody=all_users)
        return 0
    if refs:
        found = [picked.job for ref in refs for picked in ids.find(client, ref)]
    else:
        found = _ended(client, window)
    _show_jobs(client, found, window, is_full=bool(refs))
    return 0


def _exclude(said: dict[str, bool]) -> None:
    if all(said.values()):
        raise SpecError(" and ".join(said) + " exclude each other", hint="choose one")


def _check(*, purge: bool, older: str | None, has_jobs: bool, sums: bool, sure: bool) -> None:
    if older is not None and not purge:
        raise SpecError("--older says what --purge deletes", hint="write --purge --older 7d")
    if sure and not purge:
        raise SpecError("--yes is about --purge", hint="leave it out")
    if purge and (has_jobs == (older is not None) or sums):
        raise SpecError("--purge takes JOBs, or --older AGE", hint="see qacct --help")
    if sums and has_jobs:
        raise SpecError("--days and --owners are not about single jobs", hint="use -S, -E and -u")


def _moment(text: str, option: str, now: float) -> float:
    """Read a time, or how long ago it was."""
    if re.fullmatch(r"(\d+(\.\d+)?[smhdw])+", text.strip().lower(), re.ASCII):
        return now - common.read(option, parse_duration, text)
    try:
        moment = parse_begin(text, now=now)
    except SpecError as error:
        raise SpecError(f"{option}: {error}", hint="or 7d: so long ago") from None
    # A time of day is the last one that was, not the next.
    is_clock = now < moment <= now + 86400 and "now" not in text and "tomorrow" not in text
    return moment - 86400 if is_clock else moment


def _ended(client: Client, window: Window) -> list[JobInfo]:
    return client.ask(
        lambda store: Accounts(store).ended(
            window.since, window.until, limit=window.limit, owner=window.user
        )
    )


# -- jobs ----------------------------------------------------------------------------------


def _show_jobs(client: Client, jobs: Sequence[JobInfo], window: Window, *, is_full: bool) -> None:
    used = client.ask(lambda store: Accounts(store).usage([job.id for job in jobs]))
    now = client.ask(lambda store: store.now())
    rows = [_json(job, used[job.id], now) for job in jobs]
    if window.form == "json":
        render.show_json(rows)
    elif window.form == "csv":
        _print_csv(rows, list(_json_names()), header=window.has_header)
    elif is_full:
        for number, job in enumerate(jobs):
            print("\n" * bool(number), end="")
            render.show_fields(_fields(job, used[job.id], now))
    elif jobs:
        cells = tuple(_row(job, used[job.id], now) for job in jobs)
        render.show(render.Table(_HEADINGS, cells, _RIGHT), header=window.has_header)
    else:
        whose = f" of {window.user}" if window.user else ""
        common.complain(f"qacct: no jobs{whose} have ended" + " then" * window.is_bounded)


def _row(job: JobInfo, used: Usage, now: float) -> tuple[str, ...]:
    code = exit_code(job)
    return (
        str(job.id), job.name, job.owner, job.state.name, "" if code is None else str(code),
        tasks_cell(job), elapsed(job, now), seconds(used.cpu_s), percent(used.cpu_efficiency),
        format_size(used.peak_bytes) if used.peak_bytes else "-", percent(used.memory_efficiency),
    )  # fmt: skip


def percent(part: float | None) -> str:
    """Return a part as `73%`, `-` where it is not known."""
    return "-" if part is None else f"{100 * part:.0f}%"


def _json(job: JobInfo, used: Usage, now: float) -> dict[str, Any]:
    ran = (job.ended_at or now) - job.started_at if job.started_at else 0.0
    values = (
        job.id, job.name, job.owner, job.queue, job.state.name, exit_code(job), job.total,
        used.tasks, used.completed, job.cpus, job.gpus, job.mem_bytes, job.time_s,
        job.submitted_at, job.started_at, job.ended_at, ran, used.wall_s, used.cpu_s,
        used.booked_s, used.cpu_efficiency, used.longest_s, used.peak_bytes, used.booked_bytes,
        used.memory_efficiency, used.enough_mem or None, used.enough_time_s or None,
    )  # fmt: skip
    return dict(zip(_json_names(), values, strict=True))


def _json_names() -> tuple[str, ...]:
    return (
        "id", "name", "owner", "queue", "state", "exit_code", "tasks", "ended_tasks",
        "completed_tasks", "cpus", "gpus", "mem_bytes", "time_s", "submitted_at", "started_at",
        "ended_at", "elapsed_s", "wall_s", "cpu_s", "booked_cpu_s", "cpu_efficiency",
        "longest_s", "max_rss_bytes", "booked_mem_bytes", "mem_efficiency", "enough_mem",
        "enough_time_s",
    )  # fmt: skip


def _fields(job: JobInfo, used: Usage, now: float) -> list[tuple[str, str]]:
    """Return the full record of a job, as seff(1) has it."""
    code = exit_code(job)
    pairs = [
        ("job", str(job.id)), ("name", job.name), ("user", job.owner), ("queue", job.queue),
        ("state", job.state.name), ("exit code", "" if code is None else str(code)),
        ("reason", job.reason), ("tasks", tasks_cell(job)), ("cpus", str(job.cpus)),
        ("memory", memory_cell(job.mem_bytes)), ("time limit", limit_cell(job.time_s)),
        ("submitted", clock(job.submitted_at)), ("started", clock(job.started_at)),
        ("ended", clock(job.ended_at)), ("elapsed", elapsed(job, now)),
    ]  # fmt: skip
    if used.tasks:
        what = f"{used.tasks} runs, the longest {seconds(used.longest_s)}"
        pairs += [
            ("wall time", seconds(used.wall_s) + (f" in {what}" if used.tasks > 1 else "")),
            ("cpu time", seconds(used.cpu_s)),
            ("cpu efficiency", _of(used.cpu_efficiency, seconds(used.booked_s))),
            ("memory peak", format_size(used.peak_bytes)),
            ("memory efficiency", _of(used.memory_efficiency, format_size(used.booked_bytes))),
        ]  # fmt: skip
    if used.enough_mem:
        pairs.append(("would have done", f"--mem {used.enough_mem} --time"
                                         f" {format_duration(used.enough_time_s)}"))  # fmt: skip
    return [(name, value) for name, value in pairs if value not in ("", "-")]


def _of(part: float | None, booked: str) -> str:
    return "-" if part is None else f"{percent(part)} of {booked} booked"


def _print_csv(rows: Sequence[dict[str, Any]], names: list[str], *, header: bool) -> None:
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in rows)


# -- days and owners -----------------------------------------------------------------------


def _show_days(
    client: Client, window: Window, *, by_owner: bool, user: str | None, everybody: bool
) -> None:
    from qsub_py import account

    now = client.ask(lambda store: store.now())
    last = int(min(window.until, now) // 86400)
    first = int(window.since // 86400) if window.since else last - 29
    found = client.ask(lambda store: Accounts(store).days(first, last))
    if by_owner:
        found = [use for use in account.by_owner(found) if user in (None, use.owner)]
    elif not everybody:
        found = [use for use in found if use.owner == window.user]
    key = "owner" if by_owner else "day"
    rows: list[dict[str, Any]] = [
        {**({} if by_owner else {"day": _day(use.day)}), "owner": use.owner, "tasks": use.tasks,
         "failed": use.failed, "wall_s": use.wall_s, "cpu_s": use.cpu_s,
         "booked_cpu_s": use.booked_s, "cpu_efficiency": use.cpu_efficiency}
        for use in found
    ]  # fmt: skip
    if window.form == "json":
        render.show_json(rows)
    elif window.form == "csv":
        names = ["day"] * (key == "day") + ["owner", "tasks", "failed", "wall_s", "cpu_s",
                                            "booked_cpu_s", "cpu_efficiency"]  # fmt: skip
        _print_csv(rows, names, header=window.has_header)
    elif rows:
        heads = ("DAY",) * (key == "day") + ("USER", "TASKS", "FAILED", "WALLTIME", "CPUTIME",
                                             "CPUEFF")  # fmt: skip
        cells = tuple(
            (_day(use.day),) * (key == "day") + (
                use.owner, str(use.tasks), str(use.failed), seconds(use.wall_s),
                seconds(use.cpu_s), percent(use.cpu_efficiency),
            )
            for use in found
        )  # fmt: skip
        render.show(render.Table(heads, cells, _RIGHT), header=window.has_header)
    else:
        common.complain("qacct: nothing has ended in these days")


def _day(number: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(number * 86400))


# -- purge ---------------------------------------------------------------------------------


def _purge(
    client: Client, refs: Sequence[Any], window: Window, older: str | None, *, is_sure: bool
) -> int:
    if older is not None:
        age_s = common.read("--older", lambda text: parse_duration(text, bare_s=86400.0), older)
        now = client.ask(lambda store: store.now())
        jobs = client.ask(
            lambda s: Accounts(s).ended(0.0, now - age_s, limit=1_000_000, owner=window.user)
        )
    else:
        jobs = []
        for ref in refs:
            jobs += [picked.job for picked in ids.find(client, ref)]
    if not jobs:
        common.complain("qacct: no job has ended that long ago")
        return 0
    if not is_sure and not _is_confirmed(jobs):
        common.complain("qacct: nothing was deleted")
        return 1
    return _delete(client, jobs)


def _is_confirmed(jobs: Sequence[JobInfo]) -> bool:
    """Ask a person; nobody is there to answer a script's question."""
    from qsub_py.cli.asking import is_answered

    if not is_answered():
        return True
    what = f"job {jobs[0].id}" if len(jobs) == 1 else f"{len(jobs)} jobs"
    sys.stderr.write(safe(f"Delete {what} with results and logs? (yes/no) "))
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _delete(client: Client, jobs: Sequence[JobInfo]) -> int:
    code = deleted = 0
    for job in jobs:
        try:
            was_ended = client.ask(lambda store: Accounts(store).purge(job.id))  # noqa: B023
        except StoreError as error:
            common.complain(f"qacct: {error}")
            code = 1
            continue
        deleted += was_ended
        if not was_ended:
            common.complain(f"qacct: job {job.id} has not ended; `qcancel {job.id}` ends it")
            code = 1
    common.hint(f"qacct: {deleted} jobs deleted")
    return code


def main(words: Sequence[str] | None = None) -> None:
    """Run qacct (console script)."""
    common.main(qacct, words)
