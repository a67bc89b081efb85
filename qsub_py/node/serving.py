"""Files that somebody asks this node for now: of a running task, or kept of one that ended.

What runs is packed by a child; the archive then goes out like a live log, a signed note first,
and in pieces as fast as they are read.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from qsub_py.globs import check_glob
from qsub_py.node.children import prelude
from qsub_py.node.pace import Pace
from qsub_py.notes import Note, pack_note
from qsub_py.signing import Keyring, verify
from qsub_py.store_node import NodeStore

log = logging.getLogger("qsub_py.agent")

_TURN_S = 0.02
_PIECE_BYTES = 256 * 1024
_PIECES_A_TURN = 16
_STATUS = 3
_MOST_AT_ONCE = 64
#: Questions that are not answered again, should somebody repeat them.
_MOST_SEEN = 10_000


@dataclass
class _Question:
    """Somebody who asked, and how far the answer is."""

    uid: str
    position: int
    attempt: int
    #: Where the child says what it packed; -1 when that is known.
    status: int
    path: str
    #: Delete the archive afterwards.
    is_temporary: bool
    note: Note | None = None
    file: BinaryIO | None = None


class FileServer:
    """The questions for files at a node."""

    def __init__(self, store: NodeStore, ring: Keyring, node_dir: Path, node_name: str) -> None:
        self._store, self._ring, self._dir, self._name = store, ring, node_dir, node_name
        self._questions: dict[str, _Question] = {}
        self._seen: deque[str] = deque(maxlen=_MOST_SEEN)
        self._pace = Pace(most=_PIECES_A_TURN)
        self._next = 0.0

    def ask(self, uid: str, asked: bytes, signature: bytes, *, root: str, since: str) -> None:
        """Answer with the files of a running task below `root`; with root "" with kept ones.

        Only to who has the cluster's key, and once: SignatureError, ValueError.
        """
        verify(self._ring, signature, "ask", self._store.cluster, uid, asked)
        name, position, attempt, patterns = json.loads(asked)
        patterns = [check_glob(pattern) for pattern in patterns]
        if name in self._seen or len(self._questions) >= _MOST_AT_ONCE:
            return
        self._seen.append(name)
        self._next = 0.0
        if not root:
            path = str(self._dir / "out" / f"{uid}.{position}.{attempt}.files")
            question = _Question(uid, position, attempt, -1, path, False)
            question.note = _kept(path, attempt, self._name)
        else:
            path = str(self._dir / "out" / f"{uid}.{position}.{name}.now")
            status = _pack({"root": root, "patterns": patterns, "since": since,
                            "target": path})  # fmt: skip
            question = _Question(uid, position, attempt, status, path, True)
        self._questions[name] = question

    def pause_s(self) -> float:
        """Return how long the loop may sleep for our sake."""
        return max(0.0, self._next - time.monotonic()) if self._questions else 3600.0

    def turn(self) -> None:
        """Go on with every answer; drop those that nobody waits for any more."""
        if self.pause_s() > 0:
            return
        self._next = time.monotonic() + _TURN_S
        for name, question in list(self._questions.items()):
            try:
                is_done = self._is_packed(question) and self._pace.run(
                    lambda count: self._send(name, question, count)  # noqa: B023
                )
            except OSError as error:
                log.warning("files that were asked for: %s", error)
                is_done = True
            if is_done or not self._store.log_wanted(name):
                self._drop(name)

    def _is_packed(self, question: _Question) -> bool:
        if question.status < 0:
            return True
        try:
            data = os.read(question.status, 1 << 16)
        except BlockingIOError:
            return False
        os.close(question.status)
        question.status = -1
        try:
            _, size, sha, count, why = json.loads(data)
        except ValueError:
            size, sha, count, why = 0, "", 0, "its files could not be collected"
        question.note = Note(question.attempt, self._name, count, size, sha, why=why)
        return True

    def _send(self, name: str, question: _Question, count: int) -> bool:
        """Send a few pieces, the note before the first; return whether all was sent."""
        assert question.note is not None
        if question.file is None:
            note = self._signed(name, question)
            if not self._store.write_log(name, {"d": b"", "note": note}):
                return False
            if not question.note.files:
                return self._store.write_log(name, {"d": b"", "end": 1})
            question.file = open(question.path, "rb")  # noqa: SIM115 - closed in _drop
        for _ in range(count):
            at = question.file.tell()
            piece = question.file.read(_PIECE_BYTES)
            fields: dict[str, bytes | int | str | float] = {"d": piece}
            if not piece:
                fields["end"] = 1
            if not self._store.write_log(name, fields):
                question.file.seek(at)
                return False
            if not piece:
                return True
        return False

    def _signed(self, name: str, question: _Question) -> bytes:
        assert question.note is not None
        return pack_note(
            self._ring.current, replace(question.note, asked=name), b"",
            cluster=self._store.cluster, uid=question.uid, position=question.position,
        )  # fmt: skip

    def _drop(self, name: str) -> None:
        question = self._questions.pop(name)
        if question.status >= 0:
            os.close(question.status)
        if question.file is not None:
            question.file.close()
        if question.is_temporary:
            with contextlib.suppress(OSError):
                os.unlink(question.path)


def _kept(path: str, attempt: int, node: str) -> Note:
    """Return the note on files that stayed here; its SHA-256 is in the note of the end."""
    try:
        size = os.stat(path).st_size
    except OSError:
        return Note(attempt, node, why="its files are gone from the node")
    return Note(attempt, node, 1, size)


def _pack(config: dict[str, object]) -> int:
    """Start a child that packs files; return where it says what became of it."""
    ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    argv = prelude("collect", config)
    try:
        os.posix_spawn(argv[0], argv, dict(os.environb),
                       file_actions=[(os.POSIX_SPAWN_DUP2, theirs, _STATUS)])  # fmt: skip
    except OSError as error:
        log.warning("cannot collect files: %s", error)
    finally:
        os.close(theirs)
    return ours
