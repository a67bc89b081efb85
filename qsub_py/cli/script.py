"""Scripts as they are submitted: reading, judging and the directives in their head.

A script's text travels with the job, so that editing the file later changes nothing. Programs
and large files stay where they are and run from there.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from dataclasses import dataclass, replace
from typing import BinaryIO

from qsub_py.dialect_signs import MAX_HEAD_BYTES
from qsub_py.errors import SpecError
from qsub_py.text import quoted

MAX_SCRIPT_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Script:
    """What to run: a text that travels, or (text None) a file that runs in place."""

    path: str
    text: str | None
    #: Names it in messages and the job, where it has no path.
    title: str = ""
    #: The begin of a text that runs in place.
    top: str = ""

    @property
    def is_python(self) -> bool:
        """Whether Python runs it, whatever its first line says."""
        return self.path.endswith(".py")

    @property
    def shown(self) -> str:
        """Its name in messages."""
        return os.path.basename(self.path) or self.title

    @property
    def readable(self) -> str:
        """What can be read of it here."""
        return self.top if self.text is None else self.text


def read_script(word: str) -> Script:
    """Read the file named `word`; raises SpecError."""
    try:
        with open(word, "rb") as file:
            data = file.read(MAX_SCRIPT_BYTES + 1)
            is_regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except OSError as error:
        raise SpecError(f"cannot read {quoted(word)}: {error.strerror}") from None
    path = absolute(word)
    if len(data) > MAX_SCRIPT_BYTES or b"\0" in data[:8192]:
        if not is_regular:
            raise SpecError(f"{quoted(word)} is not a text of at most 1 MB")
        _check_in_place(word, path)
        top = data[:MAX_HEAD_BYTES] if b"\0" not in data[:8192] else b""
        return Script(path, None, top=top.decode("utf-8", "surrogateescape"))
    return Script(path, _checked(data, quoted(word), is_python=path.endswith(".py")))


def read_stdin() -> Script:
    """Read a script from standard input; raises SpecError."""
    stream: BinaryIO = sys.stdin.buffer
    data = stream.read(MAX_SCRIPT_BYTES + 1)
    if len(data) > MAX_SCRIPT_BYTES:
        raise SpecError("the script on standard input is longer than 1 MB", hint="put it in a file")
    if not data.strip():
        raise SpecError(
            "nothing to run: standard input is empty", hint="give a script, a command or a function"
        )
    if b"\0" in data[:8192]:
        raise SpecError("standard input is not a script: it has NUL bytes", hint="name the file")
    return Script("", _checked(data, "the script on standard input", is_python=False),
                  "stdin")  # fmt: skip


def wrap(line: str) -> Script:
    """Make a shell script of one line."""
    if not line.strip():
        raise SpecError("nothing to run: --wrap is empty")
    return Script("", f"#!/bin/sh\n{line}\n", "wrap")


def absolute(word: str) -> str:
    """Return an absolute path below the directory as the shell calls it (not its symlink's aim)."""
    return os.path.normpath(os.path.join(current_dir(), word))


def current_dir() -> str:
    """Return the working directory, by the name the shell has for it; raises SpecError."""
    try:
        here = os.getcwd()
    except OSError:
        raise SpecError("the current directory does not exist any more", hint="cd") from None
    logical = os.environ.get("PWD", "")
    with contextlib.suppress(OSError):
        if os.path.isabs(logical) and os.path.samefile(logical, here):
            return logical
    return here


def _check_in_place(word: str, path: str) -> None:
    if not path.endswith(".py") and not os.access(path, os.X_OK):
        raise SpecError(f"{quoted(word)} is no script and not executable", hint=f"chmod +x {word}")


def _checked(data: bytes, shown: str, *, is_python: bool) -> str:
    """Return the text of a script that can run; raises SpecError."""
    text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    if not text.strip():
        raise SpecError(f"nothing to run: {shown} is empty")
    if not is_python and text.partition("\n")[0].endswith("\r"):
        raise SpecError(f"line 1 of {shown} ends in \\r (Windows)", hint="run dos2unix on it")
    return text


def with_shell(script: Script, shell: str) -> Script:
    """Return the script with another interpreter in its `#!` line (`-S` of PBS and Grid Engine)."""
    if script.text is None or script.is_python or not shell:
        return script
    first, newline, rest = script.text.partition("\n")
    if first[2:].split()[:1] == [shell]:  # with words of its own: `#!/bin/bash -l`
        return script
    if not first.startswith("#!"):
        return replace(script, text=f"#!{shell}\n{script.text}")
    return replace(script, text=f"#!{shell}{newline}{rest}")
