"""Reading what jobs wait for, and who waits for them. Part of `store`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from qsub_py.store_inputs import StoreInputs
from qsub_py.store_rows import decoded, pairs


class Met(Enum):
    """What a condition has come to."""

    OPEN = "0"
    MET = "1"
    NEVER = "2"


@dataclass(frozen=True, slots=True)
class Need:
    """A condition that a job waits for, or waited for."""

    kind: str
    job: int
    #: How the user would write the other job or tasks.
    label: str
    met: Met


class StoreDeps(StoreInputs):
    """What is asked for people about dependencies; bounded reads."""

    def conditions(self, job: int, *, limit: int = 100) -> list[Need]:
        """Return the conditions of a job, those that are not met first."""
        found = []
        for text in self.link.command("HVALS", self.keys.conditions(job)):
            kind, parent, _, _, label, met = decoded(text).split(":")
            found.append(Need(kind, int(parent), label.replace("+", ","), Met(met)))
        found.sort(key=lambda need: (need.met is not Met.OPEN, need.job))
        return found[:limit]

    def parents(self, job: int) -> set[int]:
        """Return jobs whose single tasks tasks of this job need, as the newest of these say."""
        rows = self.link.command("XREVRANGE", self.keys.inputs(job), "+", "-", "COUNT", 100)
        edges = (decoded(pairs(fields)[b"e"]) for _, fields in rows)
        return {int(edge.split(":")[0]) for text in edges for edge in text.split(";")}

    def children(self, job: int, *, limit: int) -> Sequence[int]:
        """Return jobs that wait, or waited, for this job or tasks of it."""
        prefix = self.keys.prefix
        kids, users = self.link.pipeline(
            [
                ("ZRANGE", f"{prefix}kids:{job}", 0, limit - 1),
                ("ZRANGE", f"{prefix}uses:{job}", 0, limit - 1),
            ]
        )
        found = {int(decoded(member).split(":")[0]) for member in kids}
        found |= {int(decoded(member).split(":")[1]) for member in users}
        return sorted(found - {job})
