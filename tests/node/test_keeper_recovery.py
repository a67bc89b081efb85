"""Who dies and comes back: the agent, the keeper; what is told again and what is lost."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from keeper_driver import ROOT, UID, Keeper, is_alive, wait_for
from qsub_py.node import journal
from qsub_py.node.keeper_link import KeeperLink, keeper_answers, start_keeper
from qsub_py.node.wire import VERSION, frame


def pid_in(path: Path) -> int:
    return int(wait_for(lambda: path.exists() and path.read_text().strip(), str(path)))


def test_reconnect_tells_state_and_ends_again(keeper: Keeper, tmp_path: Path) -> None:
    keeper.shell("exit 4", uid="ended")
    keeper.await_item(0, "ended")
    keeper.call(lambda: "value", [()], uid="call")
    assert keeper.result(0, "call") == "value"
    key = keeper.shell(f"echo $$ > {tmp_path}/pid; sleep 600", "true", uid="runs", slot=3)
    pid_in(tmp_path / "pid")
    keeper.await_op("begun", key=key)
    keeper.frames.clear()
    keeper.items.clear()
    keeper.results.clear()
    keeper.connect()
    state = keeper.heard("state")[0]
    assert state["version"] == VERSION
    (batch,) = state["batches"]
    assert (batch["key"], batch["job"], batch["running"], batch["count"]) == (key, 1, 0, 2)
    assert (batch["kind"], batch["paused"], batch["waiting"]) == ("command", False, [])
    assert batch["started_boot"] > 0
    assert keeper.await_item(0, "ended").exit == 4
    assert keeper.result(0, "call") == "value"
    keeper.send({"op": "forget", "seqs": keeper.seqs})
    keeper.frames.clear()
    keeper.state()
    keeper.send({"op": "kill", "slot": 3, "pos": None, "why": "w", "grace_s": 1})
    keeper.await_item(0, "runs")
    uids = [header["key"][1] for header in keeper.heard("ended")]
    assert uids == ["runs"], "what was forgotten is not told again"


def test_new_agent_replaces_the_old(keeper: Keeper) -> None:
    old = keeper.link
    assert old is not None
    keeper.link = None
    keeper.connect()

    def closed() -> bool:
        try:
            old.receive()
        except ConnectionError:
            return True
        return False

    wait_for(closed, "the old connection's end")
    assert keeper_answers(keeper.node_dir), "a ping takes nobody's place"
    keeper.shell("true")
    assert keeper.await_item(0).state == "COMPLETED"


def test_slow_agent_does_not_stop_the_keeper(keeper: Keeper) -> None:
    """Results pile up for an agent that does not read; both go on."""
    keeper.call(lambda: b"x" * 500_000, [()] * 30)
    keeper.shell("echo done", slot=1, uid="other")
    out = keeper.node_dir / "out" / "other.0.1.out"
    wait_for(lambda: out.exists() and out.read_text() == "done\n", "the command")
    assert len(keeper.result(29)) == 500_000


def test_garbage_costs_only_its_connection(keeper: Keeper) -> None:
    stranger = KeeperLink.connect(keeper.node_dir)
    stranger.send_all([b"\xff" * 64])
    second = KeeperLink.connect(keeper.node_dir)
    second.send_all([struct.pack("<II", 3, 0) + b"{{{"])
    keeper.shell("true")
    assert keeper.await_item(0).state == "COMPLETED"
    stranger.close()
    second.close()


def restart(keeper: Keeper) -> None:
    keeper.kill_9()
    keeper.items.clear()
    keeper.frames.clear()
    keeper.start().connect()


def test_keeper_killed(keeper: Keeper, tmp_path: Path) -> None:
    """The next one kills what was left, reports it lost, tells old ends again."""
    keeper.shell("exit 6", uid="ended")
    keeper.await_item(0, "ended")
    daemon = f"setsid sleep 600 & echo $! > {tmp_path}/daemon; echo $$ > {tmp_path}/pid"
    keeper.shell(f"{daemon}; sleep 600", uid="command")
    pid, stray = pid_in(tmp_path / "pid"), pid_in(tmp_path / "daemon")
    keeper.fence(100)
    restart(keeper)
    lost = keeper.await_item(0, "command")
    assert (lost.state, lost.why) == ("LOST", "the keeper died")
    assert lost.start > 0
    assert keeper.await_item(0, "ended").exit == 6
    assert not is_alive(pid)
    assert not is_alive(stray)
    assert keeper.state()["batches"] == []
    keeper.shell("true", uid="command")
    keeper.shell("true", uid="new")
    keeper.await_item(0, "new")
    assert keeper.await_item(0, "command").state == "LOST", "begun once: never again"


def test_keeper_killed_with_calls(keeper: Keeper, tmp_path: Path) -> None:
    def task(x: int) -> int:
        if x == 2:
            (tmp_path / "pid").write_text(str(os.getpid()))
            os.system("setsid sleep 600 &")
            time.sleep(600)
        return x

    keeper.call(task, [(n,) for n in range(5)])
    keeper.await_op("begun", pos=2)
    assert keeper.result(1) == 1
    waiting = keeper.call(task, [(9,)], first=9)
    assert keeper.state()["batches"][1]["key"] == waiting
    pid = pid_in(tmp_path / "pid")
    restart(keeper)
    assert keeper.await_item(2).state == "LOST"
    assert [keeper.result(n) for n in (0, 1)] == [0, 1]
    assert not is_alive(pid)
    assert set(keeper.items) == {(UID, 0), (UID, 1), (UID, 2)}
    keeper.call(task, [(3,), (4,)], first=3)
    keeper.call(task, [(9,)], first=9)
    assert [keeper.result(n) for n in (3, 4, 9)] == [3, 4, 9], "what had not begun may start"


def test_keeper_killed_while_short_calls_run(keeper: Keeper) -> None:
    """Every call has a result, is lost, or never began; none is told twice."""
    for first in range(0, 5120, 256):
        keeper.call(lambda x: x, [(first + n,) for n in range(256)], first=first)
    keeper.until(lambda: len(keeper.items) > 500, "some results")
    early = dict(keeper.items)
    restart(keeper)
    keeper.state()
    keeper.shell("true", uid="last")
    keeper.await_item(0, "last")
    del keeper.items["last", 0]
    assert set(early) <= set(keeper.items)
    for (uid, pos), item in keeper.items.items():
        assert item.state in ("COMPLETED", "LOST")
        if item.state == "COMPLETED":
            assert keeper.result(pos, uid) == pos
        assert item == early.get((uid, pos), item)
    positions = [f[0] for h in keeper.heard("ended") for f in h["items"] if h["key"][1] == UID]
    assert sorted(set(positions)) == sorted(positions) or len(keeper.heard("state")) > 1


def test_torn_last_record_is_ignored(keeper: Keeper) -> None:
    keeper.shell("exit 1", uid="one")
    keeper.await_item(0, "one")
    keeper.shell("exit 2", uid="two")
    keeper.await_item(0, "two")
    keeper.kill_9()
    path = keeper.node_dir / "journal"
    path.write_bytes(path.read_bytes() + b"\x01\x02\x03torn")
    keeper.items.clear()
    keeper.start().connect()
    assert keeper.await_item(0, "one").exit == 1
    assert keeper.await_item(0, "two").exit == 2
    keeper.kill_9()
    path.write_bytes(path.read_bytes()[:-3])
    keeper.items.clear()
    keeper.start().connect()
    assert keeper.await_item(0, "one").exit == 1
    keeper.shell("exit 3", uid="three")
    assert keeper.await_item(0, "three").exit == 3


def test_reboot(keeper: Keeper, tmp_path: Path) -> None:
    keeper.shell(f"echo $$ > {tmp_path}/pid; sleep 600")
    pid = pid_in(tmp_path / "pid")
    keeper.kill_9()
    path = keeper.node_dir / "journal"
    records = list(journal.read_records(path.read_bytes()))
    assert records[0][0]["op"] == "meta"
    records[0][0]["boot_id"] = "another boot"
    path.write_bytes(
        b"".join(journal.record(json.dumps(header).encode(), body) for header, body in records)
    )
    keeper.start().connect()
    assert keeper.await_item(0).why == "the host rebooted"
    os.kill(pid, signal.SIGKILL)  # it is nobody's now


def test_journal_is_compacted(keeper: Keeper) -> None:
    keeper.shell("exit 5", uid="kept")
    keeper.await_item(0, "kept")
    keeper.seqs.clear()
    for number in range(40):
        keeper.call(lambda: b"x" * 300_000, [()], uid=f"job{number}")
        keeper.await_item(0, f"job{number}")
        keeper.send({"op": "forget", "seqs": keeper.seqs})
        keeper.seqs.clear()
    keeper.state()
    assert (keeper.node_dir / "journal").stat().st_size < 8 << 20
    restart(keeper)
    assert keeper.await_item(0, "kept").exit == 5
    assert set(keeper.items) == {("kept", 0)}
    keeper.call(lambda: 1, [()], uid="job39")
    keeper.shell("true", uid="last", slot=1)
    keeper.await_item(0, "last")
    assert ("job39", 0) not in keeper.items, "its key was seen before the restart"


def test_stop_kills_all_and_leaves_no_socket(keeper: Keeper, tmp_path: Path) -> None:
    def task() -> None:
        (tmp_path / "runner").write_text(str(os.getpid()))
        time.sleep(600)

    keeper.shell(f"trap '' TERM; echo $$ > {tmp_path}/pid; sleep 600")
    keeper.call(task, [()], slot=1, uid="call")
    pids = pid_in(tmp_path / "pid"), pid_in(tmp_path / "runner")
    keeper.send({"op": "stop"})
    assert keeper.process is not None
    assert keeper.process.wait(20) == 0
    assert not any(map(is_alive, pids))
    assert not (keeper.node_dir / "keeper.sock").exists()


AGENT = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from qsub_py.node.keeper_link import KeeperLink
from qsub_py.node.wire import frame
link = KeeperLink.connect(sys.argv[2])
link.send({"op": "hello", "version": 1, "pid": os.getpid()})
with open(sys.argv[3], "a") as f: f.write(f"{os.getpid()}\\n")
mode = sys.argv[4]
while True:
    time.sleep(0.02 if mode == "pings" else 600)
    link.send({"op": "ping"})
    link.receive()
"""


def agents(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[Keeper]:
    """Return a keeper, not connected, that soon misses its agent."""
    argv = [sys.executable, "-c", AGENT, ROOT, str(tmp_path / "node"), str(tmp_path / "agents")]
    keeper = Keeper(tmp_path / "node", silence_s=0.5, agent_argv=[*argv, "pings"])
    try:
        yield keeper.start()
    finally:
        keeper.stop()
        for pid in agents(tmp_path / "agents"):
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)


def test_dead_agent_is_started_again(silent: Keeper, tmp_path: Path) -> None:
    silent.connect()
    assert silent.link is not None
    silent.link.close()
    silent.link = None
    first = wait_for(lambda: agents(tmp_path / "agents"), "an agent")[0]
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: len(agents(tmp_path / "agents")) > 1, "another agent")


def test_hung_agent_is_killed_and_started_again(silent: Keeper, tmp_path: Path) -> None:
    hung = subprocess.Popen([*silent.agent_argv[:-1], "hangs"])
    wait_for(lambda: len(agents(tmp_path / "agents")) > 1, "another agent")
    assert hung.wait(20) == -signal.SIGKILL
    second = agents(tmp_path / "agents")[1]
    assert is_alive(second)


def test_an_agent_says_how_it_is_started_again(silent: Keeper, tmp_path: Path) -> None:
    silent.connect()
    argv = [*silent.agent_argv[:-2], str(tmp_path / "newer"), "pings"]
    silent.send({"op": "hello", "version": 2, "pid": os.getpid(), "argv": argv})
    silent.await_op("state", version=2)
    silent.send({"op": "hello", "version": 1, "pid": os.getpid()})
    assert silent.link is not None
    silent.link.close()
    silent.link = None
    pid = wait_for(lambda: agents(tmp_path / "newer"), "the newer agent")[0]
    assert agents(tmp_path / "agents") == []
    os.kill(pid, signal.SIGKILL)


def test_an_agent_that_comes_too_late_is_not_kept(tmp_path: Path) -> None:
    """One that was started as the former was, while another version took over."""
    script = f"echo $$ >> {tmp_path}/agents; exec sleep 600"
    keeper = Keeper(tmp_path / "node", silence_s=0.3, agent_argv=["/bin/sh", "-c", script])
    try:
        keeper.start().connect()
        assert keeper.link is not None
        keeper.link.close()
        keeper.link = None
        late = wait_for(lambda: agents(tmp_path / "agents"), "an agent")[0]
        keeper.connect()
        wait_for(lambda: not is_alive(late), "its end")
    finally:
        keeper.stop()
        for pid in agents(tmp_path / "agents"):
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)


def test_no_agent_is_started_before_the_first_hello(silent: Keeper, tmp_path: Path) -> None:
    started = time.monotonic()
    wait_for(lambda: time.monotonic() > started + 2.0, "time to pass")
    assert agents(tmp_path / "agents") == []


def test_start_keeper(tmp_path: Path) -> None:
    """Detached, one a node though two start it at once, also where the path is long."""
    node_dir = tmp_path / ("d" * 60) / ("e" * 60) / "node"
    code = "import sys; from qsub_py.node.keeper_link import start_keeper; "
    code += "start_keeper(sys.argv[1], [])"
    env = {**os.environ, "PYTHONPATH": ROOT}
    argv = [sys.executable, "-c", code, str(node_dir)]
    starters = [subprocess.Popen(argv, env=env) for _ in range(4)]
    assert [starter.wait(30) for starter in starters] == [0, 0, 0, 0]
    pid = int((node_dir / "keeper.pid").read_text())
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    assert (int(stat[1]), int(stat[3])) != (os.getpid(), os.getsid(0))
    start_keeper(node_dir, [])
    assert int((node_dir / "keeper.pid").read_text()) == pid
    assert node_dir.stat().st_mode & 0o777 == 0o700
    assert (node_dir / "keeper.sock").stat().st_mode & 0o777 == 0o600
    link = KeeperLink.connect(node_dir)
    link.send_all([frame({"op": "hello", "version": 1, "pid": 1}), frame({"op": "stop"})])
    wait_for(lambda: not is_alive(pid), "the keeper's end")
