"""qalter with real jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from env import Env, wait_until
from qsub_py.model import State


@pytest.fixture
def node(cluster_env: Env, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Env:
    monkeypatch.chdir(tmp_path)
    return cluster_env


def job_of(env: Env, job: int) -> dict[str, Any]:
    (found,) = json.loads(env.run("qstat", "--json", job).stdout)
    return dict(found)


def test_a_pending_job(node: Env, tmp_path: Path) -> None:
    job = node.qsub("-c", 64, "-J", "old", "--wrap", "echo $QSUB_CPUS $QSUB_JOB_NAME")
    node.run("qalter", job, "--cpus", 2, "--mem", "100M", "--name", "new", "-t", "1h",
             "--retries", 2, "-o", "out-%j.txt", "--comment", "smaller",
             "--priority", 7)  # fmt: skip
    info = node.wait_job(job)
    assert info.state is State.COMPLETED
    assert (tmp_path / f"out-{job}.txt").read_text() == "2 new\n"
    found = job_of(node, job)
    assert (found["cpus"], found["mem_bytes"], found["name"], found["time_s"], found["priority"]) \
        == (2, 100 * 2**20, "new", 3600.0, 7)  # fmt: skip
    assert "smaller" in node.run("qstat", "-f", job).stdout


def test_terms_come_and_go(node: Env) -> None:
    job = node.qsub("-w", "nope", "-C", "nope", "-x", "n1", "--rate", "1/h", "true")
    unknown = node.run("qalter", job, "-L", "matlab:1", check=False)
    assert (unknown.returncode, "no licence is called matlab" in unknown.stderr) == (2, True)
    node.run("qalter", job, "-w", "none", "-C", "none", "-x", "none", "--rate", "none")
    assert node.wait_job(job).state is State.COMPLETED


def test_begin_and_hold_again(node: Env) -> None:
    job = node.qsub("-b", "now+1hour", "true")
    node.run("qalter", job, "-b", "now")
    node.wait_job(job)


@pytest.mark.parametrize("kind", ["command", "call"])
def test_a_running_task_gets_another_limit(node: Env, tmp_path: Path, kind: str) -> None:
    (tmp_path / "s.py").write_text("import time\ndef f():\n    time.sleep(600)\n")
    words = ["s.py:f"] if kind == "call" else ["--", "sleep", "600"]
    job = node.qsub("-t", "1h", *words)
    node.wait_state(job, State.RUNNING)
    node.run("qalter", job, "-t", "2h")
    done = node.run("qalter", job, "--cpus", 2, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"qalter: job {job} has begun: only --time, --priority, --name, --comment, --account,"
        " --deadline and --array-limit can be changed\n"
    )
    assert job_of(node, job)["state"] == "RUNNING"
    node.run("qalter", job, "-t", "1s")
    info = node.wait_job(job)
    assert info.state is State.TIMEOUT
    assert "time limit of 1 s" in node.run("qstat", "-t", "--json", job).stdout


def test_what_was_cached_of_the_old_spec_is_not_used(node: Env) -> None:
    """Tasks that start later have the new limit, wherever the node met the job before."""
    job = node.qsub("-a", "0-3%1", "-t", "1h", "--wrap", "echo $QSUB_TIME_S; sleep 0.5")
    node.wait_state(job, State.RUNNING)
    node.run("qalter", job, "-t", "30m")
    node.wait_job(job)
    printed = node.run("qlog", f"{job}_3").stdout
    assert printed == "1800\n"


def test_limit_while_the_agent_is_away(node: Env) -> None:
    """The order is kept until the agent is back."""
    job = node.qsub("-t", "1h", "--", "sleep", 600)
    node.wait_state(job, State.RUNNING)
    node.kill("agent")
    node.run("qalter", job, "-t", "1s", timeout=90)
    assert node.wait_job(job).state is State.TIMEOUT


def test_array_limit(node: Env) -> None:
    job = node.qsub("-a", "1-4%1", "--", "sleep", 600)
    node.wait_state(job, State.RUNNING)
    node.run("qalter", job, "--array-limit", "2")
    wait_until(lambda: job_of(node, job)["tasks"]["running"] == 2, what="two tasks run")
    node.run("qcancel", job)


def test_refused(node: Env) -> None:
    job = node.qsub("-W", "true")
    done = node.run("qalter", job, "--name", "x", check=False)
    assert (done.returncode, done.stderr) == (
        1, f"qalter: job {job} has ended already (COMPLETED)\n",
    )  # fmt: skip
    assert node.run("qalter", 999, "--name", "x", check=False).stderr == (
        "qalter: there is no job 999\n"
    )
    held = node.qsub("-H", "true")
    for words in (
        (), ("--cpus", "x"), ("--mem", "0"), ("--array-limit", "-1"), ("-t", "1x"),
        ("-b", "never"), ("--retries", "no"),
    ):  # fmt: skip
        done = node.run("qalter", held, *words, check=False)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), words
    assert node.run("qalter", f"{held}_1", "-J", "x", check=False).returncode == 2


def test_a_firing_keeps_the_spec_of_its_schedule(node: Env) -> None:
    schedule = node.qsub("--every", "1h", "-c", 64, "true")
    job = wait_until(
        lambda: json.loads(node.run("qstat", "--json").stdout), what="the first firing"
    )[0]["id"]
    done = node.run("qalter", job, "--cpus", 1, check=False)
    assert f"was made by schedule {schedule}" in done.stderr
    node.run("qalter", job, "--priority", 3)
    assert job_of(node, job)["priority"] == 3
    node.run("qcancel", schedule)
