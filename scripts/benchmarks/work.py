"""The functions that are called, the same for every contender."""

from __future__ import annotations

import os
import random
import subprocess
import time


def add(one: float, other: float) -> float:
    """Do next to nothing."""
    return one + other


def pairs(n: int) -> list[tuple[int, float]]:
    """Return arguments for `add` that cannot be compressed to nothing, as consecutive ones can."""
    numbers = random.Random(n)
    return [(numbers.getrandbits(31), numbers.random()) for _ in range(n)]


def true(_: int) -> int:
    """Run /bin/true."""
    return subprocess.run(["/bin/true"]).returncode


def mark(path: str, seconds: float) -> None:
    """Write down that this attempt began, and by which process; then sleep."""
    with open(path, "a") as file:
        file.write(f"{time.time()} {os.getpid()}\n")
    time.sleep(seconds)


def marks(path: str) -> list[tuple[float, int]]:
    """Return (time, pid) of every attempt so far."""
    if not os.path.exists(path):
        return []
    with open(path) as file:
        return [(float(at), int(pid)) for at, pid in (line.split() for line in file)]
