"""Files in the store: what jobs ship, and what their tasks bring back. Part of `store`.

Bytes are stored in pieces, each squeezed on its own (tag byte, see `squeeze_piece`), so that
neither the server nor an agent is busy with one for long. Shipped files are found by their
content (SHA-256) and stored once however many jobs need them.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from qsub_py.errors import StoreBusy, StoreError
from qsub_py.store_core import BLOB_TTL_S, StoreCore
from qsub_py.store_link import Argument

#: Bytes of a piece before it is squeezed: also on a slow line it is there in a moment.
PIECE_BYTES = 256 * 1024
#: What the beginning of a piece must shrink to, to be worth the work.
_WORTH = 0.9
_PROBE_BYTES = 16 * 1024
#: Numbered pieces.
Pieces = Sequence[tuple[int, bytes]]


class ShipLost(StoreError):
    """Files that a job ships are not on the server (any more)."""


def squeeze_piece(data: bytes) -> bytes:
    """Put the tag byte in front: b"Z" and zlib where that helps, else b"R"."""
    probe = data[:_PROBE_BYTES]
    if len(zlib.compress(probe, 1)) < _WORTH * len(probe):
        packed = zlib.compress(data, 1)
        if len(packed) < len(data):
            return b"Z" + packed
    return b"R" + data


def piece_of(stored: bytes | None) -> bytes:
    """Read `squeeze_piece` back, whoever made it; raises StoreError."""
    if stored is None:
        raise StoreError("a piece of a file is gone from the server")
    if stored[:1] == b"R":
        data = stored[1:]
    else:
        unzip = zlib.decompressobj()
        try:
            data = unzip.decompress(stored[1:], PIECE_BYTES + 1)
        except zlib.error:
            data = b""
    if not data or len(data) > PIECE_BYTES:
        raise StoreError("a piece of a file on the server is damaged")
    return data


def piece_count(size: int) -> int:
    """Return how many pieces so many bytes make."""
    return -(-size // PIECE_BYTES)


def ship_name(sha: str) -> str:
    """Return the name of the blob with a shipped archive."""
    return "s" + sha


class StoreFiles(StoreCore):
    """What clients and nodes ask about files."""

    # -- shipped ---------------------------------------------------------------------------

    def shipped(self, sha: str) -> set[int]:
        """Return the pieces of an archive that are there, for an hour at least."""
        self._call("ship", ship_name(sha), BLOB_TTL_S)
        return {int(n) for n in self.link.command("HKEYS", self.keys.blob(ship_name(sha)))}

    def put_shipped(self, sha: str, pieces: Pieces) -> None:
        """Store squeezed pieces of an archive; StoreBusy when memory is short."""
        words: list[Argument] = [word for pair in pieces for word in pair]
        if not self._call("ship", ship_name(sha), BLOB_TTL_S, *words):
            raise full(self.url)

    def drop_shipped(self, sha: str) -> None:
        """Give up an archive, unless some job has it."""
        self._call("unship", ship_name(sha))

    def pieces(self, name: str, first: int, count: int) -> list[bytes]:
        """Return pieces of a blob, unsqueezed; StoreError when one is gone or damaged."""
        key = self.keys.blob(name)
        found = self.link.pipeline([("HGET", key, n) for n in range(first, first + count)])
        return [piece_of(stored) for stored in found]

    # -- brought back ----------------------------------------------------------------------

    def bring(
        self, job: int, name: str, pieces: Pieces, *, total: int, most: int
    ) -> str:  # fmt: skip
        """Store pieces of a task's files; returns "ok", or "full" or "budget" and has none."""
        words: list[Argument] = [word for pair in pieces for word in pair]
        reply: bytes = self._call("bring", job, name, BLOB_TTL_S, total, most, *words)
        return reply.decode()

    def notes(self, job: int, positions: Sequence[int]) -> dict[int, bytes]:
        """Return the signed notes on what tasks brought back, of those that have one."""
        if not positions:
            return {}
        found = self.link.command("HMGET", self.keys.files(job), *positions)
        return {at: note for at, note in zip(positions, found, strict=True) if note}


def full(url: str) -> StoreBusy:
    """Return the refusal of a submission when memory is short."""
    return StoreBusy(
        f"the server at {url} has used 80 % of its memory and takes no new jobs now",
        hint="wait for jobs to end, or delete old ones: qstat -a, `maxmemory` in the configuration",
    )
