"""Retries, checkpoints and requeues of Python calls."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import qsub_py
from env import Env


def flaky(path: str, good: int) -> int:
    attempt = int(os.environ["QSUB_ATTEMPT"])
    with open(path, "a") as file:
        file.write(f"{attempt}\n")
    if attempt < good:
        raise ValueError(f"attempt {attempt}")
    return attempt


def test_retries(cluster_env: Env, tmp_path: Path) -> None:
    with qsub_py.Executor(retries=2, backoff=0) as ex:
        assert ex.submit(flaky, str(tmp_path / "a"), 3).result() == 3
        with pytest.raises(ValueError, match="attempt 3"):
            ex.submit(flaky, str(tmp_path / "b"), 9).result()
    assert (tmp_path / "b").read_text().split() == ["1", "2", "3"]


def test_by_submit_and_map(cluster_env: Env, tmp_path: Path) -> None:
    future = qsub_py.submit(flaky, str(tmp_path / "a"), 2, retries=1, backoff="0s")
    assert future.result() == 2
    paths = [str(tmp_path / name) for name in "bcd"]
    found = qsub_py.map(flaky, paths, [1, 2, 1], retries=1, backoff=0.01, retry_on=["any-failure"])
    assert list(found) == [1, 2, 1]


def test_reasons(cluster_env: Env, tmp_path: Path) -> None:
    with (
        qsub_py.Executor(retries=2, backoff=0, retry_on="timeout") as ex,
        pytest.raises(ValueError, match="attempt 1"),
    ):
        ex.submit(flaky, str(tmp_path / "a"), 9).result()


def careful(path: str) -> str:
    if os.path.exists(path):
        return f"went on in attempt {os.environ['QSUB_ATTEMPT']}"
    while not qsub_py.checkpoint():
        time.sleep(0.02)
    Path(path).touch()
    raise qsub_py.Requeue


def test_checkpoint_and_requeue(cluster_env: Env, tmp_path: Path) -> None:
    with qsub_py.Executor(time=60, signal="USR1@59.5s") as ex:
        assert ex.submit(careful, str(tmp_path / "saved")).result() == "went on in attempt 2"


def test_checkpoint_outside_a_job() -> None:
    assert qsub_py.checkpoint() is False


@pytest.mark.parametrize(("options", "complaint"), [
    ({"retries": -1}, "retries must be at least 0"),
    ({"backoff": 3}, "backoff is of no use"),
    ({"retries": 1, "retry_on": "sometimes"}, "retry_on: .*no reason"),
    ({"on_oom": 2}, "on_oom needs a memory limit .*"),
    ({"on_timeout": "time*2"}, "on_timeout needs"),
    ({"signal": "USR1"}, "signal comes before the time limit"),
])  # fmt: skip
def test_bad_options(cluster_env: Env, options: dict[str, object], complaint: str) -> None:
    with pytest.raises(qsub_py.QsubError, match=complaint):
        qsub_py.Executor(**options)  # type: ignore[arg-type]
