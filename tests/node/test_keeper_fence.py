"""Nothing starts without a fence ahead, and what the store may restart stands still past it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from keeper_driver import Keeper, boot_now, is_stopped, wait_for


def pid_in(path: Path) -> int:
    return int(wait_for(lambda: path.exists() and path.read_text().strip(), str(path)))


def test_nothing_starts_before_the_first_fence(keeper: Keeper, tmp_path: Path) -> None:
    keeper.connect(fence_s=None)
    fresh = Keeper(tmp_path / "fresh")
    try:
        fresh.start().connect(fence_s=None)
        fresh.shell("true", uid="command")
        fresh.call(lambda: 1, [()], uid="call", slot=1)
        states = fresh.state()["batches"]
        assert [state["waiting"] for state in states] == [[0], [0]]
        assert [state["running"] for state in states] == [None, None]
        fresh.fence(100)
        assert fresh.await_item(0, "command").state == "COMPLETED"
        assert fresh.result(0, "call") == 1
    finally:
        fresh.stop()


def test_past_fence_pauses_and_a_later_one_resumes(keeper: Keeper, tmp_path: Path) -> None:
    line = f"sleep 600 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/pid; wait"
    key = keeper.shell(line, limit_s=2.0, grace_s=0)
    pid, child = pid_in(tmp_path / "pid"), pid_in(tmp_path / "child")
    keeper.fence(0.1)
    keeper.await_op("paused", key=key)
    # The signal is sent; it takes hold when the process is next scheduled.
    wait_for(lambda: is_stopped(pid) and is_stopped(child), "the stop of both")
    assert keeper.state()["batches"][0]["paused"] is True
    paused_at = boot_now()
    # Longer than the limit: it must not run meanwhile. This waits for the clock, not for work.
    wait_for(lambda: boot_now() > paused_at + 2.2, "time to pass")
    assert not keeper.items
    keeper.fence(100)
    keeper.await_op("resumed", key=key)
    item = keeper.await_item(0)
    assert item.state == "TIMEOUT"
    assert item.end - item.start > 2.0 + 2.0


def test_waiting_commands_do_not_start_past_the_fence(keeper: Keeper, tmp_path: Path) -> None:
    keeper.fence(-1)
    keeper.shell("true", "true")
    keeper.call(lambda: 5, [(), ()], slot=1, uid="call")
    assert [state["running"] for state in keeper.state()["batches"]] == [None, None]
    keeper.fence(100)
    assert len(keeper.await_items(2)) == 2
    assert keeper.result(1, "call") == 5


def test_no_requeue_is_not_paused(keeper: Keeper, tmp_path: Path) -> None:
    line = f"echo $$ > {tmp_path}/pid; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done"
    keeper.shell(line, requeue=False)
    pid = pid_in(tmp_path / "pid")
    keeper.fence(-1)
    keeper.state()
    assert not keeper.heard("paused")
    wait_for(lambda: not is_stopped(pid), "a sign of life")
    (tmp_path / "go").touch()
    assert keeper.await_item(0).state == "COMPLETED"


def test_call_is_paused_and_its_batch_waits(keeper: Keeper, tmp_path: Path) -> None:
    def task(x: int) -> int:
        (tmp_path / "pid").write_text(str(os.getpid()))
        while not (tmp_path / "go").exists():
            time.sleep(0.001)
        return x

    key = keeper.call(task, [(0,)])
    pid = pid_in(tmp_path / "pid")
    keeper.fence(-1)
    keeper.await_op("paused", key=key)
    wait_for(lambda: is_stopped(pid), "the stop")
    (tmp_path / "go").touch()
    keeper.state()
    assert not keeper.items
    keeper.fence(100)
    keeper.await_op("resumed", key=key)
    assert keeper.result(0) == 0


def test_no_requeue_call_goes_on_but_no_other_begins(keeper: Keeper, tmp_path: Path) -> None:
    def task(x: int) -> int:
        (tmp_path / f"begun{x}").touch()
        while not (tmp_path / f"go{x}").exists():
            time.sleep(0.001)
        return x

    keeper.call(task, [(0,)], requeue=False)
    keeper.call(task, [(1,)], first=1, requeue=False)
    wait_for((tmp_path / "begun0").exists)
    keeper.fence(-1)
    (tmp_path / "go0").touch()
    assert keeper.result(0) == 0
    assert keeper.state()["batches"][0]["waiting"] == [1]
    assert not (tmp_path / "begun1").exists()
    (tmp_path / "go1").touch()
    keeper.fence(100)
    assert keeper.result(1) == 1


def test_resume_by_fence_leaves_the_suspended_alone(keeper: Keeper, tmp_path: Path) -> None:
    key = keeper.shell(f"echo $$ > {tmp_path}/pid; sleep 0.1")
    pid = pid_in(tmp_path / "pid")
    keeper.send({"op": "suspend", "slot": 0})
    wait_for(lambda: is_stopped(pid), "the stop")
    keeper.fence(-1)
    keeper.await_op("paused", key=key)
    keeper.fence(100)
    keeper.await_op("resumed", key=key)
    assert is_stopped(pid)
    keeper.send({"op": "resume", "slot": 0})
    assert keeper.await_item(0).state == "COMPLETED"


def test_cancel_past_the_fence_does_not_let_it_run(keeper: Keeper, tmp_path: Path) -> None:
    key = keeper.shell(f"trap 'touch {tmp_path}/ran' TERM; echo $$ > {tmp_path}/pid; sleep 600")
    pid_in(tmp_path / "pid")
    keeper.fence(-1)
    keeper.await_op("paused", key=key)
    keeper.send({"op": "kill", "slot": 0, "pos": None, "why": "w", "grace_s": 30})
    item = keeper.await_item(0)
    assert (item.state, item.signal) == ("CANCELLED", 9)
    assert not (tmp_path / "ran").exists()


def test_what_runs_elsewhere_does_not_go_on_before_its_end(keeper: Keeper, tmp_path: Path) -> None:
    """The agent is back, says what is not ours any more and then opens the fence."""
    beats = tmp_path / "beats"
    key = keeper.shell(f"echo $$ > {tmp_path}/pid; while :; do echo beat >> {beats}; done")
    pid = pid_in(tmp_path / "pid")
    wait_for(beats.exists, "the first beat")
    keeper.fence(-1)
    keeper.await_op("paused", key=key)
    wait_for(lambda: is_stopped(pid), "the stop")
    seen = beats.stat().st_size
    # It shall read both orders at a time.
    assert keeper.process
    keeper.process.send_signal(signal.SIGSTOP)
    wait_for(lambda: is_stopped(keeper.process.pid), "the keeper's stop")
    keeper.send({"op": "kill", "slot": 0, "pos": None, "why": "w", "grace_s": 0})
    keeper.fence(100)
    keeper.process.send_signal(signal.SIGCONT)
    assert keeper.await_item(0).signal == 9
    assert beats.stat().st_size == seen


def test_verdict_past_the_fence(keeper: Keeper, tmp_path: Path) -> None:
    key = keeper.shell(f"echo $$ > {tmp_path}/pid; sleep 600")
    call = keeper.call(lambda: time.sleep(600), [()], slot=1, uid="call")
    pid_in(tmp_path / "pid")
    keeper.await_op("begun", key=call)
    keeper.fence(-1)
    keeper.await_op("paused", key=key)
    keeper.await_op("paused", key=call)
    for slot in (0, 1):
        keeper.send({"op": "verdict", "slot": slot, "do": "kill"})
    keeper.await_op("dropped", key=key)
    keeper.await_op("dropped", key=call)
    assert not keeper.items
