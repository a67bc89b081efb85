"""Waits on the node's inbox: a blocking read on a connection of its own, in the agent's selector.

The inbox is only a hint: a lost or extra one costs a look, never a task.
"""

from __future__ import annotations

import selectors
import time

from qsub_py.store_link import Link

#: A connection that was silent for so long may be dead without our knowing.
_LIFE_S = 60


class Waiter:
    """A request for the next hint that is always on its way, while `arm` is called."""

    def __init__(self, link: Link, inbox: str, selector: selectors.BaseSelector) -> None:
        self._link, self._inbox, self._selector = link, inbox, selector
        self._armed_at = 0.0
        self._descriptor = -1

    def arm(self) -> None:
        """Ask for the next hint, if that is not under way; StoreUnavailable."""
        if self._descriptor >= 0 and time.monotonic() < self._armed_at + _LIFE_S + 10:
            return
        self.disarm()
        self._ask()

    def _ask(self) -> None:
        self._link.send("BLPOP", self._inbox, _LIFE_S)
        self._armed_at = time.monotonic()
        self._descriptor = self._link.fileno()
        self._selector.register(self._descriptor, selectors.EVENT_READ, self)

    def _unask(self) -> None:
        if self._descriptor >= 0:
            self._selector.unregister(self._descriptor)
            self._descriptor = -1

    def disarm(self) -> None:
        """Give the connection up; what was asked for is lost."""
        self._unask()
        self._link.close()

    def retarget(self, url: str, password: str) -> None:
        """Aim at another place; what was asked for at the former one is lost."""
        self._unask()
        if not self._link.retarget(url, password):
            self._link.close()

    def hint(self) -> bytes:
        """Read the hint that is there; StoreUnavailable.

        b"1" work, b"2" an order, b"3" a schedule may be due, b"" none.
        """
        self._unask()
        reply = self._link.receive()
        self._ask()
        return bytes(reply[1]) if reply else b""
