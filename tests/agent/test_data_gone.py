"""What a job needs is gone from the server: it ends with the reason, nobody tries for ever."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import qsub_py
from env import Env
from qsub_py.model import State


def rows(env: Env) -> int:
    Path("rows").write_text("".join(f"{number:08d}\n" for number in range(20_000)))
    return env.qsub("--each-line", "rows", "--array", "%1", "--", "test", "{line}")


def function(env: Env) -> int:
    ballast = os.urandom(300_000)
    return qsub_py.map(lambda n: len(ballast) + n, range(3)).job


def arguments(env: Env) -> int:
    return qsub_py.map(len, [os.urandom(300_000)]).job


@pytest.mark.parametrize("submit", [rows, function, arguments])
def test_gone(
    env: Env, submit: Callable[[Env], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = submit(env)
    with closing(env.store()) as store:
        prefix = store.keys.prefix
        names = store.link.command("SMEMBERS", f"{prefix}blobs:{job}")
        assert names
        for name in names:
            assert store.link.command("UNLINK", store.keys.blob(name.decode()))
    env.start_node("n1")
    info = env.wait_job(job)
    assert (info.state, info.reason) == (State.FAILED, "no node can start it")
    assert "gone from the server" in info.unfit["n1"]
    assert env.run("qsub", "-W", "true").returncode == 0, "the node works on"
