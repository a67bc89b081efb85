"""What `qsub --dry-run` says: the job as it would be submitted."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from signal import Signals
from typing import TYPE_CHECKING

from qsub_py.cli import periodic
from qsub_py.cli.draft import Draft
from qsub_py.model import JobSpec
from qsub_py.shipping import describe as describe_parcel
from qsub_py.sweep import Sweep, from_plain
from qsub_py.sweep_fill import fill, text_of
from qsub_py.sweep_rows import PageReader
from qsub_py.terms import NO_TERMS, Terms, shown_rate
from qsub_py.text import safe
from qsub_py.units import format_array, format_duration, format_size, format_span

if TYPE_CHECKING:
    from qsub_py.dialect import Said

#: So many tasks of a sweep are shown.
_FIRST = 5


def describe(draft: Draft, said: Sequence[Said] = ()) -> str:
    """Return the job as lines of `name  value`, safe for a terminal.

    `said`: what was understood from which line or foreign word.
    """
    spec = draft.spec
    rows = [
        ("would submit", spec.name),
        ("runs", _runs(spec)),
        ("tasks", _tasks(draft)),
        *([("at once", f"{draft.limit} of them at most")] if draft.limit and spec.sweep else []),
        ("needs", _needs(spec)),
        ("directory", "a private one on the node" if spec.ship else spec.cwd),
        ("output", spec.output or "kept by the node (qlog)"),
        ("error", spec.error or "with the output"),
        ("environment", f"{len(spec.env)} variables"),
        ("starts", _starts(draft)),
        ("queue", spec.queue),
    ]
    rows += [("nodes", ", ".join(spec.nodelist))] if spec.nodelist else []
    rows += terms_rows(spec.terms or NO_TERMS)
    rows += [("ships", describe_parcel(parcel)) for parcel in draft.parcels]
    rows += [("fetches", pattern) for pattern in spec.fetch]
    rows += [("again", periodic.describe(draft))] if draft.rule else []
    rows += [("on failure", line) for line in failure_lines(spec)]
    rows += [("cancelled", _late(draft))] if draft.deadline else []
    rows += [("stops", f"when more than {draft.max_fails} of the tasks have failed")] * bool(
        draft.max_fails
    )
    rows += [("skips", f"tasks whose {spec.skip_if_exists} is there")] * bool(spec.skip_if_exists)
    rows += _first_tasks(draft)
    rows += [("variables", f"also those of {spec.compat}")] if spec.compat else []
    rows += [("read", _understood(one)) for one in said]
    rows += [("note", note) for note in draft.notes]
    return "\n".join(f"{name:<13}{safe(value)}" for name, value in rows)


def sweep_of(draft: Draft) -> Sweep | None:
    """Return the sweep of a draft, its rows at hand."""
    if not draft.spec.sweep:
        return None
    return from_plain(draft.spec.sweep, lambda sha: PageReader(sha, lambda n: draft.pages[n]))


def _first_tasks(draft: Draft) -> list[tuple[str, str]]:
    sweep, spec = sweep_of(draft), draft.spec
    rows = []
    for position in range(min(sweep.count, _FIRST) if sweep is not None else 0):
        assert sweep is not None
        params = sweep.at(position)
        values = " ".join(f"{name}={text_of(value)}" for name, value in params.items())
        is_named = spec.script is None or bool(spec.script_path)
        words = shlex.join(fill(word, params) for word in spec.argv) if is_named else ""
        rows.append((f"task {position}", f"{values}  {words}".rstrip()))
    if sweep is not None and sweep.count > _FIRST:
        rows.append(("...", f"and {sweep.count - _FIRST} more"))
    return rows


def _understood(said: Said) -> str:
    meaning = f"no effect ({said.meaning})" if said.is_harmless else said.meaning
    return f"{said.where or 'command line'}: {said.text} -> {meaning}"


def _runs(spec: JobSpec) -> str:
    python = spec.python or spec.python_hint
    if spec.kind == "call":
        return f"{spec.function_name} under {python}"
    if spec.script is None:
        return shlex.join(spec.argv)
    if spec.script_path.endswith(".py"):
        return shlex.join([python, spec.script_path, *spec.argv])
    if not spec.script_path:
        return script_line(spec)
    line = spec.script.partition("\n")[0]
    interpreter = line[2:].strip() if line.startswith("#!") else "/bin/sh"
    return f"{interpreter} {shlex.join([spec.script_path, *spec.argv])}"


def script_line(spec: JobSpec) -> str:
    """Return what stands for a script that is no file: its first line, and who reads it."""
    first, _, rest = (spec.script or "").partition("\n")
    interpreter, text = (first[2:].strip(), rest) if first.startswith("#!") else ("/bin/sh", "")
    line, _, more = (text or spec.script or "").strip().partition("\n")
    return f"{interpreter}: {line}" + (" ..." if more else "")


def _tasks(draft: Draft) -> str:
    spec = draft.spec
    if not spec.is_array:
        return "1"
    sweep = sweep_of(draft)
    if sweep is not None:
        drawn = f" of {sweep.grid}, seed {sweep.sample[1]}" if sweep.sample else ""
        return f"{sweep.count}{drawn} ({', '.join(sweep.names)})"
    return f"{spec.segments.count} ({format_array(spec.segments, draft.limit, width=60)})"


def _needs(spec: JobSpec) -> str:
    memory = format_size(spec.mem_bytes) if spec.mem_bytes else "the node's share"
    limit = format_duration(spec.time_s) if spec.time_s else "none"
    return f"cpus {spec.cpus}, memory {memory}, gpus {spec.gpus}, time limit {limit}"


def terms_rows(terms: Terms) -> list[tuple[str, str]]:
    """Return what a job asks for beyond the size of a node, named."""
    rows = [("not on", ",".join(terms.exclude)), ("constraint", terms.constraint),
            ("licences", ",".join(terms.licenses)),
            ("rate", shown_rate(terms.rate) if terms.rate else "")]  # fmt: skip
    return [(name, value) for name, value in rows if value]


def failure_lines(spec: JobSpec) -> list[str]:
    """Return what is done when a task fails or nears its limit, a line each."""
    retry, notice, lines = spec.retry, spec.notice, []
    if retry is not None and retry.count:
        wait = f"{format_span(retry.backoff_s)}, later up to {format_span(retry.backoff_most_s)}"
        lines.append(f"up to {retry.count} retries on {', '.join(retry.on)}, after {wait}")
    if retry is not None and retry.mem_factor:
        lines.append(f"out of memory: {retry.mem_factor:g} times the memory")
    if retry is not None and retry.time_factor:
        lines.append(f"time limit: {retry.time_factor:g} times the time")
    if retry is not None and retry.obeys_exit:
        lines.append("exit 99 runs it again, exit 100 holds it")
    if notice is not None:
        whom = "its shell" if notice.is_shell_only else "its programs"
        name = Signals(notice.signal).name if notice.signal in set(Signals) else "a signal"
        lines.append(f"{name} to {whom} {format_span(notice.before_s)} before the limit")
    return lines


def _late(draft: Draft) -> str:
    if draft.rule is None:
        return f"what has not begun by {draft.deadline}"
    return f"what has not begun by its due time {draft.deadline.removeprefix('now')}"


def _starts(draft: Draft) -> str:
    when = [f"{wish.kind}:{wish.ref}" if wish.ref else wish.kind for wish in draft.wishes]
    if when:
        return ("?" if draft.is_or else ",").join(when)
    if draft.is_held:
        return "when released (qrls)"
    return f"no earlier than {draft.begin}" if draft.begin else "as soon as a node is free"
