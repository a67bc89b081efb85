"""The points of a job's sweep: the parameters of a task by its position, verified.

A job has the sweep of its spec and the grids it was given later, which are fetched when first
needed, like the pages of large tables. Used by the client and on the node.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Callable
from typing import Any, TypeVar

from qsub_py.errors import PayloadError
from qsub_py.signing import Keyring, verify
from qsub_py.store_core import Grid, StoreCore
from qsub_py.sweep import Page, Params, Sweep, from_plain
from qsub_py.sweep_rows import PageReader

T = TypeVar("T")


class Points:
    """The parameters of one job's tasks.

    `ask` runs a request on the store; what it raises is raised here, and PayloadError,
    SignatureError for what was not signed so.
    """

    def __init__(
        self,
        ask: Callable[[Callable[[StoreCore], Any]], Any],
        ring: Keyring,
        cluster: str,
        *,
        job: int,
        uid: str,
        sweep: dict[str, Any],
    ) -> None:
        self._ask, self._ring, self._cluster = ask, ring, cluster
        self._job, self._uid = job, uid
        #: The blob with the rows of the spec's table.
        self._blob = ""
        self._firsts: list[int] = [0]
        self._sweeps: list[Sweep] = [_read(sweep, lambda n: self._piece("", n))]

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters, in the order written."""
        return self._sweeps[0].names

    @property
    def keywords(self) -> tuple[str, ...]:
        """Those that a function gets as keywords."""
        return self._sweeps[0].keywords or ()

    def of(self, position: int) -> Params:
        """Return the parameters of a task, in the order of `names`."""
        first, sweep = self._place(position)
        try:
            params = sweep.at(position - first)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise PayloadError(f"the sweep has no task {position}: {error!r}") from error
        return {name: params[name] for name in self.names}

    def end(self, position: int) -> int:
        """Return the number of tasks up to the end of the grid that holds a position."""
        first, sweep = self._place(position)
        return first + sweep.count

    def forget(self) -> None:
        """Forget what was fetched: a server that lost its last writes may be given other grids."""
        del self._firsts[1:], self._sweeps[1:]

    def all(self) -> list[tuple[int, Sweep]]:
        """Return all sweeps with their first positions, as the store has them now."""
        for grid in self._ask(lambda store: store.grids(self._job)):
            self._keep(grid)
        return list(zip(self._firsts, self._sweeps, strict=True))

    def _place(self, position: int) -> tuple[int, Sweep]:
        at = bisect.bisect_right(self._firsts, position) - 1
        if position >= self._firsts[at] + self._sweeps[at].count:
            for grid in self._ask(lambda store: store.grids(self._job, position)):
                self._keep(grid)
            at = bisect.bisect_right(self._firsts, position) - 1
            if position >= self._firsts[at] + self._sweeps[at].count:
                raise PayloadError(f"the parameters of task {position} are missing")
        return self._firsts[at], self._sweeps[at]

    def _keep(self, grid: Grid) -> None:
        if grid.first in self._firsts:
            return
        verify(self._ring, grid.signature, "grid", self._cluster, self._uid,
               b"%d" % grid.first, b"%d" % grid.count, grid.data)  # fmt: skip
        sweep = _read(json.loads(grid.data), lambda n: self._piece(grid.blob, n))
        if sweep.count != grid.count:
            raise PayloadError("a grid of the sweep has another size than was signed")
        at = bisect.bisect(self._firsts, grid.first)
        self._firsts.insert(at, grid.first)
        self._sweeps.insert(at, sweep)

    def _piece(self, blob: str, number: int) -> bytes:
        """Return rows of a blob; "" is the spec's, of which a grid may be a larger sample."""
        if not blob:
            self._blob = self._blob or self._ask(lambda store: store.rows_blob(self._job))
            blob = self._blob
        return bytes(self._ask(lambda store: store.piece(blob, number)))


def _read(raw: dict[str, Any], fetch: Callable[[int], bytes]) -> Sweep:
    def pages(sha: str) -> Page:
        return PageReader(sha, fetch)

    try:
        return from_plain(raw, pages)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise PayloadError(f"the sweep is of another version of qsub_py ({error!r})") from error
