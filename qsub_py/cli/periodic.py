"""Schedules on the command line: `qsub --every`, `qstat --periodic`, what holds or ends them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from qsub_py.cli import common
from qsub_py.cli.common import read, whole
from qsub_py.cli.options import Request
from qsub_py.config import user_name
from qsub_py.errors import JobNotFound, SpecError
from qsub_py.units import parse_begin, parse_duration

if TYPE_CHECKING:
    from qsub_py.cli.draft import Draft
    from qsub_py.client import Client
    from qsub_py.periodic import Rule
    from qsub_py.store_schedules import ScheduleInfo
    from qsub_py.units import JobRef

_ONLY_PERIODIC = ("timezone", "until", "times", "overlap", "catch_up")
HEADINGS = ("SCHEDULE", "NAME", "USER", "WHEN", "NEXT", "LAST", "ST", "FIRED", "SKIPPED", "MISSED",
            "OVERLAP", "NOTE")  # fmt: skip


def rule_of(request: Request) -> Rule | None:
    """Return when a job is to run again and again, None when once; raises SpecError."""
    if request.every is None and request.cron is None:
        for name in _ONLY_PERIODIC:
            if getattr(request, name) is not None:
                raise SpecError(f"--{name.replace('_', '-')} is for jobs that run again and again",
                                hint="add --every 1h or --cron '0 3 * * *'")  # fmt: skip
        return None
    from qsub_py.periodic import CATCH_UPS, OVERLAPS, Rule

    if request.every is not None and request.cron is not None:
        raise SpecError("--every and --cron exclude each other", hint="leave one out")
    for name in ("wait", "follow"):
        if getattr(request, name):
            raise SpecError(f"--{name} has no end with --every or --cron", hint="leave one out")
    if request.dependency is not None or request.after:
        raise SpecError("--dependency says nothing with --every or --cron: it is met once for all",
                        hint="write --begin for the first time, --overlap queue for one by one"
                        )  # fmt: skip
    every_ms, cron, zone_name = _times(request)
    until_ms = 0
    if request.until is not None:
        until_ms = int(read("--until", _begin, request.until) * 1000)
        if until_ms <= time.time() * 1000:
            raise SpecError("--until is over already")
    return Rule(
        every_ms=every_ms, cron=cron, timezone=zone_name, until_ms=until_ms,
        overlap=_choice("--overlap", request.overlap, OVERLAPS),
        catch_up=_choice("--catch-up", request.catch_up, CATCH_UPS),
    )  # fmt: skip


def _times(request: Request) -> tuple[int, str, str]:
    """Return (interval in ms or 0, five fields or "", time zone)."""
    from qsub_py.periodic import check_cron, local_zone, zone

    if request.every is not None:
        if request.timezone is not None:
            raise SpecError("--timezone says nothing with --every", hint="leave it out")
        every_s = read("--every", lambda text: parse_duration(text, bare_s=1.0), request.every)
        if every_s < 1:
            raise SpecError("--every must be at least 1s")
        return round(every_s * 1000), "", "UTC"
    cron = read("--cron", check_cron, request.cron or "")
    name = local_zone() if request.timezone is None else request.timezone
    read("--timezone", zone, name)
    return 0, cron, name


def _begin(text: str) -> float:
    return parse_begin(text, now=time.time())


def _choice(option: str, text: str | None, known: tuple[str, ...]) -> str:
    if text is not None and text not in known:
        raise SpecError(f"{option} is {' or '.join(known)}, not {text!r}")
    return text or known[0]


def times_of(request: Request) -> int:
    """Return how often it runs at most, 0: any number; raises SpecError."""
    if request.times is None:
        return 0
    return whole(request.times, "--times", least=1, most=1_000_000_000)


def plan_of(draft: Draft, *, now: float) -> tuple[bytes, int, int, str]:
    """Return what makes a draft a schedule (`model.Submission.plan`), by the server's clock."""
    rule = draft.rule
    assert rule is not None
    begin_at = max(parse_begin(draft.begin, now=now), now) if draft.begin else now
    first = rule.first(int(begin_at * 1000))
    if not first:
        raise SpecError("it would never run: --until comes before the first time")
    return rule.to_bytes(), first, draft.times, rule.overlap


def describe(draft: Draft) -> str:
    """Return what a dry run says of the times."""
    rule = draft.rule
    assert rule is not None
    begin_at = _begin(draft.begin) if draft.begin else time.time()
    times = rule.times(int(begin_at * 1000), min(3, draft.times or 3))
    shown = ", ".join(stamp(ms / 1000, rule.timezone if rule.cron else "") for ms in times)
    return f"{rule.shown}: {shown}" + ("" if len(times) < 3 else ", ...")


def stamp(at: float, zone_name: str = "") -> str:
    """Return a time as people write it, in a zone or this host's."""
    from qsub_py.periodic import zone

    moment = datetime.fromtimestamp(at, timezone.utc)
    try:
        moment = moment.astimezone(zone(zone_name) if zone_name else None)
    except SpecError:
        return f"{moment:%Y-%m-%dT%H:%M:%S} UTC"
    return f"{moment:%Y-%m-%dT%H:%M:%S}" + (f" {moment:%Z}" if zone_name else "")


# -- qstat --periodic --------------------------------------------------------------------------


def show(
    client: Client, refs: Sequence[JobRef], *, user: str | None, ended: bool, as_json: bool,
    header: bool,
) -> None:  # fmt: skip
    """Print the schedules, or those named; raises JobNotFound."""
    from qsub_py import render
    from qsub_py.store_schedules import Schedules

    if refs:
        found = [_named(client, ref) for ref in refs]
    else:
        everybodys = client.ask(lambda store: Schedules(store).all(ended=ended))
        found = [info for info in everybodys if user is None or info.owner == user]
    rows = [_row(client, info) for info in found]
    if as_json:
        render.show_json(rows)
    elif rows:
        cells = tuple(_cells(row) for row in rows)
        render.show(render.Table(HEADINGS, cells, _RIGHT), header=header)
    else:
        common.complain("no schedules")


def _named(client: Client, ref: JobRef) -> ScheduleInfo:
    from qsub_py.store_schedules import Schedules

    if ref.back is not None or ref.first != ref.last or not ref.is_whole:
        raise SpecError(f"{ref} is no number of a schedule")
    found = client.ask(lambda store: Schedules(store).get(ref.first))
    if found is None:
        raise JobNotFound(f"there is no schedule {ref}")
    return found


_RIGHT = frozenset({"SCHEDULE", "FIRED", "SKIPPED", "MISSED", "LAST"})


def _row(client: Client, info: ScheduleInfo) -> dict[str, Any]:
    rule, last = _rule(info), None
    if info.last_job:
        try:
            last = client.ask(lambda store: store.job(info.last_job))
        except JobNotFound:
            last = None
    return {
        "id": info.id, "name": info.name, "owner": info.owner, "when": rule.shown if rule else "?",
        "overlap": rule.overlap if rule else "?", "catch_up": rule.catch_up if rule else "?",
        "next_at": info.next_ms / 1000 if info.next_ms and not info.is_held else None,
        "last_job": info.last_job or None, "last_due_at": info.last_due_at or None,
        "last_state": last.state.name if last else None, "fired": info.fired,
        "skipped": info.skipped, "missed": info.missed, "waiting": info.waiting,
        "left": info.left, "held": info.is_held, "ended_at": info.ended_at or None,
        "reason": _note(info),
    }  # fmt: skip


def _note(info: ScheduleInfo) -> str:
    if info.ended_at:
        return info.reason or "over"
    if info.is_held:
        return "JobHeldUser"
    return info.complaint


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    from qsub_py.model import State

    state = State[row["last_state"]].short if row["last_state"] else ""
    return (
        str(row["id"]), row["name"], row["owner"], row["when"],
        stamp(row["next_at"]) if row["next_at"] else "-", str(row["last_job"] or "-"), state,
        str(row["fired"]), str(row["skipped"]), str(row["missed"]), row["overlap"], row["reason"],
    )  # fmt: skip


def _rule(info: ScheduleInfo) -> Rule | None:
    from qsub_py.periodic import Rule

    try:
        return Rule.from_bytes(info.rule)
    except (TypeError, ValueError):
        return None


# -- qhold, qrls, qcancel ----------------------------------------------------------------------

_DONE = {"hold": "is held", "release": "is released", "end": "is cancelled"}


def change(client: Client, ref: JobRef, verb: str, *, command: str) -> bool:
    """Hold, release or end a schedule; False when there is none of this number."""
    from qsub_py.store_schedules import Schedules

    if ref.back is not None or ref.first != ref.last or not ref.is_whole:
        return False
    schedule = ref.first
    by = user_name()
    done, running = client.ask(lambda store: Schedules(store).change(schedule, verb, by=by))
    if done < 0:
        return False
    if not done:
        common.complain(f"{command}: schedule {schedule} has ended already")
    else:
        common.hint(f"{command}: schedule {schedule} {_DONE[verb]}")
    if verb == "end" and running:
        common.hint(f"{command}: its job {running} goes on; `qcancel {running}` ends it")
    return True
