"""Archives of files that travel between hosts: the format, and what an archive must not hold.

An archive is its magic, the length of its index, the index (JSON) and the files' bytes, one
after another; who has the same files makes the same bytes. Only regular files, folders and
links that stay inside exist in it. Not tar or zip: the filters of `tarfile` were passed
again and again (CVE-2024-12718, CVE-2025-4138, -4330, -4517), and this is a page to check.
Nothing here touches a disk: see `archive_pack` and `archive_unpack`.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from qsub_py.errors import PayloadError
from qsub_py.text import quoted

MAGIC = b"QSUBAR1\n"
HEAD = struct.Struct("<8sQ")
MOST_ENTRIES = 1_000_000
MOST_INDEX_BYTES = 256 << 20
MOST_PATH_BYTES = 4000
MOST_NAME_BYTES = 255
#: Larger files begin on a page, so that a file system can share their blocks (FICLONE).
_ALIGNED_FROM, _PAGE = 64 << 10, 4096
_MOST_HOPS = 40

FILE, FOLDER, LINK = "f", "d", "l"


class ArchiveError(PayloadError):
    """An archive is damaged, or holds what must not be unpacked."""


class Entry(NamedTuple):
    """One file, folder or link. The path is relative to the archive's root, which is ""."""

    path: str
    kind: str
    mode: int = 0
    size: int = 0
    target: str = ""


def _shown(path: str) -> str:
    return quoted(path, width=200)


def order(path: str) -> list[bytes]:
    """Return what paths are sorted by: a folder stands before all that is in it."""
    return [os.fsencode(part) for part in path.split("/")] if path else []


def pack_index(entries: Sequence[Entry]) -> bytes:
    """Return the beginning of an archive of these entries; raises ArchiveError."""
    check(entries)
    rows = [[e.path, e.kind, e.mode, e.size, e.target] for e in entries]
    index = json.dumps(rows, separators=(",", ":")).encode()
    return HEAD.pack(MAGIC, len(index)) + index


def index_bytes(head: bytes) -> int:
    """Return the length of the index that follows the head; raises ArchiveError."""
    if len(head) < HEAD.size:
        raise ArchiveError("the archive is cut off")
    magic, size = HEAD.unpack_from(head)
    if magic != MAGIC:
        raise ArchiveError("this is no archive of qsub_py")
    if size > MOST_INDEX_BYTES:
        raise ArchiveError("the archive's index is too large")
    return int(size)


def read_index(index: bytes) -> list[Entry]:
    """Read the index of an archive that may be hostile; raises ArchiveError."""
    try:
        rows = json.loads(index)
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"the archive's index is damaged: {error}") from None
    if not isinstance(rows, list):
        raise ArchiveError("the archive's index is no list")
    entries = [_entry(row) for row in rows]
    check(entries)
    return entries


def _entry(row: Any) -> Entry:
    if not isinstance(row, list) or list(map(type, row)) != [str, str, int, int, str]:
        raise ArchiveError("the archive's index is damaged")
    return Entry(*row)


def layout(entries: Iterable[Entry], index_size: int) -> Iterator[tuple[Entry, int]]:
    """Yield entries with the offset of their bytes; a last, empty entry is the archive's end."""
    at = HEAD.size + index_size
    for entry in entries:
        if entry.size >= _ALIGNED_FROM:
            at = -(-at // _PAGE) * _PAGE
        yield entry, at
        at += entry.size
    yield Entry("", ""), at


def check(entries: Sequence[Entry]) -> None:
    """Raise ArchiveError for whatever must not be unpacked."""
    if not entries or entries[0].path or entries[0].kind == LINK:
        raise ArchiveError("the archive has no root")
    if len(entries) > MOST_ENTRIES:
        raise ArchiveError(f"the archive holds more than {MOST_ENTRIES} files")
    folders, links = set(), {}
    last: list[bytes] | None = None
    for entry in entries:
        _check_entry(entry)
        key = order(entry.path)
        if last is not None and key <= last:
            raise ArchiveError(f"{_shown(entry.path)} is in the archive twice or out of order")
        last = key
        if entry.path and entry.path.rpartition("/")[0] not in folders:
            raise ArchiveError(f"{_shown(entry.path)} is in no folder of the archive")
        if entry.kind == FOLDER:
            folders.add(entry.path)
        elif entry.kind == LINK:
            links[entry.path] = entry.target
    for path in links:
        check_link(path, links)


def _check_entry(entry: Entry) -> None:
    if entry.kind not in (FILE, FOLDER, LINK):
        raise ArchiveError(f"{_shown(entry.path)} is neither a file nor a folder nor a link")
    if entry.path:
        check_path(entry.path)
    if not 0 <= entry.mode <= 0o777:
        raise ArchiveError(f"{_shown(entry.path)} has a mode of {entry.mode:o}")
    if not (0 <= entry.size < 2**53) or (entry.size and entry.kind != FILE):
        raise ArchiveError(f"{_shown(entry.path)} has a size of {entry.size}")
    if bool(entry.target) != (entry.kind == LINK):
        raise ArchiveError(f"{_shown(entry.path)} leads to {_shown(entry.target)}")


def check_path(path: str) -> str:
    """Return a path that stays below where it is put; raises ArchiveError."""
    try:
        raw = os.fsencode(path)
    except UnicodeEncodeError:
        raise ArchiveError(f"{_shown(path)} is no file name") from None
    parts = raw.split(b"/")
    if b"\0" in raw or any(part in (b"", b".", b"..") for part in parts):
        raise ArchiveError(f"{_shown(path)} is no path below a folder")
    if len(raw) > MOST_PATH_BYTES or max(map(len, parts)) > MOST_NAME_BYTES:
        raise ArchiveError(f"{_shown(path)} is too long")
    return path


def check_link(path: str, links: Mapping[str, str]) -> None:
    """Raise ArchiveError unless a link stays inside, also by way of the other links."""
    place = path.split("/")[:-1]
    todo = links[path].split("/")[::-1]
    if links[path].startswith("/") or "\0" in links[path]:
        raise ArchiveError(f"the link {_shown(path)} leads out, to {_shown(links[path])}")
    hops = 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if not place:
                raise ArchiveError(f"the link {_shown(path)} leads out, to {_shown(links[path])}")
            place.pop()
            continue
        further = links.get("/".join([*place, part]))
        if further is None:
            place.append(part)
            continue
        hops += 1
        if hops > _MOST_HOPS:
            raise ArchiveError(f"the link {_shown(path)} leads in a circle")
        todo += further.split("/")[::-1]
