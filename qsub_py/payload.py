"""Functions, calls and outcomes as bytes, and back.

Owns the formats that travel inside the store (see CONTRIBUTING.rst): a packed function, a chunk of
calls, a batch of outcomes. Knows neither the store nor the node. Anything unpickled here
must have been verified first (`verify`).
"""

from __future__ import annotations

import io
import pickle
import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol

from qsub_py import culprit
from qsub_py.errors import PayloadError, SignatureError
from qsub_py.inputs import Place
from qsub_py.outcomes import Columns, pack_columns, pack_outcomes, unpack_columns, unpack_outcomes
from qsub_py.signing import SIGNATURE_BYTES, Key, Keyring, sign, verify

__all__ = [
    "SIGNATURE_BYTES", "Columns", "Key", "Keyring", "Needy", "PayloadError", "SignatureError",
    "dumps_call",
    "join_calls", "pack_chunk", "pack_columns", "pack_function", "pack_outcomes", "sign",
    "unpack_chunk", "unpack_columns", "unpack_function", "unpack_outcomes", "verify",
]  # fmt: skip

Call = tuple[tuple[Any, ...], dict[str, Any]]


class Input(Protocol):
    """The result of a task that a call may have among its arguments: one of our futures."""

    #: By this its type is known.
    is_input: bool

    def place(self) -> Place:
        """Return which task it is, waiting until that was sent."""


class Needy(NamedTuple):
    """A pickled call with persistent ids in the place of inputs: their numbers."""

    data: bytes
    inputs: tuple[Input, ...]


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


def dumps_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | Needy:
    """Pickle the arguments of one call; raises PayloadError that names the guilty part.

    Results of other calls may stand anywhere in them: then it is a Needy one. TypeError for the
    future of another kind of executor.
    """
    if _ATOMS.issuperset(map(type, args)) and not kwargs:
        return pickle.dumps((args, kwargs), 5)
    try:
        if all(map(_is_plain, args)) and all(map(_is_plain, kwargs.values())):
            return pickle.dumps((args, kwargs), 5)
        return _dumps_needy(args, kwargs)
    except _ForeignFuture as error:
        raise TypeError(str(error)) from None
    except Exception as error:
        _refuse_call(args, kwargs, error)


class _ForeignFuture(Exception):
    """A future whose result no node can fetch."""


class _Inputs:
    """The inputs met while a call is pickled."""

    def __init__(self) -> None:
        self.found: list[Input] = []
        self._numbers: dict[int, int] = {}

    def number(self, obj: Any) -> int | None:
        """Return the number of an input, None for anything else (a Pickler's persistent id)."""
        if getattr(type(obj), "is_input", False) is not True:
            _check_foreign(obj)
            return None
        if id(obj) not in self._numbers:
            self._numbers[id(obj)] = len(self.found)
            self.found.append(obj)
        return self._numbers[id(obj)]


class _InputPickler(pickle.Pickler):
    """Plain pickle, for plain data with inputs in it."""

    def __init__(self, file: io.BytesIO, inputs: _Inputs) -> None:
        self._number = inputs.number
        super().__init__(file, 5)

    def persistent_id(self, obj: Any) -> int | None:
        """Return what stands for an input."""
        return self._number(obj)


def _dumps_needy(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | Needy:
    inputs = _Inputs()
    values = (*args, *kwargs.values())
    if all(_is_plain(value, may_be_input=True) for value in values):
        with io.BytesIO() as file:
            _InputPickler(file, inputs).dump((args, kwargs))
            data = file.getvalue()
    else:
        from qsub_py import byvalue

        data = byvalue.dumps((args, kwargs), inputs.number)
    return Needy(data, tuple(inputs.found)) if inputs.found else data


def _check_foreign(obj: object) -> None:
    module = sys.modules.get("concurrent.futures")
    if module is not None and isinstance(obj, module.Future):
        raise _ForeignFuture(
            "a Future that is not of qsub_py cannot be an argument: a node cannot wait for it;"
            " pass its result()"
        )


def join_calls(calls: Sequence[bytes], *, has_inputs: bool = False) -> bytes:
    """Make a chunk of pickled calls: their number, their lengths, themselves."""
    head = struct.pack(f"<I{len(calls)}I", len(calls), *map(len, calls))
    data = squeeze(b"".join((head, *calls)))
    return data[:1].lower() + data[1:] if has_inputs else data


def pack_chunk(calls: Iterable[Call]) -> bytes:
    """Pickle calls, each on its own, into one chunk; raises PayloadError."""
    return join_calls([_needs_nothing(dumps_call(args, kwargs)) for args, kwargs in calls])


def _needs_nothing(call: bytes | Needy) -> bytes:
    if isinstance(call, Needy):
        raise PayloadError("the result of another call cannot be an argument here")
    return call


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
    tag, rest = data[:1].upper(), data[1:]
    if tag == _RAW:
        return rest
    try:
        if tag == _ZLIB:
            return zlib.decompress(rest)
    except zlib.error as error:
        raise PayloadError(f"damaged payload: {error}") from error
    raise PayloadError(f"unknown payload format {tag!r}")


def _is_plain(value: object, depth: int = 3, *, may_be_input: bool = False) -> bool:
    """Whether plain pickle will do: exact builtin types, shallow containers, numpy data."""
    kind = type(value)
    if kind in _ATOMS or (may_be_input and getattr(kind, "is_input", False) is True):
        return True
    if kind in _SEQUENCES:
        items: Iterable[object] = value  # type: ignore[assignment]
    elif kind is dict:
        pairs: dict[object, object] = value  # type: ignore[assignment]
        items = (*pairs.keys(), *pairs.values())
    else:
        return kind.__module__ == "numpy" and _is_plain_array(value)
    return depth > 0 and all(
        _is_plain(item, depth - 1, may_be_input=may_be_input) for item in items
    )


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
