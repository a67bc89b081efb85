"""Start processes, find all that descend from one, and signal them.

A tree is a session plus whatever left the session but carries the tree's cookie in its
environment. The keeper is a child subreaper, so nothing can hide behind a dead parent; a
process that both leaves the session and clears its environment is the documented escape.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence

COOKIE = b"QSUB_COOKIE"
_COOKIE_IS = COOKIE + b"="
_EXEC_LOOKS = 5
_PROC_BYTES = 1 << 16
#: The parent of the kernel's own threads, which have no environment.
_KTHREADD = 2
_PR_SET_CHILD_SUBREAPER = 36
#: Look at single pids in a range this wide; beyond it listing /proc is cheaper.
_NARROW = 256
#: So long the pids cannot have come round (32,768 of them at least).
_YOUNG_S = 1.0
#: On a machine that forks without pause the search must end all the same.
_LOOKS = 100
_ALL_SIGNALS = sorted(set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP})


def become_subreaper() -> None:
    """Make orphans of our descendants our children (PR_SET_CHILD_SUBREAPER(2const))."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def boot_id() -> str:
    """Return the kernel's name of this boot."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def read_proc(path: str) -> bytes | None:
    """Return a small file of /proc, None when its process is gone or another user's."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = part = os.read(fd, _PROC_BYTES)
        while len(part) == _PROC_BYTES:
            part = os.read(fd, _PROC_BYTES)
            data += part
        return data
    except OSError:
        return None
    finally:
        os.close(fd)


def stat_of(pid: int) -> tuple[str, int, int, int] | None:
    """Return (state, parent, session, start time in ticks) of a process, None if gone."""
    data = read_proc(f"/proc/{pid}/stat")
    if not data:
        return None
    # The name may hold spaces and parentheses: what follows the last one is plain.
    fields = data.rpartition(b")")[2].split()
    return fields[0].decode(), int(fields[1]), int(fields[3]), int(fields[19])


def all_pids() -> list[int]:
    """Return every process of this pid namespace."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def cookie_of(pid: int, parent: int) -> bytes:
    """Return the cookie in the environment that `pid` was started with, b"" without one."""
    data = b""
    for _ in range(_EXEC_LOOKS):
        found = read_proc(f"/proc/{pid}/environ")
        if found is None:
            return b""
        data = found
        if data or _KTHREADD in (pid, parent):
            break
        # In the middle of execve a process shows no environment for some 100 us.
        time.sleep(0.0002)
    for entry in data.split(b"\0"):
        if entry.startswith(_COOKIE_IS):
            return entry[len(_COOKIE_IS) :]
    return b""


def send_signal(pid: int, number: int, start: int) -> bool:
    """Signal `pid` if it is still the process that started at `start`; say whether it was."""
    if not hasattr(os, "pidfd_open"):
        return _send_without_handle(pid, number, start)
    try:
        handle = os.pidfd_open(pid)
    except OSError as error:
        if error.errno == errno.ESRCH:
            return False
        return _send_without_handle(pid, number, start)
    try:
        found = stat_of(pid)
        if found is None or found[3] != start:
            return False
        signal.pidfd_send_signal(handle, number)
        return True
    except OSError:
        return False
    finally:
        os.close(handle)


def _send_without_handle(pid: int, number: int, start: int) -> bool:
    """The same on a kernel before 5.3, or without descriptors left: a tiny race remains."""
    found = stat_of(pid)
    if found is None or found[3] != start:
        return False
    with contextlib.suppress(OSError):
        os.kill(pid, number)
        return True
    return False


def prefer_for_oom(pid: int) -> None:
    """Let the kernel, short of memory, rather take this process than who watches over it."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "w") as file:
        file.write("500")


class ForkMeter:
    """Tells cheaply whether anybody forked since a moment.

    Pids are given out in order and /proc/loadavg names the last one. When it is our own
    spawn's, nothing can have escaped from it, and /proc need not be searched: 3 us instead
    of milliseconds. (/proc/PID/task/TID/children would do, but not all kernels have it.)
    """

    def __init__(self) -> None:
        self._fd = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
        self.spawned = 0
        self._own: dict[int, int] = {}

    def spawned_one(self, pid: int) -> None:
        """Note a spawn of ours."""
        self.spawned += 1
        self._own[pid] = self.spawned
        if len(self._own) > 4 * _NARROW:
            for old in list(self._own)[: 2 * _NARROW]:
                del self._own[old]

    def last_pid(self) -> int:
        """Return the pid given out last."""
        return int(os.pread(self._fd, 128, 0).split()[-1])

    def since(self, pid: int, ordinal: int) -> tuple[int, Sequence[int]]:
        """Return the last pid, and all that may be younger than our `ordinal`th spawn `pid`."""
        last = self.last_pid()
        if last - pid == self.spawned - ordinal:
            return last, ()
        pids = self.between(pid, last)
        if isinstance(pids, range):
            return last, [one for one in pids if self._own.get(one, 0) <= ordinal]
        return last, pids

    @staticmethod
    def between(pid: int, last: int) -> Sequence[int]:
        """Return the pids given out after `pid` up to `last`, or all when they wrapped."""
        if 0 <= last - pid <= _NARROW:
            return range(pid + 1, last + 1)
        return all_pids()


class Tree:
    """A main process in a session of its own, and everything that came from it."""

    def __init__(self, meter: ForkMeter, pid: int, cookie: bytes) -> None:
        self.pid = pid
        self.cookie = cookie
        self._meter = meter
        self._ordinal = meter.spawned
        self._keeper = os.getpid()
        self._born = time.monotonic()

    def members(self) -> list[tuple[int, int]]:
        """Return (pid, start) of all its live processes."""
        return self._search(self._meter.last_pid(), all_pids())

    def leftovers(self) -> list[tuple[int, int]]:
        """Return some of what outlived the main process; cheap when it never forked."""
        if time.monotonic() - self._born > _YOUNG_S:
            return self.members()
        last, pids = self._meter.since(self.pid, self._ordinal)
        return self._search(last, pids) if any(map(self._may_be_root, pids)) else []

    def _may_be_root(self, pid: int) -> bool:
        """Whether it may be the oldest of what is left: alive it is our child by now.

        Strangers are told by their parent alone, without a look at their environment.
        """
        stat = stat_of(pid)
        return stat is None or stat[0] in "ZX" or stat[1] == self._keeper

    def _search(self, last: int, pids: Iterable[int]) -> list[tuple[int, int]]:
        """Return its live processes among `pids`, which reach up to the pid `last`.

        One that we saw may have forked and died before we looked closer (the double fork of
        a daemon); so an empty hand counts only when nobody forked meanwhile.
        """
        for _ in range(_LOOKS):
            found = self._belonging(pids)
            before, last = last, self._meter.last_pid()
            if found or last == before:
                return found
            pids = self._meter.between(before, last)
        return []

    def _belonging(self, pids: Iterable[int]) -> list[tuple[int, int]]:
        found = []
        for pid in pids:
            stat = stat_of(pid)
            if stat is None or stat[0] in "ZX":
                continue
            if stat[2] == self.pid or cookie_of(pid, stat[1]) == self.cookie:
                found.append((pid, stat[3]))
        return found

    def signal(self, number: int, *, whom: str = "all") -> None:
        """Send a signal once to each process, or to the "main" one, or to the "rest"."""
        for pid, start in self.members():
            if whom == "all" or (pid == self.pid) == (whom == "main"):
                send_signal(pid, number, start)

    def freeze(self) -> None:
        """Stop all of it; look again until no new process turned up meanwhile."""
        stopped: set[tuple[int, int]] = set()
        for _ in range(20):
            fresh = set(self.members()) - stopped
            if not fresh:
                return
            for pid, start in fresh:
                send_signal(pid, signal.SIGSTOP, start)
            stopped |= fresh

    def thaw(self) -> None:
        """Let all of it go on."""
        self.signal(signal.SIGCONT)

    def destroy(self) -> int:
        """Send SIGKILL to all of it until a look finds no new process; return how many."""
        killed: set[tuple[int, int]] = set()
        for _ in range(20):
            fresh = set(self.members()) - killed
            if not fresh:
                break
            for pid, start in fresh:
                send_signal(pid, signal.SIGKILL, start)
            killed |= fresh
        return len(killed)


def spawn(
    argv: list[bytes],
    env: Mapping[bytes, bytes],
    *,
    path: bytes,
    moves: Sequence[tuple[int, int]],
) -> int:
    """Start `path` in a new session with descriptors moved (from, to); return its pid.

    The caller has set directory and umask: one thread, so they are the process's own.
    Raise OSError as execve does. Signals are unblocked and back to their defaults.
    """
    actions = [(os.POSIX_SPAWN_DUP2, source, target) for source, target in moves]
    try:
        return os.posix_spawn(
            path,
            argv,
            env,
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=_ALL_SIGNALS,
        )
    except NotImplementedError:
        return _spawn_slowly(argv, env, path, moves)


def _spawn_slowly(
    argv: list[bytes],
    env: Mapping[bytes, bytes],
    path: bytes,
    moves: Sequence[tuple[int, int]],
) -> int:
    """Do it with subprocess, for a Python built against a C library without SETSID."""
    names = {target: source for source, target in moves}
    extra = [target for target in names if target > 2]
    for target in extra:
        os.dup2(names[target], target, inheritable=True)
    try:
        child = subprocess.Popen(
            argv,
            executable=path,
            env=env,
            stdin=names[0],
            stdout=names[1],
            stderr=names[2],
            pass_fds=extra,
            start_new_session=True,
        )
    finally:
        for target in extra:
            os.dup2(names[0], target, inheritable=False)
    child.returncode = 0  # The keeper reaps it; Popen must neither wait nor warn.
    return child.pid


def find_program(name: str, search: str) -> bytes | None:
    """Return the path of `name`, looked up on `search` unless it has a slash."""
    if "/" in name:
        return os.fsencode(name)
    found = shutil.which(name, path=search)
    return os.fsencode(found) if found else None
