"""The process that runs Python calls, one after another; a child of the keeper.

Started by its path under any Python, so it imports the standard library alone (cloudpickle
when a pickle asks for it). Descriptor 3 is a socket: batches come down, nudges go up. 4 is
the pipe of tickets, one a call; 5 the pipe of results; 6 the file that marks what has begun.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and sys.path[:1] == [__file__.rpartition("/")[0]]:
    del sys.path[0]  # our own directory: its modules must not hide the user's

import ctypes
import importlib.util
import json
import mmap
import os
import pickle
import resource
import select
import struct
import time
import traceback
import types
import zlib
from itertools import accumulate
from typing import Any

CONTROL, TICKETS, RESULTS, MARK = 3, 4, 5, 6
#: A ticket that says: read the next batch from the socket.
SETUP = 0xFFFFFFFF
#: Results that are none: the batch is unpacked; it cannot be unpacked here.
READY, UNFIT = 0xFFFFFFFF, 0xFFFFFFFE
RESULT_HEAD = struct.Struct("<III")
MARK_LAYOUT = struct.Struct("<QQd")
_FRAME_HEAD = struct.Struct("<II")

#: A result over this goes to a file.
FILE_BYTES = 1 << 20
#: Wake the keeper at most this often, but before the pipe is full.
_NUDGE_S = 0.002
_NUDGE_BYTES = 24 << 10
_PIECE_BYTES = 4 << 10
#: Shorter calls are not worth asking the kernel for their cpu time and memory.
_MEASURE_S = 0.001
_FUNCTIONS = 8
_TASK_ID = b"QSUB_TASK_ID"
#: The item of a short call that went well: pos, start, end, size, seconds.
_SUCCESS = b'[%d,"COMPLETED",%.6f,%.6f,1,%d,0,0,%.6f]'
_PR_SET_PDEATHSIG = 1
_SIGKILL = 9
_CLOCK = time.CLOCK_BOOTTIME
_clock = time.clock_gettime

Error = dict[str, Any]


class CannotUnpack(Exception):
    """The function or the arguments cannot be unpickled on this node."""


def load_by_path(name: str, path: str) -> types.ModuleType:
    """Import a module, or package, from a file that need not be on sys.path."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def unsqueeze(data: bytes | memoryview) -> bytes | memoryview:
    """Undo the tag byte: b"Z" zlib, b"R" raw."""
    return zlib.decompress(data[1:]) if data[:1] == b"Z" else data[1:]


class Results:
    """Packs what calls return or raise, so that the client can rebuild it."""

    def __init__(self, culprit_path: str) -> None:
        self._culprit_path = culprit_path

    def dumps(self, value: object) -> bytes:
        """Pickle plainly, or by value what the client could not import (`__main__`, ...)."""
        try:
            return pickle.dumps(value, 5)
        except Exception:
            import cloudpickle

            data: bytes = cloudpickle.dumps(value, 5)
            return data

    def value(self, value: object) -> tuple[int, bytes, str]:
        """Return (kind, bytes, what went wrong) of a result."""
        try:
            return 1, self.dumps(value), ""
        except Exception as error:
            text = f"{self._describe(value)}: {error}"
            failure = {"type": "PicklingError", "module": "pickle", "text": text}
            return 2, pickle.dumps({**failure, "traceback": "", "pickle": None}, 5), text

    def _describe(self, value: object) -> str:
        try:
            name = "_qsub_culprit"
            module = sys.modules.get(name) or load_by_path(name, self._culprit_path)
            text: str = module.describe("the result", value, self.dumps)
            return text
        except Exception:
            return f"the result of type {type(value).__qualname__} cannot be pickled"

    def error(self, error: BaseException) -> tuple[bytes, str]:
        """Return (bytes, one line) of an exception; one that cannot travel goes as text."""
        kind = type(error)
        try:
            text = str(error)
        except Exception:
            text = "<its text cannot be made>"
        # The first frame is ours.
        trace = error.__traceback__.tb_next if error.__traceback__ else None
        lines = "".join(traceback.format_exception(kind, error, trace))
        try:
            packed: bytes | None = self.dumps(error)
        except Exception:
            packed = None
        failure: Error = {"type": kind.__qualname__, "module": kind.__module__, "text": text}
        failure.update(traceback=lines, pickle=packed)
        line = f"{kind.__qualname__}: {text}".splitlines()[0].removesuffix(": ")
        return pickle.dumps(failure, 5), line[:500]


class Output:
    """Descriptors 1 and 2: the runner's log, or a file of the task's own."""

    def __init__(self) -> None:
        self._log = os.dup(1)
        self._fflush = ctypes.CDLL(None).fflush
        self._fflush.argtypes = [ctypes.c_void_p]
        self._stdout, self._stderr = sys.stdout, sys.stderr
        self._stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        self._stderr.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        self._at = os.lseek(1, 0, os.SEEK_END)
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
        if at == self._at:
            return "", 0, None
        before, self._at = self._at, at
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
        self._at = os.lseek(1, 0, os.SEEK_END)
        return "", 0, None

    def _restore(self) -> None:
        os.dup2(self._log, 1)
        os.dup2(self._log, 2)


class Batch:
    """The calls that tickets refer to."""

    def __init__(self, header: dict[str, Any], body: bytes) -> None:
        self.serial: int = header["serial"]
        self.uid: str = header["uid"]
        self.attempt: int = header["attempt"]
        self.header = header
        tasks = header["tasks"]
        self.compact: dict[str, int] | None = tasks if isinstance(tasks, dict) else None
        self.tasks: list[dict[str, Any]] = [] if self.compact else tasks
        self._body = memoryview(body)
        self._chunks: dict[int, tuple[bytes | memoryview, list[int]]] = {}

    def position(self, index: int) -> int:
        """Return the position in the job of the `index`th call."""
        if self.compact:
            return self.compact["first"] + index
        pos: int = self.tasks[index]["pos"]
        return pos

    def arguments(self, index: int) -> tuple[Any, Any]:
        """Unpickle (args, kwargs) of the `index`th call."""
        if self.compact:
            number, at = self.compact["chunk"], self.compact["at"] + index
        else:
            number, at = self.tasks[index]["chunk"], self.tasks[index]["at"]
        data, ends = self._chunk(number)
        while at >= len(ends) - 1:  # contiguous tasks may run on into the next chunk
            at -= len(ends) - 1
            number += 1
            data, ends = self._chunk(number)
        args, kwargs = pickle.loads(data[ends[at] : ends[at + 1]])
        return args, kwargs

    def _chunk(self, number: int) -> tuple[bytes | memoryview, list[int]]:
        found = self._chunks.get(number)
        if found is None:
            offset, length = self.header["chunks"][number]
            data = unsqueeze(self._body[offset : offset + length])
            (count,) = struct.unpack_from("<I", data)
            sizes = struct.unpack_from(f"<{count}I", data, 4)
            found = data, list(accumulate(sizes, initial=4 + 4 * count))
            self._chunks[number] = found
        return found

    def number(self, index: int) -> int:
        """Return the index in the array of the `index`th call of a compact batch."""
        assert self.compact is not None
        return self.compact["index_first"] + index * self.compact["index_step"]

    def variables(self, index: int) -> dict[str, str]:
        """Return the variables of one task, when each has its own."""
        found: dict[str, str] = self.tasks[index].get("env") or {}
        return found


class Scene:
    """What a call finds around it: directory, umask, variables, modules; restored for each."""

    def __init__(self) -> None:
        self._base = dict(os.environ)
        self._path = list(sys.path)
        self._set: dict[str, str] = {}
        self._directory = -1
        self._uid = ""

    def enter(self, header: dict[str, Any]) -> bool:
        """Prepare for a batch; return whether it is another job's than the one before."""
        os.chdir(header["cwd"])
        if self._directory >= 0:
            os.close(self._directory)
        self._directory = os.open(".", os.O_PATH | os.O_CLOEXEC)
        os.umask(header["umask"])
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
        sys.path[:] = [*header["path"], *self._path]
        return changed

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
        os.fchdir(self._directory)
        os.environb[_TASK_ID] = b"%d" % number

    def dress(self, variables: dict[str, str]) -> None:
        """Set the variables of one task, go to the batch's directory."""
        os.fchdir(self._directory)
        if variables == self._set:
            return
        for name in self._set.keys() - variables.keys():
            os.environ.pop(name, None)
        for name, value in variables.items():
            os.environ[name] = value
        self._set = variables


class Runner:
    """Takes tickets, runs calls, sends results."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._is_child = False
        os.register_at_fork(after_in_child=self._forked)
        self._log_path: str = config["log"]
        self._out_dir: str = config["out_dir"]
        self._mark = mmap.mmap(MARK, mmap.PAGESIZE)
        self._results = Results(config["culprit"])
        self._output = Output()
        self._scene = Scene()
        self._functions: dict[str, Any] = {}
        self._fn: Any = None
        self._batch: Batch | None = None
        self._nudged_at = 0.0
        self._unseen = 0
        self._usage = resource.getrusage(resource.RUSAGE_SELF)

    def serve(self) -> None:
        """Work until the keeper is gone."""
        while True:
            try:
                ticket = os.read(TICKETS, 4)
            except BlockingIOError:
                self._wait()
                continue
            if not ticket:
                os._exit(0)
            index = int.from_bytes(ticket, "little")
            if index == SETUP:
                self._set_up()
            elif self._batch is not None:
                self._take(self._batch, index)

    def _wait(self) -> None:
        if self._unseen:
            self._nudge()
        poll = select.poll()
        poll.register(TICKETS, select.POLLIN)
        poll.poll()

    # -- batches ---------------------------------------------------------------------------

    def _set_up(self) -> None:
        """Read a batch and its function; tickets of one that cannot be unpacked are void."""
        header_len, body_len = _FRAME_HEAD.unpack(_read_exactly(_FRAME_HEAD.size))
        header = json.loads(_read_exactly(header_len))
        self._batch = Batch(header, _read_exactly(body_len))
        try:
            if self._scene.enter(header):
                self._functions.clear()
            self._fn = self._function(header["fn_key"], header["fn_path"])
        except BaseException as error:
            self._refuse("the function", error)
        else:
            self._send(READY, b"", b"")

    def _function(self, key: str, path: str) -> Any:
        found = self._functions.pop(key, None)
        if found is None:
            with open(path, "rb") as file:
                found = pickle.loads(unsqueeze(file.read()))
        self._functions[key] = found  # the one used last is the last to go
        if len(self._functions) > _FUNCTIONS:
            del self._functions[next(iter(self._functions))]
        return found

    def _refuse(self, what: str, error: BaseException) -> None:
        """Tell the keeper that nothing of this batch can be begun here."""
        self._batch = None
        if isinstance(error, CannotUnpack):
            text = str(error)
        elif isinstance(error, ModuleNotFoundError):
            text = f"no module {error.name} for {what} in {sys.executable}"
        else:
            text = f"{what} cannot be unpacked: {type(error).__name__}: {error}"
        self._send(UNFIT, b"", text.encode(errors="replace"))
        self._nudge()

    # -- calls -----------------------------------------------------------------------------

    def _take(self, batch: Batch, index: int) -> None:
        start = _clock(_CLOCK)
        MARK_LAYOUT.pack_into(self._mark, 0, batch.serial, index, start)
        try:
            args, kwargs = batch.arguments(index)
            if batch.compact:
                self._scene.place(batch.number(index))
            else:
                self._dress(batch, index)
        except BaseException as error:
            self._refuse("the arguments", error)
            return
        try:
            value = self._fn(*args, **kwargs)
        except BaseException as error:
            end = _clock(_CLOCK)
            if self._is_child:
                os._exit(0)  # the call forked, and its child must not play the runner
            self._fail(batch, index, (start, end), error)
        else:
            end = _clock(_CLOCK)
            if self._is_child:
                os._exit(0)  # the call forked, and its child must not play the runner
            self._finish(batch, index, (start, end), value)

    def _dress(self, batch: Batch, index: int) -> None:
        task = batch.tasks[index]
        self._scene.dress(batch.variables(index))
        if task.get("out"):
            self._output.begin(task["out"], task.get("err", ""), bool(task.get("append")))

    def _forked(self) -> None:
        self._is_child = True

    def _finish(self, batch: Batch, index: int, span: tuple[float, float], value: object) -> None:
        kind, body, why = self._results.value(value)
        out = self._output.end(self._log_path)
        if kind == 1 and not out[0] and span[1] - span[0] < _MEASURE_S and len(body) < FILE_BYTES:
            start, end = span
            pos = batch.position(index)
            text = _SUCCESS % (pos, start, end, len(body), end - start)
            self._send(index, text, body, end)
            return
        state = "COMPLETED" if kind == 1 else "FAILED"
        self._report(batch, index, span, [state, kind, int(kind == 2), why], body, out)

    def _fail(
        self, batch: Batch, index: int, span: tuple[float, float], error: BaseException
    ) -> None:
        body, why = self._results.error(error)
        code = 1
        if isinstance(error, SystemExit) and isinstance(error.code, int):
            code = error.code & 0xFF or 1
        out = self._output.end(self._log_path)
        self._report(batch, index, span, ["FAILED", 2, code, why], body, out)

    def _report(
        self,
        batch: Batch,
        index: int,
        span: tuple[float, float],
        verdict: list[Any],
        body: bytes,
        out: tuple[str, int, list[int] | None],
    ) -> None:
        """Send an end with everything there is to say; the fields are wire.ITEM_FIELDS."""
        state, kind, code, why = verdict
        pos = batch.position(index)
        cpu, rss = self._measure()
        file = None
        if len(body) > FILE_BYTES:
            file, body = self._to_file(f"{batch.uid}.{pos}.{batch.attempt}.result", body)
        start, end = span
        size = len(body)
        item = [pos, state, start, end, kind, size, code, 0, cpu, rss, why, *out, file]
        self._send(index, json.dumps(item).encode(), body, end)

    def _measure(self) -> tuple[float, int]:
        before, self._usage = self._usage, resource.getrusage(resource.RUSAGE_SELF)
        cpu = self._usage.ru_utime - before.ru_utime + self._usage.ru_stime - before.ru_stime
        return round(cpu, 6), self._usage.ru_maxrss * 1024

    def _to_file(self, name: str, body: bytes) -> tuple[str | None, bytes]:
        """Write a big result aside; a full disk makes it travel in the frame after all."""
        path = f"{self._out_dir}/{name}"
        try:
            with open(path + ".part", "wb", opener=_private) as file:
                file.write(body)
            os.rename(path + ".part", path)
        except OSError:
            return None, body
        return path, b""

    # -- talking ---------------------------------------------------------------------------

    def _send(self, index: int, text: bytes, body: bytes, moment: float = 0.0) -> None:
        """Write a result; wake the keeper when it waited long, or before the pipe is full."""
        data = RESULT_HEAD.pack(index, len(text), len(body)) + text + body
        if self._unseen + len(data) > _NUDGE_BYTES:
            if len(data) > _NUDGE_BYTES:
                # The keeper must see a piece of it, or it would not stay to take the rest.
                os.write(RESULTS, data[:_PIECE_BYTES])
                data = data[_PIECE_BYTES:]
            self._nudge()
        self._unseen += len(data)
        written = os.write(RESULTS, data)
        while written < len(data):
            written += os.write(RESULTS, data[written:])
        if moment - self._nudged_at > _NUDGE_S:
            self._nudge()
            self._nudged_at = moment

    def _nudge(self) -> None:
        self._unseen = 0
        try:
            os.write(CONTROL, b"!")
        except OSError:
            os._exit(0)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _read_exactly(size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        data = os.read(CONTROL, min(size - len(parts), 1 << 20))
        if not data:
            os._exit(0)
        parts += data
    return bytes(parts)


def _die_with_keeper(pid: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != pid:
        os._exit(0)


def _hide() -> None:
    """Leave `__main__` to the user's functions; forget our arguments."""
    sys.modules["_qsub_runner"] = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.argv = [""]


def _lend_cloudpickle(path: str) -> None:
    """Serve an environment without cloudpickle with the keeper's own (it is pure Python)."""
    if path and importlib.util.find_spec("cloudpickle") is None:
        load_by_path("cloudpickle", path)


def main() -> None:
    """Run calls for the keeper that started us."""
    config = json.loads(sys.argv[1])
    _die_with_keeper(config["keeper"])
    for fd in (CONTROL, TICKETS, RESULTS, MARK):
        os.set_inheritable(fd, False)
    _hide()
    _lend_cloudpickle(config["cloudpickle"])
    Runner(config).serve()


if __name__ == "__main__":
    main()
