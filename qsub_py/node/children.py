"""The keeper's helpers for files: children that unpack, collect and delete.

All that takes time with files happens in processes of their own; the loop only hears of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qsub_py.node.workplace import Workplace, now

_PRELUDE = os.fsencode(Path(__file__).resolve().with_name("prelude.py"))
_STATUS = 3
#: A collection that takes longer hangs in some file system.
_COLLECT_S = 1800.0
_ENV = {b"PATH": os.fsencode(os.defpath)}


def shows(path: str) -> bool:
    """Whether an output that is named relatively lies in the private directory."""
    return path.partition("/")[0] != ".."


def prelude(verb: str, config: dict[str, Any]) -> list[bytes]:
    """Return the first words of a command line of prelude.py."""
    python = os.fsencode(sys.executable)
    return [
        python,
        b"-I",
        b"-S",
        b"-X",
        b"utf8",
        _PRELUDE,
        verb.encode(),
        json.dumps(config).encode(),
    ]


class Staging:
    """What is heard of a command that unpacks before it begins."""

    def __init__(self, place: Workplace, began: Callable[[], None]) -> None:
        """Open the pipe; `theirs` is what the command gets as descriptor 3."""
        self._place, self._began = place, began
        self._fd, self.theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._text = b""
        self.has_begun = False
        place.poller.watch(self._fd, self._read)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._fd, 4096):
                self._text += data
            self._leave()
        if self._text.startswith(b"ok") and not self.has_begun:
            self.has_begun = True
            self._began()

    def _leave(self) -> None:
        if self._fd >= 0:
            self._place.poller.leave(self._fd)
            os.close(self._fd)
            self._fd = -1

    def close_theirs(self) -> None:
        """Close what only the command needs."""
        if self.theirs >= 0:
            os.close(self.theirs)
            self.theirs = -1

    def end(self) -> str:
        """Return why the command never began, "" when it did; call when it is gone."""
        self.close_theirs()
        if self._fd >= 0:
            self._read()
        self._leave()
        reason = self._text.partition(b"!")[2].decode("utf-8", "surrogateescape")
        return reason or ("" if self.has_begun else "it died while its files were unpacked")


def collect(
    place: Workplace, config: dict[str, Any], done: Callable[[list[Any]], None]
) -> None:  # fmt: skip
    """Start a child that packs files, and call `done` with what `private.collect` says."""
    fd, theirs = os.pipe2(os.O_CLOEXEC)
    failed = ["", 0, "", 0, "its files could not be collected"]

    def reaped(*_: object) -> None:
        timer.cancel()
        data = os.read(fd, 1 << 16)
        os.close(fd)
        try:
            found = json.loads(data)
        except ValueError:
            found = failed
        done(found)

    argv = prelude("collect", config)
    try:
        tree = place.children.start(
            argv, _ENV, path=argv[0], cookie=b"", moves={_STATUS: theirs}, reaped=reaped
        )
    except OSError:
        os.close(fd)
        done(failed)
        return
    finally:
        os.close(theirs)
    timer = place.timers.at(now() + _COLLECT_S, lambda: _kill(tree.pid))


def _kill(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, 9)


def remove(place: Workplace, paths: Sequence[str]) -> None:
    """Delete files and folders in a child; what it leaves the agent deletes some day."""
    argv = [b"rm", b"-rf", b"--", *map(os.fsencode, paths)]
    with contextlib.suppress(OSError):
        place.children.start(
            argv, _ENV, path=b"/bin/rm", cookie=b"", moves={}, reaped=lambda *_: None
        )
