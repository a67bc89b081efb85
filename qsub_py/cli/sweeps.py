"""What qsub reads of --sweep and its kin, and what a sweep makes of the words of a command."""

from __future__ import annotations

import inspect
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from qsub_py.arrays import is_limit
from qsub_py.cli.common import whole
from qsub_py.cli.draft import Work
from qsub_py.cli.functions import Function, check_call, find_function
from qsub_py.cli.options import Request
from qsub_py.cli.script import Script
from qsub_py.cli.target import Kind
from qsub_py.cli.work import work_of
from qsub_py.errors import SpecError
from qsub_py.sweep import Sweep, Table
from qsub_py.sweep_fill import as_arguments, used
from qsub_py.sweep_rows import from_csv, from_json, from_lines
from qsub_py.sweep_text import combined, parse_axis
from qsub_py.sweep_words import read_arguments
from qsub_py.text import quoted

#: A larger file is no list of parameters.
MAX_FILE_BYTES = 256 * 2**20
MAX_SEED = 2**63 - 1
_READERS: dict[str, Callable[[str, str], Table]] = {
    "each_line": from_lines, "from_csv": from_csv, "from_json": from_json,
}  # fmt: skip


def read_sweep(request: Request, *, is_part: bool = False) -> Sweep:
    """Return the sweep that was asked for; raises SpecError.

    `is_part`: of a sweep that exists; then the sample is not drawn yet.
    """
    files = [name for name in _READERS if getattr(request, name) is not None]
    if not files and not request.sweep:
        raise _alone(request)
    if request.array is not None and not is_limit(request.array):
        raise SpecError(f"{shown(request)} and --array exclude each other",
                        hint="a sweep numbers its tasks itself, from 0; --array %N alone lets N of"
                        " them run at once")  # fmt: skip
    if len(files) > 1:
        raise SpecError(f"{_option(files[0])} and {_option(files[1])} exclude each other",
                        hint="join the files")  # fmt: skip
    table = _table(files[0], getattr(request, files[0])) if files else None
    try:
        axes = [parse_axis(text) for text in request.sweep]
    except SpecError as error:
        raise SpecError(f"--sweep: {error}", hint=error.hint) from None
    sample = None if is_part else read_sample(request)
    return combined(axes, table, is_zip=bool(request.zip), sample=sample, is_part=is_part)


def shown(request: Request) -> str:
    """Return the option that makes it a sweep."""
    return "--sweep" if request.sweep else next(
        _option(name) for name in _READERS if getattr(request, name) is not None
    )  # fmt: skip


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _alone(request: Request) -> SpecError:
    name = next(n for n in ("zip", "sample", "seed") if getattr(request, n) is not None)
    return SpecError(f"--{name} needs --sweep", hint="write --sweep NAME=VALUES")


def read_sample(request: Request, seed: int | None = None) -> tuple[int, int] | None:
    """Return how many points to draw and by which seed (else `seed`, else one of chance)."""
    if request.sample is None:
        if request.seed is not None:
            raise SpecError("--seed needs --sample", hint="write --sample N")
        return None
    count = whole(request.sample, "--sample", least=1, most=10**9)
    if request.seed is not None:
        return count, whole(request.seed, "--seed", least=0, most=MAX_SEED)
    return count, random.SystemRandom().randrange(2**31) if seed is None else seed


def _table(name: str, path: str) -> Table:
    where = f"{_option(name)} {quoted(path)}"
    try:
        with open(os.path.expanduser(path), "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SpecError(f"cannot read {where}: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise SpecError(f"{where} has more than {MAX_FILE_BYTES >> 20} MB")
    try:
        return _READERS[name](data.decode(), where)
    except UnicodeDecodeError:
        raise SpecError(f"{where} is not UTF-8") from None


# -- what runs -------------------------------------------------------------------------------


def swept_work(
    kind: Kind | None, first: str, arguments: Sequence[str], script: Script | None, sweep: Sweep
) -> tuple[Work, Sweep]:
    """Return what runs for each point; raises SpecError, PayloadError."""
    if kind is Kind.FUNCTION:
        return _swept_function(first, arguments, sweep)
    if script is not None and script.title == "wrap" and script.text is not None:
        line = script.text.partition("\n")[2]
        text, fields = as_arguments(line, sweep.names)
        return Work("wrap", tuple(fields), script=f"#!/bin/sh\n{text}"), sweep
    return work_of(kind, first, arguments, script), sweep


def _swept_function(word: str, arguments: Sequence[str], sweep: Sweep) -> tuple[Work, Sweep]:
    """Return the call of a function that gets its parameters as keywords.

    Those that it does not take must stand in its words, as `{name}`.
    """
    from qsub_py.payload import pack_function  # here: cloudpickle only when a call is submitted

    function = find_function(word)
    in_words = {name for text in arguments for name in used(text, sweep.names)}
    keywords = tuple(name for name in sweep.names if _takes(function, name, in_words))
    for name in sweep.names:
        if name not in keywords and name not in in_words:
            raise SpecError(
                f"{function.shown} takes no parameter {name}",
                hint=f"name it in the function's def, or write {{{name}}} in an argument",
            )
    point = sweep.at(0)
    args, kwargs = read_arguments(arguments, point)
    for name in keywords:
        if name in kwargs:
            raise SpecError(f"{name} is an argument and a parameter of the sweep",
                            hint="leave one out")  # fmt: skip
    check_call(function, args, {**kwargs, **{name: point[name] for name in keywords}})
    work = Work(
        function.shown.partition(":")[2],
        argv=tuple(arguments),
        function=pack_function(function.call),
        function_name=function.shown,
        path=(function.directory,),
    )
    return work, replace(sweep, keywords=keywords)


def _takes(function: Function, name: str, in_words: set[str]) -> bool:
    """Whether a function gets this parameter as a keyword."""
    try:
        parameters = inspect.signature(function.call).parameters
    except (ValueError, TypeError):  # a builtin that does not tell
        return name not in in_words
    if name in parameters:
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        return parameters[name].kind in kinds
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return takes_any and name not in in_words
