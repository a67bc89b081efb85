"""Gather what the tasks of a job brought back into a directory here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qsub_py.errors import PayloadError, StoreBusy, StoreError, StoreUnavailable
from qsub_py.fetching import (
    Brought,
    FetchError,
    MayReplace,
    Written,
    archive_of,
    ask_node,
    brought,
    entries_of,
    saved,
    write_files,
)
from qsub_py.model import JobInfo, JobSpec, TaskInfo
from qsub_py.notes import Note

if TYPE_CHECKING:
    from qsub_py.client import Client


@dataclass(frozen=True, slots=True)
class Gathered:
    """What became of one task's files."""

    position: int
    note: Note
    files: tuple[Written, ...] = ()
    #: "" when all is well.
    error: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """A task's files, wherever they are: the note, and what yields the archive."""

    position: int
    note: Note
    pieces: Callable[[], Iterable[bytes]]


def ended_sources(client: Client, job: JobInfo, positions: Sequence[int]) -> Iterator[Source]:
    """Yield what ended tasks brought; SignatureError."""
    for found in brought(client, job, positions):
        yield Source(found.position, found.note, _reader(client, job, found))


def _reader(client: Client, job: JobInfo, found: Brought) -> Callable[[], Iterable[bytes]]:
    return lambda: archive_of(client, job, found)


def running_source(
    client: Client, job: JobInfo, task: TaskInfo, patterns: Sequence[str]
) -> Source:  # fmt: skip
    """Ask the node of a running task for what there is so far; FetchError, SignatureError."""
    answer = ask_node(client, job, task.position, task.node, task.attempt, patterns)
    return Source(task.position, answer.note, lambda: answer.pieces)


def files_of(source: Source) -> list[tuple[str, int, int]]:
    """Return (path, bytes, mode) of a task's files without writing them; see `gather`."""
    if not source.note.files:
        return []
    return [(e.path, e.size, e.mode) for e in entries_of(source.pieces())]


def gather(
    sources: Iterable[Source], folder_of: Callable[[int], str], *, allowed: Sequence[str],
    wanted: Sequence[str] = (), may_replace: MayReplace = lambda status: False,
) -> Iterator[Gathered]:  # fmt: skip
    """Write each task's files into `folder_of(position)`, made where missing.

    What is wrong with one task's does not stop the others'. See `fetching.write_files` for
    the patterns and what is replaced.
    """
    for source in sources:
        position, note = source.position, source.note
        if not note.files:
            yield Gathered(position, note, error=note.why)
            continue
        folder = folder_of(position)
        try:
            os.makedirs(folder, exist_ok=True)
            with saved(source.pieces(), note, folder) as archive:
                files = write_files(
                    archive, folder, allowed=allowed, wanted=wanted, may_replace=may_replace
                )
            yield Gathered(position, note, tuple(files))
        except (StoreUnavailable, StoreBusy):
            raise
        except (FetchError, PayloadError, StoreError) as error:
            yield Gathered(position, note, error=str(error), hint=error.hint)
        except OSError as error:
            where = os.fsdecode(error.filename or folder)
            yield Gathered(position, note, error=f"cannot write {where}: {error.strerror}")


def task_folder(job: JobInfo, spec: JobSpec, folder: str, position: int) -> str:
    """Return where qfetch puts a task's files: those of an array are kept apart."""
    if not job.is_array and job.total == 1:
        return folder
    return os.path.join(folder, str(spec.index(position)))


def fetch_all(
    client: Client, job: JobInfo, folder: str, wanted: Sequence[str], is_forced: bool
) -> tuple[list[str], list[str]]:
    """Gather what all ended tasks of a job brought; return (paths, what went wrong)."""
    signed = client.ask(lambda store: store.signed_spec(job.id))
    spec = JobSpec.from_bytes(signed.check(client.ring, client.cluster))
    paths, errors = [], []
    for done in gather(
        ended_sources(client, job, range(job.total)),
        lambda position: task_folder(job, spec, folder, position),
        allowed=spec.fetch, wanted=wanted, may_replace=lambda status: is_forced,
    ):  # fmt: skip
        base = task_folder(job, spec, folder, done.position)
        paths += [os.path.join(base, file.path) for file in done.files]
        errors += [f"task {spec.index(done.position)}: {done.error}"] if done.error else []
    return paths, errors
