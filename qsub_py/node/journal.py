"""The keeper's memory on disk: an append-only file of checksummed records.

No fsync: the death of a process leaves the page cache, and after a reboot the boot id says
that everything was lost. A record that a death tore is found by its checksum and ignored.
It knows nothing of what the records mean.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator

from qsub_py.node.wire import Header, header_bytes

_RECORD = struct.Struct("<III")

#: Compact when the file is bigger than this and at least half of it is dead.
COMPACT_BYTES = 4 << 20


def record(header: bytes, body: bytes = b"") -> bytes:
    """Return one record: checksum, two lengths, header, body."""
    payload = header + body
    return _RECORD.pack(zlib.crc32(payload), len(header), len(body)) + payload


def read_records(data: bytes) -> Iterator[tuple[Header, bytes]]:
    """Yield the records of a journal up to its end or the first damaged one."""
    at = 0
    while at + _RECORD.size <= len(data):
        checksum, header_len, body_len = _RECORD.unpack_from(data, at)
        start = at + _RECORD.size
        at = start + header_len + body_len
        if at > len(data) or zlib.crc32(data[start:at]) != checksum:
            return
        middle = start + header_len
        yield json.loads(data[start:middle]), data[middle:at]


class Journal:
    """Appends records; what `add` took is on the file after `flush`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._pending: list[bytes] = []
        self._fd = self._open(path, 0)
        self.size = os.fstat(self._fd).st_size

    @staticmethod
    def _open(path: str, flags: int) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)

    def read(self) -> list[tuple[Header, bytes]]:
        """Return the sound records of the file."""
        with open(self.path, "rb") as file:
            return list(read_records(file.read()))

    def add(self, header: bytes, body: bytes = b"") -> int:
        """Take a record for the next `flush`; return its size."""
        text = record(header, body)
        self._pending.append(text)
        return len(text)

    def note(self, header: Header) -> int:
        """Take a record given as a dictionary."""
        return self.add(header_bytes(header))

    def flush(self) -> None:
        """Write what was taken. Raise OSError when the disk refuses; it is kept for later."""
        if not self._pending:
            return
        data = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            # A torn record in the middle would hide all that come after it.
            os.ftruncate(self._fd, self.size)
            raise
        self.size += len(data)
        self._pending.clear()

    def unsay(self) -> None:
        """Take back the record added last, which `flush` could not write."""
        self._pending.pop()

    def rewrite(self, records: Iterable[bytes]) -> None:
        """Replace the file by `records`; what waits for a flush is dropped, being in them."""
        fresh = self.path + ".new"
        fd = self._open(fresh, os.O_TRUNC)
        try:
            view = memoryview(b"".join(records))
            size = len(view)
            while view:
                view = view[os.write(fd, view) :]
            os.rename(fresh, self.path)
        except BaseException:
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd, self.size = fd, size
        self._pending.clear()

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
