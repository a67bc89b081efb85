"""Live logs: sends what a task prints to a stream in the server while somebody follows it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsub_py.errors import QsubError
from qsub_py.node.call_logs import CallLogs
from qsub_py.node.jobs import Job, output_files
from qsub_py.node.serving import FileServer
from qsub_py.signing import Keyring
from qsub_py.store_node import NodeStore

log = logging.getLogger("qsub_py.agent")

_TURN_S = 0.2
_PIECE_BYTES = 256 * 1024
_PIECES_A_TURN = 16


@dataclass
class _Follower:
    uid: str
    position: int
    #: "out" or "err".
    stream: str
    #: 0: whichever runs.
    attempt: int
    path: Path | None
    offset: int = 0


class LiveLogs:
    """The followed outputs of a node."""

    def __init__(
        self, store: NodeStore, node_dir: Path, node_name: str, ring: Keyring
    ) -> None:  # fmt: skip
        self._files = FileServer(store, ring, node_dir, node_name)
        self._store, self._dir, self._name = store, node_dir, node_name
        self._followers: dict[str, _Follower] = {}
        self.calls = CallLogs()
        self._next = 0.0

    def follow(
        self, name: str, uid: str, position: int, stream: str, job: Job | None, attempt: int = 0
    ) -> None:
        """Send a task's output ("out", or "err" apart from it) to the live log `name`."""
        if name not in self._followers:
            path = self._find(uid, position, stream, attempt, job)
            self._followers[name] = _Follower(uid, position, stream, attempt, path)
            self.calls.follow(uid, position)
            self._next = 0.0

    def pause_s(self) -> float:
        """Return how long the loop may sleep for our sake."""
        pause = max(0.0, self._next - time.monotonic()) if self._followers else 3600.0
        return min(pause, self._files.pause_s())

    def give_files(
        self, text: dict[str, Any], job: Job | None, slots: Sequence[tuple[int, list[int]]]
    ) -> None:
        """Obey an order to send files of a task that runs in one of `slots`, or has ended."""
        root = since = ""
        position = json.loads(text["asked"])[1]  # what is signed counts
        slot = next((slot for slot, positions in slots if position in positions), None)
        if job is not None and slot is not None:
            scratch = f"{self._dir}/scratch/{slot}"
            is_private = "private" in job.common
            root, since = (scratch, f"{scratch}.since") if is_private else (job.spec.cwd, "")
        try:
            self._files.ask(
                str(text["uid"]), str(text["asked"]).encode(), bytes.fromhex(text["signature"]),
                root=root, since=since,
            )  # fmt: skip
        except QsubError as error:
            log.warning("files that were asked for: %s", error)

    def turn(self, is_open: Callable[[str, int, int], bool]) -> None:
        """Send what is new; drop followers whose task ended or whom nobody listens to."""
        self._files.turn()
        if not self._followers or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _TURN_S
        for name, follower in list(self._followers.items()):
            # Asked before reading: what is printed before the end is read after it.
            is_running = is_open(follower.uid, follower.position, follower.attempt)
            is_dry = self._send(name, follower)
            if is_dry and not is_running:
                if self._store.write_log(name, {"d": b"", "end": 1}):
                    self._drop(name)
            elif not self._store.log_wanted(name):
                self._drop(name)

    def _drop(self, name: str) -> None:
        gone = self._followers.pop(name)
        others = [(other.uid, other.position) for other in self._followers.values()]
        if (gone.uid, gone.position) not in others:
            self.calls.forget(gone.uid, gone.position)

    def _send(self, name: str, follower: _Follower) -> bool:
        """Send up to a few pieces; return whether all was sent."""
        if follower.path is None:
            follower.path = self._find(
                follower.uid, follower.position, follower.stream, follower.attempt, None
            )
        if follower.path is None:
            return self._send_call(name, follower)
        try:
            with open(follower.path, "rb") as file:
                file.seek(follower.offset)
                for _ in range(_PIECES_A_TURN):
                    piece = file.read(_PIECE_BYTES)
                    if not piece:
                        return True
                    if not self._store.write_log(name, {"d": piece, "o": follower.offset}):
                        return False
                    follower.offset += len(piece)
        except OSError:
            return True
        return False

    def _send_call(self, name: str, follower: _Follower) -> bool:
        """Send pieces of a runner's log; return whether all was sent."""
        for _ in range(_PIECES_A_TURN):
            piece = self.calls.read(follower.uid, follower.position, follower.offset, _PIECE_BYTES)
            if not piece:
                return True
            if not self._store.write_log(name, {"d": piece, "o": follower.offset}):
                return False
            follower.offset += len(piece)
        return False

    def _find(
        self, uid: str, position: int, stream: str, attempt: int, job: Job | None
    ) -> Path | None:
        files = output_files(job, position, self._name) if job else {}
        if stream in files:
            return Path(files[stream])
        kept = (self._dir / "out").glob(f"{uid}.{position}.{attempt or '*'}.{stream}")
        return max(kept, key=lambda path: path.stat().st_mtime, default=None)
