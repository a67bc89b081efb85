"""The files that tasks brought back: found, verified, and written here.

A node is trusted with nothing: its notes are signed, an archive is the one of its note, holds
only plain files, and only such as were asked for; nothing is written through a link.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qsub_py.archive import FILE, FOLDER, HEAD, ArchiveError, Entry, index_bytes, read_index
from qsub_py.archive_unpack import Archive, Folders
from qsub_py.errors import JobError, PayloadError, SignatureError
from qsub_py.globs import matches
from qsub_py.model import JobInfo
from qsub_py.notes import Note, question, read_note
from qsub_py.signing import sign
from qsub_py.store_files import piece_count
from qsub_py.text import quoted

if TYPE_CHECKING:
    from qsub_py.client import Client

#: Whether a file that is there already may be replaced.
MayReplace = Callable[[os.stat_result], bool]

_PAGE = 256
_PIECES_A_TRIP = 8
#: How long a node may be silent: it may have much to pack before the first byte.
_SILENCE_S = 30.0
_READ_BYTES = 1 << 20


class FetchError(JobError):
    """Files of a task cannot be had."""


@dataclass(frozen=True, slots=True)
class Brought:
    """What a task brought back: its note, and the archive where it stands in the note."""

    position: int
    note: Note
    data: bytes = b""


def brought(client: Client, job: JobInfo, positions: Sequence[int]) -> Iterator[Brought]:
    """Yield what those tasks brought that left a note.

    A note that is not signed, or damaged, is one that says so and has no files.
    """
    for at in range(0, len(positions), _PAGE):
        page = positions[at : at + _PAGE]
        found = client.ask(lambda store: store.notes(job.id, page))  # noqa: B023
        for position, packed in found.items():
            try:
                note, data = read_note(
                    client.ring, packed, cluster=client.cluster, uid=job.uid, position=position
                )
            except PayloadError as error:
                note, data = Note(0, "", why=str(error)), b""
            yield Brought(position, note, data)


def archive_of(client: Client, job: JobInfo, found: Brought) -> Iterator[bytes]:
    """Yield the bytes of an archive, wherever it is; raises FetchError, StoreError.

    They are to be compared with the note: see `save`.
    """
    note = found.note
    if note.is_inline:
        yield found.data
    elif note.is_kept:
        answer = ask_node(client, job, found.position, note.node, note.attempt, ())
        if not answer.note.files:
            raise FetchError(f"node {note.node}: {answer.note.why}")
        yield from answer.pieces
    else:
        yield from _from_store(client, note)


def _from_store(client: Client, note: Note) -> Iterator[bytes]:
    count = piece_count(note.size)
    for first in range(0, count, _PIECES_A_TRIP):
        some = min(_PIECES_A_TRIP, count - first)
        yield from client.ask(lambda store: store.pieces(note.blob, first, some))  # noqa: B023


# -- asking a node -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node says when it is asked now: a note, and then the archive."""

    note: Note
    pieces: Iterator[bytes]


def ask_node(
    client: Client, job: JobInfo, position: int, node: str, attempt: int, patterns: Sequence[str]
) -> Answer:
    """Ask a node for the files of a task that runs there, or those it kept; FetchError."""
    nodes = client.ask(lambda store: store.nodes())
    uid = next((one.uid for one in nodes if one.name == node and one.state != "lost"), None)
    if uid is None:
        raise FetchError(f"node {node}, which has them, is not up")
    name = secrets.token_hex(8)
    asked = question(name, position, attempt, patterns)
    signature = sign(client.ring.current, "ask", client.cluster, job.uid, asked)
    order = {"op": "files", "job": job.id, "uid": job.uid, "first": position, "last": position,
             "asked": asked.decode(), "signature": signature.hex()}  # fmt: skip
    # Said to be wanted before it is asked for: a node drops what nobody waits for.
    client.ask(lambda store: store.follow(name, "0", block_s=0.001))
    client.ask(lambda store: store.order_node(uid, json.dumps(order)))
    fields = _fields(client, name, node)
    first = next(fields)
    if b"note" not in first:
        raise FetchError(f"node {node} gave no answer that makes sense")
    note, _ = read_note(
        client.ring, first[b"note"], cluster=client.cluster, uid=job.uid, position=position
    )
    if note.asked != name:
        raise SignatureError(f"the answer of node {node} is to another question")
    return Answer(note, (one[b"d"] for one in fields if one.get(b"d")))


def _fields(client: Client, name: str, node: str) -> Iterator[dict[bytes, bytes]]:
    """Yield what a node writes, up to its end; FetchError when it falls silent."""
    after, heard_at = "0", time.monotonic()
    while True:
        entries = client.ask(lambda store: store.follow(name, after, block_s=1.0))  # noqa: B023
        for number, fields in entries:
            after, heard_at = number, time.monotonic()
            yield fields
            if b"end" in fields:
                return
        if time.monotonic() - heard_at > _SILENCE_S:
            raise FetchError(f"node {node} does not answer")


# -- reading -------------------------------------------------------------------------------


def entries_of(pieces: Iterable[bytes]) -> list[Entry]:
    """Return the files in an archive from its beginning alone; raises ArchiveError."""
    head = b""
    size = -1
    for piece in pieces:
        head += piece
        if size < 0 and len(head) >= HEAD.size:
            size = index_bytes(head)
        if 0 <= size <= len(head) - HEAD.size:
            break
    found = read_index(head[HEAD.size : HEAD.size + index_bytes(head)])
    return [entry for entry in found if entry.kind == FILE]


@contextlib.contextmanager
def saved(pieces: Iterable[bytes], note: Note, folder: str) -> Iterator[Archive]:
    """Give the archive of a note in a file of `folder`; SignatureError when it is another one."""
    fd, path = tempfile.mkstemp(prefix=".qfetch-", dir=folder)
    try:
        digest = hashlib.sha256()
        with open(fd, "wb") as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
        if digest.hexdigest() != note.sha:
            raise SignatureError("the files are not those that their node has signed")
        with Archive(path) as archive:
            yield archive
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


# -- writing -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Written:
    """A file that is here now."""

    path: str
    size: int
    #: Whether it was here before, with the same content.
    was_here: bool


def write_files(
    archive: Archive, folder: str, *, allowed: Sequence[str], wanted: Sequence[str] = (),
    may_replace: MayReplace = lambda status: False,
) -> list[Written]:  # fmt: skip
    """Write the files of an archive below `folder`, all or none; return them.

    `allowed`: patterns that all of them must match; `wanted`: patterns of those to write (none:
    all). Raises ArchiveError, FetchError for one that is there with other content.
    """
    places = [(e, at) for e, at in archive.files() if _is_good(e, allowed)]
    chosen = [(e, at) for e, at in places if not wanted or matches(e.path, wanted)]
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        same = {e.path for e, at in chosen if _is_same(archive, e, at, folder, root, may_replace)}
        with Folders(root, 0o777) as folders:
            for entry, at in chosen:
                if entry.path not in same:
                    _write(archive, entry, at, folders, folder)
    finally:
        os.close(root)
    return [Written(e.path, e.size, e.path in same) for e, _ in chosen]


def _is_good(entry: Entry, allowed: Sequence[str]) -> bool:
    if entry.kind == FOLDER:
        return False
    if entry.kind != FILE or not entry.path:
        raise ArchiveError(f"the node sent {quoted(entry.path)}, which is no file")
    if not matches(entry.path, allowed):
        raise ArchiveError(f"the node sent {quoted(entry.path)}, which nobody asked for")
    return True


def _is_same(
    archive: Archive, entry: Entry, at: int, folder: str, root: int, may_replace: MayReplace
) -> bool:
    """Whether the file is here with this content; FetchError when with another that must stay."""
    shown = os.path.join(folder, entry.path)
    parent, _, name = entry.path.rpartition("/")
    with contextlib.ExitStack() as stack:
        here = root
        for part in filter(None, parent.split("/")):
            try:
                here = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            except FileNotFoundError:
                return False
            except OSError:
                raise FetchError(f"{quoted(shown)}: {quoted(part)} is no folder here") from None
            stack.callback(os.close, here)
        try:
            status = os.stat(name, dir_fd=here, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if stat.S_ISREG(status.st_mode) and status.st_size == entry.size:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=here)
            with open(fd, "rb") as file:
                if all(file.read(len(part)) == part for part in archive.parts(entry, at)):
                    return True
        if stat.S_ISDIR(status.st_mode) or not may_replace(status):
            raise FetchError(f"{quoted(shown)} is there and differs", hint="--force replaces it")
    return False


def _write(archive: Archive, entry: Entry, at: int, folders: Folders, folder: str) -> None:
    parent, _, name = entry.path.rpartition("/")
    draft = f".qfetch-{secrets.token_hex(6)}"
    try:
        here = folders.open(parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(draft, flags, entry.mode | 0o600, dir_fd=here)
        try:
            with open(fd, "wb") as file:
                for part in archive.parts(entry, at):
                    file.write(part)
            os.rename(draft, name, src_dir_fd=here, dst_dir_fd=here)
        except BaseException:
            os.unlink(draft, dir_fd=here)
            raise
    except OSError as error:
        shown = quoted(os.path.join(folder, entry.path))
        raise FetchError(f"cannot write {shown}: {error.strerror}") from None
