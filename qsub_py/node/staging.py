"""What jobs ship, on its way to this node: fetched once, checked, kept for the next job.

A batch waits here, known to nobody but this agent, until all archives of its job are in the
cache; then it is handed to the keeper. When the agent dies meanwhile, the keeper never heard
of it, and it goes back to the queue uncounted, as any claim that was not begun.
A turn of the agent's loop fetches for a moment only, so renewals go on. The host's reboot
empties the cache: what was not synced may be torn.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from qsub_py.errors import PayloadError, QsubError, StoreBusy, StoreUnavailable
from qsub_py.model import Batch, Ship
from qsub_py.node.cleaning import remove
from qsub_py.node.job_files import cache_path
from qsub_py.node.pace import Pace
from qsub_py.node.processes import boot_id
from qsub_py.store_files import piece_count, ship_name
from qsub_py.store_node import Chunk, NodeStore

log = logging.getLogger("qsub_py.agent")

_UNUSED_S = 30 * 86400.0
#: A batch that was just handed over may still be about to unpack them.
_FRESH_S = 600.0
#: With less free space than this the archives unused for longest go first.
_SPARE_BYTES = 1 << 30

Waiting = tuple[Batch, Chunk | None, tuple[Ship, ...]]


class Cache:
    """The archives of a node, by content."""

    def __init__(self, node_dir: Path) -> None:
        self._node_dir, self.folder = node_dir, node_dir / "cache"
        boot = boot_id()
        record = self.folder / "boot"
        with contextlib.suppress(OSError):
            if record.read_text() != boot:
                self._discard()
        self.folder.mkdir(mode=0o700, exist_ok=True)
        record.write_text(boot)
        for part in self.folder.glob("*.part"):
            part.unlink(missing_ok=True)

    def _discard(self) -> None:
        trash = self._node_dir / "scratch" / f"cache.{time.time_ns()}.trash"
        trash.parent.mkdir(mode=0o700, exist_ok=True)
        os.rename(self.folder, trash)
        remove([trash])

    def has(self, ship: Ship) -> bool:
        """Whether an archive is there, whole; notes that it was asked for."""
        path = cache_path(self._node_dir, ship.sha)
        try:
            if path.stat().st_size != ship.size:
                return False
            os.utime(path)
            return True
        except OSError:
            return False

    def part(self, ship: Ship) -> Path:
        """Return the file that an archive is fetched into."""
        return self.folder / f"{cache_path(self._node_dir, ship.sha).name}.part"

    def keep(self, ship: Ship) -> None:
        """Take a file that was fetched, whole and verified."""
        os.rename(self.part(ship), cache_path(self._node_dir, ship.sha))

    def make_room(self, size: int = 0) -> None:
        """Delete archives that nobody has used for long, or the oldest when space is short."""
        moment = time.time()
        found = [
            (entry.stat().st_mtime, entry.stat().st_size, entry.path)
            for entry in os.scandir(self.folder)
            if len(entry.name) == 64
        ]
        free = shutil.disk_usage(self.folder).free
        for used_at, freed, path in sorted(found):
            is_short = free < size + _SPARE_BYTES and used_at < moment - _FRESH_S
            if not is_short and used_at > moment - _UNUSED_S:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
                free += freed


class _Fetch:
    """One archive on its way."""

    def __init__(self, ship: Ship, path: Path) -> None:
        self.ship, self._digest, self._next = ship, hashlib.sha256(), 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._file = open(os.open(path, flags, 0o600), "wb", buffering=0)  # noqa: SIM115

    def step(self, store: NodeStore, count: int) -> bool:
        """Fetch the next pieces; return whether it is whole. PayloadError, StoreError, OSError."""
        count = min(count, piece_count(self.ship.size) - self._next)
        if count:
            for data in store.pieces(ship_name(self.ship.sha), self._next, count):
                self._digest.update(data)
                view = memoryview(data)
                while view:
                    view = view[self._file.write(view) or 0 :]
            self._next += count
        if self._next < piece_count(self.ship.size):
            return False
        is_whole = self._file.tell() == self.ship.size
        self.close()
        if not is_whole or self._digest.hexdigest() != self.ship.sha:
            raise PayloadError("what the job ships is not what was signed")
        return True

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


class Staging:
    """The batches that wait for files, and the archive that is fetched now."""

    def __init__(self, store: NodeStore, node_dir: Path) -> None:
        self._store = store
        self.cache = Cache(node_dir)
        self._waiting: dict[int, Waiting] = {}
        self._fetch: _Fetch | None = None
        self._pace = Pace()

    def wants(self, ships: Iterable[Ship]) -> bool:
        """Whether some of these must be fetched before the job can begin."""
        return not all([self.cache.has(ship) for ship in ships])

    def add(self, batch: Batch, chunk: Chunk | None, ships: tuple[Ship, ...]) -> None:
        """Let a batch wait until its files are here."""
        self._waiting[batch.slot] = batch, chunk, ships

    def has(self, slot: int) -> bool:
        """Whether the batch in this slot waits here; the keeper does not know it."""
        return slot in self._waiting

    def is_busy(self) -> bool:
        """Whether there is something to fetch."""
        return bool(self._waiting)

    def forget(self, slot: int) -> Batch | None:
        """Take a batch out: it is not ours any more, or was cancelled."""
        found = self._waiting.pop(slot, None)
        return found[0] if found else None

    def turn(
        self,
        held: Iterable[int],
        start: Callable[[Batch, Chunk | None], None],
        give_up: Callable[[Batch, str], None],
    ) -> None:
        """Fetch for a moment; `start` the batches whose files are all here.

        `give_up` says why they cannot be. `held`: the slots we hold. Raises StoreUnavailable.
        """
        for slot in self._waiting.keys() - set(held):
            del self._waiting[slot]
        for slot, (batch, chunk, ships) in list(self._waiting.items()):
            missing = next((ship for ship in ships if not self.cache.has(ship)), None)
            if missing is None:
                del self._waiting[slot]
                start(batch, chunk)
                continue
            try:
                self._step(missing)
            except (StoreUnavailable, StoreBusy):
                raise  # it goes on from here when we are back
            except (QsubError, OSError) as error:
                what = (error.strerror or "").lower() if isinstance(error, OSError) else str(error)
                self._refuse(missing, f"cannot fetch what the job ships: {what}", give_up)
            return
        self._drop()

    def _step(self, ship: Ship) -> None:
        if self._fetch is None or self._fetch.ship.sha != ship.sha:
            self._drop()
            self.cache.make_room(ship.size)
            self._fetch = _Fetch(ship, self.cache.part(ship))
            log.info("fetching %d bytes that a job ships", ship.size)
        fetch = self._fetch
        if self._pace.run(lambda count: fetch.step(self._store, count)):
            self._fetch = None
            self.cache.keep(ship)

    def _refuse(self, ship: Ship, why: str, give_up: Callable[[Batch, str], None]) -> None:
        """Give up all batches that wait for this archive."""
        self._drop()
        for slot, (batch, _, ships) in list(self._waiting.items()):
            if ship in ships:
                del self._waiting[slot]
                give_up(batch, why)

    def _drop(self) -> None:
        if self._fetch is not None:
            self._fetch.close()
            self.cache.part(self._fetch.ship).unlink(missing_ok=True)
            self._fetch = None
