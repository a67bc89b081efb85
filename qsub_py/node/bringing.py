"""The files that tasks bring back, on their way to the server.

The keeper packs them when a task has ended, before it journals the end; the end names the
archive. The agent takes the archive to the server first and tells the end after that, so
whoever sees that a task has ended can have its files. Nothing is lost when

* the agent dies: the keeper tells the end again, and the next agent begins anew under
  another name; what its predecessor sent has a time to live of an hour;
* the server dies, or forgets its last moments: the archive stays here until the end is surely
  on the server's disk (`Outbox.settled`); in a recovery all is sent again, files too;
* there is no room for it there: it stays here for a week, the note says so and why, and
  qfetch asks this node for it.

A turn takes a moment only; ends without files are not held up by those with.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from qsub_py.errors import QsubError, StoreBusy, StoreUnavailable
from qsub_py.node.jobs import Jobs
from qsub_py.node.pace import Pace
from qsub_py.node.reports import Entry
from qsub_py.node.wire import Item
from qsub_py.notes import MOST_INLINE_BYTES, Note, pack_note
from qsub_py.signing import Keyring
from qsub_py.store_core import BLOB_TTL_S
from qsub_py.store_files import PIECE_BYTES, squeeze_piece
from qsub_py.store_node import NodeStore
from qsub_py.units import format_size

log = logging.getLogger("qsub_py.agent")

#: Pieces in one call of a script: what the server takes in a moment.
_PIECES_A_TRIP = 4


@dataclass
class Upload:
    """An archive that is being sent."""

    file: BinaryIO
    size: int
    name: str = field(default_factory=lambda: os.urandom(8).hex())
    next: int = 0

    def pieces(self, count: int) -> list[tuple[int, bytes]]:
        """Return the next pieces, numbered and squeezed; OSError when the file is cut off."""
        found = []
        for number in range(self.next, self.next + count):
            self.file.seek(number * PIECE_BYTES)
            data = self.file.read(PIECE_BYTES)
            if data:
                found.append((number, squeeze_piece(data)))
        return found


class Bringer:
    """Sends the files of entries, one after another, and writes their notes."""

    def __init__(self, store: NodeStore, ring: Keyring, jobs: Jobs, node_name: str) -> None:
        self._store, self._ring, self._jobs, self._name = store, ring, jobs, node_name
        self._pace = Pace(most=_PIECES_A_TRIP)
        self._upload: tuple[Entry, Upload] | None = None

    def turn(self, entries: Iterable[Entry]) -> None:
        """Work for a moment on the first entry that has files to send; StoreUnavailable."""
        for entry in entries:
            if entry.brought_at and time.monotonic() > entry.brought_at + BLOB_TTL_S / 2:
                entry.bring_again()
            item = entry.next_to_bring()
            if item is not None:
                self._bring(entry, item)
                return

    def _bring(self, entry: Entry, item: Item) -> None:
        path, size, sha, count, why = item.files or ["", 0, "", 0, ""]
        note = Note(entry.batch.attempt, self._name, count, size, sha, why=why)
        if not path:
            self._note(entry, item, note)
            return
        try:
            job_most, most = self._limits(entry)
            if size <= MOST_INLINE_BYTES and size <= most:
                with open(path, "rb") as file:
                    self._note(entry, item, note, file.read())
            elif size > most:
                why = f"{format_size(size)} are more than job.fetch_limit ({format_size(most)})"
                self._keep(entry, item, note, why)
            else:
                self._send(entry, item, note, job_most)
        except OSError as error:
            log.warning("files of job %d: %s", entry.batch.job, error)
            gone = Note(note.attempt, self._name, why="its files are gone from the node")
            self._note(entry, item, gone)

    def _limits(self, entry: Entry) -> tuple[int, int]:
        """Return how many bytes the job, and each task, may bring."""
        try:
            spec = self._jobs.get(entry.batch).spec
        except (StoreUnavailable, StoreBusy):
            raise
        except QsubError:  # the job is gone
            return 0, 0
        return spec.fetch_job_bytes, spec.fetch_bytes

    def _send(self, entry: Entry, item: Item, note: Note, most: int) -> None:
        if self._upload is None or self._upload[0] is not entry or entry.upload is None:
            path: str = (item.files or [""])[0]
            entry.upload = Upload(open(path, "rb"), note.size)  # noqa: SIM115
            self._upload = entry, entry.upload
        upload = entry.upload
        word = self._pace.run(lambda count: self._step(entry, upload, count, most))
        if word == "ok" and upload.next * PIECE_BYTES < upload.size:
            return
        upload.file.close()
        self._upload = entry.upload = None
        if word == "ok":
            self._note(entry, item, replace(note, blob=upload.name))
        elif word == "budget":
            why = f"the job's files are more than job.fetch_total ({format_size(most)})"
            self._keep(entry, item, note, why)
        else:
            self._keep(entry, item, note, "the server's memory is nearly full")

    def _step(self, entry: Entry, upload: Upload, count: int, most: int) -> str:
        pieces = upload.pieces(count)
        if not pieces:
            raise OSError(f"{upload.name}: the archive is cut off")
        word = self._store.bring(
            entry.batch.job, upload.name, pieces, total=upload.size, most=most
        )  # fmt: skip
        upload.next += len(pieces)
        return word

    def _keep(self, entry: Entry, item: Item, note: Note, why: str) -> None:
        log.info("files of job %d stay here: %s", entry.batch.job, why)
        entry.kept.add(item.pos)
        self._note(entry, item, replace(note, is_kept=True, why=why))

    def _note(self, entry: Entry, item: Item, note: Note, data: bytes = b"") -> None:
        packed = pack_note(
            self._ring.current, note, data, cluster=self._store.cluster, uid=entry.batch.uid,
            position=item.pos,
        )  # fmt: skip
        size = 0 if note.is_kept else note.size
        entry.add_note(item.pos, packed, size, note.blob, time.monotonic())
