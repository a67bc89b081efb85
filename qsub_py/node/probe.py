"""Ask another program something, without ever waiting for it longer than wanted.

A driver that hangs leaves its program in the kernel's D state, where SIGKILL does not end it:
so a probe that is overdue is killed, and nobody waits for its end.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence

_MOST_BYTES = 1 << 20
_ABANDONED: list[subprocess.Popen[bytes]] = []


class Probe:
    """A program that runs; `answer` becomes its output, or stays None when it failed."""

    def __init__(
        self, argv: Sequence[str], *, timeout_s: float, env: Mapping[str, str] | None = None
    ) -> None:
        self.answer: str | None = None
        self.is_over = False
        self._data = bytearray()
        self._deadline = time.monotonic() + timeout_s
        try:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                start_new_session=True, cwd="/", env=env,
            )  # fmt: skip
        except (OSError, ValueError):
            self.is_over = True
            return
        assert self._process.stdout is not None
        self._pipe = self._process.stdout
        os.set_blocking(self._pipe.fileno(), False)

    def fileno(self) -> int:
        """Return what turns readable when there is something to take."""
        return self._pipe.fileno()

    def poll(self) -> bool:
        """Take what has come; return whether it is over."""
        while not self.is_over:
            try:
                data = os.read(self._pipe.fileno(), 65536)
            except BlockingIOError:
                if time.monotonic() > self._deadline:
                    self.abandon()
                break
            self._data += data
            if not data:
                self._end()
            elif len(self._data) > _MOST_BYTES:
                self.abandon()
        return self.is_over

    def _end(self) -> None:
        """It closed its output: it is about to exit, or it did."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            # Where SIGCHLD is ignored the code is lost and 0 is told; the text must be judged.
            if self._process.wait(max(0.0, min(1.0, self._deadline - time.monotonic()))) == 0:
                self.answer = self._data.decode(errors="replace")
        self.abandon()

    def abandon(self) -> None:
        """Kill what still runs of it, and do not wait."""
        self.is_over = True
        self._pipe.close()
        if self._process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, 9)
            _ABANDONED.append(self._process)
        _ABANDONED[:] = [process for process in _ABANDONED if process.poll() is None]


def ask(
    programs: Sequence[Sequence[str]], *, timeout_s: float, env: Mapping[str, str] | None = None
) -> list[str | None]:
    """Run programs side by side; return the output of each, None of one that failed or hung."""
    probes = [Probe(argv, timeout_s=timeout_s, env=env) for argv in programs]
    left = [probe for probe in probes if not probe.is_over]
    while left:
        select.select(left, (), (), 0.05)
        left = [probe for probe in left if not probe.poll()]
    return [probe.answer for probe in probes]
