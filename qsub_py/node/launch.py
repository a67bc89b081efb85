"""Start one command: its directory, environment, program and output files."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qsub_py.node.batch import Batch, Unfit, enter, environment, excuse, task_cookie
from qsub_py.node.children import Staging, prelude, remove, shows
from qsub_py.node.processes import COOKIE, Tree, find_program
from qsub_py.node.workplace import Reaped, Workplace

Task = dict[str, Any]
#: What a script that raised qsub_py.Requeue leaves in its scratch directory (inside.py), and how
#: it exits; the same of a task that is to run again however it ends (scontrol requeue).
REQUEUE_MARK, REQUEUE_EXIT, REQUEUE_ANY = ".qsub-requeue", 99, b"any"
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


class Launcher:
    """Starts the commands of one batch."""

    def __init__(self, place: Workplace, batch: Batch) -> None:
        self._place = place
        self._batch = batch
        env = batch.common.get("_env")
        if env is None:  # kept beside what it was made from
            env = batch.common["_env"] = environment(batch.common["env"])
        self._env = env | environment(batch.env)
        self._scratch = batch.env.get("QSUB_SCRATCH", "")
        self._has_scratch = False
        #: What is unpacked into the scratch directory, where the tasks then run.
        self._private: dict[str, Any] | None = batch.common.get("private")
        self._programs: dict[tuple[str, str], bytes] = {}

    @property
    def directory(self) -> str:
        """Where the tasks run."""
        return self._scratch if self._private else str(self._batch.common["cwd"])

    def launch(
        self, task: Task, reaped: Reaped, began: Callable[[], None]
    ) -> tuple[Tree, Output, Staging | None]:
        """Start a task; raise Unfit when this node cannot.

        One with files begins when they are unpacked: then `began` is called.
        """
        common = self._batch.common
        env = self._env
        if task.get("env"):
            env = {**env, **environment(task["env"])}
        cookie = task_cookie(self._batch.key, task["pos"], self._place.node_dir)
        before = os.umask(common["umask"])
        opened: list[int] = []
        try:
            self._make_scratch()
            enter(self.directory)
            program = self._find(task.get("argv") or common["argv"], env)
            output, moves = self._open_outputs(task, opened)
            argv = [os.fsencode(word) for word in task.get("argv") or common["argv"]]
            staging = None
            if self._private is not None:
                argv = [*self._prelude(task, output), program, *argv]
                program, staging = argv[0], Staging(self._place, began)
                moves[3] = staging.theirs
            try:
                tree = self._spawn(program, argv, {**env, COOKIE: cookie}, cookie, moves, reaped)
            except Unfit:
                if staging is not None:
                    staging.end()
                raise
            if staging is not None:
                staging.close_theirs()
            return tree, output, staging
        finally:
            os.umask(before)
            for fd in opened:
                os.close(fd)

    def _prelude(self, task: Task, output: Output) -> list[bytes]:
        """Return the words before the command's own that make it unpack its files first."""
        assert self._private is not None
        sources = {"out": output.path, "err": self._out_path(task, "err")}
        links = (task.get("links") or {}).items()
        pairs = [(sources[name], path) for name, path in links if shows(path)]
        return prelude("unpack", {
            "ships": self._private["ships"], "links": pairs, "since": self.since(),
            "submit_dir": self._private["submit_dir"],
        })  # fmt: skip

    def since(self) -> str:
        """Return the file that tells what the task did not touch, "" when nobody will ask."""
        has_fetch = self._private is not None and self._batch.common.get("fetch")
        return f"{self._scratch}.since" if has_fetch else ""

    def _out_path(self, task: Task, kind: str) -> str:
        name = f"{self._batch.uid}.{task['pos']}.{self._batch.attempt}.{kind}"
        return self._place.out_path(name)

    def files_path(self, pos: int) -> str:
        """Return where the files that a task brings back are packed."""
        return self._place.out_path(f"{self._batch.uid}.{pos}.{self._batch.attempt}.files")

    def _make_scratch(self) -> None:
        """Make the directory that the batch's tasks use one after another."""
        if self._scratch and not self._has_scratch:
            try:
                os.makedirs(self._scratch, 0o700, exist_ok=True)
            except OSError as error:
                raise Unfit(excuse(error, self._scratch)) from error
            self._has_scratch = True

    def wants_requeue(self) -> str:
        """Return whether the task that ended wants to run again: "", "exit" or "any".

        "exit": it raised qsub_py.Requeue, if it exits so; "any": however it ends.
        """
        if not self._has_scratch:
            return ""
        try:
            with open(f"{self._scratch}/{REQUEUE_MARK}", "rb") as file:
                return "any" if file.read(8) == REQUEUE_ANY else "exit"
        except OSError:
            return ""

    def tidy(self, *, is_over: bool) -> None:
        """Leave nothing of a task in the scratch directory, after the last not even itself.

        What a task left there may be a lot: it is moved aside, and the agent deletes it; what was
        unpacked is a lot, and deleted at once by a child.
        """
        if not self._has_scratch:
            return
        with contextlib.suppress(OSError):
            if os.listdir(self._scratch):
                trash = f"{self._scratch}.{time.time_ns()}.trash"
                os.rename(self._scratch, trash)
                self._has_scratch = False
                if self._private is not None:
                    remove(self._place, [trash, f"{self._scratch}.since"])
            elif is_over:
                os.rmdir(self._scratch)
                self._has_scratch = False

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
        path, links = task.get("out", ""), task.get("links") or {}
        is_default = not path and "out" not in links
        output = Output(path or self._out_path(task, "out"), is_default=is_default)
        out = _open(output.path, append=bool(task.get("append")), opened=opened)
        if task.get("append"):
            output.offset = os.fstat(out).st_size
        err = out
        if task.get("err") or "err" in links:
            path = task.get("err") or self._out_path(task, "err")
            err = _open(path, append=bool(task.get("append")), opened=opened)
        return output, {1: out, 2: err}

    def _spawn(
        self,
        program: bytes,
        argv: list[bytes],
        env: dict[bytes, bytes],
        cookie: bytes,
        moves: dict[int, int],
        reaped: Reaped,
    ) -> Tree:
        try:
            return self._place.children.start(
                argv, env, path=program, cookie=cookie, moves=moves, reaped=reaped
            )
        except OSError as error:
            raise Unfit(excuse(error, os.fsdecode(program))) from error
        except ValueError as error:  # a NUL in a word, an "=" in a name
            raise Unfit(f"{error}: {os.fsdecode(program)}") from error


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
