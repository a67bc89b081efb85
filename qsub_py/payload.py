"""Functions, calls and outcomes as bytes, and back.

Owns the formats that travel inside the store (see CONTRIBUTING.rst): a packed function, a chunk of
calls, a batch of outcomes. Knows neither the store nor the node. Anything unpickled here
must have been verified first (`verify`).
"""

from __future__ import annotations

import pickle
import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from qsub_py import culprit
from qsub_py.errors import PayloadError, SignatureError
from qsub_py.outcomes import Columns, pack_columns, pack_outcomes, unpack_columns, unpack_outcomes
from qsub_py.signing import SIGNATURE_BYTES, Key, Keyring, sign, verify

__all__ = [
    "SIGNATURE_BYTES", "Columns", "Key", "Keyring", "PayloadError", "SignatureError", "dumps_call",
    "join_calls", "pack_chunk", "pack_columns", "pack_function", "pack_outcomes", "sign",
    "unpack_chunk", "unpack_columns", "unpack_function", "unpack_outcomes", "verify",
]  # fmt: skip

Call = tuple[tuple[Any, ...], dict[str, Any]]

_RAW, _ZLIB = b"R", b"Z"
_COMPRESS_ABOVE = 4096
#: Types whose plain pickle never refers to the user's own code.
_ATOMS = frozenset({int, float, complex, str, bytes, bytearray, bool, type(None), range, slice})
_SEQUENCES = frozenset({tuple, list, set, frozenset})
_HINT = "make it inside the function, or pass what is needed to make it"


def pack_function(fn: Callable[..., Any]) -> bytes:
    """Pickle a callable by value where it is the user's own; raises PayloadError."""
    from qsub_py import byvalue

    name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
    try:
        return squeeze(byvalue.dumps(fn))
    except Exception as error:
        _refuse(f"function {name}", fn, error)


def unpack_function(data: bytes) -> Callable[..., Any]:
    """Read `pack_function` back."""
    fn: Callable[..., Any] = pickle.loads(unsqueeze(data))
    return fn


def dumps_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Pickle the arguments of one call; raises PayloadError that names the guilty part."""
    if _ATOMS.issuperset(map(type, args)) and not kwargs:
        return pickle.dumps((args, kwargs), 5)
    try:
        if all(map(_is_plain, args)) and all(map(_is_plain, kwargs.values())):
            return pickle.dumps((args, kwargs), 5)
        from qsub_py import byvalue

        return byvalue.dumps((args, kwargs))
    except Exception as error:
        _refuse_call(args, kwargs, error)


def join_calls(calls: Sequence[bytes]) -> bytes:
    """Make a chunk of pickled calls: their number, their lengths, themselves."""
    head = struct.pack(f"<I{len(calls)}I", len(calls), *map(len, calls))
    return squeeze(b"".join((head, *calls)))


def pack_chunk(calls: Iterable[Call]) -> bytes:
    """Pickle calls, each on its own, into one chunk; raises PayloadError."""
    return join_calls([dumps_call(args, kwargs) for args, kwargs in calls])


def unpack_chunk(chunk: bytes) -> list[Call]:
    """Read `pack_chunk` back."""
    data = unsqueeze(chunk)
    (count,) = struct.unpack_from("<I", data)
    at = 4 + 4 * count
    calls: list[Call] = []
    for size in struct.unpack_from(f"<{count}I", data, 4):
        calls.append(pickle.loads(data[at : at + size]))
        at += size
    return calls


def squeeze(data: bytes) -> bytes:
    """Put the tag byte in front: b"Z" and zlib above 4 kB where that helps, else b"R"."""
    if len(data) > _COMPRESS_ABOVE:
        packed = zlib.compress(data, 1)
        if len(packed) < len(data):
            return _ZLIB + packed
    return _RAW + data


def unsqueeze(data: bytes) -> bytes:
    """Read `squeeze` back; raises PayloadError."""
    tag, rest = data[:1], data[1:]
    if tag == _RAW:
        return rest
    try:
        if tag == _ZLIB:
            return zlib.decompress(rest)
    except zlib.error as error:
        raise PayloadError(f"damaged payload: {error}") from error
    raise PayloadError(f"unknown payload format {tag!r}")


def _is_plain(value: object, depth: int = 3) -> bool:
    """Whether plain pickle will do: exact builtin types, shallow containers, numpy data."""
    kind = type(value)
    if kind in _ATOMS:
        return True
    if kind in _SEQUENCES:
        items: Iterable[object] = value  # type: ignore[assignment]
    elif kind is dict:
        pairs: dict[object, object] = value  # type: ignore[assignment]
        items = (*pairs.keys(), *pairs.values())
    else:
        return kind.__module__ == "numpy" and _is_plain_array(value)
    return depth > 0 and all(_is_plain(item, depth - 1) for item in items)


def _is_plain_array(value: object) -> bool:
    numpy = sys.modules["numpy"]
    return isinstance(value, (numpy.ndarray, numpy.generic)) and not value.dtype.hasobject


def _refuse_call(args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception) -> NoReturn:
    from qsub_py import byvalue

    named = [(f"argument {n}", value) for n, value in enumerate(args, 1)]
    for label, value in (*named, *((f"argument {k}", value) for k, value in kwargs.items())):
        try:
            byvalue.dumps(value)
        except Exception as cause:
            _refuse(label, value, cause)
    _refuse("the arguments", (args, kwargs), error)


def _refuse(label: str, value: object, error: Exception) -> NoReturn:
    from qsub_py import byvalue

    raise PayloadError(culprit.describe(label, value, byvalue.dumps), hint=_HINT) from error
