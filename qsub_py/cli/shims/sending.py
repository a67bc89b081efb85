"""A submission in another system's words: options, one script or command, and its arguments.

Other than qsub itself it takes nothing behind the script, and reads only that system's
directives (and our own).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace

from qsub_py import config
from qsub_py.cli import dialects, options, words
from qsub_py.cli.draft import Draft
from qsub_py.cli.script import with_shell
from qsub_py.cli.spec import build, configured
from qsub_py.cli.target import Kind
from qsub_py.cli.work import find_script, work_of
from qsub_py.dialect import Dialect
from qsub_py.errors import SpecError
from qsub_py.text import quoted


@dataclass(frozen=True, slots=True)
class Sending:
    """A job as a foreign command line describes it."""

    draft: Draft
    #: Options as they were written, also those of the script.
    said: frozenset[str]
    does_wait: bool
    is_dry: bool


def read(dialect: Dialect, argv: Sequence[str], *, is_command: bool = False) -> Sending:
    """Return the job that a command line asks for; raises SpecError.

    `is_command`: the words are a command line, not a script.
    """
    params = options.make_options()
    parts = words.split(argv, options.table_of(params), dialect)
    reading = dialects.read_words(parts.foreign)
    own = options.request_from(parts.options, params)
    asked = replace(dialects.joined(own, reading, params), dialect=dialect.name)
    if asked.is_sweep or asked.extend is not None:
        raise SpecError("sweeps are for qsub itself", hint="run `qsub-py qsub --sweep ...`")
    first, *arguments = parts.words or ("",)
    kind = None
    if first:
        is_program = is_command or parts.is_dashed or reading.is_program
        kind = Kind.COMMAND if is_program else Kind.STDIN if first == "-" else Kind.FILE
    if kind is Kind.FILE:
        first = _script(first)
    script = find_script(kind, first, asked.wrap)
    settings = config.load()
    others = (
        configured(settings, os.environ, by_variable=True),
        configured(settings, os.environ, by_variable=False),
    )
    request, said = dialects.completed(asked, params, script, others, os.environ)
    if script is not None:
        script = with_shell(script, request.shell or "")
    draft = build(request, work_of(kind, first, arguments, script), os.environ, settings.job)
    texts = frozenset(one.text.split()[0] for one in (*reading.said, *said) if one.text)
    return Sending(draft, texts, bool(request.wait), bool(request.dry_run))


def _script(word: str) -> str:
    """Return the path of a script: here, else on PATH; raises SpecError."""
    if os.path.isdir(word):
        raise SpecError(f"{quoted(word)} is a directory", hint="give a script")
    if not os.path.exists(word) and "/" not in word:
        found = shutil.which(word)
        if found:
            return found
    if not os.path.exists(word):
        raise SpecError(f"no such file: {quoted(word)}")
    return word
