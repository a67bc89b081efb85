"""What a node holds: the batches that it claimed, and which of their tasks are still open.

Pure book-keeping of the agent; the truth about processes is the keeper's, the truth about
rights the store's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qsub_py.model import Batch


@dataclass
class Held:
    """A batch and its open positions: handed to the keeper, not yet ended or returned."""

    batch: Batch
    open: set[int]


def key_of(batch: Batch) -> list[int | str]:
    """Return the keeper's key of a batch."""
    return [batch.slot, batch.uid, batch.first, batch.attempt, batch.epoch]


class Holding:
    """The batches a node holds, by slot."""

    def __init__(self) -> None:
        self.slots: dict[int, Held] = {}

    def add(self, batch: Batch) -> Held:
        """Take a batch in, all of its tasks open."""
        held = Held(batch, set(range(batch.first, batch.first + batch.count)))
        self.slots[batch.slot] = held
        return held

    def close(self, slot: int, positions: Iterable[int]) -> None:
        """Note that tasks ended or were returned; a slot without open tasks is free."""
        held = self.slots.get(slot)
        if held:
            held.open.difference_update(positions)
            if not held.open:
                del self.slots[slot]

    def positions(self, slot: int) -> set[int]:
        """Return the open positions of a slot."""
        held = self.slots.get(slot)
        return set(held.open) if held else set()

    def cpus(self) -> int:
        """Return the cpus that open batches have booked."""
        return sum(held.batch.cpus for held in self.slots.values())

    def has(self, uid: str, position: int, attempt: int) -> bool:
        """Whether this attempt (0: any) of a task is open."""
        held = [self.slots[slot].batch for slot, _ in self.of_job(uid, position, position)]
        return any(attempt in (0, batch.attempt) for batch in held)

    def of_job(self, uid: str, first: int, last: int) -> list[tuple[int, list[int]]]:
        """Return (slot, open positions) of a job between first and last (-1: to its end)."""
        found = []
        for slot, held in self.slots.items():
            if held.batch.uid == uid:
                chosen = [p for p in sorted(held.open) if first <= p and (last < 0 or p <= last)]
                if chosen:
                    found.append((slot, chosen))
        return found
