"""What a call finds around it, and what is put back in order after it.

Directory, variables, modules; and where its output goes. The keeper can tell which part of
the runner's log a call wrote.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from typing import Any

from qsub_py.node.call_files import CallFiles
from qsub_py.node.tickets import CannotUnpack

_TASK_ID = b"QSUB_TASK_ID"


class Output:
    """Descriptors 1 and 2: the runner's log, or a file of the task's own."""

    def __init__(self) -> None:
        self._log = os.dup(1)
        self._fflush = ctypes.CDLL(None).fflush
        self._fflush.argtypes = [ctypes.c_void_p]
        self._stdout, self._stderr = sys.stdout, sys.stderr
        self._stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        self._stderr.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        #: Where the log ends, and the output of the next call begins.
        self.at = os.lseek(1, 0, os.SEEK_END)
        self._path = ""

    def begin(self, path: str, err: str, append: bool) -> None:
        """Send the output of the coming call to a file of its own."""
        out = self._open(path, append)
        os.dup2(out, 1)
        if err:
            second = self._open(err, append)
            os.dup2(second, 2)
            os.close(second)
        else:
            os.dup2(out, 2)
        os.close(out)
        self._path = path

    @staticmethod
    def _open(path: str, append: bool) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (0 if append else os.O_TRUNC)
        try:
            try:
                return os.open(path, flags, 0o666)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                return os.open(path, flags, 0o666)
        except OSError as error:
            raise CannotUnpack(f"cannot write output: {error.strerror}: {path}") from error

    def end(self, log_path: str) -> tuple[str, int, list[int] | None]:
        """Flush; return (path, size, part of the file) of what the call wrote, or nothing."""
        try:
            self._stdout.flush()
            self._stderr.flush()
            self._fflush(None)
            if sys.stdout is not self._stdout:
                sys.stdout = self._stdout
            if sys.stderr is not self._stderr:
                sys.stderr = self._stderr
            at = os.lseek(1, 0, os.SEEK_CUR)
        except (OSError, ValueError):
            return self._repair()
        if self._path:
            return self._end_file()
        if at == self.at:
            return "", 0, None
        before, self.at = self.at, at
        return log_path, at - before, [before, at - before]

    def _end_file(self) -> tuple[str, int, None]:
        path, self._path = self._path, ""
        size = os.fstat(1).st_size
        self._restore()
        return path, size, None

    def _repair(self) -> tuple[str, int, None]:
        """The call closed its output: put everything back in order."""
        self._path = ""
        self._restore()
        if self._stdout.closed or self._stderr.closed:
            self._stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
            self._stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        sys.stdout, sys.stderr = self._stdout, self._stderr
        self.at = os.lseek(1, 0, os.SEEK_END)
        return "", 0, None

    def _restore(self) -> None:
        os.dup2(self._log, 1)
        os.dup2(self._log, 2)


class Scene:
    """What a call finds around it: directory, umask, variables, modules; restored for each."""

    def __init__(self) -> None:
        self._base = dict(os.environ)
        self._path = list(sys.path)
        self._set: dict[str, str] = {}
        self._directory = -1
        self.files: CallFiles | None = None
        self._has_called = False
        self._uid = ""

    def enter(self, header: dict[str, Any]) -> bool:
        """Prepare for a batch; return whether it is another job's than the one before."""
        os.chdir(header["cwd"])
        os.umask(header["umask"])
        if self.files is not None:
            self.files.leave()
        needs_files = header.get("private") or header.get("fetch")
        self.files = CallFiles(header) if needs_files else None
        self._has_called = False
        if self.files is not None and self.files.freshen():
            os.chdir(self.files.directory)
        self._hold()
        env = {**self._base, **header["env"], "QSUB_ATTEMPT": str(header["attempt"])}
        if env != dict(os.environ):
            for name in set(os.environ) - set(env):
                del os.environ[name]
            os.environ.update(env)
        self._set = {}
        sys.argv = [""]
        changed, self._uid = self._uid not in ("", header["uid"]), header["uid"]
        if changed:
            self._forget_modules([*header["path"], header["cwd"]])
        sys.path[:] = [*self._own_path(header), *self._path]
        return changed

    def _own_path(self, header: dict[str, Any]) -> list[str]:
        """Return the user's directories; those below a private one are given relative to it."""
        if self.files is None:
            found: list[str] = header["path"]
            return found
        here = self.files.directory
        return [os.path.normpath(os.path.join(here, path)) for path in header["path"]]

    def _hold(self) -> None:
        """Keep the directory that we are in at hand."""
        if self._directory >= 0:
            os.close(self._directory)
        self._directory = os.open(".", os.O_PATH | os.O_CLOEXEC)

    @staticmethod
    def _forget_modules(directories: list[str]) -> None:
        """Let the next job import the user's own modules anew: they may have been edited."""
        roots = tuple(directory.rstrip("/") + "/" for directory in directories if directory)
        installed = (sys.prefix + "/", sys.base_prefix + "/")
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None) or ""
            if not file.endswith(".py") or not file.startswith(roots) or "-packages/" in file:
                continue
            if not file.startswith(installed):
                del sys.modules[name]
        importlib.invalidate_caches()

    def place(self, number: int) -> None:
        """Prepare for a call of a compact batch; each microsecond here is paid by all."""
        if self.files is not None:
            self._refresh()
        os.fchdir(self._directory)
        os.environb[_TASK_ID] = b"%d" % number

    def _refresh(self) -> None:
        """Replace the private directory unless no call has seen it."""
        assert self.files is not None
        if self._has_called and self.files.freshen():
            os.chdir(self.files.directory)
            self._hold()
        self._has_called = True

    def dress(self, variables: dict[str, str]) -> None:
        """Set the variables of one task, go to the batch's directory."""
        if self.files is not None:
            self._refresh()
        os.fchdir(self._directory)
        if variables == self._set:
            return
        for name in self._set.keys() - variables.keys():
            os.environ.pop(name, None)
        for name, value in variables.items():
            os.environ[name] = value
        self._set = variables
