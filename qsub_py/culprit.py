"""Find the part of an object that cannot be pickled, as a path a user understands.

Walks containers, attributes, closures and globals with a `dumps` that is passed in. Standard
library only: the runner on a node uses it too, for results.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

_Child = tuple[str, Any]
_MAX_DEPTH = 30
#: Of a huge container only so many items are tried.
_MAX_CHILDREN = 10_000


def find_culprit(obj: object, dumps: Callable[[Any], bytes]) -> tuple[str, str]:
    """Return (path, type name) of the innermost part that `dumps` refuses.

    The path is written as Python would reach it (".model.lock", "[3]['key']"; closure
    variables and globals in words), "" when it is `obj` itself.
    """
    path = ""
    seen = {id(obj)}
    for _ in range(_MAX_DEPTH):
        child = _first_bad(obj, dumps, seen)
        if child is None:
            break
        path += child[0]
        obj = child[1]
    return path, type_name(obj)


def describe(label: str, obj: object, dumps: Callable[[Any], bytes]) -> str:
    """Return one line such as "argument 1: attribute .a.lock of type _thread.lock cannot ..."."""
    path, name = find_culprit(obj, dumps)
    where = f"{label}{_in_words(path)}" if path else label
    return f"{where} of type {name} cannot be pickled"


def type_name(obj: object) -> str:
    """Return the type's name with its module, without "builtins."."""
    kind = type(obj)
    inner = kind.__qualname__
    return inner if kind.__module__ == "builtins" else f"{kind.__module__}.{inner}"


def _in_words(path: str) -> str:
    if path.startswith("."):
        return f": attribute {path}"
    return f": item {path}" if path.startswith("[") else f":{path}"


def _first_bad(obj: object, dumps: Callable[[Any], bytes], seen: set[int]) -> _Child | None:
    for count, (step, child) in enumerate(_children(obj)):
        if count > _MAX_CHILDREN:
            break
        if id(child) in seen:
            continue
        try:
            dumps(child)
        except Exception:
            seen.add(id(child))
            return step, child
    return None


def _children(obj: object) -> Iterator[_Child]:
    if isinstance(obj, dict):
        yield from ((f"[{key!r}]", value) for key, value in obj.items())
        yield from ((f" key {key!r}", key) for key in obj)
    elif isinstance(obj, (list, tuple, set, frozenset)):
        yield from ((f"[{number}]", item) for number, item in enumerate(obj))
    elif isinstance(obj, types.FunctionType):
        yield from _function_parts(obj)
    elif isinstance(obj, types.MethodType):
        yield ".__self__", obj.__self__
    elif isinstance(obj, functools.partial):
        yield ".func", obj.func
        yield from ((f".args[{n}]", value) for n, value in enumerate(obj.args))
        yield from ((f".keywords[{k!r}]", value) for k, value in obj.keywords.items())
    elif isinstance(obj, (type, types.ModuleType)):
        yield from ((f".{name}", value) for name, value in list(vars(obj).items()))
    else:
        yield from _state_parts(obj)


def _function_parts(fn: types.FunctionType) -> Iterator[_Child]:
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=False):
        try:
            yield f" closure variable {name}", cell.cell_contents
        except ValueError:  # a variable that is not assigned yet
            continue
    for number, value in enumerate(fn.__defaults__ or ()):
        yield f" default {number + 1}", value
    for name, value in (fn.__kwdefaults__ or {}).items():
        yield f" default of {name}", value
    for name in _names(fn.__code__):
        if name in fn.__globals__:
            yield f" global {name}", fn.__globals__[name]


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _names(const)


def _state_parts(obj: object) -> Iterator[_Child]:
    """Yield what pickle would write for `obj`: constructor arguments, state and items."""
    try:
        reduced = obj.__reduce_ex__(4)
    except Exception:
        return
    if not isinstance(reduced, tuple):
        return
    parts: list[Any] = [*reduced, None, None, None]
    args, state, items, pairs = parts[1:5]
    for part in state if isinstance(state, tuple) else (state,):
        if isinstance(part, dict):
            yield from ((f".{name}", value) for name, value in part.items())
        elif part is not None:
            yield "", part
    yield from ((f".args[{n}]", value) for n, value in enumerate(args) if value is not type(obj))
    yield from ((f"[{number}]", item) for number, item in enumerate(items or ()))
    yield from ((f"[{key!r}]", value) for key, value in pairs or ())
