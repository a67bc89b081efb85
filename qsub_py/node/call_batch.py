"""The calls that tickets refer to: their arguments, positions and variables."""

from __future__ import annotations

import pickle
import struct
import zlib
from itertools import accumulate
from typing import Any

from qsub_py.inputs import MARK
from qsub_py.node.call_inputs import Inputs


def unsqueeze(data: bytes | memoryview) -> bytes | memoryview:
    """Undo the tag byte: b"Z" zlib, b"R" raw (small: calls in it may need inputs)."""
    return zlib.decompress(data[1:]) if data[:1] in (b"Z", b"z") else data[1:]


class Batch:
    """The calls that tickets refer to."""

    def __init__(self, header: dict[str, Any], body: bytes) -> None:
        self.serial: int = header["serial"]
        self.uid: str = header["uid"]
        self.attempt: int = header["attempt"]
        self.header = header
        tasks = header["tasks"]
        self.compact: dict[str, int] | None = tasks if isinstance(tasks, dict) else None
        self.tasks: list[dict[str, Any]] = [] if self.compact else tasks
        self._body = memoryview(body)
        self._inputs = Inputs(header.get("inputs") or [], self._body)
        self._chunks: dict[int, tuple[bytes | memoryview, list[int]]] = {}

    def position(self, index: int) -> int:
        """Return the position in the job of the `index`th call."""
        if self.compact:
            return self.compact["first"] + index
        pos: int = self.tasks[index]["pos"]
        return pos

    def arguments(self, index: int) -> tuple[Any, Any]:
        """Unpickle (args, kwargs) of the `index`th call."""
        if self.compact:
            number, at = self.compact["chunk"], self.compact["at"] + index
        else:
            number, at = self.tasks[index]["chunk"], self.tasks[index]["at"]
        data, ends = self._chunk(number)
        while at >= len(ends) - 1:  # contiguous tasks may run on into the next chunk
            at -= len(ends) - 1
            number += 1
            data, ends = self._chunk(number)
        call = data[ends[at] : ends[at + 1]]
        args, kwargs = self._inputs.load(call) if call[:1] == MARK else pickle.loads(call)
        return args, kwargs

    def _chunk(self, number: int) -> tuple[bytes | memoryview, list[int]]:
        found = self._chunks.get(number)
        if found is None:
            offset, length = self.header["chunks"][number]
            data = unsqueeze(self._body[offset : offset + length])
            (count,) = struct.unpack_from("<I", data)
            sizes = struct.unpack_from(f"<{count}I", data, 4)
            found = data, list(accumulate(sizes, initial=4 + 4 * count))
            self._chunks[number] = found
        return found

    def number(self, index: int) -> int:
        """Return the index in the array of the `index`th call of a compact batch."""
        assert self.compact is not None
        return self.compact["index_first"] + index * self.compact["index_step"]

    def variables(self, index: int) -> dict[str, str]:
        """Return the variables of one task, when each has its own."""
        found: dict[str, str] = self.tasks[index].get("env") or {}
        return found
