"""The results of other calls that calls of a batch need: fetched, verified, laid out.

What is fetched is named by the signed arguments of the calls (job uid and position), and each
result must be signed for just that. So who can write to the server can neither swap inputs nor
make some up.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from qsub_py.errors import PayloadError, QsubError, StoreUnavailable
from qsub_py.inputs import TAGS, Run, calls_of, merged, read_inputs
from qsub_py.model import RESULT_BLOB_VALUE, RESULT_VALUE, Batch, State
from qsub_py.outcomes import Columns, unpack_columns
from qsub_py.signing import Keyring, verify
from qsub_py.store_node import NodeStore
from qsub_py.store_rows import ResultEntry

#: More than this for one batch travels to the runner in a file.
_INLINE_BYTES = 256 * 1024
#: Entries of results that are kept for the next batches, and their bytes.
_ENTRIES, _ENTRY_BYTES = 64, 32 << 20

#: (uid of the job, first position, lengths, path or "", offset); see call_inputs.Row.
Row = list[Any]


class MissingInput(QsubError):
    """A result that a call needs is not there, or is not signed."""


class Inputs:
    """Fetches inputs for an agent; remembers what it verified last."""

    def __init__(self, store: NodeStore, ring: Keyring, node_dir: Path) -> None:
        self._store, self._ring = store, ring
        self._dir = node_dir / "inputs"
        self._dir.mkdir(mode=0o700, exist_ok=True)
        self._entries: OrderedDict[tuple[str, int], tuple[ResultEntry, Columns]] = OrderedDict()
        self._bytes = 0

    def gather(self, runs: Iterable[Run], name: str, *, offset: int = 0) -> tuple[list[Row], bytes]:
        """Return where the results of these tasks lie, and the bytes that travel with a batch.

        Files are called after `name`; `offset`: where these bytes will stand.
        Raises MissingInput, StoreUnavailable.
        """
        rows: list[Row] = []
        parts: list[bytes] = []
        at = offset
        for run in merged(runs):
            for position, kind, result in self._results(run):
                if kind == RESULT_BLOB_VALUE:
                    path, size = self._file(run, position, result)
                    rows.append([run.uid, position, [size], path, 0])
                    continue
                last = rows[-1] if rows else None
                if (
                    last
                    and last[0] == run.uid
                    and not last[3]
                    and last[1] + len(last[2]) == position
                ):
                    last[2].append(len(result))
                else:
                    rows.append([run.uid, position, [len(result)], "", at])
                parts.append(result)
                at += len(result)
        body = b"".join(parts)
        if len(body) > _INLINE_BYTES:
            path = self._write(name, body)
            for row in rows:
                if not row[3]:
                    row[3], row[4] = path, row[4] - offset
            body = b""
        return rows, body

    def _results(self, run: Run) -> Iterable[tuple[int, int, bytes]]:
        """Yield (position, kind, bytes) of verified results."""
        try:
            known = {key[1] for key in self._entries if key[0] == run.uid}
            found = self._store.inputs(run.job, run.first, run.size, known)
        except StoreUnavailable:
            raise
        except QsubError as error:
            raise MissingInput(f"a result of job {run.job} that it needs: {error}") from error
        for entry in found.entries:
            self._open(run, entry)
        for number, position in zip(
            found.numbers, range(run.first, run.first + run.size), strict=True
        ):
            opened = self._entries.get((run.uid, number))
            if opened is None:
                raise MissingInput(
                    f"the result of {run.job}_{position}, which it needs, is not there"
                )
            self._entries.move_to_end((run.uid, number))
            yield position, *self._result(run, position, *opened)
        self._forget()

    def _open(self, run: Run, entry: ResultEntry) -> None:
        try:
            verify(self._ring, entry.signature, "result", self._store.cluster, run.uid, entry.data)
            columns = unpack_columns(entry.data)
        except PayloadError as error:
            raise MissingInput(f"the results of job {run.job}, which it needs: {error}") from error
        self._entries[run.uid, entry.number] = entry, columns
        self._bytes += len(entry.data)

    def _forget(self) -> None:
        while len(self._entries) > _ENTRIES or self._bytes > _ENTRY_BYTES:
            _, (entry, _) = self._entries.popitem(last=False)
            self._bytes -= len(entry.data)

    def _result(
        self, run: Run, position: int, entry: ResultEntry, columns: Columns
    ) -> tuple[int, bytes]:
        """Return (kind, bytes) of one result; the server must have taken it as completed."""
        done = State.COMPLETED.code
        try:
            row = _row_of(columns, position)
            is_good = columns.state[row] == done and entry.codes[position - entry.first] == done
            kind = columns.result_kind[row]
        except (ValueError, IndexError):
            is_good, row, kind = False, 0, 0
        if not is_good or kind not in (RESULT_VALUE, RESULT_BLOB_VALUE):
            raise MissingInput(f"{run.job}_{position}, whose result it needs, has none (any more)")
        return kind, columns.result[row]

    def _file(self, run: Run, position: int, reference: bytes) -> tuple[str, int]:
        """Return (path, size) of a large result, which is fetched once for many calls."""
        path = self._dir / f"{run.uid}.{position}.{reference[:16].decode()}"
        try:
            os.utime(path)
            return str(path), path.stat().st_size
        except FileNotFoundError:
            pass
        try:
            data = self._store.large_result(reference)
        except StoreUnavailable:
            raise
        except QsubError as error:
            raise MissingInput(f"the result of {run.job}_{position}: {error}") from error
        return self._write(path.name, data), len(data)

    def _write(self, name: str, data: bytes) -> str:
        path = self._dir / name
        new = path.with_name(f"{name}.{os.getpid()}")
        with open(new, "wb", opener=lambda p, flags: os.open(p, flags, 0o600)) as file:
            file.write(data)
        os.replace(new, path)
        return str(path)


def needs(
    batch: Batch, chunk_of: Callable[[int], tuple[int, int, bytes]]
) -> Iterator[tuple[int, list[Run]]]:
    """Yield (position, results it needs) of the calls of a batch that need any.

    `chunk_of` a position: the first one of its chunk, how many, and the verified bytes.
    """
    at, stop = batch.first, batch.first + batch.count
    while at < stop:
        first, count, data = chunk_of(at)
        end = min(first + count, stop)
        if data[:1] in TAGS:
            for number, call in enumerate(calls_of(data, at - first, end - at)):
                runs, _ = read_inputs(call)
                if runs:
                    yield at + number, runs
        at = end


def _row_of(columns: Columns, position: int) -> int:
    """Return the row of a task; ValueError. Mostly they are without gaps."""
    guess = position - columns.position[0]
    if 0 <= guess < len(columns.position) and columns.position[guess] == position:
        return guess
    return columns.position.index(position)
