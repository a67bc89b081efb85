"""The supervisor's end of the worker: start it, talk to it in lines of JSON, end it.

Part of the supervisor; standard library only. Writing never blocks: what does not fit into
the pipe waits here.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

Message = dict[str, Any]

_LEAST_S, _MOST_S = 0.2, 10.0
#: A worker that lived so long was sound: the next one is started without delay.
_SOUND_S = 30.0
#: It says something every few seconds; silent for so long, it hangs.
_SILENCE_S = 60.0


class Child:
    """A worker process that is there or will be again."""

    def __init__(
        self,
        argv: Sequence[str],
        selector: selectors.BaseSelector,
        heard: Callable[[Message], None],
    ) -> None:
        self._argv, self._selector, self._heard = list(argv), selector, heard
        self._process: subprocess.Popen[bytes] | None = None
        self._in, self._out = bytearray(), bytearray()
        self._backoff_s = 0.0
        self._not_before = 0.0
        self._started_at = self._heard_at = 0.0

    @property
    def is_up(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    def is_due(self) -> bool:
        """Whether one is to be started now."""
        return self._process is None and time.monotonic() >= self._not_before

    def pause_s(self) -> float:
        """Return the time until one is due."""
        if self._process is not None:
            return _MOST_S
        return max(0.0, self._not_before - time.monotonic())

    def hurry(self) -> None:
        """Forget the back-off: somebody waits."""
        self._not_before, self._backoff_s = 0.0, 0.0

    def start(self) -> bool:
        """Start it; return whether that worked."""
        self._backoff_s = min(_MOST_S, max(_LEAST_S, 2 * self._backoff_s))
        self._not_before = time.monotonic() + self._backoff_s
        try:
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, cwd="/"
            )
        except OSError as error:
            self._heard({"log": f"cannot start {self._argv[0]}: {error}"})
            return False
        assert self._process.stdin and self._process.stdout
        for pipe in (self._process.stdin, self._process.stdout):
            os.set_blocking(pipe.fileno(), False)
        self._in.clear()
        self._out.clear()
        self._started_at = self._heard_at = time.monotonic()
        self._selector.register(self._process.stdout, selectors.EVENT_READ, self._read)
        return True

    def send(self, message: Message) -> None:
        """Tell it something; lost when there is no process, for a new one is told everything."""
        if self._process is not None:
            self._out += json.dumps(message).encode() + b"\n"
            self._write()

    def _write(self) -> None:
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(BlockingIOError):
            try:
                while self._out:
                    del self._out[: os.write(self._process.stdin.fileno(), self._out)]
            except BrokenPipeError:
                self._out.clear()  # its end is noticed by `_read`
        self._await_room(self._process.stdin)

    def _await_room(self, pipe: Any) -> None:
        waits = pipe in self._selector.get_map()
        if self._out and not waits:
            self._selector.register(pipe, selectors.EVENT_WRITE, self._write)
        elif waits and not self._out:
            self._selector.unregister(pipe)

    def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        try:
            data = os.read(self._process.stdout.fileno(), 65536)
        except BlockingIOError:
            return
        if not data:
            self.kill("it ended")
            return
        self._heard_at = time.monotonic()
        self._in += data
        while (end := self._in.find(b"\n")) >= 0:
            line = bytes(self._in[:end])
            del self._in[: end + 1]
            with contextlib.suppress(ValueError):
                self._heard(json.loads(line))

    def check(self) -> None:
        """End it when it has been silent for too long."""
        now = time.monotonic()
        if self._process is None:
            return
        if now > self._heard_at + _SILENCE_S:
            self.kill("it hangs")
        elif now > self._started_at + _SOUND_S:
            self._backoff_s = 0.0

    def kill(self, why: str = "") -> None:
        """End it and take its exit code."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            if pipe in self._selector.get_map():
                self._selector.unregister(pipe)
            pipe.close()
        if why:
            if time.monotonic() > self._started_at + _SOUND_S:
                self.hurry()
            self._heard({"log": f"worker {process.pid}: {why} ({code})"})
