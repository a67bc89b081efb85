"""What a running task can say to and hear from its batch system: checkpoint, run me again.

For scripts and for calls; the standard library only. A script's process is its own; calls run
in a runner, which listens for the signal before the limit on their behalf.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading

_EXIT = 99
#: Lies in the scratch directory of a task that wants to run again (node/launch.py).
MARK = ".qsub-requeue"
_is_warned = False
_is_listening = False


class Requeue(SystemExit):
    """Raise it to run this task again from its start, up to 100 times.

    A script ends with exit code 99 by it, a call has no result yet. Nothing is lost but what
    the task did not save; `QSUB_ATTEMPT` says which run it is.
    """

    is_qsub_requeue = True

    def __init__(self, *_: object) -> None:
        super().__init__(_EXIT)
        scratch = os.environ.get("QSUB_SCRATCH")
        if scratch and "_qsub_runner" not in sys.modules:
            with contextlib.suppress(OSError), open(f"{scratch}/{MARK}", "w"):
                pass


def checkpoint() -> bool:
    """Return whether the time limit is near: save what you have, and leave.

    True from the moment that the job's `--signal` came. Ask in the loop that does the work, and
    once before it begins: a script listens only from the first call on. Outside a job, and in
    one without `--signal`, it is False.
    """
    runner = getattr(sys.modules.get("_qsub_runner"), "runner", None)
    if runner is not None:
        return bool(runner.is_warned)
    if not _is_listening:
        _listen()
    return _is_warned


def _listen() -> None:
    global _is_listening
    number = os.environ.get("QSUB_SIGNAL", "")
    if threading.current_thread() is threading.main_thread():
        _is_listening = True
        if number.isdigit():
            signal.signal(int(number), _heard)


def _heard(*_: object) -> None:
    global _is_warned
    _is_warned = True
