"""Waiting for results of several jobs on a connection of its own.

One thread waits; any other may `wake` it, for instance because it must watch one job more.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable, Mapping

from qsub_py.keys import Keys
from qsub_py.store_link import Argument, Link
from qsub_py.store_rows import ResultEntry, entry

#: At most so many entries of each job in one reply.
_LIMIT = 64


class ResultWaiter:
    """A blocking reader of result streams."""

    def __init__(self, where: Callable[[], tuple[str, str]], *, cluster: str) -> None:
        """`where` returns (URL, password): they change when a tunnel comes back."""
        self._where = where
        url, password = where()
        self._link = Link(url, password=password)
        self._keys = Keys(cluster)
        self._bell_out, self._bell_in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        #: Keeps a late `wake` from writing into a file that got the number of a closed bell.
        self._bell_lock = threading.Lock()

    def wake(self) -> None:
        """End the wait that goes on, or else the next one; from any thread."""
        with self._bell_lock, contextlib.suppress(OSError):  # full: it is awake; closed: gone
            os.write(self._bell_in, b"!")

    def close(self) -> None:
        """Close the connection; only when no thread waits."""
        self._link.close()
        with self._bell_lock:
            for end in (self._bell_out, self._bell_in):
                with contextlib.suppress(OSError):
                    os.close(end)
            self._bell_out = self._bell_in = -1

    def __del__(self) -> None:
        # An iterator of results may be dropped half way; a pipe is not closed by itself.
        with contextlib.suppress(Exception):
            self.close()

    def wait(self, after: Mapping[int, int], block_s: float) -> dict[int, list[ResultEntry]]:
        """Return new entries of jobs (job -> number of the last entry seen).

        Waits up to `block_s` seconds for the first; empty also when it was woken. With
        `block_s` 0 returns at once. Raises StoreUnavailable.
        """
        self._link.retarget(*self._where())
        words: list[Argument] = ["XREAD", "COUNT", _LIMIT]
        if block_s > 0:
            words += ["BLOCK", max(1, int(block_s * 1000))]
        words += ["STREAMS", *(self._keys.results(job) for job in after)]
        words += [f"{number}-0" for number in after.values()]
        self._link.send(*words)
        if block_s > 0 and self._was_woken(block_s + self._link.timeout_s):
            # The request is still pending there: only a new connection is free of it.
            self._link.close()
            return {}
        reply = self._link.receive()
        by_key = {self._keys.results(job).encode(): job for job in after}
        return {by_key[key]: [entry(e) for e in entries] for key, entries in reply or []}

    def newest(self, job: int) -> int:
        """Return the number of a job's newest entry, 0 when it has none."""
        self._link.retarget(*self._where())
        words = ("XREVRANGE", self._keys.results(job), "+", "-", "COUNT", 1)
        reply = self._link.command(*words)
        return int(reply[0][0].split(b"-")[0]) if reply else 0

    def _was_woken(self, timeout_s: float) -> bool:
        """Sleep until there is a reply or a wake; a reply that is there too goes first."""
        poll = select.poll()
        poll.register(self._link.fileno(), select.POLLIN)
        poll.register(self._bell_out, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(timeout_s * 1000)}
        if self._bell_out in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._bell_out, 4096)
        return self._bell_out in ready and self._link.fileno() not in ready
