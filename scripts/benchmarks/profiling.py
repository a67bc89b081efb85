"""Where the time of one row goes: processor time by process, then by function."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from benchmarks import processes
from benchmarks.driver import Driver
from benchmarks.report import simple_table
from benchmarks.rows import Group
from benchmarks.stage import Stage, py_spy

_SECONDS = 5
_RATE = 500
_LINES = 25


def profile(stage: Stage, group: Group, contender: str) -> str:
    """Return a text on one contender at one row."""
    driver, n = stage.driver(contender), group.sizes[contender]
    driver.ask(group.name, n)
    parts = [f"{contender}, {group.name}, n = {n}", _by_process(driver, group.name, n)]
    if spy := py_spy():
        parts += _by_function(spy, stage.folder, driver, group.name, n)
    else:
        parts.append("no py-spy here (`pip install py-spy`), so the client alone, by cProfile")
        parts.append(driver.ask("profiled", group.name, n))
    return "\n\n".join(parts)


def _by_process(driver: Driver, group: str, n: int) -> str:
    """Measure again and again and say what processor time each role took."""
    roles: dict[str, list[int]] = driver.ask("pids")
    before = {role: sum(map(processes.cpu_s, pids)) for role, pids in roles.items()}
    start, times = time.monotonic(), 0
    while time.monotonic() - start < _SECONDS:
        found = driver.ask(group, n)
        times += 1
    wall = time.monotonic() - start
    rows = []
    for role, pids in roles.items():
        spent = sum(map(processes.cpu_s, pids)) - before[role]
        rows.append([f"{role} x {len(pids)}", f"{spent:.2f}", f"{100 * spent / wall:.0f}",
                     f"{1e6 * spent / n / times:.1f}"])  # fmt: skip
    head = ["process", "cpu s", "% of a cpu", "us for each"]
    shown = ", ".join(f"{key} {value:,.1f}" for key, value in found.items())
    return f"{shown}; {times} times in {wall:.2f} s\n" + simple_table(head, rows)


def _by_function(spy: str, folder: Path, driver: Driver, group: str, n: int) -> list[str]:
    """Sample every Python process while the row is measured again and again."""
    roles: dict[str, list[int]] = driver.ask("pids")
    samplers = []
    for role, pids in roles.items():
        if role != "server":
            for pid in pids:
                out = folder / f"{role}.{pid}.raw"
                words = [spy, "record", "-d", str(_SECONDS), "-r", str(_RATE), "-f", "raw",
                         "-o", str(out), "-p", str(pid)]  # fmt: skip
                process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
                samplers.append((role, out, process))
    until = time.monotonic() + _SECONDS + 1.0
    while time.monotonic() < until:
        driver.ask(group, n)
    texts = []
    for role, out, process in samplers:
        _, errors = process.communicate()
        if out.exists():
            texts.append(f"{role} ({out.name})\n{_dearest(out.read_text())}")
        else:
            print(errors.decode(errors="replace")[-300:], file=sys.stderr)
    return texts


def _dearest(raw: str) -> str:
    """Return the functions that most samples were in: by themselves, and with what they called."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    count = 0
    for line in raw.splitlines():
        stack, _, times = line.rpartition(" ")
        frames = stack.split(";")
        count += int(times)
        own[frames[-1]] += int(times)
        for frame in set(frames):
            total[frame] += int(times)
    rows = [
        [frame, f"{100 * times / count:.1f}", f"{100 * total[frame] / count:.1f}"]
        for frame, times in own.most_common(_LINES)
    ]
    return f"{count} samples in {_SECONDS} s at {_RATE}/s\n" + simple_table(
        ["line", "% itself", "% with callees"], rows
    )
