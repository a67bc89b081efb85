"""Python calls under a real keeper: results, errors, crashes, output, take-back."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

from keeper_driver import ROOT, UID, Keeper, chunk, is_alive, wait_for


def double(x: int) -> int:
    return 2 * x


def test_results_in_order(keeper: Keeper) -> None:
    keeper.call(double, [(n,) for n in range(256)])
    assert [keeper.result(n) for n in range(256)] == [2 * n for n in range(256)]
    item = keeper.items[UID, 0]
    assert (item.state, item.kind) == ("COMPLETED", 1)
    assert 0 < item.start <= item.end
    positions = [fields[0] for header in keeper.heard("ended") for fields in header["items"]]
    assert positions == list(range(256))


def test_exception_with_traceback(keeper: Keeper) -> None:
    def inner(x: int) -> None:
        raise LookupError(f"no {x}")

    def outer(x: int) -> None:
        inner(x)

    keeper.call(outer, [(7,)])
    error = keeper.result(0)
    item = keeper.items[UID, 0]
    assert (item.state, item.exit, item.kind) == ("FAILED", 1, 2)
    assert item.why == "LookupError: no 7"
    assert (error["type"], error["module"], error["text"]) == ("LookupError", "builtins", "no 7")
    assert "in inner" in error["traceback"]
    assert "runner.py" not in error["traceback"]


def test_system_exit_and_interrupt_are_failures(keeper: Keeper) -> None:
    def leave(how: str) -> None:
        if how == "interrupt":
            raise KeyboardInterrupt
        sys.exit(int(how))

    keeper.call(leave, [("5",), ("0",), ("interrupt",)])
    assert [item.exit for item in keeper.await_items(3)] == [5, 1, 1]
    assert {item.state for item in keeper.await_items(3)} == {"FAILED"}


def test_unpicklable_result(keeper: Keeper) -> None:
    def locked() -> Any:
        return {"a": [1, threading.Lock()]}

    keeper.call(locked, [(), ()])
    error = keeper.result(0)
    assert keeper.items[UID, 0].state == "FAILED"
    assert "_thread.lock" in error["text"]
    assert "['a'][1]" in error["text"]
    assert keeper.result(1)["type"] == "PicklingError"


def test_unpicklable_exception(keeper: Keeper) -> None:
    def fail() -> None:
        error = ValueError("with a lock")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error

    keeper.call(fail, [()])
    error = keeper.result(0)
    assert error["pickle"] is None
    assert (error["type"], error["text"]) == ("ValueError", "with a lock")
    assert "ValueError: with a lock" in error["traceback"]


def crash_cases(keeper: Keeper, crash: Any) -> Any:
    """Run three calls of which the second crashes its runner; return its item."""

    def task(x: int) -> int:
        if x == 1:
            crash()
        return x

    key = keeper.call(task, [(0,), (1,), (2,)])
    item = keeper.await_item(1)
    assert keeper.result(0) == 0, "a result already sent counts"
    header = keeper.await_op("returned", key=key)
    assert (header["pos"], header["unfit"]) == ([2], "")
    keeper.call(task, [(2,)], first=2)
    assert keeper.result(2) == 2, "another runner takes over"
    return item


def test_os_exit_loses_one_call(keeper: Keeper) -> None:
    item = crash_cases(keeper, lambda: os._exit(3))
    assert (item.state, item.why) == ("LOST", "the Python process ended with exit 3")
    assert item.exit == 3


def test_segfault_loses_one_call(keeper: Keeper) -> None:
    item = crash_cases(keeper, lambda: ctypes.string_at(0))
    assert (item.state, item.signal) == ("LOST", signal.SIGSEGV)
    assert item.why == "the Python process died with signal 11 (SIGSEGV)"


def test_kill_9_of_the_runner(keeper: Keeper, tmp_path: Path) -> None:
    def task(x: int) -> int:
        if x == 1:
            (tmp_path / "pid").write_text(str(os.getpid()))
            time.sleep(600)
        return x

    keeper.call(task, [(0,), (1,)])
    assert keeper.result(0) == 0
    pid = int(wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    keeper.await_op("begun", pos=1)
    os.kill(pid, signal.SIGKILL)
    assert (keeper.await_item(1).state, keeper.await_item(1).signal) == ("LOST", 9)


def test_output_is_captured(keeper: Keeper) -> None:
    def talk(x: int) -> None:
        if x == 1:
            print("from Python")
            os.write(1, b"from write\n")
            libc = ctypes.CDLL(None)
            libc.printf(b"from C, ")
            libc.puts(b"again")
            print("to stderr", file=sys.stderr)

    keeper.call(talk, [(0,), (1,), (2,)])
    silent, loud, _ = keeper.await_items(3)
    assert silent.out == ""
    assert loud.out_at is not None
    offset, length = loud.out_at
    text = Path(loud.out).read_bytes()[offset : offset + length].decode()
    assert sorted(text.splitlines()) == [
        "from C, again", "from Python", "from write", "to stderr",
    ]  # fmt: skip


def test_output_file_of_its_own(keeper: Keeper, tmp_path: Path) -> None:
    def talk(x: int) -> None:
        print("task", x)
        os.system("echo child")

    out = tmp_path / "deep" / "out"
    tasks = [
        {"pos": 0, "index": 0, "env": {}, "out": str(out), "chunk": 0, "at": 0},
        {"pos": 1, "index": 1, "env": {}, "out": "", "chunk": 0, "at": 1},
    ]
    keeper.call(talk, [(0,), (1,)], tasks=tasks)
    own, logged = keeper.await_items(2)
    assert (own.out, own.out_size) == (str(out), 13)
    assert out.read_text() == "task 0\nchild\n"
    assert logged.out_at is not None
    assert Path(logged.out).read_text() == "task 1\nchild\n"


def test_closed_output_is_restored(keeper: Keeper) -> None:
    def close(x: int) -> None:
        if x == 0:
            sys.stdout.close()
            os.close(1)
        print("still here")

    keeper.call(close, [(0,), (1,)])
    first, second = keeper.await_items(2)
    assert (first.state, second.state) == ("FAILED", "COMPLETED")
    assert second.out_size == len("still here\n")


def test_big_result_goes_to_a_file(keeper: Keeper) -> None:
    keeper.call(lambda n: b"x" * n, [(100 << 20,)])
    item = keeper.await_item(0)
    assert item.file is not None
    assert item.size == 0
    assert keeper.result(0) == b"x" * (100 << 20)


def test_middling_results_fill_the_pipe(keeper: Keeper) -> None:
    keeper.call(lambda n: bytes([n]) * 300_000, [(n,) for n in range(20)])
    assert [len(keeper.result(n)) for n in range(20)] == [300_000] * 20


def test_lambda_closure_and_main(keeper: Keeper, tmp_path: Path) -> None:
    factor = 3
    keeper.call(lambda x: factor * x, [(5,)], uid="closure")
    assert keeper.result(0, "closure") == 15
    script = (
        "import cloudpickle, sys\n"
        "class Point:\n"
        "    def __init__(self, x): self.x = x\n"
        "def make(x):\n"
        "    assert __name__ == '__main__'\n"
        "    return Point(x)\n"
        "sys.stdout.buffer.write(cloudpickle.dumps(make))\n"
    )
    (tmp_path / "s.py").write_text(script)
    made = os.popen(f"{sys.executable} {tmp_path}/s.py").buffer.read()  # type: ignore[attr-defined]
    keeper.call(made, [(4,)], uid="main")
    assert keeper.result(0, "main").x == 4


def test_function_is_unpacked_once_per_job(keeper: Keeper) -> None:
    counter = [0]

    def count() -> tuple[int, int]:
        counter[0] += 1
        return counter[0], os.getpid()

    for batch in range(3):
        keeper.call(count, [(), ()], first=2 * batch)
    answers = [keeper.result(n) for n in range(6)]
    assert [number for number, _ in answers] == [1, 2, 3, 4, 5, 6]
    assert len({pid for _, pid in answers}) == 1
    keeper.call(count, [()], uid="other")
    number, pid = keeper.result(0, "other")
    assert (number, pid) == (1, answers[0][1]), "warm for the next job, but with its own function"


def test_variables_and_directory_are_restored(keeper: Keeper, tmp_path: Path) -> None:
    def look(x: int) -> Any:
        seen = (os.environ["QSUB_TASK_ID"], os.environ["QSUB_JOB_ID"], os.getcwd())
        os.chdir("/")
        return seen

    env = {"PATH": os.environ["PATH"], "QSUB_JOB_ID": "12"}
    keeper.call(look, [(0,), (1,)], cwd=str(tmp_path), env=env)
    assert keeper.result(0) == ("0", "12", str(tmp_path))
    assert keeper.result(1) == ("1", "12", str(tmp_path))

    def dirty() -> Any:
        leftover = os.environ.get("DIRT")
        os.environ["DIRT"] = "yes"
        return leftover, sys.argv

    for uid in ("one", "two"):
        keeper.call(dirty, [()], uid=uid, cwd=str(tmp_path), env=env)
        assert keeper.result(0, uid) == (None, [""])


def test_qsub_py_itself_can_be_imported(keeper: Keeper) -> None:
    """The runner borrows the name of the package for a moment; a job may submit jobs."""

    def ask() -> Any:
        import qsub_py
        import qsub_py.errors

        return qsub_py.__version__, [name for name in sys.modules if "qsub_py.node" in name]

    keeper.call(ask, [()], path=[ROOT])
    version, ours = keeper.result(0)
    assert version
    assert ours == []


def test_edited_module_is_imported_anew(keeper: Keeper, tmp_path: Path) -> None:
    def ask() -> Any:
        import changing  # type: ignore[import-not-found]

        return changing.VALUE

    for value in (1, 22):
        (tmp_path / "changing.py").write_text(f"VALUE = {value}\n")
        keeper.call(ask, [()], uid=f"job{value}", path=[str(tmp_path)])
        assert keeper.result(0, f"job{value}") == value


def test_tasks_run_on_into_the_next_chunk(keeper: Keeper) -> None:
    packed = [chunk([((1,), {}), ((2,), {})]), chunk([((3,), {}), ((4,), {})])]
    keeper.call(double, [(2,), (3,), (4,)], packed=packed, at=1)
    assert [keeper.result(n) for n in range(3)] == [4, 6, 8]


def test_compressed_chunk(keeper: Keeper) -> None:
    plain = chunk([((n,), {}) for n in range(100)])
    keeper.call(double, [()] * 100, packed=[b"Z" + zlib.compress(plain[1:])])
    assert keeper.result(99) == 198


def test_missing_module_is_unfit(keeper: Keeper) -> None:
    function = b"cno_such_module_at_all\nfn\n."
    key = keeper.call(function, [(1,), (2,)])
    header = keeper.await_op("returned", key=key)
    assert header["pos"] == [0, 1]
    assert header["unfit"].startswith("no module no_such_module_at_all for the function")
    assert not keeper.items


def test_missing_python_directory_and_function_are_unfit(keeper: Keeper) -> None:
    cases = [
        ({"python": "/no/python"}, "/no/python"),
        ({"cwd": "/no/place"}, "no such directory: /no/place"),
        ({"fn_path": "/no/function"}, "/no/function"),
        ({"python": "/bin/false"}, "before it could begin"),
    ]
    for number, (common, text) in enumerate(cases):
        key = keeper.call(double, [(1,), (2,)], uid=f"case{number}", **common)
        header = keeper.await_op("returned", key=key)
        assert header["pos"] == [0, 1]
        assert text in header["unfit"]


def test_arguments_that_cannot_be_unpacked_are_unfit(keeper: Keeper) -> None:
    good, bad = b"\x80\x05K\x01\x85}\x86.", b"cno_such_module\nx\n."
    sizes = [len(good), len(bad)]
    packed = b"R" + b"".join(n.to_bytes(4, "little") for n in (2, *sizes)) + good + bad
    key = keeper.call(double, [(1,), (2,)], packed=[packed])
    header = keeper.await_op("returned", key=key)
    assert header["pos"] == [1]
    assert "no module no_such_module for the arguments" in header["unfit"]
    assert keeper.result(0) == 2


def takeback_while(keeper: Keeper, tmp_path: Path, block: Any) -> None:
    def task(x: int) -> int:
        if x == 1:
            (tmp_path / "in").touch()
            block()
        return x

    key = keeper.call(task, [(n,) for n in range(5)])
    wait_for((tmp_path / "in").exists)
    header = keeper.await_op("returned", key=key)
    assert (header["pos"], header["unfit"]) == ([2, 3, 4], "")
    assert keeper.result(0) == 0
    assert keeper.result(1) == 1
    assert keeper.await_op("begun", key=key)["pos"] == 1
    assert {pos for _, pos in keeper.items} == {0, 1}


def test_long_call_sends_the_rest_back(keeper: Keeper, tmp_path: Path) -> None:
    takeback_while(keeper, tmp_path, lambda: time.sleep(0.5))


def test_rest_comes_back_out_of_c_code(keeper: Keeper, tmp_path: Path) -> None:
    takeback_while(keeper, tmp_path, lambda: ctypes.PyDLL(None).usleep(500_000))


def test_takeback_order(keeper: Keeper, tmp_path: Path) -> None:
    def task(x: int) -> int:
        (tmp_path / f"begun{x}").touch()
        while not (tmp_path / "go").exists():
            time.sleep(0.001)
        return x

    key = keeper.call(task, [(0,), (1,)])
    waiting = keeper.call(task, [(9,)], first=9)
    wait_for((tmp_path / "begun0").exists)
    keeper.send({"op": "takeback", "slot": 0})
    assert keeper.await_op("returned", key=waiting)["pos"] == [9]
    (tmp_path / "go").touch()
    assert keeper.result(0) == 0
    back = [pos for header in keeper.heard("returned", key=key) for pos in header["pos"]]
    assert back == [1]
    assert not (tmp_path / "begun1").exists()


def test_cancel_kills_the_call_and_its_processes(keeper: Keeper, tmp_path: Path) -> None:
    def task(x: int) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        line = f"setsid sleep 600 & echo $! > {tmp_path}/part && mv {tmp_path}/part {tmp_path}/pid"
        os.system(line)
        time.sleep(600)

    keeper.call(task, [(0,), (1,)])
    wait_for((tmp_path / "pid").exists)
    kill = {"op": "kill", "slot": 0, "pos": None, "state": "CANCELLED", "why": "by ann"}
    keeper.send({**kill, "grace_s": 0.2})
    item = keeper.await_item(0)
    assert (item.state, item.why, item.signal) == ("CANCELLED", "by ann", 9)
    assert not is_alive(int((tmp_path / "pid").read_text()))
    others = {header["pos"][0] for header in keeper.heard("returned") if header["pos"]}
    assert others == {1} or keeper.await_item(1).state == "CANCELLED"


def test_cancel_of_waiting_calls_spares_the_running_one(keeper: Keeper, tmp_path: Path) -> None:
    def task(x: int) -> int:
        while not (tmp_path / "go").exists():
            time.sleep(0.001)
        return x

    keeper.fence(-1)
    keeper.call(task, [(0,), (1,), (2,)])
    keeper.send({"op": "kill", "slot": 0, "pos": [1, 2], "why": "w", "grace_s": 5})
    assert keeper.await_item(1).state == keeper.await_item(2).state == "CANCELLED"
    keeper.fence(100)
    (tmp_path / "go").touch()
    assert keeper.result(0) == 0


def test_time_limit_of_a_call(keeper: Keeper) -> None:
    keeper.call(lambda: time.sleep(600), [()], limit_s=0.3)
    item = keeper.await_item(0)
    assert (item.state, item.why) == ("TIMEOUT", "time limit of 0.3 s")


def test_cancel_while_the_function_is_unpacked(keeper: Keeper, tmp_path: Path) -> None:
    slow = f"cposix\nsystem\n(Vtouch {tmp_path}/in; sleep 600\ntR.".encode()
    keeper.call(slow, [(), ()])
    wait_for((tmp_path / "in").exists)
    keeper.send({"op": "kill", "slot": 0, "pos": None, "why": "w", "grace_s": 5})
    assert {item.state for item in keeper.await_items(2)} == {"CANCELLED"}
    keeper.call(double, [(4,)], uid="next")
    assert keeper.result(0, "next") == 8


def test_user_signal_ends_a_call(keeper: Keeper, tmp_path: Path) -> None:
    def task() -> None:
        (tmp_path / "in").touch()
        time.sleep(600)

    keeper.call(task, [()])
    wait_for((tmp_path / "in").exists)
    keeper.send({"op": "signal", "slot": 0, "pos": None, "signal": signal.SIGUSR1})
    item = keeper.await_item(0)
    assert (item.state, item.signal) == ("FAILED", signal.SIGUSR1)


def test_forked_child_does_not_answer(keeper: Keeper) -> None:
    def fork(x: int) -> int:
        os.fork()
        return x

    keeper.call(fork, [(n,) for n in range(5)])
    assert [keeper.result(n) for n in range(5)] == [0, 1, 2, 3, 4]
    positions = [fields[0] for header in keeper.heard("ended") for fields in header["items"]]
    assert positions == [0, 1, 2, 3, 4]


def test_strays_of_a_call_do_not_meet_the_next_job(keeper: Keeper, tmp_path: Path) -> None:
    def leave() -> int:
        import subprocess

        return subprocess.Popen(["sleep", "600"], start_new_session=True).pid

    keeper.call(leave, [()], uid="one")
    pid = keeper.result(0, "one")
    assert is_alive(pid)
    keeper.call(double, [(1,)], uid="two")
    assert keeper.result(0, "two") == 2
    wait_for(lambda: not is_alive(pid), "the stray's end")


def test_verdict_kills_a_call_silently(keeper: Keeper) -> None:
    key = keeper.call(lambda: time.sleep(600), [(), ()])
    keeper.await_op("begun", key=key)
    keeper.send({"op": "verdict", "slot": 0, "do": "kill"})
    keeper.await_op("dropped", key=key)
    assert not keeper.items


def test_two_slots_use_two_runners(keeper: Keeper, tmp_path: Path) -> None:
    def meet(x: int) -> int:
        (tmp_path / str(x)).touch()
        while not (tmp_path / str(1 - x)).exists():
            time.sleep(0.001)
        return os.getpid()

    keeper.call(meet, [(0,)], slot=0, uid="a")
    keeper.call(meet, [(1,)], slot=1, uid="b")
    assert keeper.result(0, "a") != keeper.result(0, "b")
