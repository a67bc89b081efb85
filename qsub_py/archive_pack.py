"""Files of this host as the bytes of an archive.

What is packed is given as entries with the paths they are read from. Nothing is followed: a
file is opened as what it was when it was listed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from qsub_py.archive import (
    FILE,
    FOLDER,
    HEAD,
    LINK,
    ArchiveError,
    Entry,
    layout,
    order,
    pack_index,
)
from qsub_py.globs import ANY, fits, is_magic, segments
from qsub_py.text import quoted

_READ_BYTES = 1 << 20
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


@dataclass(frozen=True, slots=True)
class Item:
    """An entry of an archive to be made, and where its bytes are."""

    entry: Entry
    source: str


def item_of(path: str, source: str, status: os.stat_result) -> Item:
    """Return what an archive says of a file, folder or link; raises ArchiveError, OSError."""
    mode = stat.S_IMODE(status.st_mode) & 0o777
    if stat.S_ISREG(status.st_mode):
        return Item(Entry(path, FILE, mode, status.st_size), source)
    if stat.S_ISDIR(status.st_mode):
        return Item(Entry(path, FOLDER, mode | 0o700), source)
    if stat.S_ISLNK(status.st_mode):
        return Item(Entry(path, LINK, target=os.readlink(source)), source)
    raise ArchiveError(
        f"{quoted(path or source, width=200)} is neither a file nor a folder nor a link"
    )


def ordered(items: Iterable[Item]) -> list[Item]:
    """Return items in the order of an archive."""
    return sorted(items, key=lambda item: order(item.entry.path))


def archive_size(items: Sequence[Item]) -> int:
    """Return how many bytes `stream` will yield; raises ArchiveError."""
    entries = [item.entry for item in items]
    *_, (_, end) = layout(entries, len(pack_index(entries)) - HEAD.size)
    return end


def stream(items: Sequence[Item], *, is_strict: bool = True) -> Iterator[bytes]:
    """Yield the bytes of the archive of ordered items, in parts of at most 1 MiB.

    A file that changed its size since it was listed is an ArchiveError; without `is_strict`
    what is missing of it is filled up with zeros.
    """
    head = pack_index([item.entry for item in items])
    yield from (head[at : at + _READ_BYTES] for at in range(0, len(head), _READ_BYTES))
    at = len(head)
    places = layout([item.entry for item in items], len(head) - HEAD.size)
    for item, (entry, offset) in zip(items, places, strict=False):
        if entry.size:
            if offset > at:
                yield bytes(offset - at)
            yield from _contents(item.source, entry.size, is_strict)
            at = offset + entry.size


def _contents(source: str, size: int, is_strict: bool) -> Iterator[bytes]:
    try:
        fd = os.open(source, _OPEN)
    except OSError as error:
        if is_strict:
            shown = quoted(source, width=200)
            raise ArchiveError(f"cannot read {shown}: {error.strerror}") from None
        yield from _zeros(size)
        return
    left = size
    try:
        if is_strict and os.fstat(fd).st_size != size:
            left = -1
        while left > 0:
            data = os.read(fd, min(left, _READ_BYTES))
            if not data:
                break
            left -= len(data)
            yield data
    finally:
        os.close(fd)
    if left and is_strict:
        raise ArchiveError(f"{quoted(source, width=200)} changed while it was read")
    yield from _zeros(left)


def _zeros(size: int) -> Iterator[bytes]:
    while size > 0:
        part = min(size, _READ_BYTES)
        size -= part
        yield bytes(part)


def find(root: str, patterns: Iterable[str]) -> list[str]:
    """Return the paths of the regular files below `root` that checked patterns name, in order.

    A link to a file inside counts as that file; links that lead out and links to folders are
    left out.
    """
    found: set[str] = set()
    real = os.path.realpath(root)
    for pattern in patterns:
        for path in _expand(root, "", segments(pattern)):
            found.update(_files(root, path, real))
    return sorted(found, key=order)


def _expand(root: str, at: str, wanted: Sequence[str]) -> Iterator[str]:
    """Yield the paths that a pattern's parts name, from the folder `at` on."""
    if not wanted:
        yield at
        return
    first, rest = wanted[0], wanted[1:]
    if first == ANY:
        yield from _expand(root, at, rest)
        for name, is_folder in _names(root, at):
            if is_folder and not name.startswith("."):
                yield from _expand(root, _join(at, name), wanted)
    elif is_magic(first):
        for name, is_folder in _names(root, at):
            if fits(name, first) and (is_folder or not rest):
                yield from _expand(root, _join(at, name), rest)
    else:
        path = _join(at, first)
        if os.path.lexists(os.path.join(root, path)) and (not rest or _is_folder(root, path)):
            yield from _expand(root, path, rest)


def _files(root: str, path: str, real: str) -> Iterator[str]:
    """Yield the regular files that `path` is, or has in it."""
    if _is_folder(root, path):
        for name, _ in _names(root, path):
            yield from _files(root, _join(path, name), real)
    elif source_of(root, path, real) is not None:
        yield path


def source_of(root: str, path: str, real: str) -> str | None:
    """Return the regular file that `path` below `root` is or leads to, None when it is none."""
    source = os.path.join(root, path)
    try:
        if os.path.islink(source):
            source = os.path.realpath(source)
            if not source.startswith(real.rstrip("/") + "/"):
                return None
        return source if stat.S_ISREG(os.lstat(source).st_mode) else None
    except OSError:
        return None


def _names(root: str, at: str) -> list[tuple[str, bool]]:
    try:
        with os.scandir(os.path.join(root, at)) as entries:
            return sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    except OSError:
        return []


def _is_folder(root: str, path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(os.path.join(root, path)).st_mode)
    except OSError:
        return False


def _join(at: str, name: str) -> str:
    return f"{at}/{name}" if at else name
