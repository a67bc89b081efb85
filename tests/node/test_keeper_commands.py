"""Commands under a real keeper: ends, output, limits, kills, what cannot start."""

from __future__ import annotations

import os
import re
import signal
import sys
import zlib
from pathlib import Path
from typing import Any

from keeper_driver import UID, Keeper, is_alive, is_stopped, wait_for
from qsub_py.node.processes import all_pids

PYTHON = [sys.executable, "-IS", "-c"]

#: A daemon as in the textbooks: fork, setsid, fork; it writes its pid and ignores SIGTERM.
DAEMON = """
import os, signal, sys, time
if os.fork(): sys.exit(0) if sys.argv[2] == "leave" else time.sleep(600)
os.setsid()
if os.fork(): os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(sys.argv[1] + ".part", "w") as f: f.write(str(os.getpid()))
os.rename(sys.argv[1] + ".part", sys.argv[1])
time.sleep(600)
"""


def pid_in(path: Path) -> int:
    return int(wait_for(lambda: path.exists() and path.read_text().strip(), str(path)))


def test_exit_code_and_signal(keeper: Keeper) -> None:
    keeper.shell("exit 0", "exit 7", "kill -9 $$", "kill -SEGV $$")
    ok, seven, killed, segv = keeper.await_items(4)
    assert (ok.state, ok.exit, ok.signal) == ("COMPLETED", 0, 0)
    assert 0 < ok.start <= ok.end
    assert (seven.state, seven.exit, seven.why) == ("FAILED", 7, "exit code 7")
    assert (killed.state, killed.signal, killed.why) == ("FAILED", 9, "killed by SIGKILL")
    assert (segv.state, segv.signal) == ("FAILED", signal.SIGSEGV)


def test_output_files_and_parents(keeper: Keeper, tmp_path: Path) -> None:
    out, err = tmp_path / "a/b/out", tmp_path / "c/err"
    show = ["/bin/sh", "-c", "echo one; echo two >&2"]
    keeper.run(
        [
            {"pos": 0, "argv": show, "out": str(out), "err": str(err)},
            {"pos": 1, "argv": show, "out": str(tmp_path / "both")},
            {"pos": 2, "argv": show},
            {"pos": 3},
            {"pos": 4, "argv": show, "out": str(out), "append": True},
        ]
    )
    items = keeper.await_items(5)
    assert err.read_text() == "two\n"
    assert (tmp_path / "both").read_text() == "one\ntwo\n"
    assert Path(items[2].out).read_text() == "one\ntwo\n"
    assert Path(items[2].out).parent == keeper.node_dir / "out"
    assert items[2].out_size == 8
    assert (items[3].out, items[3].out_size) == ("", 0), "an empty default file is removed"
    assert not list((keeper.node_dir / "out").glob(f"{UID}.3.*"))
    assert out.read_text() == "one\none\ntwo\n"
    assert items[4].out_at == [4, 8]


def test_environment_directory_umask_stdin(keeper: Keeper, tmp_path: Path) -> None:
    text = 'echo "$PWD $A $B"; umask; cat; touch made'
    task = {"pos": 0, "argv": ["sh", "-c", text], "env": {"B": "task", "NAME": "ü\udcff"}}
    keeper.run([task], cwd=str(tmp_path), umask=0o27, env={"PATH": "/bin:/usr/bin", "A": "job"})
    item = keeper.await_item(0)
    assert Path(item.out).read_text() == f"{tmp_path} job task\n0027\n"
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o640


def test_many_short_commands_in_batches(keeper: Keeper) -> None:
    for batch in range(10):
        tasks = [{"pos": batch * 20 + n} for n in range(20)]
        keeper.run(tasks, slot=batch % 2, argv=["true"])
    items = keeper.await_items(200)
    assert {item.state for item in items} == {"COMPLETED"}
    assert keeper.heard("error") == []


def test_measures_cpu_and_memory(keeper: Keeper) -> None:
    code = "x = bytearray(80 << 20); sum(range(2_000_000))"
    keeper.run([{"pos": 0, "argv": [*PYTHON, code]}])
    item = keeper.await_item(0)
    assert item.cpu > 0.01
    assert item.rss > 80 << 20


def test_ignored_sigterm_is_followed_by_sigkill(keeper: Keeper, tmp_path: Path) -> None:
    keeper.shell(f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.05; done")
    pid = pid_in(tmp_path / "pid")
    keeper.await_op("begun", pos=0)
    kill = {"op": "kill", "slot": 0, "pos": None, "why": "cancelled by ann", "state": "CANCELLED"}
    keeper.send({**kill, "grace_s": 0.3})
    keeper.send({**kill, "grace_s": 0.3})
    item = keeper.await_item(0)
    assert (item.state, item.signal, item.why) == ("CANCELLED", 9, "cancelled by ann")
    assert item.end - item.start > 0.3
    assert not is_alive(pid)


def test_sigterm_lets_tidy_up(keeper: Keeper, tmp_path: Path) -> None:
    trap = f"trap 'echo tidy > {tmp_path}/tidy; exit 5' TERM"
    keeper.shell(f"{trap}; touch {tmp_path}/up; while :; do sleep 0.01; done")
    wait_for((tmp_path / "up").exists)
    keeper.send({"op": "kill", "slot": 0, "pos": [0], "why": "w", "grace_s": 30})
    item = keeper.await_item(0)
    assert (item.state, item.exit) == ("CANCELLED", 5)
    assert (tmp_path / "tidy").exists()


def test_kill_of_what_has_not_begun(keeper: Keeper) -> None:
    keeper.fence(-1)
    keeper.shell("true", "true", "true")
    keeper.shell("true", "true", uid="second")
    kill = {"op": "kill", "slot": 0, "why": "cancelled", "state": "CANCELLED", "grace_s": 10}
    keeper.send({**kill, "pos": [1]})
    item = keeper.await_item(1)
    assert (item.state, item.start, item.end) == ("CANCELLED", 0.0, 0.0)
    assert keeper.await_item(1, "second").state == "CANCELLED"
    keeper.fence(100)
    assert keeper.await_item(0).state == keeper.await_item(2).state == "COMPLETED"
    assert keeper.await_item(0, "second").state == "COMPLETED"


def test_daemon_is_killed_at_the_end(keeper: Keeper, tmp_path: Path) -> None:
    argv = [*PYTHON, DAEMON, str(tmp_path / "pid"), "leave"]
    # The main process must not be over before the daemon stands, or there is nothing to find.
    shell = f'"$@"; while [ ! -e {tmp_path}/pid ]; do :; done'
    keeper.run([{"pos": 0, "argv": ["sh", "-c", shell, "sh", *argv]}])
    assert keeper.await_item(0).state == "COMPLETED"
    assert not is_alive(pid_in(tmp_path / "pid"))


def test_racing_daemons_are_killed(keeper: Keeper, tmp_path: Path) -> None:
    """The main process ends while its child is between fork and fork."""
    code = (
        "import os, sys, time\n"
        "if os.fork(): os._exit(0)\n"
        "os.setsid()\n"
        "if os.fork(): os._exit(0)\n"
        "time.sleep(600)\n"
    )
    for pos in range(30):
        keeper.run([{"pos": pos}], argv=[*PYTHON, code])
    keeper.await_items(30)
    assert not [pid for pid in all_pids() if is_alive(pid) and ours(pid, keeper)]


def ours(pid: int, keeper: Keeper) -> bool:
    """Whether a process was started by this keeper, as its environment says."""
    node = zlib.crc32(str(keeper.node_dir).encode())
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return re.search(rb"QSUB_COOKIE=%s\S*\.%08x\0" % (UID.encode(), node), data) is not None


def test_nodes_on_one_host_leave_each_other_alone(keeper: Keeper, tmp_path: Path) -> None:
    """The same token on two nodes (it cannot be, but for a test) has two cookies."""
    other = Keeper(tmp_path / "other").start().connect()
    try:
        other.shell(f"touch {tmp_path}/up; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done")
        wait_for((tmp_path / "up").exists)
        keeper.shell("sleep 600")
        keeper.send({"op": "kill", "slot": 0, "pos": None, "why": "w", "grace_s": 0})
        assert keeper.await_item(0).state == "CANCELLED"
        (tmp_path / "go").touch()
        assert other.await_item(0).state == "COMPLETED"
    finally:
        other.stop()


def test_daemon_is_killed_at_cancel(keeper: Keeper, tmp_path: Path) -> None:
    argv = [*PYTHON, DAEMON, str(tmp_path / "pid"), "stay"]
    keeper.run([{"pos": 0, "argv": argv}])
    pid = pid_in(tmp_path / "pid")
    keeper.send({"op": "kill", "slot": 0, "pos": None, "why": "cancelled", "grace_s": 5})
    assert keeper.await_item(0).state == "CANCELLED"
    assert not is_alive(pid)


def test_background_process_of_the_session_is_killed(keeper: Keeper, tmp_path: Path) -> None:
    keeper.shell(f"sleep 600 & echo $! > {tmp_path}/pid")
    assert keeper.await_item(0).state == "COMPLETED"
    assert not is_alive(pid_in(tmp_path / "pid"))


def test_closed_stdout(keeper: Keeper) -> None:
    keeper.shell("exec >&- 2>&-; sleep 0.05; exit 4")
    assert keeper.await_item(0).exit == 4
    keeper.shell("echo next", slot=1, uid="b" * 16)
    assert keeper.await_item(0, "b" * 16).out_size == 5


def test_time_limit(keeper: Keeper) -> None:
    keeper.shell("sleep 600", limit_s=0.3, grace_s=5)
    item = keeper.await_item(0)
    assert (item.state, item.signal) == ("TIMEOUT", signal.SIGTERM)
    assert item.why == "time limit of 0.3 s"
    assert item.end - item.start >= 0.3


def test_time_limit_against_deaf_command(keeper: Keeper) -> None:
    keeper.shell("trap '' TERM; while :; do sleep 0.05; done", limit_s=0.05, grace_s=0.2)
    item = keeper.await_item(0)
    assert (item.state, item.signal) == ("TIMEOUT", signal.SIGKILL)


def test_short_batch_with_limit_is_untouched(keeper: Keeper) -> None:
    keeper.shell(*["true"] * 10, limit_s=60)
    assert {item.state for item in keeper.await_items(10)} == {"COMPLETED"}


def returned(keeper: Keeper, key: list[Any]) -> tuple[list[int], str]:
    header = keeper.await_op("returned", key=key)
    return header["pos"], header["unfit"]


def test_missing_directory_returns_the_batch(keeper: Keeper) -> None:
    key = keeper.shell("true", "true", cwd="/no/such/place")
    text = "no such directory: /no/such/place on this node (submit with --ship . or -D DIR)"
    assert returned(keeper, key) == ([0, 1], text)
    keeper.shell("true", uid="next")
    assert keeper.await_item(0, "next").state == "COMPLETED"
    assert not keeper.items.keys() - {("next", 0)}


def test_missing_program_returns_the_batch(keeper: Keeper, tmp_path: Path) -> None:
    key = keeper.run([{"pos": 0}, {"pos": 1}], argv=["nosuch"], uid="a")
    assert returned(keeper, key) == (
        [0, 1],
        "no such program on PATH: nosuch on this node",
    )
    key = keeper.run([{"pos": 0}], argv=["/no/such/program"], uid="b")
    text = "no such file or directory: /no/such/program on this node"
    assert returned(keeper, key) == ([0], text)
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    key = keeper.run([{"pos": 0}], argv=[str(script)], uid="c")
    assert "permission" in returned(keeper, key)[1]
    script.chmod(0o755)
    key = keeper.run([{"pos": 0}], argv=[str(script)], uid="d")
    assert str(script) in returned(keeper, key)[1]


def test_unwritable_output_returns_the_rest(keeper: Keeper, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    tasks = [{"pos": 0}, {"pos": 1, "out": str(tmp_path / "file" / "out")}, {"pos": 2}]
    key = keeper.run(tasks)
    assert returned(keeper, key)[0] == [1, 2]
    assert "cannot write output" in returned(keeper, key)[1]
    assert keeper.await_item(0).state == "COMPLETED"


def test_output_to_a_pipe_without_reader_does_not_hang(keeper: Keeper, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    key = keeper.run([{"pos": 0, "out": str(tmp_path / "fifo")}])
    assert returned(keeper, key)[0] == [0]


def test_long_command_sends_the_rest_back(keeper: Keeper) -> None:
    key = keeper.shell("true", "sleep 0.4", "true", "true")
    assert returned(keeper, key) == ([2, 3], "")
    assert keeper.await_op("begun", key=key)["pos"] == 1
    assert keeper.await_item(1).state == "COMPLETED"


def test_takeback(keeper: Keeper) -> None:
    keeper.fence(-1)
    key = keeper.shell("true", "true")
    second = keeper.shell("true", uid="second")
    keeper.send({"op": "takeback", "slot": 0})
    assert returned(keeper, key) == ([0, 1], "")
    assert returned(keeper, second) == ([0], "")
    keeper.fence(100)
    keeper.shell("exit 3", "true")  # claimed again, uncounted: the same tokens may start now
    assert keeper.await_item(0).exit == 3


def test_same_run_twice_starts_once(keeper: Keeper, tmp_path: Path) -> None:
    line = f"echo started >> {tmp_path}/starts"
    for _ in range(2):
        keeper.shell(line)
    keeper.await_item(0)
    keeper.shell(line)
    keeper.until(lambda: len(keeper.seqs) == 2, "the report told again")
    assert len(set(keeper.seqs)) == 1
    keeper.send({"op": "forget", "seqs": keeper.seqs})
    keeper.shell(line)
    assert keeper.state()["batches"] == []
    assert (tmp_path / "starts").read_text() == "started\n"


def test_suspend_and_resume(keeper: Keeper, tmp_path: Path) -> None:
    keeper.shell(f"echo $$ > {tmp_path}/pid; sleep 0.3", limit_s=600)
    pid = pid_in(tmp_path / "pid")
    keeper.send({"op": "suspend", "slot": 0})
    wait_for(lambda: is_stopped(pid), "the stop")
    assert keeper.state()["batches"][0]["suspended"] is True
    keeper.send({"op": "resume", "slot": 0})
    assert keeper.await_item(0).state == "COMPLETED"


def test_cancel_of_a_suspended_command(keeper: Keeper, tmp_path: Path) -> None:
    keeper.shell(f"echo $$ > {tmp_path}/pid; sleep 600")
    pid = pid_in(tmp_path / "pid")
    keeper.send({"op": "suspend", "slot": 0})
    wait_for(lambda: is_stopped(pid), "the stop")
    keeper.send({"op": "kill", "slot": 0, "pos": None, "why": "w", "grace_s": 30})
    assert keeper.await_item(0).signal == signal.SIGTERM


def test_signal_reaches_the_session(keeper: Keeper, tmp_path: Path) -> None:
    line = f"trap 'exit 9' USR1; touch {tmp_path}/up; while :; do sleep 0.01; done"
    keeper.shell(line)
    wait_for((tmp_path / "up").exists)
    keeper.send({"op": "signal", "slot": 0, "pos": [0], "signal": signal.SIGUSR1})
    assert keeper.await_item(0).exit == 9


def test_verdict_kills_silently(keeper: Keeper, tmp_path: Path) -> None:
    key = keeper.shell(f"trap '' TERM; echo $$ > {tmp_path}/pid; sleep 600", "true")
    pid = pid_in(tmp_path / "pid")
    keeper.send({"op": "verdict", "slot": 0, "do": "kill"})
    keeper.await_op("dropped", key=key)
    assert not is_alive(pid)
    assert not keeper.items


def test_bad_orders_are_answered(keeper: Keeper) -> None:
    keeper.send({"op": "run", "slot": 0, "batch": {}})
    keeper.send({"op": "dance"})
    keeper.send({"op": "kill", "slot": 77, "pos": None, "why": "", "grace_s": 1})
    keeper.until(lambda: len(keeper.heard("error")) == 2, "two errors")
    keeper.shell("true")
    assert keeper.await_item(0).state == "COMPLETED"


def test_suspend_returns_what_has_not_begun(keeper: Keeper, tmp_path: Path) -> None:
    """What would start next while the job is suspended goes back to the queue."""
    keeper.shell(f"echo $$ > {tmp_path}/pid; exec sleep 60", "true", "true")
    pid = pid_in(tmp_path / "pid")
    keeper.send({"op": "suspend", "slot": 0, "pos": [0]})
    assert keeper.await_op("returned")["pos"] == [1, 2]
    wait_for(lambda: is_stopped(pid), "the stop")


def test_suspend_of_another_task_lets_this_one_run(keeper: Keeper, tmp_path: Path) -> None:
    keeper.shell(f"echo $$ > {tmp_path}/pid; exec sleep 60")
    pid = pid_in(tmp_path / "pid")
    keeper.await_op("begun")
    keeper.send({"op": "suspend", "slot": 0, "pos": [7]})
    assert keeper.state()["batches"][0]["suspended"] is False
    assert not is_stopped(pid)


def test_another_time_limit(keeper: Keeper) -> None:
    keeper.shell("sleep 60", limit_s=3600)
    keeper.await_op("begun")
    keeper.send({"op": "limit", "slot": 0, "limit_s": 0.3})
    item = keeper.await_item(0)
    assert (item.state, item.why) == ("TIMEOUT", "time limit of 0.3 s")


def test_a_limit_where_there_was_none(keeper: Keeper) -> None:
    keeper.shell("sleep 60")
    keeper.await_op("begun")
    keeper.send({"op": "limit", "slot": 0, "limit_s": 0.05})
    assert keeper.await_item(0).state == "TIMEOUT"
    keeper.send({"op": "limit", "slot": 0, "limit_s": 9.0})
    assert keeper.heard("error") == []


def test_orders_for_what_has_just_ended(keeper: Keeper) -> None:
    """They came too late and must not touch what the slot runs next."""
    keeper.shell("true")
    keeper.await_item(0)
    keeper.send({"op": "suspend", "slot": 0, "pos": [0]})
    keeper.send({"op": "limit", "slot": 0, "limit_s": 0.001})
    keeper.send({"op": "suspend", "slot": 9, "pos": None})
    keeper.shell("sleep 0.2", first=1, attempt=2)
    assert keeper.until(lambda: [i for i in keeper.items.values() if i.end - i.start > 0.1])
    assert keeper.heard("error") == []
