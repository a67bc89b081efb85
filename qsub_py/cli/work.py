"""What a qsub command line wants to run, with the options its script's head adds."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence

from qsub_py.cli import script as scripts
from qsub_py.cli.draft import Work
from qsub_py.cli.script import Script
from qsub_py.cli.target import Kind
from qsub_py.errors import SpecError


def find_script(kind: Kind | None, word: str, wrap: str | None) -> Script | None:
    """Return the script of a submission; None for commands and functions. Raises SpecError."""
    if wrap is not None:
        if kind is not None:
            raise SpecError(f"--wrap and {word} exclude each other", hint="leave one out")
        return scripts.wrap(wrap)
    if kind is Kind.FILE:
        return scripts.read_script(word)
    if kind is Kind.STDIN:
        return scripts.read_stdin()
    if kind is not None:
        return None
    if sys.stdin is None or sys.stdin.isatty():
        raise SpecError(
            "nothing to run: give a script, a command or a function", hint="see qsub --help"
        )
    return scripts.read_stdin()


def work_of(kind: Kind | None, word: str, arguments: Sequence[str], script: Script | None) -> Work:
    """Return what runs; raises SpecError, PayloadError."""
    if kind is Kind.FUNCTION:
        return _function(word, arguments)
    if script is None:
        return Work(word, argv=(word, *arguments))
    if script.text is not None:
        return Work(script.shown, tuple(arguments), script=script.text, script_path=script.path)
    if script.is_python:
        return Work(script.path, (script.path, *arguments), is_large_python=True)
    return Work(script.path, (script.path, *arguments))


def _function(word: str, arguments: Sequence[str]) -> Work:
    from qsub_py.cli.functions import check_call, find_function, read_arguments
    from qsub_py.payload import pack_function  # here: cloudpickle only when a call is submitted

    args, kwargs = read_arguments(arguments)
    function = find_function(word)
    check_call(function, args, kwargs)
    call = functools.partial(function.call, *args, **kwargs) if args or kwargs else function.call
    return Work(
        function.shown.partition(":")[2],
        function=pack_function(call),
        function_name=function.shown,
        path=(function.directory,),
    )
