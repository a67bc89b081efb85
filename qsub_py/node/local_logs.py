"""The logs of this host's nodes: the last lines of agent and keeper, and what is added."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from qsub_py.config import Config
from qsub_py.errors import NodeError
from qsub_py.node import local

_LOOK_S = 0.3
_KINDS = ("agent", "keeper")


def read(config: Config, name: str, *, lines: int, follows: bool) -> Iterator[str]:
    """Yield the last `lines` lines of each log of a node ("": of all that run), with headings.

    With `follows` go on for ever with what is written. NodeError when there is no such node.
    """
    found = [
        (settings.name, where)
        for settings, where, runs in local.local_nodes(config)
        if settings.name == name or (not name and runs)
    ]
    if not found:
        raise NodeError(f"no node {name} was started on this host".replace("  ", " "))
    logs = [(f"{node} {kind}", where / f"{kind}.log") for node, where in found for kind in _KINDS]
    sizes = {}
    for title, path in logs:
        sizes[path] = path.stat().st_size if path.exists() else 0
        if sizes[path]:
            yield f"==> {title}: {path} <==\n"
            yield from _last(path, lines)
    if follows:
        yield from _follow(logs, sizes)


def _last(path: Path, lines: int) -> Iterator[str]:
    with open(path, encoding="utf-8", errors="replace") as file:
        yield from (line.rstrip("\n") + "\n" for line in deque(file, maxlen=lines))


def _follow(logs: Sequence[tuple[str, Path]], sizes: dict[Path, int]) -> Iterator[str]:
    shown = ""
    while True:
        for title, path in logs:
            size = path.stat().st_size if path.exists() else 0
            if size < sizes[path]:  # a new file: the old one had grown too large
                sizes[path] = 0
            if size == sizes[path]:
                continue
            if title != shown:
                yield f"==> {title} <==\n"
                shown = title
            with open(path, "rb") as file:
                file.seek(sizes[path])
                data = file.read(size - sizes[path])
            whole = data[: data.rfind(b"\n") + 1] or data
            sizes[path] += len(whole)
            yield os.fsdecode(whole).encode("utf-8", "replace").decode()
        time.sleep(_LOOK_S)
