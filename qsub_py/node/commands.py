"""Run a batch of commands: start, limit, measure and end one after another.

Output goes straight to files; a task is over when its main process was reaped and nothing
that came from it is left.
"""

from __future__ import annotations

import os
import signal
import stat
from collections import deque
from dataclasses import dataclass
from resource import struct_rusage
from typing import Any

from qsub_py.node.batch import LONG_S, Batch, Over, Unfit, Verdict, environment, excuse
from qsub_py.node.judge import judge
from qsub_py.node.processes import COOKIE, Tree, find_program, prefer_for_oom, stat_of
from qsub_py.node.wire import Header, Item
from qsub_py.node.workplace import Hold, Timer, Workplace, now

Task = dict[str, Any]
#: A FIFO without a reader fails at once instead of stopping the keeper.
_OPEN = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


@dataclass(slots=True)
class Output:
    """Where a task's output goes; `offset` is what an appended file held before."""

    path: str
    is_default: bool
    offset: int = 0

    def settle(self) -> tuple[str, int, list[int] | None]:
        """Return (path, size, part) at the end; an empty default file is removed."""
        try:
            size = os.stat(self.path).st_size
            if self.is_default and not size:
                os.unlink(self.path)
                return "", 0, None
        except OSError:
            return self.path, 0, None
        return self.path, size, [self.offset, size - self.offset] if self.offset else None


@dataclass(slots=True)
class Running:
    """The task that runs."""

    pos: int
    tree: Tree
    hold: Hold
    started: float
    output: Output
    timer: Timer
    told: bool = False
    verdict: Verdict | None = None
    dropped: bool = False
    user_signal: int = 0
    ladder: Timer | None = None


class CommandRun:
    """A batch of commands on its slot."""

    def __init__(self, place: Workplace, batch: Batch, over: Over) -> None:
        self.batch = batch
        self._place = place
        self._over = over
        assert isinstance(batch.tasks, list)
        allowed = batch.entry.open
        self._waiting: deque[Task] = deque(t for t in batch.tasks if t["pos"] in allowed)
        self._current: Running | None = None
        self._env = environment(batch.common["env"])
        self._programs: dict[tuple[str, str], bytes] = {}

    # -- starting --------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the next task when none runs and the fence allows; end when all are over."""
        if self._current is not None:
            if self._current.hold.paused and self._place.fence.is_open(now()):
                self._resume_from_fence(self._current)
            return
        if not self._waiting:
            self._over()
            return
        moment = now()
        if self._place.fence.is_open(moment):
            self._start(self._waiting.popleft(), moment)

    def _start(self, task: Task, moment: float) -> None:
        entry = self.batch.entry
        try:
            self._place.ledger.start(entry, task["pos"], moment)
        except OSError as error:
            self._give_up(task, excuse(error, self._place.node_dir))
            return
        try:
            self._launch(task, moment)
        except Unfit as error:
            self._give_up(task, str(error))

    def _give_up(self, task: Task, why: str) -> None:
        """Return this task and all that wait: the node is at fault, not the task."""
        positions = [task["pos"], *(other["pos"] for other in self._waiting)]
        self._waiting.clear()
        self.batch.entry.running = {}
        self._place.ledger.give_back(self.batch.entry, positions, why)
        self._over()

    def _launch(self, task: Task, moment: float) -> None:
        common, pos = self.batch.common, task["pos"]
        env = self._env
        if task.get("env"):
            env = {**env, **environment(task["env"])}
        cookie = self.batch.cookie(pos)
        before = os.umask(common["umask"])
        opened: list[int] = []
        try:
            self._enter(common["cwd"])
            program = self._find(task.get("argv") or common["argv"], env)
            output, moves = self._open_outputs(task, opened)
            argv = [os.fsencode(word) for word in task.get("argv") or common["argv"]]
            tree = self._spawn(program, argv, {**env, COOKIE: cookie}, cookie, moves)
        finally:
            os.umask(before)
            for fd in opened:
                os.close(fd)
        timer = self._place.timers.at(moment + self._first_look_s(), self._look)
        self._current = Running(pos, tree, Hold(tree, moment), moment, output, timer)

    def _first_look_s(self) -> float:
        limit: float = self.batch.common["limit_s"]
        return min(LONG_S, limit) if limit else LONG_S

    @staticmethod
    def _enter(cwd: str) -> None:
        try:
            os.chdir(cwd)
        except FileNotFoundError:
            raise Unfit(f"no such directory: {cwd} on this node") from None
        except OSError as error:
            raise Unfit(excuse(error, cwd)) from error

    def _find(self, argv: list[str], env: dict[bytes, bytes]) -> bytes:
        search = os.fsdecode(env.get(b"PATH", b"")) or os.defpath
        key = (argv[0], search)
        found = self._programs.get(key)
        if found is None:
            found = find_program(argv[0], search)
            if found is None:
                raise Unfit(f"no such program on PATH: {argv[0]} on this node")
            self._programs[key] = found
        return found

    def _open_outputs(self, task: Task, opened: list[int]) -> tuple[Output, dict[int, int]]:
        path = task.get("out", "")
        name = f"{self.batch.uid}.{task['pos']}.{self.batch.attempt}.out"
        output = Output(path or self._place.out_path(name), is_default=not path)
        out = _open(output.path, append=bool(task.get("append")), opened=opened)
        if task.get("append"):
            output.offset = os.fstat(out).st_size
        err = out
        if task.get("err"):
            err = _open(task["err"], append=bool(task.get("append")), opened=opened)
        return output, {1: out, 2: err}

    def _spawn(
        self,
        program: bytes,
        argv: list[bytes],
        env: dict[bytes, bytes],
        cookie: bytes,
        moves: dict[int, int],
    ) -> Tree:
        try:
            return self._place.children.start(
                argv, env, path=program, cookie=cookie, moves=moves, reaped=self._reaped
            )
        except OSError as error:
            raise Unfit(excuse(error, os.fsdecode(program))) from error
        except ValueError as error:  # a NUL in a word, an "=" in a name
            raise Unfit(f"{error}: {os.fsdecode(program)}") from error

    # -- while it runs ---------------------------------------------------------------------

    def _look(self) -> None:
        """Look at the running task when it may be long, or at its limit."""
        current = self._current
        if current is None:
            return
        moment = now()
        ran = current.hold.ran_s(moment)
        limit: float = self.batch.common["limit_s"]
        if ran >= LONG_S and not current.told:
            self._tell_begun(current)
            if self._waiting:
                self.take_back()
        if limit and ran >= limit and current.verdict is None:
            grace = self.batch.common["grace_s"]
            self._end(current, Verdict("TIMEOUT", f"time limit of {limit:g} s", grace))
        if not current.told:
            self._look_again(moment + LONG_S - ran)
        elif limit and current.verdict is None:
            self._look_again(moment + limit - ran)

    def _look_again(self, when: float) -> None:
        # A task that stands still is looked at every second until it goes on.
        current = self._current
        if current is not None:
            if current.hold.stopped:
                when = max(when, now() + 1.0)
            current.timer = self._place.timers.at(when, self._look)

    def _tell_begun(self, current: Running) -> None:
        current.told = True
        found = stat_of(current.tree.pid)
        self._place.ledger.begun(self.batch.entry, current.tree.pid, found[3] if found else 0)
        self._place.ledger.tell(
            {"op": "begun", "key": self.batch.key, "pos": current.pos, "start": current.started}
        )
        # Under memory pressure the kernel shall take a task, not what watches over it.
        prefer_for_oom(current.tree.pid)

    def kill(self, positions: set[int] | None, verdict: Verdict) -> None:
        """End these tasks: what waits does not start, what runs climbs the ladder."""
        picked = [t["pos"] for t in self._waiting if positions is None or t["pos"] in positions]
        self._waiting = deque(t for t in self._waiting if t["pos"] not in set(picked))
        moment = now()
        for pos in picked:
            item = Item(pos, verdict.state, why=verdict.why)
            self._place.ledger.end(self.batch.entry, item, b"", moment, more=False)
        current = self._current
        if current is not None and (positions is None or current.pos in positions):
            self._end(current, verdict)
        self.begin()

    def _end(self, current: Running, verdict: Verdict) -> None:
        """SIGTERM, grace, SIGKILL. Told again, only a shorter grace changes anything."""
        if current.verdict is None:
            current.verdict = verdict
            # Past the fence it must not run another moment, not even to tidy up.
            if verdict.grace_s > 0 and not current.hold.paused:
                current.tree.signal(signal.SIGTERM)
                current.hold.suspend(False)
        elif verdict.grace_s >= current.verdict.grace_s:
            return
        if current.ladder is not None:
            current.ladder.cancel()
        wait = 0.0 if current.hold.paused else verdict.grace_s
        current.ladder = self._place.timers.at(now() + wait, lambda: self._destroy(current))

    def _destroy(self, current: Running) -> None:
        current.tree.destroy()
        # What forks faster than we look: again, until the main process was reaped.
        current.ladder = self._place.timers.at(now() + 0.1, lambda: self._destroy(current))

    def signal(self, positions: set[int] | None, number: int) -> None:
        """Signal the session of the running task."""
        current = self._current
        if current is not None and (positions is None or current.pos in positions):
            current.user_signal = number
            current.tree.signal(number)

    def suspend(self, value: bool) -> None:
        """Stop the running task for its user, or let it go on."""
        if self._current is not None and self._current.verdict is None:
            self._current.hold.suspend(value)

    def lapse(self) -> None:
        """Pause what the store may start elsewhere."""
        current = self._current
        if current is None or current.hold.paused or not self.batch.common["requeue"]:
            return
        current.hold.pause(True)
        if current.verdict is not None:
            self._destroy(current)
        self._place.ledger.tell({"op": "paused", "key": self.batch.key})

    def _resume_from_fence(self, current: Running) -> None:
        current.hold.pause(False)
        self._place.ledger.tell({"op": "resumed", "key": self.batch.key})

    def take_back(self) -> None:
        """Return what waits; always answered, maybe with none."""
        positions = [task["pos"] for task in self._waiting]
        self._waiting.clear()
        self._place.ledger.give_back(self.batch.entry, positions)
        self.begin()

    def drop(self) -> None:
        """Kill silently: it was started again elsewhere."""
        self._waiting.clear()
        if self._current is None:
            self._place.ledger.drop(self.batch.entry)
            self._over()
            return
        self._current.dropped = True
        if self._current.ladder is not None:
            self._current.ladder.cancel()
        self._destroy(self._current)

    # -- the end ---------------------------------------------------------------------------

    def _reaped(self, status: int, usage: struct_rusage) -> None:
        current = self._current
        assert current is not None
        current.timer.cancel()
        if current.ladder is not None:
            current.ladder.cancel()
        ended = now()
        self._place.clear(
            current.tree, lambda left: self._settle(current, status, usage, ended, left)
        )

    def _settle(
        self, current: Running, status: int, usage: struct_rusage, ended: float, left: int
    ) -> None:
        """Report the end, then go on with the next task."""
        self._current = None
        if current.dropped:
            self._place.ledger.drop(self.batch.entry)
            self._over()
            return
        code = os.waitstatus_to_exitcode(status)
        state, why = judge(code, current.verdict, current.user_signal)
        if left:
            why += f"; {left} of its processes could not be killed"
        path, size, part = current.output.settle()
        item = Item(
            pos=current.pos,
            state=state,
            start=current.started,
            end=ended,
            exit=max(code, 0),
            signal=max(-code, 0),
            cpu=round(usage.ru_utime + usage.ru_stime, 6),
            rss=usage.ru_maxrss * 1024,
            why=why,
            out=path,
            out_size=size,
            out_at=part,
        )
        more = bool(self._waiting)
        self._place.ledger.end(self.batch.entry, item, b"", ended, more=more)
        self.begin()

    def tree(self) -> Tree | None:
        """Return the processes of the running task."""
        return self._current.tree if self._current else None

    def state(self) -> Header:
        """Return what the agent is told after a reconnect."""
        current = self._current
        return {
            "running": current.pos if current else None,
            "started_boot": current.started if current else 0.0,
            "paused": bool(current and current.hold.paused),
            "suspended": bool(current and current.hold.suspended),
            "waiting": [task["pos"] for task in self._waiting],
        }


def _open(path: str, *, append: bool, opened: list[int]) -> int:
    """Open an output file, its parents made where missing; raise Unfit."""
    flags = _OPEN | (0 if append else os.O_TRUNC)
    try:
        try:
            fd = os.open(path, flags, 0o666)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            fd = os.open(path, flags, 0o666)
    except OSError as error:
        raise Unfit(f"cannot write output: {excuse(error, path)}") from error
    opened.append(fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.set_blocking(fd, True)
    return fd
