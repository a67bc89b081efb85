"""What tasks used, as their report tells the store (lua/lib/account.lua)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise

from qsub_py.node.wire import Item

#: Tasks, wall s, cpu s, longest s, most bytes; of the completed ones: tasks, longest s, most bytes.
_HEAD = struct.Struct(">8d")


def pack_usage(items: Sequence[Item]) -> bytes:
    """Return the sums of ends, then the numbers of each in the order of positions."""
    if any(a.pos > b.pos for a, b in pairwise(items)):
        items = sorted(items, key=lambda item: item.pos)
    walls = [max(0.0, item.end - item.start) if item.start else 0.0 for item in items]
    cpus, sizes = [item.cpu for item in items], [float(item.rss) for item in items]
    good = [i for i, item in enumerate(items) if item.state == "COMPLETED"]
    is_all = len(good) == len(items)
    longest, most = max(walls, default=0.0), max(sizes, default=0.0)
    head = _HEAD.pack(
        len(items), sum(walls), sum(cpus), longest, most, len(good),
        longest if is_all else max((walls[i] for i in good), default=0.0),
        most if is_all else max((sizes[i] for i in good), default=0.0),
    )  # fmt: skip
    numbers = [0.0] * (3 * len(items))
    numbers[0::3], numbers[1::3], numbers[2::3] = walls, cpus, sizes
    return head + struct.pack(f">{len(numbers)}f", *numbers)
