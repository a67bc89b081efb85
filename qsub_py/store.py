"""The store as clients see it: submit, look, wait, cancel.

One method per Lua script, and reads. What it gives back are values of `model.py`; what runs
and what came out are signed bytes that it does not look into. Nodes use `store_node.py`.
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qsub_py.errors import JobNotFound, SignatureError, StoreBusy, StoreError, StoreMismatch
from qsub_py.keys import Keys
from qsub_py.model import JobInfo, JobSpec, NodeInfo, State, Submission, TaskInfo
from qsub_py.store_link import Argument, Link, redacted

#: Larger payloads and results travel as blobs.
INLINE_BYTES = 64 * 1024
PIECE_BYTES = 1024 * 1024
#: How long a blob lives that nothing refers to yet.
BLOB_TTL_S = 3600
_COUNTS = {state: f"c{state.code}" for state in State if 1 <= state.code <= 9}
_SHOWN = (
    "uid name owner queue kind prio cpus mem gpus time submitted started ended n limit held open "
    "array begin exit why lane"
).split()


@dataclass(frozen=True, slots=True)
class CancelReply:
    """What a cancel (or signal) met: tasks that waited, tasks that ran, and whom it told."""

    cancelled: int
    running: int
    #: The job had ended before.
    had_ended: bool
    #: (node name, node uid, sequence number), done when `orders_done` no longer lists it.
    orders: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, slots=True)
class ResultEntry:
    """One entry of a job's results: signed outcomes, or a notice (no data)."""

    number: int
    first: int
    #: State codes by position from `first`; 0: this entry says nothing of it.
    codes: bytes
    data: bytes
    signature: bytes

    @property
    def is_notice(self) -> bool:
        """Whether it only says that states changed."""
        return not self.data


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """How the server and the cluster are."""

    is_recovering: bool
    lapsed_together: bool
    memory_bytes: int
    memory_limit_bytes: int


class StoreCore:
    """What the clients' and the nodes' view of the store share."""

    def __init__(self, link: Link, cluster: str) -> None:
        self.link = link
        self.cluster = cluster
        self.keys = Keys(cluster)
        self.url = redacted(link.url)

    def _call(self, name: str, *arguments: Argument) -> Any:
        return self.link.call(name, self.keys.meta, *arguments)

    def put_blob(self, data: bytes) -> str:
        """Store bytes in pieces, kept for an hour unless a submit or finish refers to them."""
        name = secrets.token_hex(8)
        key = self.keys.blob(name)
        for number, at in enumerate(range(0, len(data), PIECE_BYTES)):
            piece = data[at : at + PIECE_BYTES]
            self.link.pipeline([("HSET", key, number, piece), ("EXPIRE", key, BLOB_TTL_S)])
        return name

    def blob(self, name: str) -> bytes:
        """Return the bytes of a blob; StoreError when it is gone."""
        key = self.keys.blob(name)
        pieces = []
        for number in range(int(self.link.command("HLEN", key))):
            pieces.append(self.link.command("HGET", key, number) or b"")
        if not pieces:
            raise StoreError(f"the data {name} are gone from the server")
        return b"".join(pieces)

    def put_result(self, result: bytes) -> bytes:
        """Store a large result; return the reference (48 bytes) that stands for it."""
        return self.put_blob(result).encode() + hashlib.sha256(result).digest()

    def large_result(self, reference: bytes) -> bytes:
        """Return the result behind a reference that came signed; SignatureError when changed."""
        data = self.blob(reference[:16].decode())
        if hashlib.sha256(data).digest() != reference[16:48]:
            raise SignatureError("a large result on the server is not the one that was signed")
        return data

    def spec(self, job: int) -> tuple[bytes, bytes, str]:
        """Return (spec, signature, uid) as submitted; JobNotFound."""
        row = self.link.command("HMGET", self.keys.job(job), "spec", "sig", "uid")
        if row[2] is None:
            raise JobNotFound(f"there is no job {job}")
        return row[0], row[1], row[2].decode()

    def function(self, job: int) -> bytes:
        """Return the pickled function of a job of calls."""
        row = self.link.command("HMGET", self.keys.job(job), "fn", "fnblob")
        return row[0] if row[0] is not None else self.blob((row[1] or b"").decode())

    def chunk(self, job: int, position: int) -> tuple[int, int, bytes, bytes]:
        """Return (first, count, packed arguments, signature) of the chunk that holds a task."""
        reply = self.link.command(
            "XREVRANGE", self.keys.args(job), f"{position + 1}-0", "-", "COUNT", 1
        )
        if not reply:
            raise StoreError(f"the arguments of task {position} of job {job} are gone")
        number, fields = reply[0]
        entry = _pairs(fields)
        data = self.blob(entry[b"b"].decode()) if entry[b"b"] else entry[b"d"]
        return int(number.split(b"-")[0]) - 1, int(entry[b"n"]), data, entry[b"s"]

    def purge(self, before: float) -> int:
        """Delete jobs that ended before this time; returns how many steps were done."""
        steps = 0
        while self._call("purge", f"{before * 1000:.0f}"):
            steps += 1
        return steps

    def now(self) -> float:
        """Return the server's clock, in epoch seconds."""
        seconds, micros = self.link.command("TIME")
        return int(seconds) + int(micros) / 1e6


class Store(StoreCore):
    """The store of one cluster on one server, for clients."""

    def __init__(self, link: Link, cluster: str) -> None:
        super().__init__(link, cluster)
        self._waiting: Link | None = None
        self._password = ""

    @classmethod
    def connect(cls, url: str, *, password: str = "", cluster: str = "default") -> Store:
        """Return a store on the server at `url` (unix://, redis://, rediss://), connected."""
        store = cls(Link(url, password=password), cluster)
        store._password = password
        store.link.open()
        return store

    def close(self) -> None:
        """Close its connections."""
        self.link.close()
        if self._waiting:
            self._waiting.close()

    def check(self) -> None:
        """Raise StoreMismatch when the server cannot serve: version, eviction, rights."""
        info = self.link.command("INFO").decode(errors="replace")
        found = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        version = tuple(int(n) for n in re.findall(r"\d+", found.get("redis_version", "0"))[:2])
        if version < (6, 2):
            raise StoreMismatch(
                f"the server at {self.url} is version {found.get('redis_version')}, too old",
                hint="use Redis 6.2 or newer, or any Valkey",
            )
        policy = found.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise StoreMismatch(
                f"the server at {self.url} throws data away when full ({policy})",
                hint="run: redis-cli CONFIG SET maxmemory-policy noeviction",
            )
        if found.get("role") == "slave":
            raise StoreMismatch(
                f"the server at {self.url} is a replica", hint="point QSUB_URL at its primary"
            )
        self._call("tend")

    # -- submitting ------------------------------------------------------------------------

    def submit(self, sub: Submission) -> tuple[int, bool]:
        """Create the job and return (id, whether it is new); StoreBusy when memory is short."""
        spec, blobs, function = sub.spec, "", sub.function
        shown: dict[str, Argument] = {
            "name": spec.name, "owner": spec.owner, "queue": spec.queue, "kind": spec.kind,
            "cpus": spec.cpus, "mem": spec.mem_bytes, "gpus": spec.gpus, "time": spec.time_s,
            "array": int(spec.is_array),
        }  # fmt: skip
        if len(function) > INLINE_BYTES:
            blobs = self.put_blob(function)
            shown["fnblob"], function = blobs, b""
        reply = self._call(
            "submit", sub.token, sub.uid, sub.spec_bytes, sub.signature, sub.count, lane_of(spec),
            sub.priority, sub.limit, int(sub.is_held), int(sub.is_open),
            math.ceil(sub.begin_at * 1000), function, int(spec.requeue), blobs,
            *(word for pair in shown.items() for word in pair),
        )  # fmt: skip
        if reply[0] == b"full":
            raise _full(self.url)
        return int(reply[1]), bool(reply[2])

    def append(
        self,
        job: int,
        uid: str,
        first: int,
        count: int,
        chunk: bytes,
        signature: bytes,
        *,
        close: bool = False,
    ) -> None:
        """Add tasks first..first+count-1 to an open job; doing it again changes nothing."""
        blob = ""
        if len(chunk) > INLINE_BYTES:
            blob, chunk = self.put_blob(chunk), b""
        reply = self._call("append", job, uid, first, count, int(close), blob, chunk, signature)
        _appended(reply, job, self.url)

    def append_many(
        self, job: int, uid: str, chunks: Sequence[tuple[int, int, bytes, bytes]]
    ) -> None:
        """Add several chunks (first, count, bytes, signature) in one round trip."""
        requests: list[tuple[Argument, ...]] = []
        for first, count, chunk, signature in chunks:
            blob = ""
            if len(chunk) > INLINE_BYTES:
                blob, chunk = self.put_blob(chunk), b""
            requests.append(
                ("append", self.keys.meta, job, uid, first, count, 0, blob, chunk, signature)
            )
        for reply in self.link.calls(requests):
            _appended(reply, job, self.url)

    def close_job(self, job: int) -> None:
        """Say that no more tasks will come."""
        _, _, uid = self.spec(job)
        self._call("append", job, uid, 0, 0, 1, "", "", "")

    def keep_open(self, job: int, uid: str) -> None:
        """Renew the ten minutes after which a silent client's open job is closed."""
        self._call("append", job, uid, 0, 0, 0, "", "", "")

    def find_key(self, token: str) -> int | None:
        """Return the job that was submitted with this token."""
        found = self.link.command("GET", self.keys.token(token))
        return int(found) if found else None

    # -- changing --------------------------------------------------------------------------

    def cancel(self, job: int, ranges: Sequence[tuple[int, int]] | None, *, by: str) -> CancelReply:
        """Cancel positions first..last of a job, or all of it; JobNotFound."""
        cancelled, running, had_ended = 0, 0, False
        orders: list[tuple[str, str, int]] = []
        for first, last in ranges if ranges is not None else [(-1, -1)]:
            reply = self._call("cancel", job, first, last, by)
            if reply[0] == b"gone":
                raise JobNotFound(f"there is no job {job}")
            if reply[0] == b"many":
                raise StoreError(
                    f"256 separate ranges of job {job} are cancelled already",
                    hint="cancel wider ranges, or the whole job",
                )
            cancelled, running = cancelled + int(reply[1]), running + int(reply[2])
            had_ended = had_ended or bool(reply[3])
            orders += self._told(reply[4:])
        self._tend()
        return CancelReply(cancelled, running, had_ended, tuple(orders))

    def order(self, job: int, text: str) -> tuple[tuple[str, str, int], ...]:
        """Give an order (JSON) to all nodes that hold the job; return whom."""
        return tuple(self._told(self._call("order", job, "", text)))

    def orders_done(self, orders: Sequence[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
        """Return those orders that a live node has not yet acknowledged."""
        ask: list[tuple[Argument, ...]] = []
        for _, uid, seq in orders:
            ask.append(("HEXISTS", self.keys.orders(uid), seq))
            ask.append(("ZSCORE", self.keys.nodes, uid))
        found = self.link.pipeline(ask) if ask else []
        return [o for i, o in enumerate(orders) if found[2 * i] and found[2 * i + 1] is not None]

    def hold(self, job: int) -> bool:
        """Hold a job; False when it had ended. JobNotFound."""
        return self._switch("hold", job)

    def release(self, job: int) -> bool:
        """Release a held job; False when it had ended. JobNotFound."""
        return self._switch("release", job)

    def requeue(self, job: int, ranges: Sequence[tuple[int, int]], states: set[State]) -> int:
        """Run the ended tasks in these states again; returns how many of the first slices."""
        mask = "|" + "".join(f"{state.code}|" for state in states)
        count = 0
        for first, last in ranges:
            reply = self._call("requeue", job, first, last, mask)
            if reply[0] == b"gone":
                raise JobNotFound(f"there is no job {job}")
            if reply[0] == b"fate":
                raise StoreError(f"job {job} was given up as a whole; submit it again")
            count += int(reply[1])
        self._tend()
        return count

    def drain(self, node: str, *, reason: str = "") -> bool:
        """Let a node (uid) start nothing new; False when it is not live."""
        return bool(self._call("drain", node, "draining", reason))

    def resume(self, node: str) -> bool:
        """Let a drained node (uid) work again; False when it is not live."""
        return bool(self._call("drain", node, "up", ""))

    def order_node(self, node: str, text: str) -> int:
        """Give an order (JSON) to one node (uid); returns its sequence number."""
        return int(self._call("order", "", node, text)[1])

    def _switch(self, verb: str, job: int) -> bool:
        reply = int(self._call(verb, job))
        if reply < 0:
            raise JobNotFound(f"there is no job {job}")
        return reply == 1

    def _tend(self) -> None:
        while self._call("tend"):
            pass

    def _told(self, words: Sequence[bytes | int]) -> list[tuple[str, str, int]]:
        if not words:
            return []
        names = self._node_names()
        pairs = zip(words[::2], words[1::2], strict=True)
        return [(names.get(_s(uid), _s(uid)), _s(uid), int(seq)) for uid, seq in pairs]

    # -- looking ---------------------------------------------------------------------------

    def job(self, job: int) -> JobInfo:
        """Return one job; JobNotFound."""
        found = self._jobs([job])
        if not found:
            raise JobNotFound(f"there is no job {job}")
        return found[0]

    def jobs(
        self, *, active: bool = True, ended: bool = False, limit: int = 10_000
    ) -> list[JobInfo]:
        """Return the newest jobs, oldest first."""
        ids: list[int] = []
        if active:
            ids += map(
                int, self.link.command("ZREVRANGE", self.keys.prefix + "active", 0, limit - 1)
            )
        if ended:
            ids += map(
                int, self.link.command("ZREVRANGE", self.keys.prefix + "ended", 0, limit - 1)
            )
        chosen = sorted(set(ids))[-limit:]
        return [
            info for at in range(0, len(chosen), 256) for info in self._jobs(chosen[at : at + 256])
        ]

    def _node_names(self) -> dict[str, str]:
        names = _pairs(self.link.command("HGETALL", self.keys.prefix + "names"))
        return {_s(uid): _s(name) for name, uid in names.items()}

    def _jobs(self, ids: Sequence[int]) -> list[JobInfo]:
        prefix = self.keys.prefix
        ask: list[tuple[Argument, ...]] = [("HGETALL", prefix + "names")]
        for job in ids:
            ask.append(("HMGET", self.keys.job(job), *_SHOWN, *_COUNTS.values()))
            ask.append(("HKEYS", f"{prefix}on:{job}"))
            ask.append(("HGETALL", f"{prefix}unfit:{job}"))
        replies = self.link.pipeline(ask)
        names = {_s(uid): _s(name) for name, uid in _pairs(replies[0]).items()}
        rows = zip(ids, replies[1::3], replies[2::3], replies[3::3], strict=True)
        return [
            _job_info(job, row, on, _pairs(unfit), names)
            for job, row, on, unfit in rows
            if row[0] is not None
        ]

    def states(self, job: int, first: int, count: int) -> list[tuple[State, int]]:
        """Return (state, attempt up to 15) of `count` tasks from position `first`; JobNotFound."""
        out: list[tuple[State, int]] = []
        while count > 0:
            part = self._call("states", job, first, min(count, 65536))
            if part is None:
                raise JobNotFound(f"there is no job {job}")
            out += [_STATE_OF_BYTE[byte] for byte in part]
            first, count = first + len(part), count - len(part)
        return out

    def running(self, job: int, spec: JobSpec) -> list[TaskInfo]:
        """Return the tasks of a job that run now, with their nodes; attempts as counted."""
        prefix = self.keys.prefix
        holders = [_s(uid) for uid in self.link.command("HKEYS", f"{prefix}on:{job}")]
        if not holders:
            return []
        names = self._node_names()
        found: list[TaskInfo] = []
        for uid, slots in zip(
            holders,
            self.link.pipeline([("HVALS", f"{prefix}slots:{uid}") for uid in holders]),
            strict=True,
        ):
            for text in slots:
                part = _s(text).split("|")
                if int(part[0]) == job:
                    found += self._batch_tasks(job, spec, part, names.get(uid, uid))
        return sorted(found, key=lambda task: task.position)

    def _batch_tasks(self, job: int, spec: JobSpec, part: list[str], node: str) -> list[TaskInfo]:
        first, count, attempt, start = int(part[1]), int(part[2]), int(part[3]), int(part[5])
        tasks = []
        for offset, (state, _) in enumerate(self.states(job, first, count)):
            if state in (State.RUNNING, State.COMPLETING):
                at = first + offset
                index = spec.index(at)
                tasks.append(TaskInfo(job, at, index, state, attempt, node, start / 1000))
        return tasks

    def tail(self, job: int, position: int) -> bytes:
        """Return the last bytes of a task's output, kept at its end; b"" when none."""
        found: bytes | None = self.link.command("HGET", self.keys.tails(job), position)
        return found or b""

    def nodes(self, *, gone: bool = False) -> list[NodeInfo]:
        """Return the live nodes (and with `gone` the lost and stopped ones), by name."""
        prefix = self.keys.prefix
        leases = dict(_twos(self.link.command("ZRANGE", self.keys.nodes, 0, -1, "WITHSCORES")))
        uids = [_s(uid) for uid in leases]
        if gone:
            uids += [
                u
                for u in map(_s, self.link.command("SMEMBERS", prefix + "known"))
                if u.encode() not in leases
            ]
        ask: list[tuple[Argument, ...]] = [("HGET", self.keys.meta, "served")]
        for uid in uids:
            ask += [("HGETALL", f"{prefix}node:{uid}"), ("HVALS", f"{prefix}slots:{uid}")]
        replies = self.link.pipeline(ask)
        served = float(replies[0] or 0)
        found = []
        for i, uid in enumerate(uids):
            lease = leases.get(uid.encode())
            left = (float(lease) - served) / 1000 if lease is not None else 0.0
            found.append(_node_info(uid, _pairs(replies[1 + 2 * i]), replies[2 + 2 * i], left))
        return sorted(found, key=lambda node: node.name)

    def health(self) -> StoreHealth:
        """Return what is unusual about the server now."""
        rec, mass, info = self.link.pipeline(
            [
                ("SCARD", self.keys.prefix + "rec"),
                ("HEXISTS", self.keys.meta, "mass_since"),
                ("INFO", "memory"),
            ]
        )
        text = info.decode()
        used = re.search(r"used_memory:(\d+)", text)
        most = re.search(r"maxmemory:(\d+)", text)
        return StoreHealth(
            bool(rec), bool(mass), int(used[1]) if used else 0, int(most[1]) if most else 0
        )

    # -- results ---------------------------------------------------------------------------

    def results(
        self, job: int, after: int, *, block_s: float = 0.0, limit: int = 64
    ) -> list[ResultEntry]:
        """Return the entries after number `after`, waiting up to `block_s` for the first."""
        return self.wait_results({job: after}, block_s=block_s, limit=limit).get(job, [])

    def wait_results(
        self, after: Mapping[int, int], *, block_s: float, limit: int = 64
    ) -> dict[int, list[ResultEntry]]:
        """Return new entries of several jobs (job -> number seen), waiting on a connection of
        its own until one has some or `block_s` is over."""
        if self._waiting is None:
            self._waiting = Link(self.link.url, password=self._password)
        words: list[Argument] = ["XREAD", "COUNT", limit]
        if block_s > 0:
            words += ["BLOCK", max(1, int(block_s * 1000))]
        words += ["STREAMS", *(self.keys.results(job) for job in after)]
        words += [f"{number}-0" for number in after.values()]
        reply = self._waiting.command(*words, timeout_s=block_s + self.link.timeout_s)
        by_key = {self.keys.results(job).encode(): job for job in after}
        return {by_key[key]: [_entry(e) for e in entries] for key, entries in reply or []}

    def results_of(self, job: int, positions: Sequence[int]) -> list[ResultEntry]:
        """Return the entries that hold the results of these positions, each once."""
        key = self.keys.result_index(job)
        cells = self.link.pipeline([("GETRANGE", key, 4 * p, 4 * p + 3) for p in positions])
        numbers = sorted({int.from_bytes(cell, "big") for cell in cells if cell} - {0})
        stream = self.keys.results(job)
        found = self.link.pipeline([("XRANGE", stream, f"{n}-0", f"{n}-0") for n in numbers])
        return [_entry(reply[0]) for reply in found if reply]

    def follow(
        self, name: str, after: str, *, block_s: float
    ) -> list[tuple[str, dict[bytes, bytes]]]:
        """Return new pieces (id, fields) of a live log that a node writes to `log:<name>`."""
        if self._waiting is None:
            self._waiting = Link(self.link.url, password=self._password)
        key = self.keys.log(name)
        self.link.command("SET", key + ":wanted", 1, "PX", 10_000)
        reply = self._waiting.command(
            "XREAD", "COUNT", 64, "BLOCK", max(1, int(block_s * 1000)), "STREAMS", key, after,
            timeout_s=block_s + self.link.timeout_s,
        )  # fmt: skip
        return [(_s(i), _pairs(fields)) for _, entries in reply or [] for i, fields in entries]


def round_up_mem(size: int) -> int:
    """Round a size in bytes up to a sixteenth of its octave, so that lanes stay few."""
    if size <= 16:
        return size
    step = 1 << (size.bit_length() - 5)
    return -(-size // step) * step


def lane_of(spec: JobSpec) -> str:
    """Return the lane of a spec: "cpus|mem|gpus|queue|python|nodelist|owner"."""
    parts = (spec.cpus, round_up_mem(spec.mem_bytes), spec.gpus, spec.queue, spec.python_minor,
             ",".join(spec.nodelist), spec.owner)  # fmt: skip
    return "|".join(str(part).replace("|", "_") for part in parts)


def _full(url: str) -> StoreBusy:
    return StoreBusy(
        f"the server at {url} has used 80 % of its memory and takes no new jobs now",
        hint="wait for jobs to end, or delete old ones: qstat -a, `maxmemory` in the configuration",
    )


def _appended(reply: Any, job: int, url: str) -> None:
    word = reply[0]
    if word == b"full":
        raise _full(url)
    if word == b"gone":
        raise JobNotFound(f"there is no job {job}")
    if word == b"closed":
        raise StoreError(f"job {job} takes no more tasks: it was closed")
    if word == b"gap":
        raise StoreError(f"job {job} has only {reply[1]} tasks; earlier ones are missing")


def _s(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _twos(words: Sequence[Any]) -> list[tuple[Any, Any]]:
    return list(zip(words[::2], words[1::2], strict=True))


def _pairs(words: Any) -> dict[bytes, bytes]:
    return words if isinstance(words, dict) else dict(_twos(words))


def _state_of_byte(byte: int) -> tuple[State, int]:
    code = byte // 16
    return (State.from_code(code) if code <= 9 else State.PENDING), byte % 16


_STATE_OF_BYTE = [_state_of_byte(byte) for byte in range(256)]


def _entry(entry: Any) -> ResultEntry:
    number, fields = entry
    row = _pairs(fields)
    at = int(number.split(b"-")[0])
    if b"d" not in row:
        return ResultEntry(at, 0, b"", b"", b"")
    return ResultEntry(at, int(row[b"f"]), row[b"c"], row[b"d"], row[b"s"])


def _when(milliseconds: bytes | None) -> float | None:
    value = float(milliseconds or 0)
    return value / 1000 if value else None


def _job_info(
    job: int,
    row: Sequence[Any],
    on: Sequence[bytes],
    unfit: dict[bytes, bytes],
    names: dict[str, str],
) -> JobInfo:
    got = {
        name: _s(value) if value is not None else ""
        for name, value in zip(_SHOWN, row, strict=False)
    }
    counts = {state: int(n or 0) for state, n in zip(_COUNTS, row[len(_SHOWN) :], strict=True)}
    counts[State.PENDING] = int(got["n"]) - sum(counts.values())
    return JobInfo(
        id=job, uid=got["uid"], name=got["name"], owner=got["owner"], queue=got["queue"],
        kind=got["kind"], priority=int(got["prio"]), cpus=int(got["cpus"]),
        mem_bytes=int(got["mem"]), gpus=int(got["gpus"]), time_s=float(got["time"]),
        submitted_at=float(got["submitted"]) / 1000, started_at=_when(got["started"].encode()),
        ended_at=_when(got["ended"].encode()), counts=counts, limit=int(got["limit"]),
        is_held=got["held"] == "1", is_open=got["open"] == "1", is_array=got["array"] == "1",
        begin_at=float(got["begin"] or 0) / 1000, exit_code=int(got["exit"]) if got["exit"] else None,
        nodes=tuple(sorted(names.get(_s(uid), _s(uid)) for uid in on)), reason=got["why"],
        unfit={names.get(_s(uid), _s(uid)): _s(why) for uid, why in unfit.items()},
        lane=got["lane"],
    )  # fmt: skip


def _node_info(uid: str, row: dict[bytes, bytes], slots: Sequence[bytes], left: float) -> NodeInfo:
    got = {_s(name): _s(value) for name, value in row.items()}

    def words(name: str) -> tuple[str, ...]:
        return tuple(word for word in got.get(name, "").split(",") if word)

    return NodeInfo(
        uid=uid, name=got.get("name", "?"), host=got.get("host", ""), state=got.get("state", "?"),
        cpus=int(got.get("cpus", 0)), cpus_free=int(got.get("cpus_free", 0)),
        mem_bytes=int(got.get("mem", 0)), mem_free_bytes=int(float(got.get("mem_free", 0))),
        gpus=int(got.get("gpus", 0)), features=words("features"), queues=words("queues"),
        pythons=words("pythons"), running=sum(int(_s(s).split("|")[9]) for s in slots),
        version=got.get("version", ""), lease_left_s=max(0.0, left), reason=got.get("reason", ""),
        user=got.get("user", ""), started_at=float(got.get("started", 0)),
    )  # fmt: skip


def wait_until(deadline: float | None) -> float:
    """Return how long a blocking read may last (s) before this monotonic time, at most 5."""
    return 5.0 if deadline is None else max(0.0, min(5.0, deadline - time.monotonic()))
