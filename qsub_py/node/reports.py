"""What has ended and must reach the server: built, sent, kept until it is surely stored.

An entry stays until some seconds after the server took it (by then it is on the server's
disk); in a recovery every entry that is still here is sent again.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from qsub_py.model import RESULT_BLOB_ERROR, RESULT_BLOB_VALUE, RESULT_JSON, Batch, State
from qsub_py.node.usage import pack_usage
from qsub_py.node.wire import Item
from qsub_py.outcomes import Columns, pack_columns
from qsub_py.policy import REQUEUE, Retry
from qsub_py.signing import Keyring, sign
from qsub_py.store_core import INLINE_BYTES
from qsub_py.store_node import LOST, RETURNED, NodeStore, Report
from qsub_py.sweep_output import LOOK_BYTES, last_json

#: How long the server is given to bring what it took to its disk.
SETTLE_S = 3.0
_TAIL_BYTES = 4096
_FAILED_TAIL_BYTES = 16384
#: At most so many tasks in one report to the server (a script handles 256 items at once).
_TASKS_A_TRIP = 512


@dataclass
class Entry:
    """Ends (or returns) of tasks of one batch."""

    batch: Batch
    #: (item, its result's bytes); empty when tasks are returned.
    items: Sequence[tuple[Item, bytes]] = ()
    #: Positions that never began.
    returned: Sequence[int] = ()
    #: Why this node cannot start the job at all, "" when it can.
    unfit: str = ""
    #: The keeper's number of the frame, to be forgotten at the end.
    seq: int = 0
    #: Monotonic time at which the server took it.
    sent_at: float = 0.0
    #: Signed notes on files by position, with their bytes in the server, and the blobs.
    notes: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    blobs: list[str] = field(default_factory=list)
    #: Positions whose files stay on this node.
    kept: set[int] = field(default_factory=set)
    #: What is being sent (see bringing.py), and when the last of it was.
    upload: Any = None
    brought_at: float = 0.0
    #: Whether some task brings files at all.
    has_files: bool = field(init=False)

    def __post_init__(self) -> None:
        self.has_files = any(item.files for item, _ in self.items)

    def next_to_bring(self) -> Item | None:
        """Return a task whose files wait to be sent; None: its end can be told."""
        if not self.has_files:
            return None
        return next((i for i, _ in self.items if i.files and i.pos not in self.notes), None)

    def add_note(self, position: int, note: bytes, size: int, blob: str, now: float) -> None:
        """Note that a task's files are where the note says."""
        self.notes[position] = note, size
        self.blobs += [blob] if blob else []
        self.brought_at = now if blob else self.brought_at

    def bring_again(self) -> None:
        """Take it that the server has none of the files."""
        self.notes.clear()
        self.blobs.clear()
        self.kept.clear()
        self.upload, self.brought_at = None, 0.0

    def drop_files(self) -> None:
        """Delete the files that are surely on the server."""
        for item, _ in self.items if self.has_files else ():
            if item.files and item.files[0] and item.pos not in self.kept:
                with contextlib.suppress(OSError):
                    os.unlink(item.files[0])

    @property
    def tasks(self) -> int:
        """How many tasks it speaks of."""
        return len(self.items) + len(self.returned)

    def codes(self, retry: Retry | None = None) -> bytes:
        """Return a byte for each task of the batch: 0 where it says nothing.

        Above the state is what the job's policy wishes for it.
        """
        codes = bytearray(self.batch.count)
        for position in self.returned:
            codes[position - self.batch.first] = RETURNED
        for item, _ in self.items:
            codes[item.pos - self.batch.first] = _CODE[item.state] + 16 * wish(item, retry)
        return bytes(codes)

    def is_all_well(self) -> bool:
        """Whether all of its tasks succeeded."""
        return all(item.state == "COMPLETED" for item, _ in self.items)


def wish(item: Item, retry: Retry | None) -> int:
    """Return what shall become of an end: policy.TRY_AGAIN, REQUEUE, HOLD, or 0."""
    if item.state == "COMPLETED":
        return 0
    if item.ask and item.state == "FAILED":
        return REQUEUE
    return retry.wish(item.state, item.exit, item.signal) if retry else 0


_CODE = {state.name: state.code for state in State} | {"LOST": LOST}
_STORED_CODE = _CODE | {"LOST": State.NODE_FAIL.code}


class Outbox:
    """The entries of a node: those not sent yet, and those sent not long ago, oldest first."""

    def __init__(self) -> None:
        self._unsent: deque[Entry] = deque()
        self._sent: deque[Entry] = deque()
        self._seqs: set[int] = set()

    def add(self, entry: Entry) -> None:
        """Keep an entry until it is stored."""
        self._unsent.append(entry)
        if entry.seq:
            self._seqs.add(entry.seq)

    def knows(self, seq: int) -> bool:
        """Whether the keeper's report of this number is here."""
        return seq in self._seqs

    def unsent(self) -> list[Entry]:
        """Return the next entries to send in one trip; `sent` must follow when it went well."""
        chosen: list[Entry] = []
        tasks = 0
        for entry in self._unsent:
            if entry.next_to_bring() is not None:
                continue
            if tasks and tasks + entry.tasks > _TASKS_A_TRIP:
                break
            chosen.append(entry)
            tasks += entry.tasks
        return chosen

    def sent(self, entries: Sequence[Entry], now: float) -> None:
        """Note that the server took these entries, which `unsent` gave."""
        for entry in entries:
            if self._unsent[0] is entry:
                self._unsent.popleft()
            else:  # behind one that waits for its files
                self._unsent = deque(one for one in self._unsent if one is not entry)
            entry.sent_at = now
            self._sent.append(entry)

    def waiting(self) -> Iterable[Entry]:
        """Return what was not sent yet."""
        return self._unsent

    def has_unsent(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._unsent)

    def positions(self, slot: int) -> set[int]:
        """Return the positions of a slot that entries speak of."""
        found: set[int] = set()
        for entry in (*self._sent, *self._unsent):
            if entry.batch.slot == slot:
                found.update(entry.returned, (item.pos for item, _ in entry.items))
        return found

    def batches(self) -> list[Batch]:
        """Return the batches that entries not sent yet speak of, each once."""
        return list({entry.batch.slot: entry.batch for entry in self._unsent}.values())

    def unsend(self) -> None:
        """Send all again: the server may have lost what it took."""
        self._unsent.extendleft(reversed(self._sent))
        self._sent.clear()
        for entry in self._unsent:
            entry.bring_again()

    def settled(self, now: float) -> list[int]:
        """Drop what was stored long enough ago; return the keeper's numbers to forget."""
        seqs = []
        while self._sent and self._sent[0].sent_at < now - SETTLE_S:
            entry = self._sent.popleft()
            entry.drop_files()
            if entry.seq:
                seqs.append(entry.seq)
                self._seqs.discard(entry.seq)
        return seqs


class ReportMaker:
    """Turns entries into signed reports."""

    def __init__(
        self,
        store: NodeStore,
        ring: Keyring,
        node_name: str,
        policy: Callable[[Batch], Retry | None] = lambda _: None,
    ) -> None:
        self._store, self._ring, self._name, self._policy = store, ring, node_name, policy
        #: Server's epoch seconds minus CLOCK_BOOTTIME.
        self.offset_s = 0.0

    def report(self, entry: Entry) -> Report:
        """Build the report of an entry; large results go to the server as blobs first."""
        if not entry.items:
            return Report(entry.batch, entry.codes())
        blobs: list[str] = []
        tails, printed = _printed(entry.items)
        data = pack_columns(self._columns(entry, blobs, printed))
        signature = sign(self._ring.current, "result", self._store.cluster, entry.batch.uid, data)
        retry = None if entry.is_all_well() else self._policy(entry.batch)
        return Report(entry.batch, entry.codes(retry), data, signature, _bad_exits(entry.items),
                      (*blobs, *entry.blobs), tuple(tails),
                      tuple((at, note, size) for at, (note, size) in entry.notes.items()),
                      pack_usage([item for item, _ in entry.items]))  # fmt: skip

    def _columns(
        self, entry: Entry, blobs: list[str], printed: dict[int, bytes]
    ) -> Columns:  # fmt: skip
        items = [item for item, _ in entry.items]
        kinds, results = [], []
        for item, result in entry.items:
            kind, result = self._stored(item, result, blobs)
            if item.pos in printed:
                kind, result = RESULT_JSON, printed[item.pos]
            kinds.append(kind)
            results.append(result)
        n, off = len(items), self.offset_s
        return Columns(
            [i.pos for i in items], [_STORED_CODE[i.state] for i in items],
            [entry.batch.attempt] * n, [i.exit for i in items], [i.signal for i in items],
            [self._name] * n, [i.start + off if i.start else 0.0 for i in items],
            [i.end + off if i.end else 0.0 for i in items], [i.cpu for i in items],
            [i.rss for i in items], [i.why for i in items], kinds, results,
        )  # fmt: skip

    def _stored(self, item: Item, result: bytes, blobs: list[str]) -> tuple[int, bytes]:
        if item.file:
            with open(item.file, "rb") as file:
                result = file.read()
        if len(result) <= INLINE_BYTES:
            return item.kind, result
        reference = self._store.put_result(result)
        blobs.append(reference[:16].decode())
        return (RESULT_BLOB_VALUE if item.kind == 1 else RESULT_BLOB_ERROR), reference


def _bad_exits(items: Iterable[tuple[Item, bytes]]) -> tuple[tuple[int, int], ...]:
    return tuple((item.pos, exit_code(item)) for item, _ in items if item.state != "COMPLETED")


def exit_code(item: Item) -> int:
    """Return the exit code a shell would show for this end."""
    by_state = {"TIMEOUT": 124, "OUT_OF_MEMORY": 137}
    return by_state.get(item.state) or (128 + item.signal if item.signal else item.exit or 1)


def _printed(
    items: Iterable[tuple[Item, bytes]],
) -> tuple[list[tuple[int, bytes]], dict[int, bytes]]:
    """Return the tails of the outputs, and by position what commands printed as their result."""
    tails, printed = [], {}
    for item, _ in items:
        if not item.out or not item.out_size:
            continue
        if item.state == "COMPLETED" and item.kind == 0:
            end = _read_tail(item, LOOK_BYTES)
            found = last_json(end)
            if found is not None:
                printed[item.pos] = found
            tail = end[-_TAIL_BYTES:]
        else:
            most = _TAIL_BYTES if item.state == "COMPLETED" else _FAILED_TAIL_BYTES
            tail = _read_tail(item, most)
        if tail:
            tails.append((item.pos, tail))
    return tails, printed


def _read_tail(item: Item, most: int) -> bytes:
    try:
        with open(item.out, "rb") as file:
            start, size = item.out_at or (0, os.fstat(file.fileno()).st_size)
            skip = max(0, size - most)
            file.seek(start + skip)
            return file.read(min(size, most))
    except OSError:
        return b""
