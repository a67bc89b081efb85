"""Wait until every node that was told something has obeyed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qsub_py.cli import common

if TYPE_CHECKING:
    from qsub_py.client import Client

#: How long nodes may take to confirm; a live one is heard of every few seconds.
CONFIRM_S = 20.0
#: Node name, node uid, sequence number.
Order = tuple[str, str, int]


def confirm(client: Client, command: str, orders: Sequence[Order]) -> int:
    """Return 0 when all have obeyed, else 75 after naming those that have not."""
    deadline, pause = time.monotonic() + CONFIRM_S, 0.005
    while left := client.ask(lambda store: store.orders_done(orders)):
        if time.monotonic() > deadline:
            names = ", ".join(sorted({name for name, _, _ in left}))
            common.complain(f"{command}: not yet confirmed by {names}; it is kept for them and done"
                            " when they answer")  # fmt: skip
            return 75
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)
    return 0
