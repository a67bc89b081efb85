"""The store as clients see it: submit, look, wait, cancel.

One method per Lua script, and reads. What it gives back are values of `model.py`; what runs
and what came out are signed bytes that it does not look into. Nodes use `store_node.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from qsub_py.errors import JobNotFound, StoreError, StoreMismatch
from qsub_py.model import JobSpec, State, Submission
from qsub_py.store_core import INLINE_BYTES
from qsub_py.store_files import ShipLost, full, piece_count, ship_name
from qsub_py.store_limits import check_licenses
from qsub_py.store_link import Argument, Link
from qsub_py.store_rows import CancelReply, ResultEntry, StoreHealth, decoded
from qsub_py.store_views import StoreViews
from qsub_py.terms import lane_parts
from qsub_py.waits import Group

#: What `rerun_tree` runs again.
_RERUN = (State.FAILED, State.TIMEOUT, State.OUT_OF_MEMORY, State.NODE_FAIL)

__all__ = ["CancelReply", "ResultEntry", "Store", "StoreHealth", "lane_of", "round_up_mem"]


class Store(StoreViews):
    """The store of one cluster on one server, for clients."""

    @classmethod
    def connect(cls, url: str, *, password: str = "", cluster: str = "default") -> Store:
        """Return a store on the server at `url` (unix://, redis://, rediss://), connected."""
        store = cls(Link(url, password=password), cluster)
        store.link.open()
        return store

    def close(self) -> None:
        """Close its connection."""
        self.link.close()

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
        """Create the job and return (id, whether it is new).

        StoreBusy when memory is short, ShipLost when files of it are not there, SpecError when
        there are not so many licences.
        """
        spec, blobs, function = sub.spec, "", sub.function
        shown: dict[str, Argument] = {
            "name": spec.name, "owner": spec.owner, "queue": spec.queue, "kind": spec.kind,
            "cpus": spec.cpus, "mem": spec.mem_bytes, "gpus": spec.gpus, "time": spec.time_s,
            "array": int(spec.is_array), **sub.waits,
        }  # fmt: skip
        shown |= retry_fields(spec)
        if sub.deadline_at:
            shown["patience" if sub.plan else "expire"] = math.ceil(sub.deadline_at * 1000)
        if len(function) > INLINE_BYTES:
            blobs = self.put_blob(function)
            shown["fnblob"], function = blobs, b""
        shown |= self._sweep_fields(sub)
        blobs = ",".join(filter(None, (blobs, str(shown.get("rows", "")))))
        if spec.terms and spec.terms.licenses and self.find_key(sub.token) is None:
            check_licenses(self, spec.terms.licenses)
        reply = self._call(
            "schedule" if sub.plan else "submit", sub.token, sub.uid, sub.spec_bytes,
            sub.signature, sub.count, lane_of(spec, sub.uid), sub.priority, sub.limit,
            int(sub.is_held), int(sub.is_open), math.ceil(sub.begin_at * 1000), function,
            int(spec.requeue), blobs,
            ",".join(f"{ship_name(s.sha)}:{piece_count(s.size)}" for s in spec.ship),
            *(sub.plan or ()), *(word for pair in shown.items() for word in pair),
        )  # fmt: skip
        if reply[0] == b"full":
            raise full(self.url)
        if reply[0] == b"lost":
            raise ShipLost(f"the files of this job are not on the server at {self.url}")
        if reply[0] == b"unknown":
            raise JobNotFound(f"there is no job {int(reply[1])} to wait for")
        if reply[3]:
            self._tend()
        return int(reply[1]), bool(reply[2])

    def _sweep_fields(self, sub: Submission) -> dict[str, Argument]:
        fields: dict[str, Argument] = {"maxfails": sub.max_fails} if sub.max_fails else {}
        if sub.spec.sweep:
            fields["sweep"] = 1
        if sub.pages:
            fields["rows"] = self.put_pieces(sub.pages)
        return fields

    def extend(
        self, job: int, uid: str, first: int, count: int, grid: bytes, signature: bytes,
        pages: Sequence[bytes] = (),
    ) -> bool:  # fmt: skip
        """Give a sweep more points; False when others did meanwhile. Doing it again is harmless."""
        blob = self.put_pieces(pages) if pages else ""
        reply = self._call("extend", job, uid, first, count, grid, signature, blob)
        word = decoded(reply[0])
        if word == "full":
            raise full(self.url)
        if word in _NOT_EXTENDED:
            raise StoreError(_NOT_EXTENDED[word].format(job), hint="submit another job")
        return word == "ok"

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
        inputs: Sequence[Group] = (),
    ) -> None:
        """Add tasks first..first+count-1 to an open job; doing it again changes nothing.

        Those of `inputs` wait until these are there.
        """
        blob = ""
        if len(chunk) > INLINE_BYTES:
            blob, chunk = self.put_blob(chunk), b""
        reply = self._call(
            "append", job, uid, first, count, int(close), blob, chunk, signature,
            "|".join(map(str, inputs)),
        )  # fmt: skip
        _appended(reply, job, self.url)
        if reply[2]:
            self._tend()

    def append_many(
        self, job: int, uid: str, chunks: Sequence[tuple[int, int, bytes, bytes, str]]
    ) -> None:
        """Add several chunks (first, count, bytes, signature, inputs) in one round trip."""
        requests: list[tuple[Argument, ...]] = []
        for first, count, chunk, signature, inputs in chunks:
            blob = ""
            if len(chunk) > INLINE_BYTES:
                blob, chunk = self.put_blob(chunk), b""
            requests.append(
                ("append", self.keys.meta, job, uid, first, count, 0, blob, chunk, signature,
                 inputs)
            )  # fmt: skip
        replies = self.link.calls(requests)
        for reply in replies:
            _appended(reply, job, self.url)
        if any(reply[2] for reply in replies):
            self._tend()

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
            _check_requeued(job, reply)
            count += int(reply[1])
        self._tend()
        return count

    def rerun_tree(self, job: int) -> None:
        """Run the failed tasks of a job again, and what was given up because of them.

        A job that was itself given up for what it depends on is looked at anew. JobNotFound.
        """
        mask = "|" + "".join(f"{state.code}|" for state in _RERUN)
        reply = self._call("retree", job, mask)
        _check_requeued(job, reply)
        self._tend()

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
        return [
            (names.get(decoded(uid), decoded(uid)), decoded(uid), int(seq)) for uid, seq in pairs
        ]


def _check_requeued(job: int, reply: list[Any]) -> None:
    if reply[0] == b"gone":
        raise JobNotFound(f"there is no job {job}")
    if reply[0] == b"fate":
        raise StoreError(
            f"job {job} was given up as a whole, and some of its tasks have not ended yet",
            hint=f"wait for them: qwait {job}",
        )


_NOT_EXTENDED = {
    "gone": "there is no job {}",
    "single": "job {} is no sweep, so it has no points to add to",
    "fate": "job {} was cancelled or given up as a whole, so it takes no more points",
    "corr": "the tasks of job {} wait for those of another (aftercorr), so it takes no more points",
}


def round_up_mem(size: int) -> int:
    """Round a size in bytes up to a sixteenth of its octave, so that lanes stay few."""
    if size <= 16:
        return size
    step = 1 << (size.bit_length() - 5)
    return -(-size // step) * step


def lane_of(spec: JobSpec, uid: str) -> str:
    """Return the lane of a spec: see node.lua; a rate of the job's own is called as its uid."""
    parts = (spec.cpus, round_up_mem(spec.mem_bytes), spec.gpus, spec.queue, spec.python_minor,
             ",".join(spec.nodelist), spec.owner, *lane_parts(spec.terms, uid))  # fmt: skip
    return "|".join(str(part).replace("|", "_") for part in parts)


def retry_fields(spec: JobSpec) -> dict[str, Argument]:
    """Return what retry.lua must know of a job: counts, waits in ms, factors."""
    retry = spec.retry
    if retry is None or not retry.count:
        return {}
    return {
        "retries": retry.count, "backoff": round(retry.backoff_s * 1000),
        "backoff_most": round(retry.backoff_most_s * 1000), "mem_factor": retry.mem_factor,
        "time_factor": retry.time_factor, "retry_node": int(retry.does_node and spec.requeue),
    }  # fmt: skip


def _appended(reply: Any, job: int, url: str) -> None:
    word = reply[0]
    if word == b"full":
        raise full(url)
    if word == b"gone":
        raise JobNotFound(f"there is no job {job}")
    if word == b"closed":
        raise StoreError(f"job {job} takes no more tasks: it was closed")
    if word == b"gap":
        raise StoreError(f"job {job} has only {reply[1]} tasks; earlier ones are missing")
