"""The process that runs Python calls, one after another; a child of the keeper.

Started by its path under any Python, so it imports the standard library alone (cloudpickle
when a pickle asks for it). Descriptor 3 is a socket: batches come down, nudges go up. 4 is
the pipe of tickets, one a call; 5 the pipe of results; 6 the file that marks what has begun.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import mmap
import os
import pickle
import resource
import select
import signal
import struct
import sys
import time
import types
from typing import Any

if __name__ == "__main__":
    # The interpreter may not have qsub_py, and its own one must stay importable for the call:
    # stand-ins of the packages are enough to find our modules, and `_hide` removes them.
    _HERE = __file__.rpartition("/")[0]
    sys.path[:] = [path for path in sys.path if path != _HERE]
    for _name, _path in (("qsub_py", _HERE.rpartition("/")[0]), ("qsub_py.node", _HERE)):
        sys.modules[_name] = types.ModuleType(_name)
        sys.modules[_name].__path__ = [_path]

from qsub_py.node.call_batch import Batch, unsqueeze
from qsub_py.node.call_results import Results, load_by_path
from qsub_py.node.call_scene import Output, Scene
from qsub_py.node.tickets import (
    CONTROL,
    MARK,
    MARK_LAYOUT,
    READY,
    RESULT_HEAD,
    RESULTS,
    SETUP,
    TICKETS,
    UNFIT,
    CannotUnpack,
    excused,
)

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
#: The item of a short call that went well: pos, start, end, size, seconds.
_SUCCESS = b'[%d,"COMPLETED",%.6f,%.6f,1,%d,0,0,%.6f]'
_PR_SET_PDEATHSIG = 1
_SIGKILL = 9
_CLOCK = time.CLOCK_BOOTTIME
_clock = time.clock_gettime


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
        self._signal = 0
        #: Whether the time limit of the call that runs is near.
        self.is_warned = False

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
            if "env" in header:
                self._heed(header.get("signal", 0))
                if self._scene.enter(header):
                    self._functions.clear()
            self._fn = self._function(header["fn_key"], header["fn_path"])
        except BaseException as error:
            self._refuse("the function", error)
        else:
            self._send(READY, b"", b"")

    def _heed(self, number: int) -> None:
        """Let the signal before the limit set a flag, which `qsub_py.checkpoint` reads."""
        if self._signal and self._signal != number:
            signal.signal(self._signal, signal.SIG_DFL)
        self._signal = number
        if number:
            signal.signal(number, self._warned)

    def _warned(self, *_: object) -> None:
        self.is_warned = True

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
        if self._signal:
            self.is_warned = False
            self._heed(self._signal)  # the call before may have set a handler of its own
        start = _clock(_CLOCK)
        MARK_LAYOUT.pack_into(self._mark, 0, batch.serial, index, start, self._output.at)
        if not batch.compact and (why := excused(batch.tasks[index])):
            verdict = ["COMPLETED", 0, 0, why]
            self._report(batch, index, (start, start), verdict, b"", ("", 0, None, None))
            return
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
        out, err = task.get("out", ""), task.get("err", "")
        links = task.get("links") or {}
        if links:
            base = f"{self._out_dir}/{batch.uid}.{task['pos']}.{batch.attempt}"
            out, err = out or f"{base}.out", err or ("err" in links and f"{base}.err") or ""
        if out:
            self._output.begin(out, err, bool(task.get("append")))
        for name, path in links.items():
            if self._scene.files is not None and path.partition("/")[0] != "..":
                self._scene.files.link(out if name == "out" else err, path)

    def _collect(self, batch: Batch, index: int) -> Any:
        """Return what the call that ended brings back, None when nothing was asked for."""
        if self._scene.files is None:
            return None
        name = f"{batch.uid}.{batch.position(index)}.{batch.attempt}.files"
        return self._scene.files.collect(f"{self._out_dir}/{name}")

    def _forked(self) -> None:
        self._is_child = True

    def _finish(self, batch: Batch, index: int, span: tuple[float, float], value: object) -> None:
        kind, body, why = self._results.value(value)
        out = self._output.end(self._log_path)
        files = self._collect(batch, index)
        plain = kind == 1 and not out[0] and files is None
        if plain and span[1] - span[0] < _MEASURE_S and len(body) < FILE_BYTES:
            start, end = span
            pos = batch.position(index)
            text = _SUCCESS % (pos, start, end, len(body), end - start)
            self._send(index, text, body, end)
            return
        state = "COMPLETED" if kind == 1 else "FAILED"
        self._report(batch, index, span, [state, kind, int(kind == 2), why], body, (*out, files))

    def _fail(
        self, batch: Batch, index: int, span: tuple[float, float], error: BaseException
    ) -> None:
        body, why = self._results.error(error)
        code = 1
        if isinstance(error, SystemExit) and isinstance(error.code, int):
            code = error.code & 0xFF or 1
        out = self._output.end(self._log_path)
        files = self._collect(batch, index)
        ask = int(getattr(type(error), "is_qsub_requeue", False) is True)
        self._report(batch, index, span, ["FAILED", 2, code, why], body, (*out, files), ask)

    def _report(
        self,
        batch: Batch,
        index: int,
        span: tuple[float, float],
        verdict: list[Any],
        body: bytes,
        out: tuple[str, int, list[int] | None, Any],
        ask: int = 0,
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
        *printed, files = out
        item = [pos, state, start, end, kind, size, code, 0, cpu, rss, why, *printed, file]
        if files is not None or ask:
            item += [files, ask]
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
    """Leave the names `__main__` and `qsub_py` to the user's code; forget our arguments."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "qsub_py"]:
        del sys.modules[name]
    sys.modules["_qsub_runner"] = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.argv = [""]


def _lend_cloudpickle(path: str) -> None:
    """Serve an environment without cloudpickle with the keeper's own (it is pure Python)."""
    if path and importlib.util.find_spec("cloudpickle") is None:
        load_by_path("cloudpickle", path)


class _Lender:
    """Finds our package for calls that use `checkpoint` where it is not installed."""

    path = __file__.rpartition("/node/")[0] + "/__init__.py"

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> Any:
        """Be the last of sys.meta_path."""
        if name != "qsub_py":
            return None
        return importlib.util.spec_from_file_location(name, self.path)


def main() -> None:
    """Run calls for the keeper that started us."""
    config = json.loads(sys.argv[1])
    _die_with_keeper(config["keeper"])
    for fd in (CONTROL, TICKETS, RESULTS, MARK):
        os.set_inheritable(fd, False)
    _hide()
    # What the agent lends (lending.py), after all that the interpreter has itself.
    sys.path.append(config["lib"])
    _lend_cloudpickle(config["cloudpickle"])
    sys.meta_path.append(_Lender())
    runner = Runner(config)
    sys.modules["_qsub_runner"].runner = runner  # type: ignore[attr-defined]
    runner.serve()


if __name__ == "__main__":
    main()
