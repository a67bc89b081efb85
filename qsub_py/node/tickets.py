"""What keeper and runner agree on: descriptors, tickets, results, marks."""

from __future__ import annotations

import os
import struct
from typing import Any

#: The runner's descriptors: a socket, the pipe of tickets, the pipe of results, the mark file.
CONTROL, TICKETS, RESULTS, MARK = 3, 4, 5, 6
#: A ticket that says: read the next batch from the socket. Others are indexes in the batch.
SETUP = 0xFFFFFFFF
#: Results that are none: the batch is unpacked; it cannot be unpacked here.
READY, UNFIT = 0xFFFFFFFF, 0xFFFFFFFE
#: Before each result: index, length of its item as text, length of its bytes.
RESULT_HEAD = struct.Struct("<III")
#: What was begun last: serial of the batch, index, start, and where its part of the log begins.
MARK_LAYOUT = struct.Struct("<QQdQ")


class CannotUnpack(Exception):
    """The function or the arguments cannot be unpickled on this node."""


def excused(task: dict[str, Any]) -> str:
    """Return why a task has nothing to do: the file it would make is there; else ""."""
    path: str = task.get("skip") or ""
    return f"skipped: {path} exists" if path and os.path.exists(path) else ""
