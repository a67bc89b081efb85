"""Which files a pattern such as `out/*.npz` names, below some folder. Pure.

As in a shell: `*` and `?` match within a name and no leading dot, `**` any folders between. A
folder that is matched stands for all that is in it.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from qsub_py.errors import SpecError
from qsub_py.text import quoted

ANY = "**"
_MOST_ANY = 4
_MAGIC = re.compile(r"[*?[]")


def check_glob(text: str) -> str:
    """Return the pattern in its simplest form; raises SpecError."""
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if not text or text.startswith("/") or ".." in parts or "\0" in text:
        raise SpecError(
            f"{quoted(text)} is no pattern of files below the job's directory",
            hint="write a relative one, such as 'out/*.npz'",
        )
    if parts.count(ANY) > _MOST_ANY:
        raise SpecError(f"{quoted(text)} has more than {_MOST_ANY} times **")
    return "/".join(parts) or "."


def segments(pattern: str) -> list[str]:
    """Return the parts of a checked pattern; none of "." , which is all there is."""
    return [] if pattern == "." else pattern.split("/")


def is_magic(segment: str) -> bool:
    """Whether a part of a pattern can match more than one name."""
    return bool(_MAGIC.search(segment))


def fits(name: str, segment: str) -> bool:
    """Whether a name (without slashes) matches a part of a pattern other than `**`."""
    if not is_magic(segment):
        return name == segment
    if name.startswith(".") and not segment.startswith("."):
        return False
    return _compiled(segment).match(name) is not None


@lru_cache(256)
def _compiled(segment: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(segment))


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether a file's path matches one of the checked patterns, or lies below what does."""
    parts = path.split("/")
    return any(_match(parts, segments(pattern)) for pattern in patterns)


def _match(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    if not wanted:
        return True
    if not parts:  # what must be a folder is a file
        return False
    if wanted[0] == ANY:
        is_plain = not parts[0].startswith(".")
        return _match(parts, wanted[1:]) or (is_plain and _match(parts[1:], wanted))
    return fits(parts[0], wanted[0]) and _match(parts[1:], wanted[1:])
