"""The keeper: the process that owns all processes of a node's tasks.

Single-threaded, standard library only, and it starts fast. It obeys one agent over a unix
socket (wire.py, notes in CONTRIBUTING.rst) and outlives it; its journal outlives both.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from qsub_py.node import edition
from qsub_py.node.agent_line import AgentLine, Supervisor, log
from qsub_py.node.batch import Batch, Commons, Verdict
from qsub_py.node.history import recover
from qsub_py.node.journal import Journal
from qsub_py.node.ledger import Ledger
from qsub_py.node.processes import become_subreaper
from qsub_py.node.runner_pool import RunnerPool
from qsub_py.node.slots import Slots
from qsub_py.node.wire import VERSION, Header
from qsub_py.node.workplace import Timer, Workplace, now, reserve_low_descriptors

_TICK_S = 1.0
_LOG_BYTES = 1 << 20
_STOP_S = 3.0


class Keeper:
    """The loop, and what each order does."""

    def __init__(
        self,
        node_dir: str,
        agent_argv: Sequence[str],
        silence_s: float,
        *,
        has_cgroups: bool = True,
    ) -> None:
        journal = Journal(f"{node_dir}/journal")
        self._ledger = Ledger(journal, self._post)
        self._line: AgentLine | None = None
        recover(self._ledger, journal.read(), node_dir)
        self._ledger.compact()
        self._place = Workplace(node_dir, self._ledger, has_cgroups=has_cgroups)
        max_idle = (os.cpu_count() or 1) + 4
        self._pool = RunnerPool(self._place, max_idle, time.time_ns())
        self._slots = Slots(self._place, self._pool)
        self._commons = Commons()
        self._fence_timer: Timer | None = None
        self._stopped = False
        self._tick_at = 0.0
        self._wakeup = self._hear_signals()
        self._line = AgentLine(self._place, self._obey)
        self._supervisor = Supervisor(self._place, self._line, agent_argv, silence_s)

    def _hear_signals(self) -> socket.socket:
        """SIGCHLD and SIGTERM wake the loop through a socket (signal.set_wakeup_fd)."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        signal.set_wakeup_fd(theirs.detach(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        self._place.poller.watch(ours.fileno(), self._woken)
        return ours

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while len(self._wakeup.recv(4096)) == 4096:
                pass
        self._place.children.reap()

    def _post(self, frame: bytes) -> None:
        if self._line is not None:
            self._line.post(frame)

    def run(self) -> None:
        """Work until told to stop."""
        while not self._stopped:
            guarded(self._turn)
        self._end_all()

    def _turn(self) -> None:
        """Wait, do what came up, write the journal, then tell the agent."""
        place = self._place
        guarded(lambda: place.poller.wait(self._patience_s()))
        moment = now()
        for action in place.timers.due(moment):
            guarded(action)
        if moment >= self._tick_at:
            self._tick_at = moment + _TICK_S
            guarded(self._tick)
        self._ledger.gathered(moment)
        assert self._line is not None
        self._line.flush()

    def _patience_s(self) -> float:
        """Return how long to wait: to the next timer, at most a second.

        Timers are of CLOCK_BOOTTIME and epoll's wait is not: after a suspend of the host
        this bounds how late a fence is seen.
        """
        moment = now()
        due = min(self._place.timers.next_at() or self._tick_at, self._tick_at)
        due = min(due, self._ledger.due_at(moment))
        return min(max(due - moment, 0.0), _TICK_S)

    def _tick(self) -> None:
        self._place.children.reap()
        self._pool.retire_idle()
        self._place.oom.tick()
        self._place.memory.tick()
        os.chdir("/")  # a task's directory must not stay busy because of us
        self._supervisor.look()

    # Orders of the agent.

    def _obey(self, header: Header, body: bytes) -> None:
        order = _ORDERS.get(header.get("op", ""))
        try:
            if order is None:
                raise ValueError(f"no such order: {header.get('op')!r}")
            order(self, header, body)
        except Exception as error:
            log(f"order {header.get('op')!r}:\n{traceback.format_exc()}")
            self._ledger.tell({"op": "error", "text": f"{type(error).__name__}: {error}"})

    def _hello(self, header: Header, _: bytes) -> None:
        if header.get("version", VERSION) > VERSION:
            log(f"the agent speaks version {header['version']}, this keeper {VERSION}")
        self._supervisor.learn(header.get("argv") or ())
        state = {"op": "state", "version": VERSION, "boot_id": self._ledger.boot_id}
        state["edition"] = edition.name()
        self._ledger.tell({**state, "batches": self._slots.states(), "ended": []})
        self._ledger.tell_again()

    def _run(self, header: Header, body: bytes) -> None:
        self._slots.run(Batch.from_header(header, body, self._commons))

    def _kill(self, header: Header, _: bytes) -> None:
        verdict = Verdict(header.get("state", "CANCELLED"), header["why"], header["grace_s"])
        self._slots.slot(header["slot"]).kill(_positions(header), verdict)

    def _signal(self, header: Header, _: bytes) -> None:
        head = self._slots.slot(header["slot"]).head
        if head is not None:
            head.signal(_positions(header), header["signal"], header.get("whom", "all"))

    def _suspend(self, header: Header, _: bytes) -> None:
        slot = self._slots.slot(header["slot"])
        if header["op"] == "suspend":
            slot.suspend(_positions(header))
        elif slot.head is not None:
            slot.head.suspend(False)

    def _limit(self, header: Header, _: bytes) -> None:
        self._slots.slot(header["slot"]).limit(float(header["limit_s"]))

    def _takeback(self, header: Header, _: bytes) -> None:
        self._slots.slot(header["slot"]).take_back()

    def _verdict(self, header: Header, _: bytes) -> None:
        if header["do"] != "kill":
            raise ValueError(f"no such verdict: {header['do']!r}")
        self._slots.slot(header["slot"]).drop()

    def _forget(self, header: Header, _: bytes) -> None:
        self._ledger.forget(header["seqs"])

    def _fence(self, header: Header, _: bytes) -> None:
        """Take a new fence; one that is ahead opens what lapsed."""
        fence = self._place.fence
        fence.boot_at = float(header["boot_at"])
        if self._fence_timer is not None:
            self._fence_timer.cancel()
        self._fence_timer = self._place.timers.at(fence.boot_at, self._slots.lapse)
        if fence.is_open(now()):
            self._slots.renew()

    def _stop(self, *_: object) -> None:
        self._stopped = True

    def _end_all(self) -> None:
        """Kill what is left and wait for it, within reason."""
        assert self._line is not None
        self._line.close()
        trees = [tree for head in self._slots.heads() if (tree := head.tree()) is not None]
        trees += [runner.tree for runner in self._pool.running]
        for tree in trees:
            tree.destroy()
        deadline = time.monotonic() + _STOP_S
        while any(tree.members() for tree in trees) and time.monotonic() < deadline:
            time.sleep(0.005)
        self._place.memory.close()
        with contextlib.suppress(OSError):
            os.unlink(f"{self._place.node_dir}/keeper.pid")


_ORDERS: dict[str, Callable[[Keeper, Header, bytes], None]] = {
    "hello": Keeper._hello,
    "run": Keeper._run,
    "kill": Keeper._kill,
    "signal": Keeper._signal,
    "suspend": Keeper._suspend,
    "resume": Keeper._suspend,
    "limit": Keeper._limit,
    "takeback": Keeper._takeback,
    "verdict": Keeper._verdict,
    "forget": Keeper._forget,
    "fence": Keeper._fence,
    "stop": Keeper._stop,
}


def guarded(action: Callable[[], None]) -> None:
    """Do it; log what goes wrong: one bad turn must not cost the node its tasks."""
    try:
        action()
    except Exception:
        log(traceback.format_exc())


def _positions(header: Header) -> set[int] | None:
    return None if header.get("pos") is None else set(header["pos"])


def _prepare(node_dir: str) -> None:
    """Make the state directory, ours alone."""
    os.umask(0o077)
    for path in (node_dir, f"{node_dir}/out", f"{node_dir}/marks"):
        os.makedirs(path, mode=0o700, exist_ok=True)
    if os.stat(node_dir).st_uid != os.getuid():
        raise SystemExit(f"keeper: {node_dir} belongs to somebody else")
    os.chmod(node_dir, 0o700)
    os.chdir("/")


def _lock(node_dir: str) -> bool:
    """Take the node; the lock falls with our process. False when another keeper has it."""
    fd = os.open(f"{node_dir}/keeper.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    edition.write_pid(Path(node_dir, "keeper.pid"))
    return True


def _detach(node_dir: str) -> None:
    """Leave the starter: a child of init, a session of our own, output to the log."""
    if os.fork():
        os._exit(0)
    os.setsid()
    path = f"{node_dir}/keeper.log"
    with contextlib.suppress(OSError):
        if os.stat(path).st_size > _LOG_BYTES:
            os.rename(path, path + ".1")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDWR)
    for source, target in ((null, 0), (fd, 1), (fd, 2)):
        os.dup2(source, target)
    os.closerange(3, max(fd, null) + 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the keeper of a node until it is told to stop."""
    parser = argparse.ArgumentParser(prog="qsub_py.node.keeper")
    parser.add_argument("node_dir")
    parser.add_argument("--agent-argv", type=json.loads, default=[], metavar="JSON")
    parser.add_argument("--silence", type=float, default=10.0, metavar="SECONDS")
    parser.add_argument("--daemon", action="store_true")
    parser.add_argument("--no-cgroups", action="store_true")
    options = parser.parse_args(argv)
    node_dir = os.path.abspath(options.node_dir)
    _prepare(node_dir)
    if options.daemon:
        _detach(node_dir)
    reserve_low_descriptors()
    edition.hold()
    if not _lock(node_dir):
        return 0
    become_subreaper()
    Keeper(node_dir, options.agent_argv, options.silence, has_cgroups=not options.no_cgroups).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
