"""Python functions named on the command line: importing them and reading their arguments."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from qsub_py.cli.script import absolute, current_dir
from qsub_py.cli.target import split_function
from qsub_py.errors import SpecError
from qsub_py.sweep_words import read_arguments as read_arguments
from qsub_py.text import did_you_mean, quoted, safe


@dataclass(frozen=True, slots=True)
class Function:
    """A function that was imported here, with the directory its own imports start from."""

    call: Callable[..., Any]
    shown: str
    directory: str


def find_function(word: str) -> Function:
    """Import `FILE.py:FUNCTION` or `MODULE:FUNCTION`; raises SpecError."""
    place, name = split_function(word)
    if place.endswith(".py"):
        directory = os.path.dirname(absolute(place))
        module = _imported(place, lambda: _load_file(absolute(place), directory))
    else:
        directory = current_dir()
        sys.path.insert(0, directory)
        module = _imported(place, lambda: importlib.import_module(place))
    call = _attribute(module, place, name)
    return Function(call, f"{os.path.basename(place)}:{name}", directory)


def _load_file(path: str, directory: str) -> ModuleType:
    sys.path.insert(0, directory)
    stem = os.path.splitext(os.path.basename(path))[0]
    # A file called like an imported module (json.py) must not take that one's place.
    name = stem if stem.isidentifier() and stem not in sys.modules else f"qsub_job_{stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _imported(place: str, load: Callable[[], ModuleType]) -> ModuleType:
    """Run the user's module; whatever it raises is told in one line.

    What it prints goes to standard error: standard output is the job's id.
    """
    words, sys.argv = sys.argv, [place]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return load()
    except SystemExit as error:
        raise SpecError(
            f"importing {quoted(place)} ended with exit({error.code!r})",
            hint="put what it runs under `if __name__ == '__main__':`",
        ) from None
    except ModuleNotFoundError as error:
        cure = "" if error.name != place.partition(".")[0] else "write FILE.py:FUNCTION for a file"
        raise SpecError(f"cannot import {quoted(place)}: {error}", hint=cure) from error
    except Exception as error:
        what = safe(f"{type(error).__name__}: {error}")
        raise SpecError(
            f"cannot import {quoted(place)}: {what}", hint="--debug shows where"
        ) from error
    finally:
        sys.argv = words


def _attribute(module: ModuleType, place: str, name: str) -> Callable[..., Any]:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            cure = did_you_mean(part, [n for n in dir(found) if n[0] != "_"])
            raise SpecError(f"{quoted(place)} has no function {quoted(name)}", hint=cure)
        found = getattr(found, part)
    if not callable(found):
        raise SpecError(f"{quoted(name)} in {quoted(place)} is no function")
    if inspect.iscoroutinefunction(found) or inspect.isgeneratorfunction(found):
        raise SpecError(
            f"{quoted(name)} is a coroutine or generator: its result cannot travel",
            hint="submit a plain function that calls it",
        )
    checked: Callable[..., Any] = found
    return checked


def check_call(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise SpecError when the function cannot take these arguments."""
    try:
        signature = inspect.signature(function.call)
    except (ValueError, TypeError):  # a builtin that does not tell
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise SpecError(f"{function.shown}{signature}: {error}") from None
