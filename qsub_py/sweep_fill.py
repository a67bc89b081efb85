"""Parameters in texts: `{lr}` and `{lr:.3f}` in arguments, output patterns, shell lines.

Pure. Only declared names are replaced, so other braces keep their meaning; `${lr}` is the
shell's, and `{{lr}}` is the text `{lr}` itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any

from qsub_py.errors import SpecError
from qsub_py.sweep import AnyAxis, Axis, Params, Sweep, Zip
from qsub_py.text import quoted

_FIELD = re.compile(
    r"\{\{(?P<kept>[A-Za-z_]\w*(?::[^{}]*)?)\}\}"
    r"|(?P<dollar>\$?)\{(?P<name>[A-Za-z_]\w*)(?::(?P<spec>[^{}]*))?\}",
    re.ASCII,
)
#: Python's format specification, without what would make a text of any length.
_SPEC = re.compile(r"(?:.?[<>=^])?[-+ ]?#?0?\d{0,3}[,_]?(?:\.\d{1,3})?[bcdeEfFgGnosxX%]?")
#: How many files one pattern may name.
MAX_EXPANDED = 10_000


def text_of(value: Any) -> str:
    """Return a value as a task sees it: texts as they are, numbers as Python shows them."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, list | dict) else str(value)


def formatted(value: Any, spec: str | None) -> str:
    """Return a value in a format; where that does not fit its type, as it is."""
    if spec is None:
        return text_of(value)
    try:
        return format(value, spec)
    except (ValueError, TypeError, OverflowError):
        return text_of(value)


def fill(template: str, params: Params) -> str:
    """Return the text with the values of these parameters in it."""
    if "{" not in template:
        return template

    def value(match: re.Match[str]) -> str:
        if match["kept"] is not None:
            known = match["kept"].partition(":")[0] in params
            return f"{{{match['kept']}}}" if known else match[0]
        if match["dollar"] or match["name"] not in params:
            return match[0]
        return formatted(params[match["name"]], match["spec"])

    return _FIELD.sub(value, template)


def whole_value(template: str, params: Params) -> tuple[bool, Any]:
    """Return (True, the value) when the text is one parameter and nothing else."""
    match = _FIELD.fullmatch(template)
    is_whole = match is not None and match["name"] in params and not match["dollar"]
    if match is None or not is_whole or match["spec"] is not None:
        return False, None
    return True, params[match["name"]]


def used(template: str, names: Collection[str]) -> list[str]:
    """Return the parameters that stand in a text, each once."""
    found = (m["name"] for m in _FIELD.finditer(template) if m["name"] and not m["dollar"])
    return [name for name in dict.fromkeys(found) if name in names]


def check(template: str, sweep: Sweep) -> None:
    """Raise SpecError when a format in the text does not fit the values it will meet."""
    for match in _FIELD.finditer(template):
        name, spec = match["name"], match["spec"]
        if name not in sweep.names or spec is None or match["dollar"]:
            continue
        if not _SPEC.fullmatch(spec):
            raise SpecError(f"bad format in {quoted(match[0])}", hint="write {lr:.3f} or {n:04d}")
        for value in _samples(sweep, name):
            try:
                format(value, spec)
            except (ValueError, TypeError, OverflowError) as error:
                raise SpecError(
                    f"{quoted(match[0])} does not suit the value {quoted(text_of(value))}: {error}"
                ) from None


def _samples(sweep: Sweep, name: str) -> Iterator[Any]:
    """Yield values of one parameter, one of each kind at least."""
    for axis in sweep.axes:
        if name not in axis.names:
            continue
        if isinstance(axis, Axis):
            yield from _axis_samples(axis)
        elif isinstance(axis, Zip):
            yield from _axis_samples(axis.columns[axis.names.index(name)])
        else:
            yield from (axis.at(number)[axis.names.index(name)] for number in range(axis.count))


def _axis_samples(axis: Axis) -> Iterator[Any]:
    for piece in axis.pieces:
        numbers = range(piece.count) if piece.kind == "list" else (0, piece.count - 1)
        yield from (piece.value(number) for number in numbers)


def is_per_point(template: str, sweep: Sweep) -> bool:
    """Whether each point of the sweep makes another text of the template."""
    names = set(used(template, sweep.names))
    return all(_tells_apart(axis, names) for axis in sweep.axes)


def _tells_apart(axis: AnyAxis, names: set[str]) -> bool:
    if axis.count < 2 or set(axis.names) <= names:
        return True
    chosen = [at for at, name in enumerate(axis.names) if name in names]
    if not chosen:
        return False
    seen = {tuple(text_of(axis.at(n)[at]) for at in chosen) for n in range(axis.count)}
    return len(seen) == axis.count


def expansions(template: str, sweep: Sweep) -> list[str]:
    """Return all texts the template becomes, each once; raises SpecError above 10,000.

    Only the axes that it names are run through.
    """
    names = set(used(template, sweep.names))
    if not names:
        return [fill(template, sweep.at(0))]
    axes = tuple(axis for axis in sweep.axes if names & set(axis.names))
    part = Sweep(axes)
    if part.count > MAX_EXPANDED:
        raise SpecError(
            f"{quoted(template)} names {part.count} files; the limit is {MAX_EXPANDED}",
            hint="ship the folder that holds them",
        )
    return list(dict.fromkeys(fill(template, params) for params in part))


# -- shell lines -----------------------------------------------------------------------------


def as_arguments(line: str, names: Collection[str]) -> tuple[str, list[str]]:
    """Return a shell line with `{lr}` as $1, $2 ..., quoted as their places need, and these.

    The values reach the shell as arguments of the script: none can be read as a command.
    """
    out: list[str] = []
    fields: list[str] = []
    quote, at = "", 0
    while at < len(line):
        match = _FIELD.match(line, at)
        if match and match["kept"] and match["kept"].partition(":")[0] in names:
            out.append(f"{{{match['kept']}}}")
            at = match.end()
        elif match and match["name"] in names and not match["dollar"]:
            if match[0] not in fields:
                fields.append(match[0])
            number = f"${{{fields.index(match[0]) + 1}}}"
            out.append({"": f'"{number}"', '"': number, "'": f"'\"{number}\"'"}[quote])
            at = match.end()
        else:
            # A backslash, or the $ of ${lr}, takes what follows along.
            size = len(match[0]) if match and match["dollar"] else 1
            size = 2 if line[at] == "\\" and quote != "'" else size
            if line[at] in "'\"" and quote in ("", line[at]):
                quote = "" if quote else line[at]
            out.append(line[at : at + size])
            at += size
    return "".join(out), fields
