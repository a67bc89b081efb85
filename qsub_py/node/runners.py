"""The keeper's side of a runner: start it, hand it tickets, read its results, see it die.

It is told what to do by `calls.CallRun`; this module knows its descriptors.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import mmap
import os
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from resource import struct_rusage
from typing import Any, Protocol

from qsub_py.node import tickets
from qsub_py.node.batch import Unfit, enter, environment, excuse
from qsub_py.node.processes import COOKIE, Tree, find_program, prefer_for_oom, send_signal
from qsub_py.node.wire import Channel
from qsub_py.node.workplace import Workplace

RunnerKey = tuple[str, str, int, tuple[str, ...], tuple[tuple[str, str], ...]]

_RUNNER = os.fsencode(Path(__file__).resolve().with_name("runner.py"))
_READ_BYTES = 1 << 18
_TICKET = struct.Struct("<I")
_SETUP = _TICKET.pack(tickets.SETUP)
#: Tickets in the pipe at once: 16 kB of its 64.
_MAX_TICKETS = 4096


class Caller(Protocol):
    """Who a runner works for."""

    def results(self, indexes: list[int], texts: list[bytes], bodies: list[bytes]) -> None:
        """Take finished calls."""

    def unfit(self, why: str) -> None:
        """The batch cannot be unpacked there."""

    def died(self, code: int, left: int) -> None:
        """The process is gone, with all that came from it but `left`."""


@dataclass(slots=True)
class Pipes:
    """The keeper's ends of what connects it to one runner."""

    control: socket.socket
    tickets_in: int
    tickets_out: int
    results: int
    mark_file: int
    theirs: dict[int, int]

    @classmethod
    def make(cls, mark_path: str) -> Pipes:
        """Open both ends; `theirs` is {descriptor in the runner: descriptor here}."""
        ours, control = socket.socketpair()
        # Both sides read the tickets through one open file, so neither may block on it.
        tickets_out, tickets_in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        results, results_in = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(results, False)
        mark_file = os.open(mark_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(mark_file, mmap.PAGESIZE)
        theirs = {
            tickets.CONTROL: control.detach(),
            tickets.TICKETS: tickets_out,
            tickets.RESULTS: results_in,
            tickets.MARK: mark_file,
        }
        return cls(ours, tickets_in, tickets_out, results, mark_file, theirs)

    def close_theirs(self) -> None:
        """Close what only the runner needs, so that its death is the end of the pipes."""
        os.close(self.theirs[tickets.CONTROL])
        os.close(self.theirs[tickets.RESULTS])

    def close(self) -> None:
        """Close our ends: a runner that still lives ends by it."""
        self.control.close()
        for fd in (self.tickets_in, self.tickets_out, self.results, self.mark_file):
            os.close(fd)


class Runner:
    """One process that runs calls."""

    def __init__(
        self, place: Workplace, serial: int, key: RunnerKey, gone: Callable[[Runner], None]
    ) -> None:
        self.key = key
        self.cookie = f"runner.{serial}".encode()
        self.mark_path = f"{place.node_dir}/marks/{serial}"
        self.log_path = place.out_path(f"runner-{serial}.log")
        self.ready = False
        self.retired = False
        self.idle_since = 0.0
        self.uid = ""
        #: How many it was given so far.
        self.calls = 0
        #: Of what batches its surroundings are: job, attempt, variables of the batch.
        self.dressed: tuple[object, ...] = ()
        self.caller: Caller | None = None
        self._place = place
        self._gone = gone
        self._buffer = bytearray()
        self._staying = False
        self._pipes = Pipes.make(self.mark_path)
        self._mark = mmap.mmap(self._pipes.mark_file, mmap.PAGESIZE)
        self._channel = Channel(self._pipes.control)
        try:
            self.tree = self._start()
        except BaseException:
            self._pipes.close_theirs()
            self._pipes.close()
            os.unlink(self.mark_path)
            raise
        self._pipes.close_theirs()
        prefer_for_oom(self.tree.pid)
        self._forks = (self.tree.pid, place.children.meter.spawned)
        place.poller.watch(self._channel.fileno(), self._nudged)

    def _start(self) -> Tree:
        python, cwd, umask, _, env = self.key
        config = {
            "keeper": os.getpid(),
            "log": self.log_path,
            "out_dir": f"{self._place.node_dir}/out",
            "culprit": str(Path(__file__).resolve().parents[1] / "culprit.py"),
            "cloudpickle": _cloudpickle_path(),
            "lib": f"{self._place.node_dir}/lib",
        }
        program = find_program(python or sys.executable, dict(env).get("PATH", os.defpath))
        if program is None:
            raise Unfit(f"no such Python: {python} on this node")
        argv = [program, _RUNNER, json.dumps(config).encode()]
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        log = os.open(self.log_path, flags, 0o600)
        before = os.umask(umask)
        try:
            enter(cwd)
            return self._place.children.start(
                argv,
                {**environment(dict(env)), COOKIE: self.cookie},
                path=program,
                cookie=self.cookie,
                moves={1: log, 2: log, **self._pipes.theirs},
                reaped=self._reaped,
            )
        except OSError as error:
            raise Unfit(excuse(error, python or sys.executable)) from error
        finally:
            os.umask(before)
            os.close(log)

    def set_up(self, header: dict[str, Any], body: bytes) -> None:
        """Give it a batch; `ready` turns true when it is unpacked."""
        self.ready = False
        self._talk(lambda: self._channel.send(header, body))
        with contextlib.suppress(BlockingIOError):
            os.write(self._pipes.tickets_in, _SETUP)

    def _talk(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError:
            return  # it is dying: the reaper will tell
        self._place.poller.ask(self._channel.fileno(), writing=self._channel.waiting)

    def issue(self, indexes: list[int]) -> list[int]:
        """Write tickets; return those that found no room."""
        count = min(len(indexes), _MAX_TICKETS)
        data = struct.pack(f"<{count}I", *indexes[:count])
        try:
            # A write of at most PIPE_BUF bytes is whole or not at all; a longer one may end
            # anywhere on a page, which is a multiple of a ticket.
            written = os.write(self._pipes.tickets_in, data)
        except BlockingIOError:
            written = 0
        return indexes[written // _TICKET.size :]

    def withdraw(self) -> list[int]:
        """Take back the tickets that it has not taken, also while it sits in C code."""
        found: list[int] = []
        setup = False
        while True:
            try:
                data = os.read(self._pipes.tickets_out, 4 * _MAX_TICKETS)
            except BlockingIOError:
                break
            if not data:
                break
            found += struct.unpack(f"<{len(data) // 4}I", data)
        setup = tickets.SETUP in found
        if setup:
            os.write(self._pipes.tickets_in, _SETUP)
        return [index for index in found if index != tickets.SETUP]

    def marked(self) -> tuple[int, int, float]:
        """Return (batch serial, index, start) of the call it began last."""
        serial, index, start, _ = tickets.MARK_LAYOUT.unpack_from(self._mark, 0)
        return serial, index, start

    def where(self, serial: int, index: int) -> dict[str, Any]:
        """Return what the agent needs to find the output of the call that runs."""
        where = {"path": self.log_path, "mark": self.mark_path, "serial": serial, "index": index}
        return {"log": where}

    def unreported_output(self) -> tuple[str, int, list[int] | None]:
        """Return (log, size, part) of what the call that was begun last has printed so far."""
        begin = tickets.MARK_LAYOUT.unpack_from(self._mark, 0)[3]
        try:
            size = os.stat(self.log_path).st_size - begin
        except OSError:
            size = 0
        return (self.log_path, size, [begin, size]) if size > 0 else ("", 0, None)

    def _nudged(self) -> None:
        if self._channel.waiting:
            self._talk(self._channel.flush)
        try:
            if not self._pipes.control.recv(4096):
                self._place.poller.leave(self._channel.fileno())
        except BlockingIOError:
            pass
        except OSError:
            self._place.poller.leave(self._channel.fileno())
        self.drain()

    def drain(self) -> None:
        """Read the results that are there, and hand them to the caller."""
        while True:
            try:
                data = os.read(self._pipes.results, _READ_BYTES)
            except BlockingIOError:
                break
            if not data:
                break
            self._buffer += data
        if self._buffer:
            self._deliver()
        self._stay(bool(self._buffer))

    def _stay(self, value: bool) -> None:
        """Watch the pipe itself while half a result is in it: the runner waits for room."""
        if value and not self._staying:
            self._place.poller.watch(self._pipes.results, self.drain)
        elif self._staying and not value:
            self._place.poller.leave(self._pipes.results)
        self._staying = value

    def _deliver(self) -> None:
        buffer, unpack, size = (
            self._buffer,
            tickets.RESULT_HEAD.unpack_from,
            tickets.RESULT_HEAD.size,
        )
        indexes: list[int] = []
        texts: list[bytes] = []
        bodies: list[bytes] = []
        refusal = None
        at, end = 0, len(buffer)
        while end - at >= size:
            index, text_len, body_len = unpack(buffer, at)
            start = at + size
            middle = start + text_len
            if middle + body_len > end:
                break
            at = middle + body_len
            if index == tickets.READY:
                self.ready = True
            elif index == tickets.UNFIT:
                refusal = bytes(buffer[middle:at]).decode(errors="replace")
            else:
                indexes.append(index)
                texts.append(bytes(buffer[start:middle]))
                bodies.append(bytes(buffer[middle:at]))
        del buffer[:at]
        caller = self.caller
        if caller is not None and indexes:
            caller.results(indexes, texts, bodies)
        if caller is not None and refusal is not None:
            self.ready = True
            caller.unfit(refusal)

    def sweep_strays(self) -> None:
        """Kill what calls left behind: another job comes. The runner itself lives on."""
        meter = self._place.children.meter
        if not meter.since(*self._forks)[1]:
            return
        for pid, start in self.tree.members():
            if pid != self.tree.pid:
                send_signal(pid, 9, start)
        self._forks = (meter.last_pid(), meter.spawned)

    def retire(self) -> None:
        """Let it go: it ends by the end of its pipes, or by force."""
        if not self.retired:
            self.retired = True
            self.tree.destroy()

    def _reaped(self, status: int, _: struct_rusage) -> None:
        code = os.waitstatus_to_exitcode(status)
        self.drain()
        self._place.clear(self.tree, lambda left: self._buried(code, left))

    def _buried(self, code: int, left: int) -> None:
        self.retired = True
        caller, self.caller = self.caller, None
        if caller is not None:
            caller.died(code, left)
        self._place.poller.leave(self._channel.fileno())
        self._stay(False)
        self._mark.close()
        self._pipes.close()
        os.unlink(self.mark_path)
        with contextlib.suppress(OSError):
            if not os.stat(self.log_path).st_size:
                os.unlink(self.log_path)
        self._gone(self)

    def last_words(self) -> str:
        """Return the last line of its log."""
        try:
            text = Path(self.log_path).read_text(errors="replace").strip()
        except OSError:
            return ""
        return text.splitlines()[-1][:300] if text else ""


def _cloudpickle_path() -> str:
    """Return where our cloudpickle lies, for an interpreter that has none; "" if nowhere."""
    spec = importlib.util.find_spec("cloudpickle")
    return spec.origin or "" if spec else ""
