"""qfetch: collect the files that a job brings back, or has so far."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from qsub_py import render
from qsub_py.cli import common, ids
from qsub_py.cli.ids import Picked
from qsub_py.cli.tasks import task_id
from qsub_py.errors import JobError, PayloadError
from qsub_py.globs import check_glob, matches
from qsub_py.model import JobSpec, State
from qsub_py.text import quoted, safe
from qsub_py.units import format_size

if TYPE_CHECKING:
    from qsub_py.client import Client
    from qsub_py.gathering import Gathered, Source

_RUNS = (State.RUNNING, State.COMPLETING)
_TRY_AGAIN = 75


@click.command("qfetch")
@click.argument("job", metavar="JOB[_TASKS]")
@click.argument("globs", nargs=-1, metavar="[GLOB]...")
@click.option("-o", "--output", "folder", default=".", metavar="DIR", help="Where to (here).")
@click.option("--now", is_flag=True, help="Ask running tasks for what there is so far, too.")
@click.option("--force", is_flag=True, help="Replace files that are here and differ.")
@click.option("--list", "does_list", is_flag=True, help="Only show which files there are.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@common.options
def qfetch(
    job: str, globs: tuple[str, ...], folder: str, now: bool, force: bool, does_list: bool,
    as_json: bool,
) -> int:  # fmt: skip
    """Collect the files of a JOB that `qsub --fetch` named, or those of them that match GLOB.

    Those of one task keep their names below DIR, those of an array's tasks go to DIR/TASK/.
    """
    patterns = tuple(check_glob(text) for text in globs)
    ref = ids.parse_one(job)
    client = common.connect()
    picked = ids.find_one(client, ref)
    spec = ids.spec_of(client, picked.job)
    if not spec.fetch and not (now and patterns):
        raise JobError(
            f"job {picked.job.id} was submitted without --fetch: its files were not kept",
            hint="of a task that runs, --now and a GLOB get what there is",
        )
    asked = _Asked(client, picked, spec, patterns, now)
    rows = asked.listed() if does_list else asked.written(folder, is_forced=force)
    return _show(rows, asked, as_json=as_json, does_list=does_list)


@dataclass(slots=True)
class Row:
    """One file, or what went wrong with a task's."""

    task: str
    index: int
    path: str = ""
    size: int = 0
    node: str = ""
    attempt: int = 0
    to: str = ""
    was_here: bool = False
    error: str = ""


class _Asked:
    """The tasks whose files are asked for."""

    def __init__(
        self, client: Client, picked: Picked, spec: JobSpec, patterns: Sequence[str], now: bool
    ) -> None:
        self._client, self._picked, self._spec = client, picked, spec
        self._patterns, self._now = tuple(patterns), now
        #: Tasks that were passed over because they have not ended.
        self.unended: list[str] = []

    @property
    def job(self) -> int:
        """The job's id."""
        return self._picked.job.id

    @property
    def patterns(self) -> tuple[str, ...]:
        """What the files must match."""
        return self._patterns or self._spec.fetch

    def _sources(self) -> Iterator[Source]:
        from qsub_py.gathering import ended_sources, running_source

        client, job = self._client, self._picked.job
        ended, running = self._states()
        yield from ended_sources(client, job, ended)
        tasks = client.ask(lambda store: store.running(job.id, self._spec)) if running else []
        for task in tasks:
            if task.position in running:
                yield running_source(client, job, task, self.patterns)

    def _states(self) -> tuple[list[int], set[int]]:
        """Return the positions of tasks that have ended, and of those to be asked."""
        job, ended, running = self._picked.job, [], set()
        for first, last in self._picked.ranges or ((0, job.total - 1),):
            count = last - first + 1
            states = self._client.ask(lambda store: store.states(job.id, first, count))  # noqa: B023
            for at, (state, _) in enumerate(states, first):
                if state.is_terminal:
                    ended.append(at)
                elif state in _RUNS and self._now:
                    running.add(at)
                else:
                    self.unended.append(task_id(job, self._spec.index(at)))
        return ended, running

    def _row(self, source: Source | Gathered, **fields: Any) -> Row:
        index = self._spec.index(source.position)
        note = source.note
        return Row(task_id(self._picked.job, index), index, node=note.node, attempt=note.attempt,
                   **fields)  # fmt: skip

    def listed(self) -> Iterator[Row]:
        """Yield a row for each file."""
        from qsub_py.gathering import files_of

        for source in self._sources():
            try:
                files = files_of(source)
            except (JobError, PayloadError) as error:
                yield self._row(source, error=str(error))
                continue
            if not files and source.note.why:
                yield self._row(source, error=source.note.why)
            for path, size, _ in files:
                if not self._patterns or matches(path, self._patterns):
                    yield self._row(source, path=path, size=size)

    def written(self, folder: str, *, is_forced: bool) -> Iterator[Row]:
        """Write the files and yield a row for each."""
        from qsub_py.gathering import gather, task_folder

        job, spec = self._picked.job, self._spec
        allowed = (*spec.fetch, *(self._patterns if self._now else ()))
        for done in gather(
            self._sources(), lambda position: task_folder(job, spec, folder, position),
            allowed=allowed, wanted=self._patterns, may_replace=lambda status: is_forced,
        ):  # fmt: skip
            if done.error:
                yield self._row(done, error=done.error + (f"; {done.hint}" if done.hint else ""))
            for file in done.files:
                to = os.path.join(task_folder(job, spec, folder, done.position), file.path)
                yield self._row(done, path=file.path, size=file.size, to=to, was_here=file.was_here)


def _show(rows: Iterator[Row], asked: _Asked, *, as_json: bool, does_list: bool) -> int:
    found: list[dict[str, Any]] = []
    count = failed = 0
    for row in rows:
        if row.error:
            failed += 1
            common.complain(f"qfetch: {row.task}: {row.error}")
            continue
        count += 1
        if as_json:
            found.append(_as_json(row, asked.job))
        elif does_list:
            print(f"{row.task}\t{format_size(row.size)}\t{safe(row.path)}")
        else:
            print(safe(os.path.normpath(row.to)))
    if as_json:
        render.show_json(found)
    return _code(asked, count, failed)


def _code(asked: _Asked, count: int, failed: int) -> int:
    """Return the exit code, after a word on what is missing."""
    if asked.unended:
        others = len(asked.unended) - 1
        more = f" and {others} more have" if others else " has"
        common.complain(
            f"qfetch: {asked.unended[0]}{more} not ended; --now gets what running ones have"
        )
    if failed:
        return 1
    if asked.unended:
        return _TRY_AGAIN
    if not count:
        shown = " ".join(map(quoted, asked.patterns))
        common.complain(f"qfetch: job {asked.job} brought no files that match {shown}")
        return 1
    return 0


def _as_json(row: Row, job: int) -> dict[str, Any]:
    return {
        "job": job, "index": row.index, "path": row.path, "size_bytes": row.size,
        "node": row.node, "attempt": row.attempt, "to": row.to or None,
        "was_here": row.was_here,
    }  # fmt: skip


def main(words: Sequence[str] | None = None) -> None:
    """Run qfetch (console script)."""
    common.main(qfetch, words)
