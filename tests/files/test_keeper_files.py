"""Files under a real keeper: unpacking before a command begins, collecting after its end."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from files.test_archive import D, forged, pack, unpack
from keeper_driver import UID, Keeper, by_value, chunk, is_alive, wait_for

PRELUDE = b"prelude.py"


def parcel(tmp_path: Path, **files: str) -> list[list[str]]:
    """Return what the agent says of an archive with these files."""
    root = tmp_path / "from"
    root.mkdir()
    for name, text in files.items():
        (root / name).write_text(text)
    pack(root, tmp_path / "arc")
    return [[".", str(tmp_path / "arc")]]


def run(
    keeper: Keeper,
    script: str,
    ships: list[list[str]],
    count: int = 1,
    *,
    first: int = 0,
    **common: Any,
) -> Path:
    """Hand over a batch in a private directory; return that directory."""
    scratch = keeper.node_dir / "scratch" / "0"
    order = {
        "op": "run", "slot": 0, "kind": "command",
        "batch": {"job": 1, "uid": UID, "first": first, "count": count, "attempt": 1,
                  "epoch": 1},
        "tasks": [{"pos": first + n, "env": {}, **common.pop("task", {})} for n in range(count)],
        "env": {"QSUB_SCRATCH": str(scratch)},
        "common": {
            "argv": ["/bin/sh", "-c", script], "env": {"PATH": os.environ["PATH"]}, "cwd": "/",
            "umask": 0o22, "limit_s": 0, "grace_s": 1, "requeue": True,
            "private": {"ships": ships, "submit_dir": "/submit"}, **common,
        },
    }  # fmt: skip
    keeper.send(order)
    return scratch


def output(keeper: Keeper, pos: int = 0) -> str:
    return Path(keeper.await_item(pos).out).read_text()


def unfit(keeper: Keeper) -> str:
    """Return why tasks came back."""
    told = keeper.until(lambda: [h for h in keeper.heard("returned") if h["unfit"]], "a refusal")
    return str(told[0]["unfit"])


def preludes() -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if PRELUDE in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.fixture
def slow(tmp_path: Path) -> list[list[str]]:
    """Return a parcel that never comes: who opens it waits."""
    os.mkfifo(tmp_path / "slow")
    return [[".", str(tmp_path / "slow")]]


def ours(slow: list[list[str]]) -> Callable[[], list[int]]:
    """Return what finds the child that unpacks this parcel."""
    needle = slow[0][1].encode()

    def find() -> list[int]:
        return [pid for pid in preludes() if needle in Path(f"/proc/{pid}/cmdline").read_bytes()]

    return find


def test_each_task_finds_a_fresh_directory(keeper: Keeper, tmp_path: Path) -> None:
    ships = parcel(tmp_path, a="shipped")
    script = "ls; cat a; pwd; echo x >> a; : > trace; trap; ulimit -c; env -0 | grep -zc LC_CTYPE"
    for pos in range(5):
        scratch = run(keeper, script, ships, first=pos)
        item = keeper.await_item(pos)
        lines = output(keeper, pos).splitlines()
        assert lines[0] == "a"
        assert lines[1].startswith(f"shipped{scratch}")
        assert lines[-1] == "0", "the child that unpacks leaves no variable behind"
        assert item.start > 0
    keeper.until(lambda: not list(scratch.parent.glob("0*")), "the directories are gone")


def test_signals_are_as_in_any_command(keeper: Keeper, tmp_path: Path) -> None:
    """Python ignores SIGPIPE and SIGXFSZ; a command must not inherit that."""
    run(keeper, "yes | head -1; grep SigIgn /proc/self/status", parcel(tmp_path, a=""))
    lines = output(keeper).splitlines()
    assert lines[0] == "y"
    ignored = int(lines[1].split()[1], 16)
    assert not ignored & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"nonsense", "the archive is cut off"),
        (forged([D, ["a", "l", 0, 0, "/etc"]]), "leads out"),
        (None, "no such file"),
    ],
)
def test_what_cannot_be_unpacked_is_the_nodes_fault(
    keeper: Keeper, tmp_path: Path, data: bytes | None, text: str
) -> None:
    if data is not None:
        (tmp_path / "arc").write_bytes(data)
    scratch = run(keeper, "true", [[".", str(tmp_path / "arc")]], 3)
    why = unfit(keeper)
    assert "cannot unpack" in why
    assert text in why
    assert sorted(p for one in keeper.heard("returned") for p in one["pos"]) == [0, 1, 2]
    assert keeper.items == {}
    keeper.until(lambda: not list(scratch.parent.glob("0*")), "nothing is left")


def test_a_full_disk_is_the_nodes_fault(keeper: Keeper, tmp_path: Path) -> None:
    """A limit on file sizes stands for it: the same error on the same path."""
    ships = parcel(tmp_path, a="x" * 2_000_000)
    assert keeper.process is not None
    import resource

    resource.prlimit(keeper.process.pid, resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    run(keeper, "true", ships)
    assert "cannot unpack" in unfit(keeper)


def test_a_program_that_is_missing(keeper: Keeper, tmp_path: Path) -> None:
    run(keeper, "", parcel(tmp_path, a=""), task={"argv": ["./nothing"]})
    assert "no such file or directory: ./nothing" in unfit(keeper)


def test_a_shipped_program_is_found_by_its_old_path(keeper: Keeper, tmp_path: Path) -> None:
    ships = parcel(tmp_path, tool="#!/bin/sh\necho tool $0\n")
    (tmp_path / "from" / "tool").chmod(0o755)
    pack(tmp_path / "from", tmp_path / "arc")
    run(keeper, "", ships, task={"argv": ["/submit/tool"]})
    assert output(keeper) == "tool ./tool\n"


def test_the_time_limit_waits_for_the_files(keeper: Keeper, slow: list[list[str]]) -> None:
    run(keeper, "true", slow, 2, limit_s=0.2)
    keeper.await_op("begun")
    # What waits behind it goes back, as behind any long task.
    assert keeper.await_op("returned")["pos"] == [1]
    for _ in range(20):
        keeper.listen(0.05)
    assert keeper.items == {}
    keeper.send({"op": "kill", "slot": 0, "pos": None, "why": "by ann", "grace_s": 0.5})
    item = keeper.await_item(0)
    assert (item.state, item.why) == ("CANCELLED", "by ann")
    wait_for(lambda: not ours(slow)(), "the child is gone")


def test_the_time_limit_runs_afterwards(keeper: Keeper, tmp_path: Path) -> None:
    run(keeper, "sleep 60", parcel(tmp_path, a=""), limit_s=0.2)
    assert keeper.await_item(0).state == "TIMEOUT"


def test_a_child_that_is_killed_has_not_failed_the_task(
    keeper: Keeper, slow: list[list[str]]
) -> None:
    run(keeper, "true", slow)
    [pid] = keeper.until(ours(slow), "the child")
    os.kill(pid, signal.SIGKILL)
    assert "died while its files were unpacked" in unfit(keeper)
    assert keeper.items == {}


def test_a_keeper_that_dies_leaves_no_child(
    keeper: Keeper, slow: list[list[str]], tmp_path: Path
) -> None:
    run(keeper, "true", slow)
    [pid] = keeper.until(ours(slow), "the child")
    keeper.kill_9()
    keeper.start().connect()
    assert keeper.await_item(0).state == "LOST"
    assert not is_alive(pid)


def test_drop_while_unpacking(keeper: Keeper, slow: list[list[str]]) -> None:
    run(keeper, "true", slow)
    keeper.until(ours(slow), "the child")
    keeper.send({"op": "verdict", "slot": 0, "do": "kill"})
    keeper.await_op("dropped")
    assert (keeper.items, keeper.heard("returned")) == ({}, [])
    wait_for(lambda: not ours(slow)(), "the child is gone")


def test_outputs_show_in_both_places(keeper: Keeper, tmp_path: Path) -> None:
    ships = parcel(tmp_path, log="was shipped")
    links = {"out": "log", "err": "deep/err"}
    run(keeper, "echo said; echo bad >&2; ls -R", ships, task={"links": links},
        fetch=["log", "deep"])  # fmt: skip
    item = keeper.await_item(0)
    assert output(keeper).startswith("said\n")
    assert stat.S_ISREG(os.stat(item.out).st_mode)
    unpack(Path(item.files[0]), tmp_path / "got")  # type: ignore[index]
    assert (tmp_path / "got" / "log").read_text() == output(keeper)
    assert (tmp_path / "got" / "deep" / "err").read_text() == "bad\n"


def test_collecting(keeper: Keeper, tmp_path: Path) -> None:
    ships = parcel(tmp_path, same="1", changed="1", replaced="1")
    script = "echo 2 > changed; rm replaced; echo 1 > replaced; echo 3 > new; exit 7"
    run(keeper, script, ships, fetch=["*"])
    item = keeper.await_item(0)
    assert (item.state, item.exit) == ("FAILED", 7)
    path, size, sha, count, why = item.files or []
    assert (count, why, os.path.getsize(path), len(sha)) == (3, "", size, 64)
    unpack(Path(path), tmp_path / "got")
    assert sorted(p.name for p in (tmp_path / "got").iterdir()) == ["changed", "new", "replaced"]


def test_nothing_to_collect(keeper: Keeper, tmp_path: Path) -> None:
    run(keeper, "true", parcel(tmp_path, a=""), fetch=["nothing/*"])
    assert keeper.await_item(0).files == ["", 0, "", 0, ""]


def test_kill_and_fence_while_collecting(keeper: Keeper, tmp_path: Path) -> None:
    """The end was decided; the slot stays taken until the files are packed."""
    script = "i=0; while [ $i -lt 3000 ]; do : > $i; i=$((i+1)); done; exit 3"
    run(keeper, script, parcel(tmp_path, a=""), 2, fetch=["*"], limit_s=60)
    target = keeper.node_dir / "out" / f"{UID}.0.1.files.part"
    done = keeper.node_dir / "out" / f"{UID}.0.1.files"
    keeper.until(lambda: target.exists() or done.exists(), "collecting began")
    keeper.fence(-1)
    keeper.send({"op": "kill", "slot": 0, "pos": [0], "why": "late", "grace_s": 0})
    keeper.fence(1000)
    item = keeper.await_item(0)
    assert (item.state, item.exit, (item.files or [])[3]) == ("FAILED", 3, 3000)


# -- calls ---------------------------------------------------------------------------------


def busy(n: int) -> object:
    import os
    import time

    seen = sorted(os.listdir("."))
    with open(f"r{n}", "w") as file:
        file.write("x" * n)
    if n == 9:
        time.sleep(600)
    return seen, os.getcwd()


def run_calls(keeper: Keeper, numbers: list[int], **common: Any) -> Path:
    path = keeper.node_dir / "busy.fn"
    path.write_bytes(b"R" + by_value(busy))
    data = chunk([((n,), {}) for n in numbers])
    scratch = keeper.node_dir / "scratch" / "0"
    keeper.send({
        "op": "run", "slot": 0, "kind": "call",
        "batch": {"job": 1, "uid": UID, "first": 0, "count": len(numbers), "attempt": 1,
                  "epoch": 1},
        "tasks": {"first": 0, "count": len(numbers), "chunk": 0, "at": 0, "index_first": 0,
                  "index_step": 1},
        "chunks": [[0, len(data)]], "env": {"QSUB_SCRATCH": str(scratch)},
        "common": {
            "fn_key": "busy", "fn_path": str(path), "path": [], "python": "",
            "env": {"PATH": os.environ["PATH"]}, "cwd": str(scratch.parent), "umask": 0o22,
            "limit_s": 0, "grace_s": 0, "requeue": True, **common,
        },
    }, data)  # fmt: skip
    return scratch


def test_calls_find_a_fresh_directory_each(keeper: Keeper, tmp_path: Path) -> None:
    ships = parcel(tmp_path, a="shipped")
    private = {"ships": ships, "submit_dir": "/submit"}
    scratch = run_calls(keeper, list(range(5)), private=private, fetch=["r*"])
    for pos in range(5):
        assert keeper.result(pos) == (["a"], str(scratch))
        path, _, _, count, _ = keeper.await_item(pos).files or []
        assert count == 1
        unpack(Path(path), tmp_path / f"got{pos}")
        assert (tmp_path / f"got{pos}" / f"r{pos}").read_text() == "x" * pos


def test_calls_without_files_need_no_new_directory(keeper: Keeper) -> None:
    scratch = run_calls(keeper, list(range(4)), private={"ships": [], "submit_dir": "/submit"})
    for pos in range(4):
        assert keeper.result(pos) == ([], str(scratch))
        assert keeper.await_item(pos).files is None


def test_calls_that_cannot_be_unpacked(keeper: Keeper, tmp_path: Path) -> None:
    (tmp_path / "arc").write_bytes(b"nonsense")
    private = {"ships": [[".", str(tmp_path / "arc")]], "submit_dir": "/submit"}
    run_calls(keeper, [1, 2, 3], private=private)
    assert "cannot unpack what was shipped" in unfit(keeper)
    assert keeper.items == {}


@pytest.mark.parametrize("how", ["kill", "limit", "crash"])
def test_a_killed_call_brings_its_files(keeper: Keeper, tmp_path: Path, how: str) -> None:
    private = {"ships": parcel(tmp_path, a=""), "submit_dir": "/submit"}
    limit = 0.3 if how == "limit" else 0
    scratch = run_calls(keeper, [2, 9, 3], private=private, fetch=["r*"], limit_s=limit)
    keeper.until(lambda: (scratch / "r9").exists(), "the long call")
    if how == "kill":
        keeper.send({"op": "kill", "slot": 0, "pos": [1], "why": "by ann", "grace_s": 0})
    elif how == "crash":
        [pid] = [int(p) for p in os.listdir("/proc") if p.isdigit() and _cwd(p) == str(scratch)]
        os.kill(pid, signal.SIGKILL)
    item = keeper.await_item(1)
    assert item.state == {"kill": "CANCELLED", "limit": "TIMEOUT", "crash": "LOST"}[how]
    path, _, _, count, why = item.files or []
    assert (count, why) == (1, "")
    unpack(Path(path), tmp_path / "got")
    assert (tmp_path / "got" / "r9").read_text() == "x" * 9
    keeper.until(lambda: (UID, 2) in keeper.items or keeper.heard("returned"), "the third call")


def _cwd(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""
