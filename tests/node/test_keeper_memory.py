"""Memory limits of whole trees, by looking at them and by cgroups; hogs are small."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from keeper_driver import Keeper, wait_for
from qsub_py.node.leaves import Cgroups
from qsub_py.node.memory import Process, processes, proportional

MB = 1 << 20
PYTHON = [sys.executable, "-IS", "-c"]

HOGS = {
    "alone": "x = b'x' * (90 << 20); time.sleep(600)",
    "children": """
for _ in range(3):
    if os.fork() == 0:
        x = b'x' * (30 << 20)
        time.sleep(600)
time.sleep(600)
""",
    "escaped": """
if os.fork() == 0:
    os.setsid()
    if os.fork(): os._exit(0)
    x = b'x' * (90 << 20)
    time.sleep(600)
time.sleep(600)
""",
}


@pytest.fixture(params=["looks", "cgroups"])
def keeper(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Keeper]:
    """Return a running keeper that has cgroups, where this host lets us make them, or has none."""
    if request.param == "cgroups":
        leaf = Cgroups(str(tmp_path)).leaf()
        if leaf is None:
            pytest.skip("no cgroup can be made here")
        leaf.remove()
    words = () if request.param == "cgroups" else ("--no-cgroups",)
    keeper = Keeper(tmp_path / "node", words=words)
    try:
        yield keeper.start().connect()
    finally:
        keeper.stop()


@pytest.mark.parametrize("name", sorted(HOGS))
def test_a_hog_is_ended_whole(keeper: Keeper, tmp_path: Path, name: str) -> None:
    code = f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
    keeper.run([{"pos": 0, "argv": [*PYTHON, code + HOGS[name]]}], mem_bytes=64 * MB)
    item = keeper.await_item(0)
    assert item.state == "OUT_OF_MEMORY"
    assert item.why.startswith("memory limit of 64M: it used ")
    assert item.rss >= 64 * MB
    assert large_ones(keeper) == []


def large_ones(keeper: Keeper) -> list[Process]:
    """Return the large processes that came from the keeper and live."""
    assert keeper.process is not None
    found, ours = processes(), {keeper.process.pid}
    for _ in range(4):  # generations
        ours |= {process.pid for process in found.values() if process.parent in ours}
    return [found[pid] for pid in ours if pid in found and found[pid].rss > 25 * MB]


def test_shared_pages_count_once(keeper: Keeper, tmp_path: Path) -> None:
    """Four processes that share 40 MB are 160 MB resident and 40 MB large."""
    code = f"""
import os, time
x = bytearray(b'x' * (40 << 20))
for _ in range(3):
    if os.fork() == 0:
        time.sleep(600)
open({str(tmp_path / "up")!r}, 'w')
time.sleep(600)
"""
    keeper.run([{"pos": 0, "argv": [*PYTHON, code]}], mem_bytes=100 * MB)
    wait_for((tmp_path / "up").exists)
    assert keeper.process is not None
    mine = [process for process in large_ones(keeper) if process.pid != keeper.process.pid]
    assert sum(p.rss for p in mine) > 100 * MB > sum(proportional(p) for p in mine)
    end = time.monotonic() + 4  # some looks
    while time.monotonic() < end:
        keeper.listen(0.2)
    assert keeper.items == {}
    keeper.send({"op": "kill", "slot": 0, "why": "enough", "grace_s": 0})
    assert keeper.await_item(0).state == "CANCELLED"


def test_no_limit_is_none(keeper: Keeper) -> None:
    keeper.run([{"pos": 0, "argv": [*PYTHON, "x = b'x' * (90 << 20); import time; time.sleep(3)"]}])
    assert keeper.await_item(0).state == "COMPLETED"


def hog(megabytes: int) -> int:
    held = b"x" * (megabytes << 20)
    if megabytes > 50:
        time.sleep(60)
    return len(held)


def test_a_call_that_takes_too_much(keeper: Keeper) -> None:
    keeper.call(hog, [(1,), (200,), (2,)], mem_bytes=100 * MB)
    item = keeper.await_item(1)
    assert item.state == "OUT_OF_MEMORY"
    assert item.rss >= 100 * MB
    assert keeper.await_item(0).state == "COMPLETED"
    assert keeper.until(lambda: keeper.heard("returned"))[-1]["pos"] == [2]


def test_leaves_are_removed(tmp_path: Path) -> None:
    cgroups = Cgroups(str(tmp_path))
    leaf = cgroups.leaf()
    if leaf is None:
        pytest.skip("no cgroup can be made here")
    assert leaf.limit(64 * MB)
    assert leaf.kills() == 0
    child = subprocess.Popen(["sleep", "600"])
    leaf.admit(child.pid)
    assert not leaf.remove()
    child.kill()
    child.wait()
    wait_for(leaf.remove)
    assert leaf.remove(), "it is gone"


def test_an_earlier_keepers_leaves_are_removed(tmp_path: Path) -> None:
    left = Cgroups(str(tmp_path)).leaf()
    if left is None:
        pytest.skip("no cgroup can be made here")
    assert left._path.exists()
    Cgroups(str(tmp_path))
    assert not left._path.exists()
