"""A task's private directory: what was shipped is unpacked there, what it brings back is packed.

Used by the program that becomes a command (`prelude`) and by the runner of calls; so
standard library only, and nothing of agent or keeper.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

from qsub_py.archive import FILE, FOLDER, ArchiveError, Entry
from qsub_py.archive_pack import Item, find, item_of, ordered, source_of, stream
from qsub_py.archive_unpack import Archive, Folders

#: What `collect` says: (path of the archive, bytes, SHA-256, number of files, what went wrong).
Collected = list[Any]

_CLOCK_REALTIME_COARSE = 5


def stage(root: str, ships: Iterable[Sequence[str]], since: str = "") -> None:
    """Unpack archives (name, file) into the directory `root`, which is empty.

    `since`: a file to keep what `collect` must know to leave alone what the task did not touch.
    Raises ArchiveError, OSError.
    """
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    known: dict[str, list[int]] = {}
    try:
        for name, path in ships:
            with Archive(path) as archive:
                archive.unpack(folder, name)
                if since:
                    known |= _known(root, name, archive)
    finally:
        os.close(folder)
    if since:
        with open(since, "w") as file:
            json.dump(known, file)
        _await_tick()


def _known(root: str, name: str, archive: Archive) -> dict[str, list[int]]:
    found = {}
    for entry, _ in archive.files():
        if entry.kind == FILE:
            parts = ("" if name == "." else name, entry.path)
            path = "/".join(part for part in parts if part)
            found[path] = _mark(os.lstat(f"{root}/{path}"))
    return found


def _mark(status: os.stat_result) -> list[int]:
    """Return what changes when a file does: nobody can set its ctime."""
    return [status.st_ino, status.st_ctime_ns]


def _await_tick() -> None:
    """Wait until what changes from now on gets another ctime than what is there."""
    moment = time.time_ns()
    while time.clock_gettime_ns(_CLOCK_REALTIME_COARSE) <= moment:
        time.sleep(0.001)
        if time.time_ns() < moment:  # the clock was set back
            return


def link(root: str, source: str, path: str) -> None:
    """Let an output file appear in the directory too; raises OSError."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        parent, _, name = os.path.normpath(path).rpartition("/")
        with Folders(folder) as folders:
            place = folders.open(parent)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=place)
            os.link(source, name, dst_dir_fd=place)
    finally:
        os.close(folder)


def collect(root: str, patterns: Sequence[str], target: str, since: str = "") -> Collected:
    """Pack the files below `root` that match into the archive `target`; never raises."""
    try:
        paths = _changed(root, find(root, patterns), since)
        if not paths:
            return ["", 0, "", 0, ""]
        size, sha = _write(_items(root, paths), target)
        return [target, size, sha, len(paths), ""]
    except (OSError, ArchiveError) as error:
        with contextlib.suppress(OSError):
            os.unlink(target + ".part")
        what = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        return ["", 0, "", 0, f"its files could not be collected: {what.lower()}"]


def _changed(root: str, paths: Sequence[str], since: str) -> Sequence[str]:
    """Leave out what was shipped and is as it was."""
    if not since:
        return paths
    try:
        with open(since) as file:
            known = json.load(file)
    except (OSError, ValueError):
        return paths
    return [path for path in paths if known.get(path) != _mark(os.lstat(f"{root}/{path}"))]


def _items(root: str, paths: Sequence[str]) -> list[Item]:
    real = os.path.realpath(root)
    folders = {""}
    items = []
    for path in paths:
        source = source_of(root, path, real)
        if source is None:  # it went meanwhile
            continue
        items.append(item_of(path, source, os.lstat(source)))
        parent = path.rpartition("/")[0]
        while parent not in folders:
            folders.add(parent)
            parent = parent.rpartition("/")[0]
    items += [Item(Entry(path, FOLDER, 0o755), f"{root}/{path}") for path in folders]
    return ordered(items)


def _write(items: Sequence[Item], target: str) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    with open(os.open(target + ".part", flags, 0o600), "wb", buffering=0) as file:
        for data in stream(items, is_strict=False):
            digest.update(data)
            size += len(data)
            view = memoryview(data)
            while view:
                view = view[file.write(view) or 0 :]
    os.rename(target + ".part", target)
    return size, digest.hexdigest()
