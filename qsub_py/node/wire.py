"""Frames between agent, keeper and journal, and the shape of a finished task.

Standard library only: shared by the agent and the keeper. A frame is two little-endian
lengths, a JSON header and raw bytes; header texts keep undecodable bytes as lone surrogates.
"""

from __future__ import annotations

import json
import socket
import struct
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

#: 2: `hello` has the agent's command line, `state` the keeper's edition. Agent and keeper work with
#: one that is a number behind: what is not said is as it was, what is not known is passed over.
VERSION = 2
Header = dict[str, Any]

HEAD = struct.Struct("<II")
#: A longer header is taken for garbage: the biggest real one is a batch of 256 environments.
MAX_HEADER_BYTES = 256 << 20
#: Read at most this much from one peer before the others get their turn.
_DRAIN_BYTES = 16 << 20
_READ_BYTES = 1 << 18
_IOV_MAX = 64


class Item(NamedTuple):
    """How one task ended. Times are CLOCK_BOOTTIME seconds, 0.0 for one that never began.

    `size` bytes of the frame's body, in the order of the items, are its result: `kind` 1 a
    pickled value, 2 a pickled error, 0 nothing. A result in `file` has size 0 in the frame.
    """

    pos: int
    state: str
    start: float = 0.0
    end: float = 0.0
    kind: int = 0
    size: int = 0
    exit: int = 0
    signal: int = 0
    cpu: float = 0.0
    rss: int = 0
    why: str = ""
    out: str = ""
    out_size: int = 0
    out_at: list[int] | None = None
    file: str | None = None
    #: Of a task that brings files back: what `private.collect` says.
    files: list[Any] | None = None
    #: 1: the task itself wants to run again (qsub_py.Requeue).
    ask: int = 0


ITEM_FIELDS = Item._fields
_DEFAULTS = tuple(Item(0, "")._asdict().values())


def item_text(item: Item) -> bytes:
    """Return `item` as a JSON list in the order of ITEM_FIELDS, trailing defaults left out."""
    count = len(item)
    while count > 2 and item[count - 1] == _DEFAULTS[count - 1]:
        count -= 1
    return json.dumps(item[:count], separators=(",", ":")).encode()


def read_items(header: Header, body: bytes) -> list[tuple[Item, bytes]]:
    """Return the items of an `ended` frame, each with the bytes of its result."""
    found = []
    offset = 0
    for fields in header["items"]:
        item = Item(*fields)
        found.append((item, body[offset : offset + item.size]))
        offset += item.size
    return found


def header_bytes(header: Header) -> bytes:
    """Encode a header; ensure_ascii carries surrogate-escaped bytes through unharmed."""
    return json.dumps(header, separators=(",", ":")).encode()


def frame(header: Header, body: bytes = b"") -> bytes:
    """Return one frame, ready to send."""
    text = header_bytes(header)
    return HEAD.pack(len(text), len(body)) + text + body


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[Header, bytes]]:
        """Add `data`; return the frames now complete. Raise ConnectionError on garbage."""
        buffer = self._buffer
        buffer += data
        found = []
        at = 0
        while len(buffer) - at >= HEAD.size:
            header_len, body_len = HEAD.unpack_from(buffer, at)
            if header_len > MAX_HEADER_BYTES:
                raise ConnectionError("not a frame of qsub_py")
            start = at + HEAD.size
            end = start + header_len + body_len
            if end > len(buffer):
                break
            header = json.loads(buffer[start : start + header_len])
            found.append((header, bytes(buffer[start + header_len : end])))
            at = end
        del buffer[:at]
        return found


class Channel:
    """A stream socket carrying frames that never blocks: what does not fit waits here."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._reader = FrameReader()
        self._out: deque[memoryview] = deque()
        self._eof = False

    def fileno(self) -> int:
        """Return the descriptor to wait on; -1 once closed."""
        return self._sock.fileno()

    @property
    def waiting(self) -> bool:
        """Whether bytes wait for room in the socket."""
        return bool(self._out)

    def send(self, header: Header, body: bytes = b"") -> None:
        """Send a frame, or keep it until `flush` finds room."""
        self.send_all((frame(header, body),))

    def send_all(self, parts: Iterable[bytes]) -> None:
        """Queue ready-made frames and send what fits."""
        self._out.extend(memoryview(part) for part in parts)
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as it fits. Raise ConnectionError when the peer is gone."""
        while self._out:
            batch = [self._out[i] for i in range(min(len(self._out), _IOV_MAX))]
            try:
                sent = self._sock.sendmsg(batch)
            except BlockingIOError:
                return
            self._drop(sent)

    def _drop(self, sent: int) -> None:
        while sent:
            first = self._out[0]
            if sent < len(first):
                self._out[0] = first[sent:]
                return
            sent -= len(first)
            self._out.popleft()

    def receive(self) -> list[tuple[Header, bytes]]:
        """Return the frames that arrived; raise ConnectionError at the end of the stream."""
        found: list[tuple[Header, bytes]] = []
        taken = 0
        while not self._eof and taken < _DRAIN_BYTES:
            try:
                data = self._sock.recv(_READ_BYTES)
            except BlockingIOError:
                break
            except ConnectionResetError:
                data = b""
            self._eof = not data
            taken += len(data)
            found += self._reader.feed(data)
            if len(data) < _READ_BYTES:
                break
        if self._eof and not found:
            raise ConnectionError("the other side closed the connection")
        return found

    def close(self) -> None:
        """Close the socket; what still waits is lost."""
        self._out.clear()
        self._sock.close()
