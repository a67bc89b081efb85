"""What a node does when it is told to: cancel, signal, suspend, another limit, logs, files, stop.

Orders are state in the store: one that was obeyed and not acknowledged comes again. Each is for
the slots that the node had when it was given.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from typing import Any

from qsub_py.errors import DataGone, QsubError, StoreError
from qsub_py.node.command_line import is_shell
from qsub_py.node.hand import Hand
from qsub_py.node.jobs import Jobs, grown
from qsub_py.node.livelog import LiveLogs
from qsub_py.store_node import NodeStore, Order
from qsub_py.store_suspend import suspended

log = logging.getLogger("qsub_py.agent")

Text = dict[str, Any]


class Orders:
    """Obeys orders about what the hand holds."""

    def __init__(self, store: NodeStore, hand: Hand, jobs: Jobs, logs: LiveLogs) -> None:
        self._store, self._hand, self._jobs, self._logs = store, hand, jobs, logs
        #: Told to leave when all is done.
        self.is_leaving = False

    def obey(self, order: Order) -> None:
        """Do what it says; StoreError when the server is needed and away: it comes again."""
        try:
            text: Text = json.loads(order.text)
            _ORDERS[text["op"]](self, text)
        except (QsubError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, StoreError) and not isinstance(error, DataGone):
                raise
            log.warning("an order makes no sense: %r (%r)", order.text[:200], error)

    def _cancel(self, text: Text) -> None:
        job = self._jobs.known(text["uid"])
        grace_s = job.spec.grace_s if job else 10.0
        for slot, positions in self._chosen(text):
            self._hand.kill(slot, positions, f"cancelled by {text['by']}", grace_s=grace_s)

    def _signal(self, text: Text) -> None:
        job, whom = self._jobs.known(text["uid"]), str(text.get("whom", "all"))
        if whom == "steps":
            whom = "rest" if job is not None and is_shell(job.spec) else "all"
        for slot, positions in self._chosen(text):
            self._hand.signal(slot, positions, int(text["signal"]), whom)

    def _limit(self, text: Text) -> None:
        """Take the time limit of the spec as it is signed now."""
        job = None
        for slot, _ in self._chosen(text):
            batch = self._hand.holding.slots[slot].batch
            job = job or self._jobs.get_anew(batch)
            self._hand.send({"op": "limit", "slot": slot, "limit_s": grown(job.spec, batch)[1]})

    def _suspend(self, text: Text) -> None:
        self.look_for_suspended(text["uid"])

    def look_for_suspended(self, uid: str = "") -> None:
        """Stop what the store says is suspended (of one job), and let the rest go on.

        Also after a join: what was said meanwhile was not said to us.
        """
        hand = self._hand
        held = [(slot, one) for slot, one in hand.holding.slots.items()
                if uid in ("", one.batch.uid)]  # fmt: skip
        if not held:
            return
        known = suspended(self._store, {one.batch.job for _, one in held})
        for slot, one in held:
            stopped = sorted(filter(known[one.batch.job].has, one.open))
            if stopped:
                hand.suspend(slot, stopped)
            else:
                hand.send({"op": "resume", "slot": slot})

    def _tail(self, text: Text) -> None:
        stream, attempt = str(text.get("stream", "out")), int(text.get("attempt", 0))
        where = (str(text["log"]), text["uid"], int(text["position"]))
        self._logs.follow(*where, stream, self._jobs.known(text["uid"]), attempt)

    def _files(self, text: Text) -> None:
        self._logs.give_files(text, self._jobs.known(text["uid"]), self._chosen(text))

    def _stop(self, text: Text) -> None:
        self.is_leaving = True
        if text["now"]:
            self._hand.drop_all()

    def _chosen(self, text: Text) -> list[tuple[int, list[int]]]:
        """Return (slot, positions) of what an order is about.

        A batch that was claimed after it was given is a later attempt, of a rerun maybe.
        """
        last_slot = text.get("upto", math.inf)
        held = self._hand.holding.of_job(text["uid"], text["first"], text["last"])
        return [(slot, positions) for slot, positions in held if slot <= last_slot]


_ORDERS: dict[str, Callable[[Orders, Text], None]] = {
    "cancel": Orders._cancel,
    "signal": Orders._signal,
    "limit": Orders._limit,
    "suspend": Orders._suspend,
    "tail": Orders._tail,
    "files": Orders._files,
    "stop": Orders._stop,
}
