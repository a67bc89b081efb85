"""Reading what calls need of other tasks: results by position. Part of `store`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from qsub_py.store_core import StoreCore
from qsub_py.store_rows import ResultEntry, decoded, entry, pairs

_CELL = 4


@dataclass(frozen=True, slots=True)
class FoundInputs:
    """Results of contiguous tasks: the number of the entry with each (0: none), and entries."""

    numbers: tuple[int, ...]
    entries: tuple[ResultEntry, ...]


class StoreInputs(StoreCore):
    """What nodes and clients ask about what tasks need of others."""

    def needs(self, job: int, position: int) -> list[tuple[int, int, int]]:
        """Return the tasks whose results a task needs: (job, first position, count)."""
        found = self.link.command(
            "XREVRANGE", self.keys.inputs(job), f"{position + 1}-0", "-", "COUNT", 1
        )
        if not found:
            return []
        number, fields = found[0]
        group = {decoded(name): decoded(value) for name, value in pairs(fields).items()}
        offset = position - (int(number.split(b"-")[0]) - 1)
        if offset >= int(group["n"]):
            return []
        edges = [[int(part) for part in edge.split(":")] for edge in group["e"].split(";")]
        return [(parent, first + offset * step, count) for parent, first, count, step in edges]

    def inputs(self, job: int, first: int, count: int, known: Collection[int]) -> FoundInputs:
        """Return where the results of tasks are; entries with `known` numbers are not read."""
        cells: bytes = self.link.command(
            "GETRANGE", self.keys.result_index(job), _CELL * first, _CELL * (first + count) - 1
        )
        cells = cells.ljust(_CELL * count, b"\0")
        numbers = tuple(
            int.from_bytes(cells[at : at + _CELL], "big") for at in range(0, len(cells), _CELL)
        )
        wanted = sorted(set(numbers) - {0} - set(known))
        stream = self.keys.results(job)
        found = self.link.pipeline([("XRANGE", stream, f"{n}-0", f"{n}-0") for n in wanted])
        return FoundInputs(numbers, tuple(entry(reply[0]) for reply in found if reply))
