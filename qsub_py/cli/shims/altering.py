"""qalter in another system's words: its options as ours, then our qalter."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from qsub_py.cli import common, options
from qsub_py.cli.words import split
from qsub_py.dialect import Dialect, understand
from qsub_py.errors import SpecError


def alter(dialect: Dialect, words: Sequence[str], our_id: Callable[[str], str]) -> int:
    """Change the jobs behind the options; returns the exit code."""
    from qsub_py.cli.qalter import qalter

    parts = split(words, options.table_of(qalter.params), dialect)
    reading = understand(parts.foreign, os.path.isdir)
    if reading.extras.keys() - {"tasks", "at_once"}:
        what = ", ".join(sorted(reading.extras))
        raise SpecError(f"this cannot be changed here: {what}", hint="submit the job anew")
    ids = [our_id(part) for word in parts.words for part in word.split(",") if part]
    limit = [f"--array-limit={n}"] if (n := reading.extras.get("at_once")) else []
    return common.run(qalter, [*parts.options, *reading.options, *limit, *ids])
