"""What the first word of a submission is: a file, a command, or a Python function."""

from __future__ import annotations

import os
import re
import shutil
from enum import Enum

from qsub_py.errors import SpecError
from qsub_py.text import quoted

_FUNCTION = re.compile(
    r"(?P<place>.+\.py|[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<name>[^\W\d]\w*(?:\.[^\W\d]\w*)*)"
)


class Kind(Enum):
    """How a submission says what to run."""

    FILE = "a script or program file"
    COMMAND = "a command line"
    FUNCTION = "a Python function"
    STDIN = "a script on standard input"


def kind_of(word: str) -> Kind:
    """Return what `word` is here; raises SpecError when it is nothing."""
    if word == "-":
        return Kind.STDIN
    if not word:
        raise SpecError("nothing to run: the first word is empty")
    if os.path.isdir(word) and ("/" in word or shutil.which(word) is None):
        raise SpecError(f"{quoted(word)} is a directory", hint="give a script or a command")
    if os.path.exists(word) and not os.path.isdir(word):
        return Kind.FILE
    if match := _FUNCTION.fullmatch(word):
        if match["place"].endswith(".py") and not os.path.isfile(match["place"]):
            raise SpecError(f"no such file: {quoted(match['place'])}")
        return Kind.FUNCTION
    if "/" not in word and shutil.which(word) is not None:
        return Kind.COMMAND
    raise _nothing(word)


def split_function(word: str) -> tuple[str, str]:
    """Return (FILE.py or MODULE, FUNCTION) of a word of Kind.FUNCTION."""
    match = _FUNCTION.fullmatch(word)
    if match is None:
        raise SpecError(f"{quoted(word)} names no function", hint="write FILE.py:FUNCTION")
    return match["place"], match["name"]


def _nothing(word: str) -> SpecError:
    if "/" in word or re.search(r"\.(py|sh|bash|pl|r|jl|m)$", word, re.IGNORECASE):
        return SpecError(f"no such file: {quoted(word)}")
    if " " in word.strip():
        return SpecError(
            f"no such file or command: {quoted(word)}", hint="for a shell line write --wrap 'LINE'"
        )
    return SpecError(
        f"no such file or command: {quoted(word)}",
        hint=f"for a command that only the nodes have write `qsub -- {word}`",
    )
