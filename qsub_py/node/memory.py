"""Keep tasks to the memory they asked for: look once a second at what their processes use.

A limit holds for all processes of a task together. Where a cgroup can be had it keeps the limit,
and the looks only learn of it. What counts is the proportional set size
(shared pages are divided among those that share them); it is dear to read, so it is only read
when the resident sizes add up to more than the limit, process by process between other work.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from qsub_py.node.leaves import Cgroups, Leaf
from qsub_py.node.processes import Tree, all_pids, cookie_of, read_proc

Clock = Callable[[], float]
#: How long the keeper may read on without looking at anything else.
_PIECE_S = 0.005
#: Reading proportional sizes may take this part of our time.
_SHARE = 0.05
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True, frozen=True)
class Process:
    """One process, as /proc/PID/stat tells."""

    pid: int
    parent: int
    session: int
    start: int
    rss: int


def processes() -> dict[int, Process]:
    """Return all live processes by pid."""
    found = {}
    for pid in all_pids():
        data = read_proc(f"/proc/{pid}/stat")
        if not data:
            continue
        part = data.rpartition(b")")[2].split()
        if part[0] not in b"ZX":
            found[pid] = Process(pid, int(part[1]), int(part[3]), int(part[19]),
                                 int(part[21]) * _PAGE)  # fmt: skip
    return found


def proportional(process: Process) -> int:
    """Return the proportional set size of a process, what is swapped out included."""
    data = read_proc(f"/proc/{process.pid}/smaps_rollup")
    if not data:
        return process.rss  # older than Linux 4.14, gone, or not ours to look at
    kilobytes = 0
    for line in data.splitlines():
        if line.startswith((b"Pss:", b"SwapPss:")):
            kilobytes += int(line.split()[1])
    return kilobytes * 1024


@dataclass(slots=True)
class Watched:
    """A tree with a limit; `over` is called with what it uses when that is more."""

    tree: Tree
    limit: int
    over: Callable[[int], None]
    #: The most that was seen, exactly.
    peak: int = 0
    members: list[Process] = field(default_factory=list)
    #: A measurement that goes on: what is left to read, what is counted.
    left: list[Process] = field(default_factory=list)
    counted: int = 0
    spent_s: float = 0.0
    not_before: float = 0.0
    leaf: Leaf | None = None
    #: What the kernel had killed before.
    kills: int = 0

    def was_killed(self) -> bool:
        """Whether the kernel killed some of it for the limit."""
        return self.leaf is not None and self.leaf.kills() > self.kills

    def used(self) -> int:
        """Return the most that is known to have been used."""
        return max(self.peak, self.limit if self.was_killed() else 0)

    def read_on(self, clock: Clock) -> bool:
        """Read proportional sizes for some milliseconds; return whether all are read."""
        began = clock()
        while self.left:
            self.counted += proportional(self.left.pop())
            if clock() - began > _PIECE_S:
                break
        self.spent_s += clock() - began
        if self.left:
            return False
        self.not_before = clock() + self.spent_s * (1 / _SHARE - 1)
        return True


class MemoryWatch:
    """The trees of a node that have a memory limit."""

    def __init__(
        self,
        clock: Clock,
        later: Callable[[float, Callable[[], None]], object],
        cgroups: Cgroups,
    ) -> None:
        self._clock, self._later, self._cgroups = clock, later, cgroups
        self._watched: dict[int, Watched] = {}
        #: By main process; a runner keeps its leaf from batch to batch.
        self._leaves: dict[int, Leaf] = {}
        #: (pid, start) -> its cookie, of our descendants that left their session.
        self._cookies: dict[tuple[int, int], bytes] = {}

    def watch(self, tree: Tree, limit: int, over: Callable[[int], None]) -> Watched:
        """Watch a tree until `leave`."""
        watched = Watched(tree, limit, over, leaf=self._leaf(tree))
        if watched.leaf is not None:
            watched.kills = watched.leaf.kills()
            watched.leaf.limit(limit)
        self._watched[tree.pid] = watched
        return watched

    def _leaf(self, tree: Tree) -> Leaf | None:
        leaf = self._leaves.get(tree.pid)
        if leaf is None and (leaf := self._cgroups.leaf()) is not None:
            self._leaves[tree.pid] = leaf
            inside: set[tuple[int, int]] = set()
            # What forks while it is moved is found by the next look.
            while fresh := set(tree.members()) - inside:
                for pid, _ in fresh:
                    leaf.admit(pid)
                inside |= fresh
        return leaf

    def leave(self, tree: Tree) -> None:
        """Watch a tree no more."""
        watched = self._watched.pop(tree.pid, None)
        if watched is not None and watched.leaf is not None:
            watched.leaf.limit(None)

    def close(self) -> None:
        """Remove the leaves; call when all trees have ended."""
        self._watched.clear()
        self._tidy()

    def _tidy(self) -> None:
        """Remove the leaves of trees that are gone."""
        for pid, leaf in list(self._leaves.items()):
            if pid not in self._watched and leaf.remove():
                del self._leaves[pid]

    def tick(self) -> None:
        """Look at all trees; call once a second."""
        self._tidy()
        if not self._watched:
            self._cookies.clear()
            return
        self._gather()
        moment = self._clock()
        for watched in list(self._watched.values()):
            if watched.was_killed():
                watched.over(watched.used())
                continue
            resident = sum(process.rss for process in watched.members)
            if resident > watched.limit and not watched.left and moment >= watched.not_before:
                watched.left, watched.counted = list(watched.members), 0
                watched.spent_s = 0.0
                self._measure(watched)

    def _measure(self, watched: Watched) -> None:
        if self._watched.get(watched.tree.pid) is not watched:
            return
        if not watched.read_on(self._clock):
            self._later(self._clock(), lambda: self._measure(watched))
            return
        watched.peak = max(watched.peak, watched.counted)
        if watched.counted > watched.limit:
            watched.over(watched.counted)

    def _gather(self) -> None:
        """Find the members of all trees in one look at /proc."""
        for watched in self._watched.values():
            watched.members = []
        by_cookie = {watched.tree.cookie: watched for watched in self._watched.values()}
        found, known = processes(), self._cookies
        ours: dict[int, bool] = {os.getpid(): True, 0: False, 1: False}
        self._cookies = {}
        for process in found.values():
            owner = self._watched.get(process.session)
            if owner is None and _descends(process, found, ours):
                key = (process.pid, process.start)
                cookie = known.get(key) or cookie_of(process.pid, process.parent)
                self._cookies[key] = cookie
                owner = by_cookie.get(cookie)
            if owner is not None:
                owner.members.append(process)


def _descends(process: Process, found: dict[int, Process], ours: dict[int, bool]) -> bool:
    """Whether a process comes from us; `ours` remembers what is known of its ancestors."""
    path: list[int] = []
    pid = process.pid
    while pid not in ours and pid in found and len(path) < len(found):
        path.append(pid)
        pid = found[pid].parent
    answer = ours.get(pid, False)
    for one in path:
        ours[one] = answer
    return answer and process.pid != os.getpid()
