"""The store as a node's agent sees it: join, claim, report, renew.

The agent is its one user and calls it from one thread. A lost connection is an error
(StoreUnavailable); `Refused` says that a hello and a reconcile must come before anything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qsub_py.errors import QsubError, StoreBusy, StoreError
from qsub_py.model import Batch
from qsub_py.store_files import StoreFiles
from qsub_py.store_inputs import StoreInputs
from qsub_py.store_link import Argument, Link
from qsub_py.store_rows import decoded

#: First position, number of calls, packed arguments, signature.
Chunk = tuple[int, int, bytes, bytes]

#: At most so many pieces of a live log wait for its reader.
_LOG_PIECES = 64

#: The codes of a report beside the ends of model.State.
LOST, RETURNED = 15, 14
_PAGE_TASKS = 1024


class Refused(QsubError):
    """The server does not take this agent's word now: RUNID, FENCED (say hello), or NAME."""

    def __init__(self, word: str, detail: str = "") -> None:
        text = "another live node has this name" if word == "NAME" else f"say hello first ({word})"
        super().__init__(text, hint="choose another --name")
        self.word = word
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Welcome:
    """The answer to a hello."""

    incarnation: int
    epoch: int
    now_at: float
    lease_s: float
    is_recovering: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer to a claim."""

    now_at: float
    #: There may be more for this node: claim again at once. Else it is full, or among the
    #: idle, which are woken.
    has_more: bool
    #: A recovery is going on; nothing is given out.
    must_wait: bool
    #: 0: nothing is due.
    next_due_at: float
    batches: tuple[Batch, ...]
    #: The signed arguments that a batch begins with, by batch; None where they are not new.
    chunks: tuple[Chunk | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """Ends of tasks of one batch. `codes`: a byte a task, 0 not now, LOST, RETURNED or a state."""

    batch: Batch
    codes: bytes
    data: bytes = b""
    signature: bytes = b""
    #: (position, exit code) of those that did not exit with 0.
    bad_exits: tuple[tuple[int, int], ...] = ()
    blobs: tuple[str, ...] = ()
    #: position -> last bytes of output.
    tails: tuple[tuple[int, bytes], ...] = ()
    #: position, signed note on the files it brought, bytes of these files in the server.
    notes: tuple[tuple[int, bytes, int], ...] = ()
    #: What the ends used, as account.lua reads it.
    usage: bytes = b""

    def arguments(self) -> tuple[Argument, ...]:
        """Return its group of arguments of finish.lua."""
        b = self.batch
        bad = ",".join(f"{position}:{code}" for position, code in self.bad_exits)
        index = ",".join(f"{position}:{len(tail)}" for position, tail in self.tails)
        tails = b"".join(tail for _, tail in self.tails)
        brought = ",".join(f"{position}:{len(note)}:{size}" for position, note, size in self.notes)
        notes = b"".join(note for _, note, _ in self.notes)
        return (b.job, b.uid, b.slot, b.epoch, b.attempt, self.codes, self.data, self.signature,
                bad, ",".join(self.blobs), index, tails, brought, notes, self.usage)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Order:
    """Something the node must do; obeyed twice is the same as once."""

    seq: int
    text: str


class NodeStore(StoreFiles, StoreInputs):
    """The store of one cluster, for the agent of node `uid`."""

    def __init__(self, link: Link, cluster: str, uid: str) -> None:
        super().__init__(link, cluster)
        self.uid = uid
        self._incarnation = 0
        self._run_id = ""
        self._request = 0
        #: The last epoch heard of: a server that was rolled back may have forgotten it.
        self._epoch = -1
        #: Fan-outs that are not finished, as far as is known: see `tend`.
        self.unfinished = 0

    def hello(
        self,
        name: str,
        *,
        cpus: int,
        mem_bytes: int,
        gpus: int,
        queues: Sequence[str],
        pythons: Sequence[str],
        shown: dict[str, str],
    ) -> Welcome:
        """Join under this connection; everything asked on an older one is refused from now on."""
        self.link.open()
        # Else the first report to a new server would run after the claim that was sent with it.
        self.link.load("finish", "claim")
        self._run_id = self.link.run_id
        self._request = 0
        pairs = [word for pair in shown.items() for word in pair]
        reply = self._call(
            "hello", self.uid, self._run_id, self._epoch, name, cpus, mem_bytes, gpus,
            ",".join(queues), ",".join(pythons), *pairs,
        )  # fmt: skip
        if reply[0] == b"name":
            raise Refused("NAME", decoded(reply[1]))
        self._incarnation, self._epoch = int(reply[1]), int(reply[2])
        return Welcome(
            int(reply[1]), int(reply[2]), int(reply[3]) / 1000, int(reply[4]) / 1000, bool(reply[5])
        )

    def _me(self) -> tuple[Argument, Argument, Argument]:
        if self.link.run_id != self._run_id or not self._run_id:
            raise Refused("RUNID")
        return self.uid, self._incarnation, self._run_id

    def slots(self) -> list[Batch]:
        """Return the batches that the store thinks this node holds."""
        rows = self.link.command("HGETALL", f"{self.keys.prefix}slots:{self.uid}")
        found = []
        for slot, text in zip(rows[::2], rows[1::2], strict=True):
            part = decoded(text).split("|")
            uid = self.link.command("HGET", self.keys.job(int(part[0])), "uid")
            found.append(
                Batch(int(slot), int(part[0]), decoded(uid or b""), int(part[1]), int(part[2]),
                      int(part[3]), int(part[4]), int(part[6]), int(part[7]),
                      tuple(int(g) for g in part[8].split(",") if g),
                      int(part[11]) if len(part) > 11 else 0)
            )  # fmt: skip
        return found

    def reconcile(self, batches: Sequence[Batch]) -> dict[int, bytes]:
        """Compare what the node holds; returns slot -> mask, b"1" where a task is still its own."""
        masks: dict[int, bytes] = {}
        slots = ",".join(str(b.slot) for b in batches)
        pages = _pages(batches)
        while pages:
            page = pages.pop(0)
            words: list[Argument] = []
            for b in page:
                gpus = ",".join(map(str, b.gpus))
                numbers = f"{b.attempt}:{b.epoch}:{gpus}:{b.level}"
                words += [b.slot, b.job, b.uid, b.first, b.count, numbers]
            reply = [b"more"]
            while reply[0] == b"more":
                reply = self._call("reconcile", *self._me(), int(not pages), slots, *words)
            masks |= {b.slot: m for b, m in zip(page, _accepted(reply)[1:], strict=True)}
        return masks

    def report_and_claim(
        self, reports: Sequence[Report], most: int, hints: dict[int, int]
    ) -> tuple[list[int], Claim | None]:
        """Report ends, then claim up to `most` batches (0: do not), in one round trip.

        Returns how many tasks of each report were accepted, and the claim. When the reply was
        lost the link is closed: hello and reconcile, then report again.
        """
        me, key = self._me(), self.keys.meta
        requests: list[tuple[Argument, ...]] = []
        if reports:
            words = [word for report in reports for word in report.arguments()]
            requests.append(("finish", key, *me, *words))
        if most > 0:
            self._request += 1
            text = ",".join(f"{job}:{tasks}" for job, tasks in hints.items())
            requests.append(("claim", key, *me, self._request, most, text))
        replies = self.link.calls(requests) if requests else []
        accepted: list[int] = []
        if reports:
            self.unfinished, *accepted = map(int, _accepted(replies[0])[1:])
        return accepted, _claim(replies[-1]) if most > 0 else None

    def give_back(self, batch: Batch, codes: bytes, reason: str) -> int:
        """Return tasks that this node cannot start, and say why; returns how many it was."""
        reply = self._call(
            "giveback", *self._me(), batch.job, batch.uid, batch.slot, batch.epoch, batch.attempt,
            codes, reason,
        )  # fmt: skip
        self.unfinished = 1
        return int(_accepted(reply)[1])

    def tend(self) -> None:
        """Do a slice of the unfinished fan-outs, if any: what waits for others that have ended."""
        if self.unfinished:
            self.unfinished = int(self._call("tend"))

    def renew(
        self, acknowledged: Iterable[int], shown: dict[str, str] | None = None
    ) -> tuple[float, list[Order]]:
        """Renew the lease and tell what is new; returns the server's time, the standing orders."""
        pairs = [word for pair in (shown or {}).items() for word in pair]
        acked = ",".join(map(str, acknowledged))
        reply = _accepted(self._call("renew", *self._me(), acked, *pairs))
        self.unfinished = int(reply[2])
        orders = [Order(int(s), decoded(t)) for s, t in zip(reply[3::2], reply[4::2], strict=True)]
        return int(reply[1]) / 1000, sorted(orders, key=lambda order: order.seq)

    def housekeep(self) -> tuple[float, list[int]]:
        """Sweep lapsed nodes, promote due jobs.

        Returns when the next is due (0: nothing), and the schedules that are due now.
        """
        while self._call("sweep")[0]:
            self.unfinished = 1
        while True:
            promoted, next_due, *schedules = self._call("promote")
            if promoted:
                self.unfinished = 1
            if int(promoted) < 256:
                return int(next_due) / 1000, [int(number) for number in schedules]

    def bye(self) -> None:
        """Leave for good."""
        while _accepted(self._call("bye", *self._me()))[0] == b"more":
            pass

    def log_wanted(self, name: str) -> bool:
        """Whether somebody still follows this live log."""
        return bool(self.link.command("EXISTS", self.keys.log(name) + ":wanted"))

    def write_log(self, name: str, fields: dict[str, Argument]) -> bool:
        """Append a piece to a live log, which vanishes a minute after the last.

        Returns False, and nothing is written, while its reader or the server has no room.
        """
        key = self.keys.log(name)
        if int(self.link.command("XLEN", key)) >= _LOG_PIECES:
            return False
        words = [word for pair in fields.items() for word in pair]
        try:
            self.link.pipeline([("XADD", key, "*", *words), ("PEXPIRE", key, 60_000)])
        except StoreBusy:
            return False
        return True


def _pages(batches: Sequence[Batch]) -> list[list[Batch]]:
    """Return the batches in pages of what one script looks at; at least one page."""
    pages: list[list[Batch]] = [[]]
    tasks = 0
    for batch in batches:
        if pages[-1] and (len(pages[-1]) == 32 or tasks + batch.count > _PAGE_TASKS):
            pages.append([])
            tasks = 0
        pages[-1].append(batch)
        tasks += batch.count
    return pages


def _accepted(reply: list[bytes]) -> list[bytes]:
    if reply[0] in (b"RUNID", b"FENCED"):
        raise Refused(decoded(reply[0]))
    return reply


def _claim(reply: list[bytes]) -> Claim:
    _accepted(reply)
    now_at = int(reply[1]) / 1000
    if reply[0] == b"wait":
        return Claim(now_at, False, True, 0.0, ())
    if reply[0] != b"ok":
        raise StoreError(f"claim answered {reply[0]!r}")
    batches = tuple(_batch(row) for row in reply[4:])
    chunks = tuple(_chunk(row) for row in reply[4:])
    return Claim(now_at, int(reply[2]) == 2, False, int(reply[3]) / 1000, batches, chunks)


def _chunk(row: object) -> Chunk | None:
    assert isinstance(row, list)
    # A blob is fetched when the batch is started, like arguments that were not sent along.
    if not row[10] or row[10][4]:
        return None
    first, count, data, signature, _ = row[10]
    return int(first), int(count), data, signature


def _batch(row: object) -> Batch:
    assert isinstance(row, list)
    slot, job, uid, first, count, attempt, epoch, cpus, mem, gpus = row[:10]
    return Batch(
        slot=int(slot), job=int(job), uid=decoded(uid), first=int(first), count=int(count),
        attempt=int(attempt), epoch=int(epoch), cpus=int(cpus), mem_bytes=int(float(mem)),
        gpus=tuple(int(g) for g in decoded(gpus).split(",") if g),
        level=int(row[11]) if len(row) > 11 else 0, version=int(row[12]) if len(row) > 12 else 0,
    )  # fmt: skip
