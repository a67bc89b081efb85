"""qlog -f of several tasks: their lines as they come, whole, each with its task's id."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import qsub_py
from cli.test_follow_calls import Follower, follow, wait_for
from env import Env, wait_until
from qsub_py.cli.follow import _Lines, _runs

__all__ = ["follow"]

TALK = """\
echo "begin $QSUB_TASK_ID"
while [ ! -e {folder}/go$QSUB_TASK_ID ]; do sleep 0.02; done
printf 'end %s' $QSUB_TASK_ID
"""


def script(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "job.sh"
    path.write_text("#!/bin/sh\n" + text.replace("{folder}", str(tmp_path)))
    return path


def test_lines_are_whole() -> None:
    lines = _Lines("12_3")
    assert lines.feed(b"a\nb") == b"12_3: a\n"
    assert lines.feed(b"c\n\nd") == b"12_3: bc\n12_3: \n"
    assert (lines.end(), lines.end()) == (b"12_3: d\n", b"")
    assert lines.feed(b"x" * 70000) == b"12_3: " + b"x" * 70000 + b"\n"
    assert list(_runs([0, 1, 2, 5, 7, 8])) == [(0, 2), (5, 5), (7, 8)]
    assert list(_runs([0, 2, 5], gap=2)) == [(0, 2), (5, 5)]
    assert list(_runs([])) == []


def test_tasks_that_run_at_once_interleave(cluster_env: Env, tmp_path: Path, follow) -> None:  # type: ignore[no-untyped-def]
    job = cluster_env.qsub("-a", "0-3", script(tmp_path, TALK))
    one: Follower = follow(str(job))
    one.await_text(f"{job}_0: begin 0\n")
    one.await_text(f"{job}_1: begin 1\n")
    (tmp_path / "go1").touch()
    one.await_text(f"{job}_1: end 1\n")
    one.await_text(f"{job}_2: begin 2\n")
    assert "begin 3" not in one.text and "end 0" not in one.text
    for number in (0, 2, 3):
        (tmp_path / f"go{number}").touch()
    assert one.process.wait(60) == 0
    lines = one.text.splitlines()
    assert len(lines) == 8
    for number in range(4):
        own = [line for line in lines if line.startswith(f"{job}_{number}: ")]
        assert own == [f"{job}_{number}: begin {number}", f"{job}_{number}: end {number}"]


def test_many_short_tasks_and_a_choice(cluster_env: Env, tmp_path: Path, follow) -> None:  # type: ignore[no-untyped-def]
    job = cluster_env.qsub("-a", "1-200", script(tmp_path, 'echo "I am $QSUB_TASK_ID"\n'))
    every: Follower = follow(str(job))
    some: Follower = follow(f"{job}_[5,7,100-102]")
    for one, numbers in ((every, range(1, 201)), (some, (5, 7, 100, 101, 102))):
        assert one.process.wait(60) == 0
        assert Counter(one.text.splitlines()) == Counter(f"{job}_{n}: I am {n}" for n in numbers)


def test_tasks_that_never_begin_and_that_fail(cluster_env: Env, tmp_path: Path, follow) -> None:  # type: ignore[no-untyped-def]
    job = cluster_env.qsub("-H", "-a", "0-2", script(tmp_path, "echo $QSUB_TASK_ID; exit 3\n"))
    one: Follower = follow(str(job))
    wait_until(lambda: f"job {job} waits" in one.text or one.process.poll() is None)
    cluster_env.run("qcancel", f"{job}_2")
    cluster_env.run("qrls", job)
    assert one.process.wait(60) == 0
    said = [line for line in one.text.splitlines() if line.startswith(f"{job}_")]
    assert sorted(said) == [f"{job}_0: 0", f"{job}_1: 1"]


def test_a_task_that_runs_again(cluster_env: Env, tmp_path: Path, follow) -> None:  # type: ignore[no-untyped-def]
    text = 'echo "attempt $QSUB_ATTEMPT of $QSUB_TASK_ID"\n[ $QSUB_ATTEMPT = 2 ] || sleep 600\n'
    job = cluster_env.qsub("-a", "0-1", script(tmp_path, text))
    one: Follower = follow(str(job))
    for number in (0, 1):
        one.await_text(f"{job}_{number}: attempt 1 of {number}\n")
    cluster_env.kill("keeper")
    assert one.process.wait(60) == 0
    lines = Counter(line for line in one.text.splitlines() if line.startswith(f"{job}_"))
    assert lines == Counter(
        f"{job}_{number}: attempt {attempt} of {number}" for number in (0, 1) for attempt in (1, 2)
    )


@pytest.mark.parametrize("tasks", [1, 2])
def test_a_new_agent_goes_on_where_the_former_was(
    cluster_env: Env,
    tmp_path: Path,
    follow,
    tasks: int,  # type: ignore[no-untyped-def]
) -> None:
    job = cluster_env.qsub("-a", f"0-{tasks - 1}", script(tmp_path, TALK))
    one: Follower = follow(str(job))
    one.await_text("begin 0\n")
    agent = cluster_env.kill("agent")
    wait_until(lambda: cluster_env.pid("agent") != agent)
    for number in range(tasks):
        (tmp_path / f"go{number}").touch()
    assert one.process.wait(60) == 0
    for number in range(tasks):
        assert one.text.count(f"begin {number}") == one.text.count(f"end {number}") == 1


def shout(number: int, folder: str) -> None:
    print(f"I am {number}")
    wait_for(Path(folder) / "go")
    raise ValueError(f"no {number}")


def test_calls(cluster_env: Env, tmp_path: Path, follow) -> None:  # type: ignore[no-untyped-def]
    with qsub_py.Executor() as executor:
        futures = [executor.submit(shout, number, str(tmp_path)) for number in range(2)]
        one: Follower = follow(futures[0].id.split("_")[0] + "_[0-1]")
        for future, number in zip(futures, range(2), strict=True):
            one.await_text(f"{future.id}: I am {number}\n")
        (tmp_path / "go").touch()
        assert all(isinstance(future.exception(30), ValueError) for future in futures)
    assert one.process.wait(60) == 0
    for future, number in zip(futures, range(2), strict=True):
        assert one.text.count(f"{future.id}: ValueError: no {number}\n") == 1


def test_the_node_is_gone(cluster_env: Env, tmp_path: Path) -> None:
    text = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done\n"
    job = cluster_env.qsub(script(tmp_path, text))
    cluster_env.wait_job(job)
    whole = cluster_env.run("qlog", job)
    assert whole.stdout.count("\n") == 3000
    runs = cluster_env.qsub(script(tmp_path, "echo here; sleep 600\n"))
    wait_until(lambda: cluster_env.run("qlog", runs, check=False).stdout == "here\n")
    for role in ("keeper", "agent"):
        cluster_env.kill(role)
    tail = cluster_env.run("qlog", job)
    assert tail.stdout.endswith("line 2999\n") and 0 < len(tail.stdout) <= 4096
    done = cluster_env.run("qlog", runs)
    assert done.stdout == ""
