"""Words as the arguments of a Python function: positional, or NAME=VALUE; Python literals. Pure."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from qsub_py.errors import SpecError
from qsub_py.sweep import Params
from qsub_py.sweep_fill import fill, whole_value


def read_arguments(
    words: Sequence[str], params: Params | None = None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Read words as positional and `k=v` as keyword arguments; raises SpecError.

    With `params`, `{lr}` in them is replaced; a word that is nothing else keeps the type.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            args.append(_value(word, params))
        elif name in kwargs:
            raise SpecError(f"the argument {name} is given twice")
        else:
            kwargs[name] = _value(value, params)
    return tuple(args), kwargs


def _value(text: str, params: Params | None) -> Any:
    """Return a Python literal, else the text itself."""
    if params is not None:
        is_whole, value = whole_value(text, params)
        if is_whole:
            return value
        text = fill(text, params)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return text
