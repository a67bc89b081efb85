"""A contender in a process of its own: asked by lines of JSON, ended by end of file.

The parent's end is `Driver`; `python -m benchmarks.driver MODULE:CLASS` is the child's.
What the child and its workers print goes to a log file, not into the answers.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any, TextIO

from benchmarks import processes

#: The longest measurement (RQ's, on a slow machine) takes a fraction of this.
_PATIENCE_S = 300.0
_STOP_S = 20.0
#: From where `benchmarks` is found, and the source tree of qsub_py is not.
SCRIPTS = Path(__file__).resolve().parents[1]


class ContenderFailed(Exception):
    """A contender could not start or measure; the text says why."""


class Driver:
    """The parent's end of a contender's process."""

    def __init__(self, what: str, python: str, environ: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [python, "-m", "benchmarks.driver", what],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=environ,
                cwd=SCRIPTS,
                start_new_session=True,
            )
        try:
            self.ask("start")
        except ContenderFailed:
            self.close()
            raise

    def ask(self, what: str, *arguments: str | int) -> Any:
        """Let the contender do something and return its answer; raises ContenderFailed."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps([what, *arguments]).encode() + b"\n")
            self.process.stdin.flush()
            if not select.select([self.process.stdout], [], [], _PATIENCE_S)[0]:
                raise ContenderFailed(f"no answer to {what} within {_PATIENCE_S:.0f} s")
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            said = self._log.read_text(errors="replace").strip().splitlines()
            raise ContenderFailed(f"its process ended: {said[-1] if said else 'without a word'}")
        answer = json.loads(line)
        if "error" in answer:
            raise ContenderFailed(answer["error"])
        return answer["value"]

    def close(self) -> None:
        """Let it end its workers, and make sure of it."""
        family = processes.tree(self.process.pid)
        assert self.process.stdin and self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_S)
        processes.send(family, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


def main() -> None:
    """Serve one contender until end of file."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        module, _, name = sys.argv[1].partition(":")
        contender = getattr(importlib.import_module(module), name)()
        try:
            _serve(contender, answers)
        finally:
            contender.stop()


def _serve(contender: Any, answers: TextIO) -> None:
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        try:
            answer = {"value": getattr(contender, what)(*arguments)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
