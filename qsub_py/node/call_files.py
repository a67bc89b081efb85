"""Files of calls: a private directory that is fresh for each, and what a call brings back."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from typing import Any

from qsub_py.archive import ArchiveError
from qsub_py.node import private
from qsub_py.node.tickets import CannotUnpack


class CallFiles:
    """What a batch of calls needs done with files around each of its calls."""

    def __init__(self, header: dict[str, Any]) -> None:
        self._private: dict[str, Any] | None = header.get("private")
        self._patterns: list[str] = header.get("fetch") or []
        self.directory: str = self._private["dir"] if self._private else header["cwd"]
        self._since = f"{self.directory}.since" if self._private and self._patterns else ""

    def freshen(self) -> bool:
        """Make the directory as a task must find it; False when it is so already.

        Raises CannotUnpack.
        """
        if self._private is None:
            return False
        ships = self._private["ships"]
        if not ships and self._is_empty():
            return False
        try:
            self.leave()
            os.makedirs(self.directory, 0o700)
            private.stage(self.directory, ships, self._since)
        except ArchiveError as error:
            raise CannotUnpack(f"cannot unpack what was shipped: {error}") from error
        except OSError as error:
            where = os.fsdecode(error.filename or self.directory)
            what = (error.strerror or str(error)).lower()
            raise CannotUnpack(f"cannot unpack {where}: {what}") from error
        return True

    def _is_empty(self) -> bool:
        try:
            return not os.listdir(self.directory)
        except OSError:
            return False

    def link(self, source: str, path: str) -> None:
        """Let a call's output file appear in its directory; raises CannotUnpack."""
        try:
            private.link(self.directory, source, path)
        except OSError as error:
            raise CannotUnpack(f"cannot write output: {error.strerror}: {path}") from error

    def collect(self, target: str) -> private.Collected | None:
        """Pack what the call that ended brings back; None when nothing was asked for."""
        if not self._patterns:
            return None
        return private.collect(self.directory, self._patterns, target, self._since)

    def leave(self) -> None:
        """Delete the private directory, with whatever is in it."""
        if self._private is None or not os.path.lexists(self.directory):
            return
        trash = f"{self.directory}.{time.time_ns()}.trash"
        with contextlib.suppress(OSError):
            os.rename(self.directory, trash)
            shutil.rmtree(trash, ignore_errors=True)
        for path in [path for path in sys.path_importer_cache if path.startswith(self.directory)]:
            del sys.path_importer_cache[path]
