"""Waits on the node's inbox in a thread of its own and rings a bell for the agent's loop.

The inbox is only a hint: a lost or extra ring costs a look, never a task.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time

from qsub_py.errors import StoreError
from qsub_py.store_link import Link

_BLOCK_S = 5


class Waiter:
    """A bell: `fileno` becomes readable when somebody put a hint into the inbox."""

    def __init__(self, link: Link, inbox: str) -> None:
        self._link, self._inbox = link, inbox
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        threading.Thread(target=self._run, name="waiter", daemon=True).start()

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._read

    def rang(self) -> bytes:
        """Silence the bell; return the hints: b"1" for work, b"2" for an order, in any order."""
        try:
            return os.read(self._read, 4096)
        except BlockingIOError:
            return b""

    def _run(self) -> None:
        while True:
            try:
                hint = self._link.command(
                    "BLPOP", self._inbox, _BLOCK_S, timeout_s=_BLOCK_S + 5.0
                )
            except StoreError:
                # The agent notices by itself; here only do not spin.
                time.sleep(0.5)
                continue
            if hint is not None:
                with contextlib.suppress(BlockingIOError):
                    os.write(self._write, hint[1])
