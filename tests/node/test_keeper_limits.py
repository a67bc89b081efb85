"""The signal before the limit: who gets it, when, and what a task makes of it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from keeper_driver import ROOT, UID, Keeper, wait_for
from qsub_py.node.limits import Limits

USR1 = int(signal.SIGUSR1)
#: Both the shell and its child say what they hear.
BOTH = """
trap 'echo shell >> heard' USR1
sh -c 'trap "echo child >> heard" USR1; echo up >> heard; n=0; while [ $n -lt 600 ]; do sleep 0.1; n=$((n + 1)); done' &
wait; wait; wait
"""  # noqa: E501


@pytest.mark.parametrize(
    ("whom", "heard"), [("main", {"shell"}), ("rest", {"child"}), ("all", {"shell", "child"})]
)
def test_who_hears_it(keeper: Keeper, tmp_path: Path, whom: str, heard: set[str]) -> None:
    keeper.shell(BOTH, cwd=str(tmp_path), limit_s=2, grace_s=0.1, notice=[USR1, 1.5, whom])
    item = keeper.await_item(0)
    assert (item.state, item.why) == ("TIMEOUT", "time limit of 2 s")
    assert set((tmp_path / "heard").read_text().split()) - {"up"} == heard


def test_who_dies_of_it_met_the_limit(keeper: Keeper) -> None:
    keeper.shell("exec sleep 60", limit_s=60, notice=[USR1, 59.8, "all"])
    item = keeper.await_item(0)
    assert (item.state, item.signal) == ("TIMEOUT", USR1)
    assert item.why == "time limit of 60 s: killed by the SIGUSR1 that warns 59.8 s before"


def test_who_leaves_in_time_ends_by_itself(keeper: Keeper) -> None:
    keeper.shell("trap 'exit 99' USR1; sleep 60 & wait", limit_s=60, notice=[USR1, 59.8, "main"])
    item = keeper.await_item(0)
    assert (item.state, item.exit, item.ask) == ("FAILED", 99, 0)


def test_time_that_it_stood_still_does_not_count(keeper: Keeper, tmp_path: Path) -> None:
    text = f"trap 'exit 5' USR1; echo $$ > {tmp_path}/pid; while :; do sleep 0.02; done"
    keeper.shell(text, limit_s=3, notice=[USR1, 2.2, "main"])
    keeper.await_op("begun")
    keeper.send({"op": "suspend", "slot": 0})
    pid = int(wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] in "TD")
    for _ in range(3):  # as long as the limit itself
        keeper.until(lambda: keeper.listen(1.0) is None)
    assert keeper.state()["batches"][0]["suspended"]
    keeper.send({"op": "resume", "slot": 0})
    item = keeper.await_item(0)
    assert (item.exit, item.state) == (5, "FAILED")
    assert item.end - item.start > 3


def test_times_of_the_looks() -> None:
    common: dict[str, Any] = {"limit_s": 100.0, "grace_s": 1.0, "notice": [10, 60.0, "all"]}
    limits = Limits.of(common)
    assert limits.first_look_s() == 0.1
    assert limits.wait_s(0.1, was_told=True, was_warned=False) == pytest.approx(39.9)
    assert limits.wait_s(40, was_told=True, was_warned=True) == 60
    assert not limits.must_warn(39.9) and limits.must_warn(40)
    assert Limits.of(common | {"limit_s": 0}).wait_s(9, was_told=True, was_warned=False) == 0
    assert Limits.of(common | {"limit_s": 30.0}).signal_at_s == 0.001


def save_and_leave(path: str) -> str:
    import time

    import qsub_py

    if os.environ["QSUB_ATTEMPT"] == "2":
        return Path(path).read_text()
    assert not qsub_py.checkpoint()
    Path(path + ".up").touch()
    while not qsub_py.checkpoint():
        time.sleep(0.01)
    Path(path).write_text("saved")
    raise qsub_py.Requeue


def is_warned() -> bool:
    import qsub_py

    return qsub_py.checkpoint()


def test_a_call_saves_and_asks_to_run_again(keeper: Keeper, tmp_path: Path) -> None:
    options: dict[str, Any] = {"limit_s": 60, "notice": [USR1, 59.6, "all"], "uid": "a" * 16}
    keeper.call(save_and_leave, [(str(tmp_path / "state"),)], **options)
    item = keeper.await_item(0, "a" * 16)
    assert (item.state, item.exit, item.ask) == ("FAILED", 99, 1)
    keeper.items.clear()
    keeper.call(save_and_leave, [(str(tmp_path / "state"),)], attempt=2, **options)
    assert keeper.result(0, "a" * 16) == "saved"
    # The same runner: the flag was the earlier call's.
    keeper.call(is_warned, [()], uid="b" * 16, limit_s=60, notice=[USR1, 1, "all"])
    assert keeper.result(0, "b" * 16) is False


REQUEUES = """
import os, sys
sys.path.insert(0, os.environ["ROOT"])
import qsub_py
if os.fork() == 0:
    raise qsub_py.Requeue if sys.argv[1] == "child" else SystemExit(0)
os.wait()
if sys.argv[1] == "caught":
    try: raise qsub_py.Requeue
    except SystemExit: sys.exit(1)
raise qsub_py.Requeue if sys.argv[1] == "raised" else SystemExit(int(sys.argv[2]))
"""


@pytest.mark.parametrize(("how", "code", "ask"), [
    ("raised", 99, 1), ("caught", 1, 0), ("plain", 99, 0), ("child", 3, 0),
])  # fmt: skip
def test_a_script_asks(keeper: Keeper, tmp_path: Path, how: str, code: int, ask: int) -> None:
    env = {"PATH": os.environ["PATH"], "ROOT": ROOT, "QSUB_SCRATCH": str(tmp_path / "scratch")}
    for number, argv in enumerate(
        ([sys.executable, "-c", REQUEUES, how, str(code)], ["sh", "-c", "exit 99"])
    ):
        order = {"job": 1, "uid": UID, "first": number, "count": 1, "attempt": 1, "epoch": 1}
        common = {"argv": argv, "env": env, "cwd": "/", "umask": 18, "limit_s": 0, "grace_s": 1,
                  "requeue": True}  # fmt: skip
        keeper.send({"op": "run", "slot": 0, "batch": order, "kind": "command", "env": env,
                     "common": common, "tasks": [{"pos": number}]})  # fmt: skip
    item, after = keeper.await_items(2)
    assert (item.exit, item.ask) == (code, ask)
    assert (after.exit, after.ask) == (99, 0), "the mark was another task's"
