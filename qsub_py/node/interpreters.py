"""The Pythons of this machine: which minor versions there are, and where.

Each is run once to learn what it is; a wrapper (pyenv's shims) tells where the real one is.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from qsub_py.node import hardware, probe

_MINORS = ("3.13", "3.12", "3.11", "3.10", "3.14")
_OLDEST = (3, 10)
_ASK = "import sys; print('%d.%d %s' % (*sys.version_info[:2], sys.executable))"
_ANSWER_S = 10.0
#: Where installers put Pythons that are not on PATH, below the home directory.
_HOMES = (
    "miniforge3/bin/python3",
    "miniconda3/bin/python3",
    "anaconda3/bin/python3",
    "mambaforge/bin/python3",
    ".local/share/uv/python/*/bin/python3",
    ".pyenv/versions/3.1[0-9]*/bin/python3",
)


def find(env: str = "") -> dict[str, str]:
    """Return minor version -> interpreter, for all minors that can run calls.

    The Python of the environment `env` comes before our own, and that before all others.
    """
    paths = _distinct(_candidates(env))
    answers = probe.ask([[path, "-I", "-S", "-c", _ASK] for path in paths], timeout_s=_ANSWER_S)
    found: dict[str, str] = {}
    for path, answer in zip(paths, answers, strict=True):
        minor, real = _parsed(answer)
        if minor:
            is_wrapper = os.path.basename(os.path.dirname(path)) == "shims"
            found.setdefault(minor, real if is_wrapper and real else path)
    return {minor: found[minor] for minor in sorted(found, key=_version)}


def of(path: str) -> str:
    """Return the minor version of an interpreter, "" when it does not run."""
    if path == sys.executable:
        return hardware.python_minor()
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return _asked(path, status.st_mtime_ns, status.st_ino)


@functools.lru_cache(256)
def _asked(path: str, mtime_ns: int, inode: int) -> str:
    named = re.fullmatch(r"python(3\.\d+)", os.path.basename(os.path.realpath(path)))
    if named:
        return named[1]
    [answer] = probe.ask([[path, "-I", "-S", "-c", _ASK]], timeout_s=5.0)
    return _parsed(answer, oldest=(3, 0))[0]


def _parsed(answer: str | None, oldest: tuple[int, int] = _OLDEST) -> tuple[str, str]:
    match = re.fullmatch(r"(3\.\d+) (.*)\n", answer or "")
    if not match or _version(match[1]) < oldest:
        return "", ""
    return match[1], match[2]


def _version(minor: str) -> tuple[int, ...]:
    return tuple(int(part) for part in minor.split("."))


def _distinct(paths: Iterable[str]) -> list[str]:
    """Return the paths without those that are another name of an earlier one.

    A virtual environment's Python is a name, too, and yet another Python: it has its own modules.
    """
    found: dict[str, str] = {}
    for path in paths:
        is_env = os.path.exists(os.path.join(os.path.dirname(path), "..", "pyvenv.cfg"))
        found.setdefault(path if is_env else os.path.realpath(path), path)
    return list(found.values())


def _candidates(env: str) -> Iterator[str]:
    if env:
        yield os.path.join(env, "bin", "python")
    if sys.executable:
        yield sys.executable
    for name in (*(f"python{minor}" for minor in _MINORS), "python3"):
        if path := shutil.which(name):
            yield path
    home = Path(os.environ.get("HOME") or "/")
    for pattern in _HOMES:
        for found in sorted(home.glob(pattern)):
            if os.access(found, os.X_OK):
                yield str(found)
