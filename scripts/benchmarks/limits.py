"""What no batch system can beat here, and shell tools: /bin/true again and again, 2 at once."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.contender import Contender, rate

_WIDTH = 2


class Spawn(Contender):
    """A bare loop of posix_spawn and wait in Python."""

    def true(self, n: int) -> dict[str, float]:
        """Time the loop."""
        return {"true": rate(n, lambda: _loop(n))}


def _loop(n: int) -> None:
    running = 0
    for _ in range(n):
        if running == _WIDTH:
            os.wait()
            running -= 1
        os.posix_spawn("/bin/true", ["true"], os.environ)
        running += 1
    for _ in range(running):
        os.wait()


class Shell(Contender):
    """A command line that runs `/bin/true` for each line of its input."""

    words: tuple[str, ...]

    def true(self, n: int) -> dict[str, float]:
        """Time it."""
        lines = "".join(f"{i}\n" for i in range(n)).encode()
        return {"true": rate(n, lambda: subprocess.run(self.words, input=lines, check=True))}


class Xargs(Shell):
    """xargs -P2 -n1."""

    words = ("xargs", f"-P{_WIDTH}", "-n1", "/bin/true")


class Parallel(Shell):
    """GNU parallel -j2, its request for citation answered in our own HOME."""

    words = ("parallel", f"-j{_WIDTH}", "/bin/true", "{}")

    def start(self) -> None:
        """Answer the request."""
        (Path.home() / ".parallel").mkdir(exist_ok=True)
        (Path.home() / ".parallel" / "will-cite").touch()


def is_installed(contender: str) -> bool:
    """Whether a shell tool is there; the others always are."""
    return contender not in ("xargs", "parallel") or shutil.which(contender) is not None
