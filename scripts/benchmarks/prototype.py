"""The limit of a design on this server: one bare Lua script, no promises kept.

Persistent Python workers report a batch and claim the next in one round trip; the client sends
calls in pipelines and collects results in batches. No signatures, leases, states or fences.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.contender import Caller, rate
from benchmarks.ours import dataset_bytes
from benchmarks.work import add, pairs
from qsub_py.resp import Argument, UnixConnection

BATCH = 100
CHUNK = 1000
_WORKERS = 2
_DATABASE = 7
_PENDING, _PAYLOADS, _RUNNING, _DONE, _WAKE = "pending", "payloads", "running", "done", "wake"

#: KEYS pending payloads running done; ARGV batch, number of done, id, result, id, result, ...
_STEP = b"""
local n = tonumber(ARGV[2])
if n > 0 then
  local ids, results = {}, {}
  for i = 1, n do ids[i] = ARGV[1 + 2 * i]; results[i] = ARGV[2 + 2 * i] end
  redis.call('HDEL', KEYS[3], unpack(ids))
  redis.call('HDEL', KEYS[2], unpack(ids))
  redis.call('RPUSH', KEYS[4], unpack(results))
end
local ids = redis.call('LPOP', KEYS[1], ARGV[1])
if not ids then return {} end
local running = {}
for i = 1, #ids do running[2 * i - 1] = ids[i]; running[2 * i] = '1' end
redis.call('HSET', KEYS[3], unpack(running))
return {ids, redis.call('HMGET', KEYS[2], unpack(ids))}
"""
_SHA = hashlib.sha1(_STEP).hexdigest()


class Wire:
    """A connection that pipelines."""

    def __init__(self) -> None:
        url = f"unix://{os.environ['BENCH_SOCKET']}?db={_DATABASE}"
        self._connection = UnixConnection(url, os.environ["BENCH_PASSWORD"], 60.0)
        self._connection.connect()
        self.ask([("SCRIPT", "LOAD", _STEP)])

    def ask(self, commands: list[tuple[Argument, ...]]) -> list[Any]:
        """Send commands at once and return their replies."""
        self._connection.send(commands)
        return [self._connection.read(None) for _ in commands]


def work() -> None:
    """Claim and run until the process is ended."""
    wire, done = Wire(), list[Argument]()
    while True:
        keys = (_PENDING, _PAYLOADS, _RUNNING, _DONE)
        found = wire.ask([("EVALSHA", _SHA, 4, *keys, BATCH, len(done) // 2, *done)])[0]
        done = []
        if not found:
            wire.ask([("BLPOP", _WAKE, 5)])
            continue
        for name, data in zip(*found, strict=True):
            args = pickle.loads(data)
            done += [name, pickle.dumps((name, True, add(*args)))]


class Prototype(Caller):
    """Two such workers, and this process as their client."""

    def start(self) -> None:
        """Start the workers."""
        self._next = 0
        self._wire = Wire()
        self._workers = [
            subprocess.Popen([sys.executable, "-m", "benchmarks.prototype"])
            for _ in range(_WORKERS)
        ]
        self.results(self.begin(1000))

    def stop(self) -> None:
        """End them."""
        for worker in self._workers:
            worker.kill()
            worker.wait()

    def begin_all(self, calls: Sequence[Sequence[float]]) -> range:
        """Send calls in chunks; wake the workers with every chunk."""
        first, self._next = self._next, self._next + len(calls)
        for at in range(0, len(calls), CHUNK):
            self._send(first + at, calls[at : at + CHUNK])
        return range(first, self._next)

    def _send(self, first: int, calls: Sequence[Sequence[float]]) -> None:
        data: list[Argument] = []
        for i, args in enumerate(calls, first):
            data += (i, pickle.dumps(args))
        self._wire.ask(
            [
                ("HSET", _PAYLOADS, *data),
                ("RPUSH", _PENDING, *range(first, first + len(calls))),
                ("RPUSH", _WAKE, *([1] * _WORKERS)),
                ("LTRIM", _WAKE, 0, 3),
            ]
        )

    def results(self, handles: range) -> list[Any]:
        """Collect as many results as there were calls."""
        found: list[Any] = []
        while len(found) < len(handles):
            got = self._wire.ask([("LPOP", _DONE, CHUNK)])[0]
            if not got:
                got = [self._wire.ask([("BLPOP", _DONE, 10)])[0][1]]
            found += map(pickle.loads, got)
        return found

    def one(self, i: int) -> Any:
        """Run one call."""
        return self.results(self.begin(1))

    def map(self, n: int) -> dict[str, float]:
        """Time the same once more: there is no cheaper way here."""
        return {"map": rate(n, lambda: self._checked(n))}

    def memory(self, n: int) -> dict[str, float]:
        """Weigh calls that wait for stopped workers."""
        before = self._used_bytes()
        for worker in self._workers:
            worker.send_signal(signal.SIGSTOP)
        try:
            handles = self.begin_all(pairs(n))
            pending = self._used_bytes() - before
        finally:
            for worker in self._workers:
                worker.send_signal(signal.SIGCONT)
        self.results(handles)
        return {"bytes_pending": pending / n}

    def _used_bytes(self) -> int:
        time.sleep(0.3)
        return dataset_bytes(self._wire.ask([("INFO", "memory")])[0].decode())


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, ConnectionError):
        work()
