"""The results of other calls that a call gets as arguments, as the agent brought them."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any

from qsub_py.inputs import read_inputs

#: (uid of the job, first position, lengths, path of a file or "", offset in it or in the body).
Row = Sequence[Any]


class Inputs:
    """The inputs of the calls of a batch, unpickled anew for each call that needs them."""

    def __init__(self, rows: Sequence[Row], body: memoryview) -> None:
        self._rows, self._body = rows, body
        self._where: dict[tuple[str, int], tuple[str, int, int]] = {}

    def load(self, call: bytes | memoryview) -> Any:
        """Unpickle a call with its inputs in their places."""
        runs, at = read_inputs(call)
        places = [(run.uid, run.first + i) for run in runs for i in range(run.size)]
        return _Loader(call[at:], places, self).load()

    def read(self, place: tuple[str, int]) -> bytes | memoryview:
        """Return the pickled result of a task."""
        if not self._where:
            for uid, first, sizes, path, offset in self._rows:
                for number, size in enumerate(sizes):
                    self._where[uid, first + number] = path, offset, size
                    offset += size
        path, offset, size = self._where[place]
        if not path:
            return self._body[offset : offset + size]
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(size)


class _Loader(pickle.Unpickler):
    """Puts inputs in the place of their numbers; one that stands twice is one object."""

    def __init__(
        self, data: bytes | memoryview, places: Sequence[tuple[str, int]], inputs: Inputs
    ) -> None:
        super().__init__(io.BytesIO(data))
        self._places, self._inputs = places, inputs
        self._known: dict[int, Any] = {}

    def persistent_load(self, number: Any) -> Any:
        """Return the input of this number."""
        if number not in self._known:
            self._known[number] = pickle.loads(self._inputs.read(self._places[number]))
        return self._known[number]
