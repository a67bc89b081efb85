"""What a job takes along: files and folders as they are now, packed and sent to the store.

`make_parcels` looks and refuses, `upload` sends what the store does not have. A parcel is
named by its content, so the same files are sent once, by whomever.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from qsub_py.archive import FOLDER, ArchiveError
from qsub_py.archive_pack import Item, archive_size, stream
from qsub_py.errors import SpecError, StoreBusy
from qsub_py.model import Ship
from qsub_py.shipping_walk import Root, find_roots, unreadable
from qsub_py.store_files import PIECE_BYTES, piece_count, squeeze_piece
from qsub_py.text import quoted
from qsub_py.units import format_size

#: Pieces in one call: what the server takes in a moment.
_PIECES_A_TRIP = 4


@dataclass(frozen=True, slots=True)
class Parcel:
    """A file or folder to be shipped, and what it is made of."""

    ship: Ship
    items: tuple[Item, ...]

    @property
    def file_count(self) -> int:
        """How many files and links are in it."""
        return sum(item.entry.kind != FOLDER for item in self.items)

    def pieces(self) -> Iterator[bytes]:
        """Yield its archive in pieces; raises ArchiveError when it is another one by now."""
        digest, buffer = hashlib.sha256(), bytearray()
        for data in stream(self.items):
            digest.update(data)
            buffer += data
            while len(buffer) >= PIECE_BYTES:
                yield bytes(buffer[:PIECE_BYTES])
                del buffer[:PIECE_BYTES]
        if buffer:
            yield bytes(buffer)
        if digest.hexdigest() != self.ship.sha:
            raise ArchiveError(f"{quoted(self.ship.name)} changed while it was sent")


def make_parcels(
    paths: Sequence[str],
    *,
    base: str,
    ignore: Sequence[str] = (),
    does_gitignore: bool = False,
    limit: int = 0,
) -> tuple[Parcel, ...]:
    """Return parcels of the files and folders at `paths`, relative ones below `base`.

    `ignore`: rules as in .gitignore; `does_gitignore`: those of the .gitignore files count too,
    and .git stays behind. `limit`: bytes in all. Raises SpecError.
    """
    roots = find_roots(
        paths, base=base, ignore=ignore, does_gitignore=does_gitignore, limit=limit
    )  # fmt: skip
    return tuple(_parcel(root) for root in roots)


class Asker(Protocol):
    """Who reaches the store, again and again if need be: a Client."""

    def ask(self, request: Any, /) -> Any:
        """Return `request(store)`."""


def upload(client: Asker, parcels: Sequence[Parcel]) -> None:
    """Send what the store has not of each parcel; SpecError, StoreBusy when memory is short.

    After a refusal nothing of them is left there that no job has.
    """
    for parcel in parcels:
        try:
            _send(client, parcel)
        except (StoreBusy, ArchiveError) as error:
            for one in parcels:
                _drop(client, one.ship.sha)
            if isinstance(error, ArchiveError):
                raise SpecError(f"--ship: {error}", hint="submit again when it rests") from None
            raise


def _send(client: Asker, parcel: Parcel) -> None:
    sha = parcel.ship.sha
    there: set[int] = client.ask(lambda store: store.shipped(sha))
    if len(there) == piece_count(parcel.ship.size):
        return
    batch: list[tuple[int, bytes]] = []
    for number, data in enumerate(parcel.pieces()):
        if number not in there:
            batch.append((number, squeeze_piece(data)))
        if len(batch) == _PIECES_A_TRIP:
            _put(client, sha, batch)
            batch = []
    if batch:
        _put(client, sha, batch)


def _put(client: Asker, sha: str, batch: Sequence[tuple[int, bytes]]) -> None:
    client.ask(lambda store: store.put_shipped(sha, batch))


def _drop(client: Asker, sha: str) -> None:
    client.ask(lambda store: store.drop_shipped(sha))


def _parcel(root: Root) -> Parcel:
    digest = hashlib.sha256()
    try:
        for data in stream(root.items):
            digest.update(data)
        size = archive_size(root.items)
    except ArchiveError as error:
        raise unreadable(error, root) from None
    return Parcel(Ship(root.name, digest.hexdigest(), size), tuple(root.items))


def describe(parcel: Parcel) -> str:
    """Return a parcel in words: "data (12 files, 3.4M)"."""
    size = format_size(sum(item.entry.size for item in parcel.items))
    is_folder = parcel.items[0].entry.kind == FOLDER
    return f"{parcel.ship.name} ({f'{parcel.file_count} files, ' if is_folder else ''}{size})"
