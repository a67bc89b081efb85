"""The files of an archive on a disk again, safely whoever made it.

All of the index is checked before the first file is made. Each file is made anew
(O_EXCL, O_NOFOLLOW) in a folder that is held open, so no link on the way is ever followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from types import TracebackType

from qsub_py.archive import (
    FILE,
    FOLDER,
    HEAD,
    ArchiveError,
    Entry,
    check_path,
    index_bytes,
    layout,
    read_index,
)

_COPY_BYTES = 64 << 20
_READ_BYTES = 1 << 20
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAKE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: The kernel, or this pair of file systems, has no copy_file_range.
_NO_COPY = {errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY}


class Archive:
    """An archive in a file, its index read and checked."""

    def __init__(self, path: str) -> None:
        """Open it; raises ArchiveError, OSError."""
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = index_bytes(_read(self.fd, HEAD.size, 0))
            self.size = os.fstat(self.fd).st_size
            if HEAD.size + size > self.size:
                raise ArchiveError("the archive is cut off")
            self.entries = read_index(_read(self.fd, size, HEAD.size))
            *self._places, (_, end) = layout(self.entries, size)
            if end != self.size:
                raise ArchiveError(f"the archive has {self.size} bytes, its files need {end}")
        except BaseException:
            os.close(self.fd)
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.fd)

    def files(self) -> Iterator[tuple[Entry, int]]:
        """Yield the entries with where their bytes begin."""
        yield from self._places

    def parts(self, entry: Entry, offset: int) -> Iterator[bytes]:
        """Yield the bytes of a file."""
        end = offset + entry.size
        while offset < end:
            data = os.pread(self.fd, min(end - offset, _READ_BYTES), offset)
            if not data:
                raise ArchiveError("the archive is cut off")
            offset += len(data)
            yield data

    def unpack(self, root: int, name: str) -> None:
        """Make its files below the open folder `root`, under `name` ("." is the folder itself).

        Nothing may be there before but folders. Raises ArchiveError, OSError.
        """
        base = "" if name == "." else check_path(name)
        with Folders(root) as folders:
            for entry, offset in self._places:
                path = "/".join(part for part in (base, entry.path) if part)
                if entry.kind == FOLDER:
                    folders.make(path, entry.mode)
                    continue
                parent, _, last = path.rpartition("/")
                if not last:
                    raise ArchiveError("the archive is a file and needs a name")
                folder = folders.open(parent)
                if entry.kind == FILE:
                    self._make(folder, last, entry, offset)
                else:
                    os.symlink(entry.target, last, dir_fd=folder)

    def _make(self, folder: int, name: str, entry: Entry, offset: int) -> None:
        fd = os.open(name, _MAKE_FLAGS, entry.mode | 0o600, dir_fd=folder)
        try:
            copy(self.fd, offset, fd, entry.size)
            os.fchmod(fd, entry.mode)
        finally:
            os.close(fd)


class Folders:
    """Folders below an open one, made where missing; those on the way to the last stay open."""

    def __init__(self, root: int, mode: int = 0o700) -> None:
        """Begin at the open folder `root`; what is missing is made with `mode`."""
        self._mode = mode
        self._stack: list[tuple[str, int]] = [("", root)]
        #: Given when all is unpacked: in a folder without write permission nothing can be made.
        self._modes: list[tuple[str, int]] = []

    def __enter__(self) -> Folders:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if error is None:
                for path, mode in reversed(self._modes):
                    os.fchmod(self.open(path), mode)
        finally:
            self._leave("\0")

    def make(self, path: str, mode: int) -> None:
        """Make a folder with its parents, unless it is there; "" is the root, which stays."""
        if path:
            self.open(path)
            self._modes.append((path, mode))

    def open(self, path: str) -> int:
        """Return the folder, open until the next call."""
        self._leave(path)
        at, fd = self._stack[-1]
        for name in path[len(at) :].split("/"):
            if not name:
                continue
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, self._mode, dir_fd=fd)
            fd = os.open(name, _FOLDER_FLAGS, dir_fd=fd)
            at = f"{at}/{name}" if at else name
            self._stack.append((at, fd))
        return fd

    def _leave(self, path: str) -> None:
        """Close what is not on the way to `path`."""
        while len(self._stack) > 1 and not f"{path}/".startswith(self._stack[-1][0] + "/"):
            os.close(self._stack.pop()[1])


def copy(source: int, offset: int, target: int, size: int) -> None:
    """Copy bytes from one file to another; blocks are shared where the file system can."""
    left = size
    while left:
        try:
            done = os.copy_file_range(source, target, min(left, _COPY_BYTES), offset_src=offset)
        except OSError as error:
            if error.errno not in _NO_COPY:
                raise
            _copy_slowly(source, offset, target, left)
            return
        if not done:
            raise ArchiveError("the archive is cut off")
        offset, left = offset + done, left - done


def _copy_slowly(source: int, offset: int, target: int, left: int) -> None:
    while left:
        data = os.pread(source, min(left, _READ_BYTES), offset)
        if not data:
            raise ArchiveError("the archive is cut off")
        offset, left = offset + len(data), left - len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]


def _read(fd: int, size: int, offset: int) -> bytes:
    parts = []
    while size:
        data = os.pread(fd, min(size, _READ_BYTES), offset)
        if not data:
            raise ArchiveError("the archive is cut off")
        parts.append(data)
        offset, size = offset + len(data), size - len(data)
    return b"".join(parts)
