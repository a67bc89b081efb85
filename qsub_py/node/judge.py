"""Put the end of a process into a state and words."""

from __future__ import annotations

import contextlib
import signal

from qsub_py.node.batch import Verdict
from qsub_py.node.workplace import OomWatch

OUT_OF_MEMORY = ("OUT_OF_MEMORY", "killed by the kernel, which was short of memory")


def judge(code: int, verdict: Verdict | None, user_signal: int) -> tuple[str, str]:
    """Return (state, why) of a process that ended with `code` (negative: a signal)."""
    if verdict is not None:
        return verdict.state, verdict.why
    if code == 0:
        return "COMPLETED", ""
    if code > 0:
        return "FAILED", f"exit code {code}"
    sender = ", sent by its user" if -code == user_signal else ""
    return "FAILED", f"killed by {signal_name(-code)}{sender}"


def killed_for_memory(code: int, user_signal: int, oom: OomWatch) -> bool:
    """Whether a process ended by the kernel's hand rather than by ours or its user's."""
    return code == -signal.SIGKILL != -user_signal and oom.recently()


def over_limit(limit: int, used: int) -> Verdict:
    """Return why a task ends that uses more memory than it may: at once, as by the kernel."""
    text = f"memory limit of {_size(limit)}: it used {_size(used)}"
    return Verdict("OUT_OF_MEMORY", text, 0.0)


def _size(size: float) -> str:
    units = ["", "K", "M", "G"]
    while size >= 1024 and len(units) > 1:
        size, _ = size / 1024, units.pop(0)
    return f"{size:.1f}".removesuffix(".0") + units[0]


def signal_name(number: int) -> str:
    """Return "SIGSEGV" for 11; "signal 40" where there is no name."""
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def how_it_died(code: int) -> str:
    """Return words for an end that nobody asked for: "died with signal 9 (SIGKILL)"."""
    if code >= 0:
        return f"ended with exit {code}"
    return f"died with signal {-code} ({signal_name(-code)})"
