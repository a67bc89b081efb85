"""A cluster of a test's own with a clock that the test sets, and nodes that are only words.

`Cluster.changes(call)` says what a call did to all keys; `audit.py` says whether the keys make
sense together. A restart of the server is a new run id, a rollback an older copy of the keys.
"""

from __future__ import annotations

import dataclasses
import itertools
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from qsub_py.model import Batch, JobSpec, Segments, Submission
from qsub_py.store import Store
from qsub_py.store_link import Link
from qsub_py.store_node import LOST, RETURNED, Claim, NodeStore, Report
from qsub_py.waits import Condition, Group, Waits

CD, F, CA, TO, NF, DF = 3, 4, 5, 6, 8, 9
RUNNING = 16
GB = 2**30
START_MS = 1_700_000_000_000

__all__ = ["CA", "CD", "DF", "GB", "LOST", "NF", "RETURNED", "RUNNING", "TO", "Cluster", "F",
           "Node"]  # fmt: skip


class Cluster:
    """One cluster name on a server, empty at first, its clock standing still."""

    def __init__(self, url: str, password: str = "") -> None:
        self.url, self.password = url, password
        self.name = f"test-{secrets.token_hex(6)}"
        self.store = Store.connect(url, password=password, cluster=self.name)
        self.link = self.store.link
        self.prefix = self.store.keys.prefix
        self.run_id = "run-0"
        self._runs, self._tokens = itertools.count(1), itertools.count(1)
        self.nodes: list[Node] = []
        self.now_ms = 0
        self.set_clock(START_MS)

    def close(self) -> None:
        """Delete the keys and close all connections."""
        for key in self.link.command("KEYS", self.prefix + "*"):
            self.link.command("UNLINK", key)
        self.store.close()
        for node in self.nodes:
            node.store.link.close()

    # -- time ------------------------------------------------------------------------------

    def set_clock(self, now_ms: int) -> None:
        """Set the server's clock."""
        self.now_ms = now_ms
        self.link.command("SET", self.prefix + "test_now", now_ms)

    def serve(self, seconds: float) -> None:
        """Let time pass while the server is in use: served time passes as well."""
        left = round(seconds * 1000)
        while left > 0:
            step = min(left, 3000)
            left -= step
            self.set_clock(self.now_ms + step)
            self.call("tend")

    def restart(self) -> None:
        """Make the server another process: every node will hear of a new run id."""
        self.run_id = f"run-{next(self._runs)}"
        for node in self.nodes:
            node.store.link.run_id = self.run_id

    # -- clients ---------------------------------------------------------------------------

    def call(self, name: str, *arguments: Any) -> Any:
        """Run a script as it is."""
        return self.link.call(name, self.store.keys.meta, *arguments)

    def submit(self, count: int = 1, *, token: str = "", **options: Any) -> int:
        """Submit a job; options are fields of Submission or of JobSpec."""
        sub = self.submission(count, token=token, **options)
        return self.store.submit(sub)[0]

    def after(self, *conditions: str, count: int = 1, is_or: bool = False, **options: Any) -> int:
        """Submit a job that waits: "afterok:1", "afterany:1_2" (a position), "afterok:1_2-5"."""
        waits = Waits(tuple(_condition(text) for text in conditions), is_or)
        return self.submit(count, waits=waits.fields(), **options)

    def needing(self, *groups: Group, count: int, **options: Any) -> int:
        """Submit an array whose tasks wait for single tasks."""
        return self.submit(count, waits=Waits(groups=groups).fields(), **options)

    def calls(self, job: int, count: int, *groups: Group) -> int:
        """Append calls to an open job, with inputs; returns the first position."""
        first = int(self.field(f"j:{job}", "n"))
        self.store.append(job, self.uid(job), first, count, b"", b"", inputs=groups)
        return first

    def submission(self, count: int = 1, *, token: str = "", **options: Any) -> Submission:
        """Return what `submit` sends."""
        names = {f.name for f in dataclasses.fields(Submission)}
        of_job = {k: options.pop(k) for k in list(options) if k in names}
        segments = Segments(((0, max(count, 1) - 1, 1),))
        spec = JobSpec("command", "j", "ann", segments=segments, is_array=count > 1)
        spec = dataclasses.replace(spec, **options)
        token = token or f"token-{next(self._tokens)}"
        return Submission(spec, f"uid-of-{token}", token, b"spec", b"sig", count, **of_job)

    def uid(self, job: int) -> str:
        """Return the uid of a job."""
        return self.store.spec(job)[2]

    def node(self, name: str = "a", **has: Any) -> Node:
        """Return a new node that has joined."""
        node = Node(self, name, **has)
        self.nodes.append(node)
        node.join()
        return node

    # -- all keys --------------------------------------------------------------------------

    def dump(self) -> dict[str, Any]:
        """Return every key as name or name/field -> value; strings as bytes, all else decoded."""
        found: dict[str, Any] = {}
        keys = self.link.command("KEYS", self.prefix + "*")
        kinds = [_text(kind) for kind in self.link.pipeline([("TYPE", key) for key in keys])]
        reads = [_READ[kind](key) for key, kind in zip(keys, kinds, strict=True)]
        for key, kind, value in zip(keys, kinds, self.link.pipeline(reads), strict=True):
            name = _text(key)[len(self.prefix) :]
            if name not in ("test_now", "test_lease"):
                found |= _rows(name, kind, value)
        # When the server was last asked for its memory: says nothing of jobs.
        found.pop("meta/room_at", None)
        return found

    def changes(self, call: Callable[[], Any]) -> dict[str, Any]:
        """Return what the call changed: new values, None for what is gone."""
        before = self.dump()
        call()
        after = self.dump()
        # What owners hold is in all that claims or ends; audit.py counts it.
        names = {n for n in before.keys() | after.keys() if not n.startswith("own:")}
        return {n: after.get(n) for n in sorted(names) if before.get(n) != after.get(n)}

    def once(self, call: Callable[[], Any]) -> dict[str, Any]:
        """Return what the call changed; the same call again must change nothing."""
        found = self.changes(call)
        # A wake-up is a hint: one too many does no harm.
        again = {n: v for n, v in self.changes(call).items() if n[:5] not in ("idle/", "inbox")}
        assert again == {}, f"called twice is not called once: {again}"
        return found

    def field(self, name: str, field: str) -> str:
        """Return a field of a hash."""
        return _text(self.link.command("HGET", self.prefix + name, field) or b"")

    def bytes_of(self, job: int) -> list[tuple[str, int]]:
        """Return (state's two letters, attempt) of every task as a user sees them."""
        count = int(self.field(f"j:{job}", "n"))
        return [(state.short, attempt) for state, attempt in self.store.states(job, 0, count)]

    def states(self, job: int) -> str:
        """Return the letters of every task: "CD R PD"."""
        return " ".join(letters for letters, _ in self.bytes_of(job))

    # -- older copies ----------------------------------------------------------------------

    def copy(self) -> dict[bytes, bytes]:
        """Return a copy of all keys."""
        keys = self.link.command("KEYS", self.prefix + "*")
        return {key: self.link.command("DUMP", key) for key in keys}

    def roll_back(self, copy: dict[bytes, bytes]) -> None:
        """Make the server one that came up with older data; the clock goes on."""
        for key in self.link.command("KEYS", self.prefix + "*"):
            self.link.command("DEL", key)
        for key, data in copy.items():
            self.link.command("RESTORE", key, 0, data)
        self.set_clock(self.now_ms)
        self.restart()


class Node:
    """A node: its agent's view of the store, and what it holds."""

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        *,
        cpus: int = 2,
        mem: int = 4 * GB,
        gpus: int = 0,
        queues: Sequence[str] = ("main",),
        pythons: Sequence[str] = ("3.11",),
        features: str = "",
    ) -> None:
        self.cluster, self.name, self.uid = cluster, name, f"uid-{name}"
        self.shown = {"host": "h"} | ({"features": features} if features else {})
        self.has: dict[str, Any] = {
            "cpus": cpus, "mem_bytes": mem, "gpus": gpus, "queues": queues, "pythons": pythons,
        }  # fmt: skip
        self.store = self._agent()
        #: Batches it knows of, as its keeper and outbox would: slot -> batch.
        self.held: dict[int, Batch] = {}

    def _agent(self) -> NodeStore:
        link = Link(self.cluster.url, password=self.cluster.password)
        link.open()
        link.run_id = self.cluster.run_id
        return NodeStore(link, self.cluster.name, self.uid)

    def hello(self) -> Any:
        """Say hello on the connection that it has."""
        return self.store.hello(self.name, shown=self.shown, **self.has)

    def join(self) -> dict[int, bytes]:
        """Say hello and reconcile what it holds; returns the masks."""
        self.hello()
        return self.store.reconcile(list(self.held.values()))

    def claim(self, most: int = 1, hints: dict[int, int] | None = None) -> list[Batch]:
        """Claim up to `most` batches."""
        found = self.ask(most, hints)
        return list(found.batches)

    def claim_all(self, hints: dict[int, int] | None = None) -> list[Batch]:
        """Claim until there is nothing more for it."""
        found: list[Batch] = []
        while batches := self.claim(1000, hints):
            found += batches
        return found

    def ask(self, most: int = 1, hints: dict[int, int] | None = None) -> Claim:
        """Claim, and return all that the claim says."""
        _, found = self.store.report_and_claim([], most, hints or {})
        assert found is not None
        self.held |= {b.slot: b for b in found.batches}
        return found

    def finish(self, batch: Batch, codes: Sequence[int] | bytes, **more: Any) -> int:
        """Report ends of a batch; returns how many were accepted."""
        report = Report(batch, bytes(codes), more.pop("data", b"data"), b"sig", **more)
        return self.store.report_and_claim([report], 0, {})[0][0]

    def end(self, batch: Batch, code: int = CD) -> int:
        """End all tasks of a batch in the same way."""
        return self.finish(batch, [code] * batch.count)

    def orders(self) -> dict[int, str]:
        """Renew and return the standing orders."""
        return {order.seq: order.text for order in self.store.renew([])[1]}

    def lapse(self) -> None:
        """Let its lease run out while all others go on, and let somebody sweep."""
        for _ in range(21):
            self.cluster.serve(3)
            for node in self.cluster.nodes:
                if node is not self and node.is_live():
                    node.store.renew([])
        while self.cluster.call("sweep")[0]:
            pass
        assert not self.is_live()

    def is_live(self) -> bool:
        """Whether the store thinks so."""
        return self.cluster.link.command("ZSCORE", self.store.keys.nodes, self.uid) is not None


_READ: dict[str, Callable[[bytes], tuple[Any, ...]]] = {
    "string": lambda key: ("GET", key),
    "list": lambda key: ("LRANGE", key, 0, -1),
    "set": lambda key: ("SMEMBERS", key),
    "stream": lambda key: ("XRANGE", key, "-", "+"),
    "hash": lambda key: ("HGETALL", key),
    "zset": lambda key: ("ZRANGE", key, 0, -1, "WITHSCORES"),
}


def _rows(name: str, kind: str, value: Any) -> dict[str, Any]:
    """Return what one key holds as rows of `dump`."""
    if kind == "string":
        return {name: value}
    if kind == "list":
        return {name: [_text(v) for v in value]}
    if kind == "set":
        return {f"{name}/{_text(member)}": True for member in value}
    if kind == "stream":
        return {f"{name}/{_text(number)}": _paired(fields) for number, fields in value}
    rows = {f"{name}/{field}": text for field, text in _paired(value).items()}
    return {field: float(text) for field, text in rows.items()} if kind == "zset" else rows


def _condition(text: str) -> Condition:
    kind, _, what = text.partition(":")
    job, _, tasks = what.partition("_")
    if not job:
        return Condition(kind, 0, 0, 0, "j")
    first, _, last = tasks.partition("-")
    count = int(last or first) - int(first) + 1 if tasks else 0
    return Condition(kind, int(job), int(first or 0), count, what)


def _text(value: bytes) -> str:
    return value.decode("latin-1")


def _paired(words: Sequence[bytes]) -> dict[str, str]:
    return {_text(a): _text(b) for a, b in zip(words[::2], words[1::2], strict=True)}
