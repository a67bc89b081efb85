"""What the keeper knows of its batches, kept in the journal, and the reports it owes.

Each change is taken into the journal before anybody hears of it. A report of ends stays
here, and is told again to each new agent, until the agent says `forget`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from qsub_py.node.journal import COMPACT_BYTES, Journal, record
from qsub_py.node.wire import HEAD, Header, Item, header_bytes, item_text

Key = tuple[int, str, int, int, int]

#: Ends of a running batch of commands are gathered this long before they are told.
GATHER_S = 0.01
#: Finished keys remembered, so that a run told twice is started once.
_SEEN = 10_000
#: What the other records of a batch (start, mark) amount to, roughly.
_RECORDS_OF_A_BATCH = 200


@dataclass(slots=True)
class Entry:
    """A batch as the journal knows it."""

    key: Key
    job: int
    kind: str
    positions: Sequence[int]
    #: Neither ended nor returned.
    open: set[int]
    #: Begun or ended: never to be started again.
    spent: set[int] = field(default_factory=set)
    #: The command that runs: position, start, and, once it is long, pid and its start time.
    running: dict[str, Any] = field(default_factory=dict)
    #: For calls: the runner's mark file, its number for this batch, positions by index.
    mark: dict[str, Any] = field(default_factory=dict)

    def record(self) -> Header:
        """Return the journal record that says all of this."""
        return {
            "op": "run",
            "key": self.key,
            "job": self.job,
            "kind": self.kind,
            "pos": pack_positions(self.positions),
            "open": pack_positions(sorted(self.open)),
            "spent": pack_positions(sorted(self.spent)),
            "running": self.running,
            "mark": self.mark,
        }


@dataclass(slots=True)
class Report:
    """Ends of one batch that the agent has not yet called safe."""

    seq: int
    key: Key
    job: int
    texts: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    opened_at: float = 0.0

    def header(self) -> bytes:
        """Return the header of the `ended` frame, its items ready-made."""
        head = {"op": "ended", "seq": self.seq, "key": self.key, "job": self.job}
        return header_bytes(head)[:-1] + b',"items":[' + b",".join(self.texts) + b"]}"

    def frame(self) -> bytes:
        """Return the whole `ended` frame."""
        header, body = self.header(), b"".join(self.bodies)
        return HEAD.pack(len(header), len(body)) + header + body


def pack_positions(positions: Sequence[int]) -> list[int] | dict[str, int]:
    """Write positions as a list, or as first and count when they are contiguous."""
    if len(positions) > 2 and positions[-1] - positions[0] == len(positions) - 1:
        return {"first": positions[0], "count": len(positions)}
    return list(positions)


def unpack_positions(packed: list[int] | dict[str, int]) -> Sequence[int]:
    """Read `pack_positions` back."""
    if isinstance(packed, dict):
        return range(packed["first"], packed["first"] + packed["count"])
    return packed


class Ledger:
    """Batches, reports and the journal they are kept in."""

    def __init__(self, journal: Journal, post: Callable[[bytes], None]) -> None:
        self.entries: dict[Key, Entry] = {}
        self.reports: dict[int, Report] = {}
        self.seq = 0
        self.boot_id = ""
        self.runners: set[str] = set()
        self._journal = journal
        self._post = post
        self.seen: dict[Key, frozenset[int] | None] = {}
        self._gathering: dict[Key, Report] = {}
        self.by_key: dict[Key, set[int]] = {}
        self._dead_bytes = 0

    def admit(self, key: Key, job: int, kind: str, positions: Sequence[int]) -> Entry | None:
        """Note a batch; return it with the positions that may start, None when there are none."""
        if key in self.entries:
            return None
        spent = self.seen.get(key, frozenset())
        if spent is None:
            return None
        fresh = [pos for pos in positions if pos not in spent] if spent else positions
        if not fresh:
            return None
        entry = Entry(key, job, kind, fresh, open=set(fresh), spent=set(spent))
        self.entries[key] = entry
        self._journal.note(entry.record())
        return entry

    def start(self, entry: Entry, pos: int, started: float) -> None:
        """Write down that a task starts, before it does. Raise OSError when that is impossible."""
        self._write_now({"op": "start", "key": entry.key, "pos": pos, "at": started})
        entry.spent.add(pos)
        entry.running = {"pos": pos, "at": started}

    def _write_now(self, header: Header) -> None:
        self._journal.note(header)
        try:
            self._journal.flush()
        except OSError:
            self._journal.unsay()
            raise

    def begun(self, entry: Entry, pid: int, pid_start: int) -> None:
        """Note which process runs the task, for a keeper that comes after us."""
        entry.running.update(pid=pid, pid_start=pid_start)
        self._journal.note({"op": "begun", "key": entry.key, "pid": pid, "pid_start": pid_start})

    def marked(self, entry: Entry, path: str, serial: int, positions: Sequence[int]) -> None:
        """Write down where the runner marks which call, by its index in `positions`, it has begun.

        Before it is given any: else a keeper that comes after us would take calls that ran for
        never begun. Raise OSError when that is impossible.
        """
        mark = {"path": path, "serial": serial, "pos": pack_positions(positions)}
        self._write_now({"op": "mark", "key": entry.key, **mark})
        entry.mark = mark

    def give_back(self, entry: Entry, positions: Sequence[int], unfit: str = "") -> None:
        """Return tasks that have not begun."""
        packed = list(positions)
        self._journal.note({"op": "returned", "key": entry.key, "pos": packed})
        self.tell({"op": "returned", "key": entry.key, "pos": packed, "unfit": unfit})
        entry.spent.difference_update(packed)
        self.settle(entry, packed)

    def drop(self, entry: Entry) -> None:
        """Forget a batch that was started again elsewhere."""
        self._journal.note({"op": "dropped", "key": entry.key})
        self.tell({"op": "dropped", "key": entry.key})
        entry.spent.update(entry.open)
        self.settle(entry, list(entry.open))

    def runner_starts(self, cookie: str) -> None:
        """Note a runner's cookie before it starts, for a keeper that comes after us."""
        self.runners.add(cookie)
        self._journal.note({"op": "runner", "cookie": cookie})
        self._journal.flush()

    def runner_gone(self, cookie: str) -> None:
        """Nothing with this cookie is left."""
        self.runners.discard(cookie)

    def settle(self, entry: Entry, positions: Iterable[int]) -> None:
        """Take positions off a batch; one with none left is remembered by its key only."""
        entry.open.difference_update(positions)
        if not entry.open and self.entries.pop(entry.key, None) is not None:
            self._dead_bytes += len(header_bytes(entry.record())) + _RECORDS_OF_A_BATCH
            self._remember(entry)

    def _remember(self, entry: Entry) -> None:
        whole = len(entry.spent) >= len(entry.positions)
        self.seen[entry.key] = None if whole else frozenset(entry.spent)
        if len(self.seen) > 2 * _SEEN:
            for key in list(self.seen)[:_SEEN]:
                del self.seen[key]

    def end(self, entry: Entry, item: Item, body: bytes, now: float, *, more: bool) -> None:
        """Note one end; `more` says that others of this batch will follow within moments."""
        self.end_many(entry, (item.pos,), [item_text(item)], [body], now=now, more=more)

    def end_many(
        self,
        entry: Entry,
        positions: Sequence[int],
        texts: list[bytes],
        bodies: list[bytes],
        *,
        now: float,
        more: bool,
    ) -> None:
        """Note ends given as ready-made texts of items, with their results."""
        report = self._gathering.get(entry.key)
        if report is None:
            self.seq += 1
            report = Report(self.seq, entry.key, entry.job, opened_at=now)
            self.reports[report.seq] = self._gathering[entry.key] = report
            self.by_key.setdefault(entry.key, set()).add(report.seq)
        part = Report(report.seq, entry.key, entry.job, texts, bodies)
        self._journal.add(part.header(), b"".join(bodies))
        report.texts += texts
        report.bodies += bodies
        entry.spent.update(positions)
        entry.running = {}
        if not more:
            report.opened_at = 0.0
        self.settle(entry, positions)

    def gathered(self, now: float) -> None:
        """Write the journal, then tell the reports that are due. Call once a turn."""
        with contextlib.suppress(OSError):  # a full disk: kept, and tried again next turn
            self._journal.flush()
        for key, report in list(self._gathering.items()):
            if now - report.opened_at >= GATHER_S:
                del self._gathering[key]
                self._post(report.frame())
        size = self._journal.size
        if size > COMPACT_BYTES and self._dead_bytes * 2 > size:
            self.compact()

    def due_at(self, moment: float) -> float:
        """Return when `gathered` has something to tell; `moment` + 1 when there is nothing."""
        if not self._gathering:
            return moment + 1.0
        return min(report.opened_at for report in self._gathering.values()) + GATHER_S

    def tell(self, header: Header) -> None:
        """Send something that need not be kept."""
        text = header_bytes(header)
        self._post(HEAD.pack(len(text), 0) + text)

    def tell_again(self, key: Key | None = None) -> None:
        """Send the kept reports, of one batch or all, also those still in the making."""
        with contextlib.suppress(OSError):
            self._journal.flush()
        if key is None:
            self._gathering.clear()
            seqs: Iterable[int] = self.reports
        else:
            self._gathering.pop(key, None)
            seqs = self.by_key.get(key, ())
        for seq in sorted(seqs):
            self._post(self.reports[seq].frame())

    def forget(self, seqs: Iterable[int]) -> None:
        """Drop reports that are safe in the store."""
        gone = self.discard(seqs)
        if gone:
            self._dead_bytes += self._journal.note({"op": "forget", "seqs": gone})

    def discard(self, seqs: Iterable[int]) -> list[int]:
        """Drop reports from memory; return those that were there."""
        gone = [report for seq in seqs if (report := self.reports.pop(seq, None))]
        for report in gone:
            same = self.by_key[report.key]
            same.discard(report.seq)
            if not same:
                del self.by_key[report.key]
            self._dead_bytes += sum(map(len, report.texts)) + sum(map(len, report.bodies)) + 120
        return [report.seq for report in gone]

    def compact(self) -> None:
        """Write a new journal of what is still needed; a full disk only puts it off."""
        with contextlib.suppress(OSError):
            self._journal.rewrite(self._snapshot())
            self._dead_bytes = 0

    def _snapshot(self) -> Iterable[bytes]:
        seen = [
            [key, None if spent is None else pack_positions(sorted(spent))]
            for key, spent in list(self.seen.items())[-_SEEN:]
        ]
        meta = {"op": "meta", "boot_id": self.boot_id, "seq": self.seq, "seen": seen}
        yield record(header_bytes({**meta, "runners": sorted(self.runners)}))
        for entry in self.entries.values():
            yield record(header_bytes(entry.record()))
        for report in self.reports.values():
            yield record(report.header(), b"".join(report.bodies))
