"""Memory cgroups for trees with a limit, where this user may make any.

A leaf holds the limit between two looks of `memory.py`, and catches what grows faster. Version 2
needs a directory above us that is ours to write and hands the memory controller down (a delegated
one, or any for root); version 1 the memory directory we are in. Nothing but tasks is moved.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import zlib
from pathlib import Path

from qsub_py.node.cgroups import groups

_V1 = {"limit": "memory.limit_in_bytes", "none": "-1", "events": "memory.oom_control",
       "peak": "memory.max_usage_in_bytes", "used": "memory.usage_in_bytes"}  # fmt: skip
_V2 = {"limit": "memory.max", "none": "max", "events": "memory.events",
       "peak": "memory.peak", "used": "memory.current"}  # fmt: skip


class Leaf:
    """A cgroup of one tree."""

    def __init__(self, path: Path, files: dict[str, str]) -> None:
        self._path, self._files = path, files

    def _write(self, name: str, value: int | str) -> bool:
        try:
            (self._path / name).write_text(str(value))
        except OSError:
            return False
        return True

    def _number(self, name: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            return int((self._path / name).read_text())
        return 0

    def admit(self, pid: int) -> None:
        """Take a process in, with the children that it will have."""
        self._write("cgroup.procs", pid)

    def limit(self, size: int | None) -> bool:
        """Set the limit (None: none); False when more is used already, or it cannot be."""
        if size is None:
            return self._write(self._files["limit"], self._files["none"])
        if self._number(self._files["used"]) > size:
            return False
        if self._files is _V2:
            self._write("memory.oom.group", 1)
        return self._write(self._files["limit"], size)

    def kills(self) -> int:
        """Return how many processes the kernel has killed for the limit."""
        with contextlib.suppress(OSError):
            for line in (self._path / self._files["events"]).read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
        return 0

    def peak(self) -> int:
        """Return the most that was used, 0 where the kernel does not tell."""
        return self._number(self._files["peak"])

    def remove(self) -> bool:
        """Remove it; False while something is in it."""
        try:
            self._path.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True


class Cgroups:
    """Makes leaves for one keeper; those that an earlier one left are removed."""

    def __init__(self, node_dir: str, *, is_wanted: bool = True) -> None:
        self._name = f"qsub-{zlib.crc32(os.fsencode(node_dir)):08x}"
        self._base: Path | None = None
        self._files = _V2
        self._numbers = itertools.count(1)
        if is_wanted:
            self._base, self._files = _find()
        if self._base is not None:
            with contextlib.suppress(OSError):
                for old in self._base.glob(f"{self._name}-*"):
                    with contextlib.suppress(OSError):
                        old.rmdir()

    def leaf(self) -> Leaf | None:
        """Return a new leaf, None where none can be made."""
        if self._base is None:
            return None
        path = self._base / f"{self._name}-{os.getpid()}-{next(self._numbers)}"
        try:
            path.mkdir()
        except OSError:
            return None
        return Leaf(path, self._files)


def _find() -> tuple[Path | None, dict[str, str]]:
    """Return the directory for leaves and the names of its files."""
    for path in groups(Path("/proc/self"), ""):
        if _is_ours(path) and "memory" in _words(path / "cgroup.subtree_control"):
            return path, _V2
    own = next(groups(Path("/proc/self"), "memory"), None)
    return (own, _V1) if own is not None and _is_ours(own) else (None, _V2)


def _is_ours(path: Path) -> bool:
    return os.access(path, os.W_OK) and os.access(path / "cgroup.procs", os.W_OK)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
