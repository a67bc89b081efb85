"""qlog -f of Python calls: what they print comes while they run, and nothing of others."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import qsub_py
from env import Env, alive, wait_until


class Follower:
    """A `qlog -f` whose output is read while it comes."""

    def __init__(self, job: str, out: Path) -> None:
        with open(out, "wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "qsub_py", "qlog", "-f", job], stdout=file,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        self._out = out

    @property
    def text(self) -> str:
        return self._out.read_text()

    def await_text(self, text: str) -> None:
        wait_until(lambda: text in self.text, what=f"{text!r} in {self._out}")


@pytest.fixture
def follow(tmp_path: Path) -> Iterator[Callable[[str], Follower]]:
    made: list[Follower] = []

    def start(job: str) -> Follower:
        made.append(Follower(job, tmp_path / f"followed{len(made)}"))
        return made[-1]

    yield start
    for one in made:
        one.process.kill()
        one.process.wait()


def talk(number: int, folder: str) -> int:
    print(f"call {number} begins")
    wait_for(Path(folder) / f"go{number}")
    print(f"call {number} ends")
    return number


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


def test_output_of_a_call_comes_while_it_runs(
    cluster_env: Env, tmp_path: Path, follow: Callable[[str], Follower]
) -> None:
    futures = [qsub_py.submit(talk, number, str(tmp_path), cpus=2) for number in range(3)]
    first, second = (follow(future.id) for future in futures[:2])
    first.await_text("call 0 begins")
    assert "ends" not in first.text and second.text == ""
    (tmp_path / "go0").touch()
    assert futures[0].result(30) == 0
    assert first.process.wait(30) == 0
    assert first.text == "call 0 begins\ncall 0 ends\n"
    second.await_text("call 1 begins")
    for number in (1, 2):
        (tmp_path / f"go{number}").touch()
    assert second.process.wait(30) == 0
    assert second.text == "call 1 begins\ncall 1 ends\n"


def test_a_new_agent_knows_where_the_output_is(
    cluster_env: Env, tmp_path: Path, follow: Callable[[str], Follower]
) -> None:
    future = qsub_py.submit(talk, 0, str(tmp_path))
    before = follow(future.id)
    before.await_text("call 0 begins")
    before.process.kill()
    cluster_env.kill("agent")
    again = follow(future.id)
    again.await_text("call 0 begins")
    (tmp_path / "go0").touch()
    assert future.result(60) == 0
    assert again.process.wait(60) == 0
    assert again.text == "call 0 begins\ncall 0 ends\n"


def quarrel() -> None:
    print("about to fail")
    time.sleep(0.3)
    raise ValueError("as told")


def test_a_call_that_raises(cluster_env: Env, follow: Callable[[str], Follower]) -> None:
    future = qsub_py.submit(quarrel)
    one = follow(future.id)
    assert one.process.wait(60) == 0
    assert one.text.startswith("about to fail\nTraceback")
    assert one.text.count("ValueError: as told") == 1


def many(folder: str, number: int) -> int:
    print(f"line of {number}")
    if number == 40:
        wait_for(Path(folder) / "go")
    return number


def test_neighbours_in_a_batch_stay_apart(
    cluster_env: Env, tmp_path: Path, follow: Callable[[str], Follower]
) -> None:
    jobs: Any = qsub_py.map(many, [str(tmp_path)] * 80, range(80))
    one = follow(f"{jobs.job}_40")
    one.await_text("line of 40")
    (tmp_path / "go").touch()
    assert list(jobs) == list(range(80))
    assert one.process.wait(60) == 0
    assert one.text == "line of 40\n"


def test_what_a_killed_call_printed_is_kept(cluster_env: Env, tmp_path: Path) -> None:
    future = qsub_py.submit(talk, 0, str(tmp_path), time=0.5)
    with pytest.raises(qsub_py.TaskTimeout):
        future.result(60)
    assert cluster_env.run("qlog", future.id).stdout == "call 0 begins\n"


def own_pid(folder: str) -> None:
    import os

    print("my last words", flush=True)
    (Path(folder) / "pid").write_text(str(os.getpid()))
    wait_for(Path(folder) / "never")


def test_followed_until_its_process_is_killed(
    cluster_env: Env, tmp_path: Path, follow: Callable[[str], Follower]
) -> None:
    import os

    with qsub_py.Executor() as executor:
        future = executor.submit(own_pid, str(tmp_path))
        one = follow(future.id)
        one.await_text("my last words")
        wait_until((tmp_path / "pid").exists)
        pid = int((tmp_path / "pid").read_text())
        assert alive(pid)
        cluster_env.run("qcancel", future.id.split("_")[0])
        assert one.process.wait(60) == 0
        assert one.text.startswith("my last words\n")
        assert not alive(pid) or os.kill(pid, signal.SIGKILL) is None
