"""What all work on a node shares: the clock, timers, children, the fence.

Everything here is driven by the keeper's one loop; nothing blocks and nothing is a thread.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import select
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from resource import struct_rusage

from qsub_py.node.leaves import Cgroups
from qsub_py.node.ledger import Ledger
from qsub_py.node.memory import MemoryWatch
from qsub_py.node.processes import ForkMeter, Tree, spawn

Reaped = Callable[[int, struct_rusage], None]


def now() -> float:
    """Return CLOCK_BOOTTIME seconds: the clock of fences, which counts a suspended host."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Timer:
    """Something to do at a time, unless cancelled before."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Do nothing when the time comes."""
        self.action = None


class Timers:
    """The times at which something is to be done."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = 0

    def at(self, when: float, action: Callable[[], None]) -> Timer:
        """Call `action` at CLOCK_BOOTTIME `when`."""
        timer = Timer(action)
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, timer))
        return timer

    def due(self, moment: float) -> list[Callable[[], None]]:
        """Take out what is due."""
        found = []
        while self._heap and (self._heap[0][0] <= moment or self._heap[0][2].action is None):
            action = heapq.heappop(self._heap)[2].action
            if action is not None:
                found.append(action)
        return found

    def next_at(self) -> float | None:
        """Return the time of the next action."""
        while self._heap and self._heap[0][2].action is None:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None


class Children:
    """Our child processes; each tells its owner how it ended."""

    def __init__(self) -> None:
        self.meter = ForkMeter()
        self._owners: dict[int, Reaped] = {}
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    def start(
        self,
        argv: list[bytes],
        env: Mapping[bytes, bytes],
        *,
        path: bytes,
        cookie: bytes,
        moves: Mapping[int, int],
        reaped: Reaped,
    ) -> Tree:
        """Start a process with descriptors {target: source}, input from /dev/null; see `spawn`."""
        pairs = [(self._null, 0), *((source, target) for target, source in moves.items())]
        pid = spawn(argv, env, path=path, moves=pairs)
        self.meter.spawned_one(pid)
        self._owners[pid] = reaped
        return Tree(self.meter, pid, cookie)

    def reap(self) -> None:
        """Collect who died and tell the owners. Orphans have none."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            owner = self._owners.pop(pid, None)
            if owner is not None:
                owner(status, usage)


def reserve_low_descriptors() -> None:
    """Fill the descriptors below 10, so that none of ours lies where a child wants one."""
    fd = 0
    while fd < 10:
        fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.close(fd)


class Fence:
    """The time until which this node has a right to its attempts."""

    def __init__(self) -> None:
        self.boot_at: float | None = None

    def is_open(self, moment: float) -> bool:
        """Whether something may start or run."""
        return self.boot_at is not None and moment < self.boot_at


class OomWatch:
    """Tells whether the kernel killed something for memory in the last seconds.

    /proc/vmstat counts for the whole host (`oom_kill`, since Linux 4.13), so this is only
    asked about a task that died by a SIGKILL which nobody we know of has sent.
    """

    def __init__(self) -> None:
        self._counts = [self._read()] * 3

    @staticmethod
    def _read() -> int:
        with contextlib.suppress(OSError), open("/proc/vmstat", "rb") as file:
            for line in file:
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
        return 0

    def tick(self) -> None:
        """Call once a second."""
        self._counts = [*self._counts[1:], self._read()]

    def recently(self) -> bool:
        """Whether the count rose within the last two to three seconds."""
        return self._read() > self._counts[0]


class Hold:
    """Whether a tree may run, and how long it has run.

    Its user suspends it, the fence pauses it; it runs when neither does, and only then its
    time counts.
    """

    def __init__(self, tree: Tree, since: float) -> None:
        self._tree = tree
        self._since = since
        self._ran = 0.0
        self.suspended = False
        self.paused = False

    @property
    def stopped(self) -> bool:
        """Whether it stands still."""
        return self.suspended or self.paused

    def ran_s(self, moment: float) -> float:
        """Return the seconds it has run, without those it stood still."""
        return self._ran + (0.0 if self.stopped else moment - self._since)

    def restart(self, since: float) -> None:
        """Count from `since` on: a new task in the same process."""
        self._since, self._ran = since, 0.0

    def suspend(self, value: bool) -> None:
        """Stop it for its user, or let it go on."""
        self._change(value, self.paused)

    def pause(self, value: bool) -> None:
        """Stop it for the fence, or let it go on."""
        self._change(self.suspended, value)

    def _change(self, suspended: bool, paused: bool) -> None:
        was, moment = self.stopped, now()
        if not was:
            self._ran = max(0.0, self.ran_s(moment))
        self.suspended, self.paused = suspended, paused
        self._since = moment
        if self.stopped and not was:
            self._tree.freeze()
        elif was and not self.stopped:
            self._tree.thaw()


class Poller:
    """The descriptors that are watched, and what to call when they are ready."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._actions: dict[int, Callable[[], None]] = {}

    def watch(self, fd: int, action: Callable[[], None]) -> None:
        """Call `action` whenever `fd` is readable, at its end, or writable when asked for."""
        self._actions[fd] = action
        self._epoll.register(fd, select.EPOLLIN)

    def ask(self, fd: int, *, writing: bool) -> None:
        """Say whether to call also when `fd` is writable."""
        self._epoll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if writing else 0))

    def leave(self, fd: int) -> None:
        """Watch `fd` no more; call before closing it."""
        if self._actions.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def wait(self, timeout_s: float) -> None:
        """Wait for at most `timeout_s` and call what is ready."""
        for fd, _ in self._epoll.poll(timeout_s):
            action = self._actions.get(fd)
            if action is not None:
                action()


@dataclass(slots=True)
class Workplace:
    """The things handed to all that runs tasks."""

    node_dir: str
    ledger: Ledger
    timers: Timers = field(default_factory=Timers)
    children: Children = field(default_factory=Children)
    fence: Fence = field(default_factory=Fence)
    poller: Poller = field(default_factory=Poller)
    oom: OomWatch = field(default_factory=OomWatch)
    has_cgroups: bool = True
    memory: MemoryWatch = field(init=False)

    def __post_init__(self) -> None:
        cgroups = Cgroups(self.node_dir, is_wanted=self.has_cgroups)
        self.memory = MemoryWatch(now, self.timers.at, cgroups)

    def out_path(self, name: str) -> str:
        """Return the path of an output file of ours."""
        return f"{self.node_dir}/out/{name}"

    def clear(self, tree: Tree, done: Callable[[int], None], *, since: float = 0.0) -> None:
        """Kill what outlived a main process; call `done` with how many could not be killed.

        A killed process takes a moment to go, one in the kernel's D state may take for ever.
        """
        left = tree.leftovers() if since == 0.0 else tree.members()
        if not left:
            done(0)
            return
        moment = now()
        since = since or moment
        if moment - since > UNKILLABLE_S:
            done(len(left))
            return
        tree.destroy()
        wait = 0.002 if moment - since < 0.1 else 0.1
        self.timers.at(moment + wait, lambda: self.clear(tree, done, since=since))


#: After this long a process that SIGKILL does not end is given up, and told of.
UNKILLABLE_S = 60.0
