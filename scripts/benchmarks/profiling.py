"""Where the time of one row goes: processor time by process, function and line; server calls.

py-spy samples every Python process of the contender. Samples in functions that wait are left
out, and the others share the processor time that the kernel counted for the process.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import processes
from benchmarks.driver import Driver
from benchmarks.report import simple_table
from benchmarks.rows import Group
from benchmarks.stage import Stage, py_spy

_SECONDS = 5
_RATE = 500
_LINES = 30
#: Functions of which the line that waits takes nearly no processor time.
_WAITS = re.compile(
    r"Condition\.wait |\.select \(selectors|SocketIO\.readinto|Poller\.wait|Runner\._wait "
    r"|_was_woken|Caller\.roundtrip|Client\.wait |wait_for \(benchmarks"
)


@dataclass(slots=True)
class Spent:
    """Processor time of one role for each call or task, in microseconds."""

    pids: list[int]
    each_us: float


def profile(stage: Stage, group: Group, contender: str) -> str:
    """Return a text on one contender at one row."""
    driver, n = stage.driver(contender), group.sizes[contender]
    driver.ask(group.name, n)
    head, spent = _by_process(driver, group.name, n)
    parts = [f"{contender}, {group.name}, n = {n}", head]
    if contender == "qsub_py":
        parts.append(driver.ask("server_calls", group.name, n))
    if spy := py_spy():
        parts += _by_function(spy, stage.folder, driver, (group.name, n), spent)
    else:
        parts.append("no py-spy here (`pip install py-spy`), so the client alone, by cProfile")
        parts.append(driver.ask("profiled", group.name, n))
    return "\n\n".join(parts)


def _by_process(driver: Driver, group: str, n: int) -> tuple[str, dict[str, Spent]]:
    """Measure again and again and say what processor time each role took."""
    roles: dict[str, list[int]] = driver.ask("pids")
    before = {role: sum(map(processes.cpu_s, pids)) for role, pids in roles.items()}
    start, times = time.monotonic(), 0
    while time.monotonic() - start < _SECONDS:
        found = driver.ask(group, n)
        times += 1
    wall, rows, spent = time.monotonic() - start, [], {}
    for role, pids in roles.items():
        took = sum(map(processes.cpu_s, pids)) - before[role]
        spent[role] = Spent(pids, 1e6 * took / n / times)
        rows.append([f"{role} x {len(pids)}", f"{took:.2f}", f"{100 * took / wall:.0f}",
                     f"{spent[role].each_us:.1f}"])  # fmt: skip
    head = ["process", "cpu s", "% of a cpu", "us for each"]
    shown = ", ".join(f"{key} {value:,.1f}" for key, value in found.items())
    return f"{shown}; {times} times in {wall:.2f} s\n" + simple_table(head, rows), spent


def _by_function(
    spy: str, folder: Path, driver: Driver, request: tuple[str, int], spent: dict[str, Spent]
) -> list[str]:
    """Sample every Python process while the row is measured again and again."""
    samplers = [
        (role, _sampler(spy, pid, folder / f"{role}.{pid}.raw"))
        for role, one in spent.items() if role != "server" for pid in one.pids
    ]  # fmt: skip
    until = time.monotonic() + _SECONDS + 1.0
    while time.monotonic() < until:
        driver.ask(*request)
    for _, process in samplers:
        _, errors = process.communicate()
        if process.returncode:
            print(errors.decode(errors="replace")[-300:], file=sys.stderr)
    texts = []
    for role, one in spent.items():
        stacks = [line for raw in folder.glob(f"{role}.*.raw") for line in raw.open()]
        if stacks:
            texts.append(_dearest(role, stacks, one.each_us))
    return texts


def _sampler(spy: str, pid: int, out: Path) -> subprocess.Popen[bytes]:
    words = [spy, "record", "-d", str(_SECONDS), "-r", str(_RATE), "-f", "raw", "-o", str(out),
             "-p", str(pid)]  # fmt: skip
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _dearest(role: str, stacks: Iterable[str], each_us: float) -> str:
    """Return a role's functions and lines by processor time for each call or task."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    waits = 0
    for line in stacks:
        stack, _, times = line.rpartition(" ")
        frames = stack.split(";")
        if _WAITS.search(frames[-1]):
            waits += int(times)
            continue
        lines[frames[-1]] += int(times)
        functions = [re.sub(r":\d+\)$", ")", frame) for frame in frames]
        own[functions[-1]] += int(times)
        total.update(dict.fromkeys(functions, int(times)))
    count = max(1, sum(own.values()))
    us = each_us / count
    rows = [
        [f, f"{us * times:.2f}", f"{us * total[f]:.2f}"] for f, times in own.most_common(_LINES)
    ]
    return "\n".join(
        [
            f"{role}: {count} samples at work, {waits} waiting",
            simple_table(["function", "us itself", "us with callees"], rows),
            "with callees: " + ", ".join(f"{f} {us * t:.2f}" for f, t in total.most_common(_LINES)),
            "lines: " + ", ".join(f"{f} {us * t:.2f}" for f, t in lines.most_common(12)),
        ]
    )
