"""A batch of outcomes as bytes, column by column, and back.

Layout: tag byte (R raw, Z zlib); `<II` count and header length; a JSON header with the texts
(node names and reasons, each once); 13 little-endian columns (55 bytes a task); the results
one after another. Columns make it compact (equal values compress away) and fast in Python.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from qsub_py.errors import PayloadError
from qsub_py.model import Outcome, State

_COMPRESS_ABOVE = 4096
_STATES = {state.code: state for state in State}
_CODES = {state: state.code for state in State}
#: struct letter a column, in the order of `Columns` (node and reason as numbers of texts,
#: result as its length).
_FORMAT = "IBIiBHdddQHBI"


class Columns(NamedTuple):
    """Outcomes by column: item i of each is task i's (see `Outcome`; state as its code)."""

    position: Sequence[int]
    state: Sequence[int]
    attempt: Sequence[int]
    exit_code: Sequence[int]
    signal: Sequence[int]
    node: Sequence[str]
    started_at: Sequence[float]
    ended_at: Sequence[float]
    cpu_s: Sequence[float]
    max_rss_bytes: Sequence[int]
    reason: Sequence[str]
    result_kind: Sequence[int]
    result: Sequence[bytes]

    def outcome(self, row: int) -> Outcome:
        """Return the outcome in this row."""
        values: list[object] = [column[row] for column in self]
        values[1] = _STATES[self.state[row]]
        return Outcome(*values)  # type: ignore[arg-type]

    def outcomes(self) -> list[Outcome]:
        """Return all rows."""
        states = [_STATES[code] for code in self.state]
        return list(map(Outcome, self.position, states, *self[2:]))


def pack_outcomes(outcomes: Sequence[Outcome]) -> bytes:
    """Return outcomes as bytes: at most 55 bytes and the result a task."""
    rows = [
        (o.position, _CODES[o.state], o.attempt, o.exit_code, o.signal, o.node, o.started_at,
         o.ended_at, o.cpu_s, o.max_rss_bytes, o.reason, o.result_kind, o.result)
        for o in outcomes
    ]  # fmt: skip
    return pack_columns(Columns(*zip(*rows, strict=True)) if rows else Columns(*[()] * 13))


def pack_columns(columns: Columns) -> bytes:
    """Return outcomes given as columns as bytes; the agent's fast path."""
    count = len(columns.position)
    texts: dict[str, int] = {}
    plain: list[Sequence[Any]] = list(columns)
    for number in (5, 10):  # node, reason
        plain[number] = [texts.setdefault(text, len(texts)) for text in plain[number]]
    plain[12] = list(map(len, columns.result))
    header = json.dumps(list(texts), separators=(",", ":")).encode()
    parts = [struct.pack("<II", count, len(header)), header]
    for letter, column in zip(_FORMAT, plain, strict=True):
        parts.append(struct.pack(f"<{count}{letter}", *column))
    parts.extend(columns.result)
    data = b"".join(parts)
    if len(data) <= _COMPRESS_ABOVE:
        return b"R" + data
    return b"Z" + zlib.compress(data, 1)


def unpack_columns(data: bytes) -> Columns:
    """Read packed outcomes as columns; raises PayloadError when damaged."""
    try:
        return _unpack(zlib.decompress(data[1:]) if data[:1] == b"Z" else data[1:])
    except (zlib.error, struct.error, ValueError, IndexError) as error:
        raise PayloadError(f"damaged outcomes: {error}") from error


def unpack_outcomes(data: bytes) -> list[Outcome]:
    """Read packed outcomes; raises PayloadError when damaged."""
    return unpack_columns(data).outcomes()


def _unpack(data: bytes) -> Columns:
    count, header_bytes = struct.unpack_from("<II", data)
    at = 8 + header_bytes
    texts: list[str] = json.loads(data[8:at])
    columns = []
    for letter in _FORMAT:
        columns.append(struct.unpack_from(f"<{count}{letter}", data, at))
        at += count * struct.calcsize("<" + letter)
    ends = list(accumulate(columns[-1], initial=at))
    if ends[-1] > len(data):
        raise ValueError("results are cut off")
    raw = Columns(*columns)
    return raw._replace(
        node=[texts[number] for number in columns[5]],
        reason=[texts[number] for number in columns[10]],
        result=[data[a:b] for a, b in pairwise(ends)],
    )
