"""What the clients' and the nodes' view of the store share: scripts, blobs, payloads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qsub_py.errors import DataGone, JobNotFound, SignatureError
from qsub_py.keys import Keys
from qsub_py.proof import SignedSpec
from qsub_py.store_link import Argument, Link, shown
from qsub_py.store_rows import pairs

#: Larger payloads and results travel as blobs.
INLINE_BYTES = 64 * 1024
PIECE_BYTES = 1024 * 1024
#: How long a blob lives that nothing refers to yet.
BLOB_TTL_S = 3600


@dataclass(frozen=True, slots=True)
class Grid:
    """Points that a sweep was given later, as they were signed."""

    first: int
    count: int
    data: bytes
    signature: bytes
    #: Name of the blob with its rows, or "".
    blob: str


def _grid(number: bytes, row: dict[bytes, bytes]) -> Grid:
    first = int(number.split(b"-")[0]) - 1
    return Grid(first, int(row[b"n"]), row[b"d"], row[b"s"], row[b"b"].decode())


class StoreCore:
    """What the clients' and the nodes' view of the store share."""

    def __init__(self, link: Link, cluster: str) -> None:
        self.link = link
        self.cluster = cluster
        self.keys = Keys(cluster)

    @property
    def url(self) -> str:
        """The server's URL, fit to be shown."""
        return shown(self.link.url)

    def _call(self, name: str, *arguments: Argument) -> Any:
        return self.link.call(name, self.keys.meta, *arguments)

    def put_blob(self, data: bytes) -> str:
        """Store bytes in pieces, kept for an hour unless a submit or finish refers to them."""
        name = os.urandom(8).hex()
        key = self.keys.blob(name)
        for number, at in enumerate(range(0, len(data), PIECE_BYTES)):
            piece = data[at : at + PIECE_BYTES]
            self.link.pipeline([("HSET", key, number, piece), ("EXPIRE", key, BLOB_TTL_S)])
        return name

    def blob(self, name: str) -> bytes:
        """Return the bytes of a blob; DataGone."""
        key = self.keys.blob(name)
        pieces = []
        for number in range(int(self.link.command("HLEN", key))):
            pieces.append(self.link.command("HGET", key, number) or b"")
        if not pieces:
            raise DataGone(f"the data {name} are gone from the server")
        return b"".join(pieces)

    def put_pieces(self, pieces: Sequence[bytes]) -> str:
        """Store these pieces as a blob, kept for an hour unless a submit refers to them."""
        name = os.urandom(8).hex()
        key = self.keys.blob(name)
        for number, piece in enumerate(pieces):
            self.link.pipeline([("HSET", key, number, piece), ("EXPIRE", key, BLOB_TTL_S)])
        return name

    def piece(self, name: str, number: int) -> bytes:
        """Return one piece of a blob as it was stored; DataGone."""
        found: bytes | None = self.link.command("HGET", self.keys.blob(name), number)
        if found is None:
            raise DataGone(f"the data {name} are gone from the server")
        return found

    def put_result(self, result: bytes) -> bytes:
        """Store a large result, also on a full server; return the reference (48 bytes) to it."""
        name = os.urandom(8).hex()
        for number, at in enumerate(range(0, len(result), PIECE_BYTES)):
            self._call("piece", name, number, result[at : at + PIECE_BYTES], BLOB_TTL_S)
        return name.encode() + hashlib.sha256(result).digest()

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

    def signed_spec(self, job: int) -> SignedSpec:
        """Return the spec with all that proves it; JobNotFound."""
        row = self.link.command(
            "HMGET", self.keys.job(job), "spec", "sig", "uid", "suid", "due", "rule", "sched", "ver"
        )
        if row[2] is None:
            raise JobNotFound(f"there is no job {job}")
        if row[3] is None:
            return SignedSpec(row[0], row[1], row[2].decode(), version=int(row[7] or 0))
        return SignedSpec(row[0], row[1], row[2].decode(), row[3].decode(), int(row[4]), row[5],
                          int(row[6]))  # fmt: skip

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
            raise DataGone(f"the arguments of task {position} of job {job} are gone")
        number, fields = reply[0]
        entry = pairs(fields)
        data = self.blob(entry[b"b"].decode()) if entry[b"b"] else entry[b"d"]
        return int(number.split(b"-")[0]) - 1, int(entry[b"n"]), data, entry[b"s"]

    def rows_blob(self, job: int) -> str:
        """Return the name of the blob with the rows of a job's sweep, or ""."""
        found: bytes | None = self.link.command("HGET", self.keys.job(job), "rows")
        return (found or b"").decode()

    def grids(self, job: int, position: int | None = None) -> list[Grid]:
        """Return what a sweep was given later: all, or what holds this position."""
        key = self.keys.grids(job)
        if position is None:
            reply = self.link.command("XRANGE", key, "-", "+")
        else:
            reply = self.link.command("XREVRANGE", key, f"{position + 1}-0", "-", "COUNT", 1)
        return [_grid(number, pairs(fields)) for number, fields in reply]

    def purge(self, before: float, *, most: int = 10**9) -> int:
        """Delete jobs that ended before this time in at most so many steps; returns how many."""
        steps = 0
        while steps < most and self._call("purge", f"{before * 1000:.0f}"):
            steps += 1
        return steps

    def now(self) -> float:
        """Return the server's clock, in epoch seconds."""
        seconds, micros = self.link.command("TIME")
        return int(seconds) + int(micros) / 1e6
