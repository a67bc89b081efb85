"""qsuspend and qresume with real processes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from env import Env, wait_until
from qsub_py.model import State

_ESCAPES = """\
import os, time
if os.fork() == 0:
    os.setsid()
    open('escaped', 'w').write(str(os.getpid()))
    while True: time.sleep(60)
"""


@pytest.fixture
def node(cluster_env: Env, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Env:
    monkeypatch.chdir(tmp_path)
    return cluster_env


def job_of(env: Env, job: int) -> dict[str, Any]:
    (found,) = json.loads(env.run("qstat", "--json", job).stdout)
    return dict(found)


def proc_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def pid_in(path: Path) -> int:
    return int(wait_until(lambda: path.exists() and path.read_text(), what=f"{path} is written"))


def pids(path: Path) -> list[int]:
    """Return the pids of a task: its main process and one that left its session."""
    return [pid_in(path / "main"), pid_in(path / "escaped")]


def a_tree(node: Env, tmp_path: Path, *words: str) -> int:
    """Submit a task with a process of its own session."""
    code = _ESCAPES + "open('main', 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    job = node.qsub(*words, "--", "python3", "-c", code)
    pids(tmp_path)
    return job


def are(path: Path, letter: str) -> bool:
    return all((proc_state(pid) == "T") == (letter == "T") for pid in pids(path))


def test_the_whole_tree_stops_and_goes_on(node: Env, tmp_path: Path) -> None:
    job = a_tree(node, tmp_path)
    node.run("qsuspend", job)
    wait_until(lambda: are(tmp_path, "T"), what="all of it stands still")
    found = job_of(node, job)
    assert (found["state"], found["tasks"]["suspended"]) == ("SUSPENDED", 1)
    assert " S " in node.run("qstat", job).stdout
    (task,) = json.loads(node.run("qstat", "-t", "--json", job).stdout)
    assert task["state"] == "SUSPENDED"
    (shown,) = json.loads(node.run("qnode", "list", "--json").stdout)
    assert shown["cpus_free"] == shown["cpus"] - 1, "its cpu stays booked"
    node.run("qresume", job)
    wait_until(lambda: are(tmp_path, "S"), what="all of it goes on")
    assert job_of(node, job)["state"] == "RUNNING"
    node.run("qcancel", "--wait", job)


def test_cancel_of_what_is_suspended(node: Env, tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(15, lambda *_: (open('term', 'w'), sys.exit(3)))\n"
        "open('main', 'w').write('1')\ntime.sleep(600)"
    )
    job = node.qsub("--", "python3", "-c", code)
    pid_in(tmp_path / "main")
    node.run("qsuspend", job)
    node.run("qcancel", "--wait", job)
    assert (tmp_path / "term").exists(), "it could tidy up"
    assert node.wait_job(job).state is State.CANCELLED


def test_nothing_more_starts_and_why(node: Env) -> None:
    job = node.qsub("-a", "1-3%1", "--", "sleep", "600")
    node.wait_state(job, State.RUNNING)
    node.run("qsuspend", job)
    assert "JobSuspended" in node.run("qstat", "--why", job).stdout
    held = node.qsub("-H", "true")
    node.run("qsuspend", held)
    node.run("qrls", held)
    assert job_of(node, held)["reason"] == "JobSuspended"
    node.run("qresume", held)
    node.wait_job(held)
    node.run("qcancel", job)


def test_one_task_of_an_array(node: Env) -> None:
    job = node.qsub("-a", "5-6", "--", "sleep", "600")
    wait_until(lambda: job_of(node, job)["tasks"]["running"] == 2, what="both run")
    node.run("qsuspend", f"{job}_6")
    tasks = json.loads(node.run("qstat", "-t", "--json", job).stdout)
    assert [task["state"] for task in tasks] == ["RUNNING", "SUSPENDED"]
    assert job_of(node, job)["state"] == "RUNNING"
    node.run("qresume", f"{job}_6")
    assert job_of(node, job)["tasks"]["running"] == 2
    node.run("qcancel", job)


def test_the_limit_stands_still(node: Env) -> None:
    job = node.qsub("-t", "2s", "--", "sleep", "600")
    node.wait_state(job, State.RUNNING)
    node.run("qsuspend", job)
    began = time.monotonic()
    wait_until(lambda: time.monotonic() > began + 3, what="the limit would have passed")
    assert job_of(node, job)["state"] == "SUSPENDED"
    node.run("qresume", job)
    assert node.wait_job(job).state is State.TIMEOUT


def test_calls(node: Env, tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(
        "import os, time\ndef f():\n    open('main', 'w').write(str(os.getpid()))\n"
        "    while not os.path.exists('go'): time.sleep(0.01)\n    return 'done'\n"
    )
    job = node.qsub("s.py:f")
    pid = pid_in(tmp_path / "main")
    node.run("qsuspend", job)
    wait_until(lambda: proc_state(pid) == "T", what="the runner stands still")
    (tmp_path / "go").touch()
    node.run("qresume", job)
    assert node.wait_job(job).state is State.COMPLETED


def test_agent_killed_between_order_and_answer(node: Env, tmp_path: Path) -> None:
    job = a_tree(node, tmp_path)
    node.kill("agent")
    node.run("qsuspend", job, timeout=90)
    wait_until(lambda: are(tmp_path, "T"), timeout_s=40, what="the next agent obeys")
    node.kill("agent")
    before = node.pid("agent")
    wait_until(lambda: node.pid("agent") != before, timeout_s=40, what="another agent")
    assert job_of(node, job)["state"] == "SUSPENDED"
    assert are(tmp_path, "T"), "an agent that joins does not wake it"
    node.run("qresume", job, timeout=90)
    wait_until(lambda: are(tmp_path, "S"), what="all of it goes on")
    node.run("qcancel", "--wait", job)


def test_refused(node: Env) -> None:
    job = node.qsub("-W", "true")
    done = node.run("qsuspend", job, check=False)
    assert (done.returncode, done.stderr) == (0, f"qsuspend: job {job} has ended already\n")
    done = node.run("qresume", 999, check=False)
    assert (done.returncode, done.stderr) == (1, "qresume: there is no job 999\n")
    held = node.qsub("-H", "-a", "0-3", "true")
    done = node.run("qsuspend", f"{held}_1", check=False)
    assert (done.returncode, "`qhold" in done.stderr) == (1, True)
    node.run("qsuspend", held)
    assert "as a whole" in node.run("qresume", f"{held}_1", check=False).stderr
    assert node.run("qsuspend", check=False).returncode == 2


def test_on_two_nodes(node: Env, tmp_path: Path) -> None:
    node.start_node("n2")
    job = node.qsub("-a", "1-9", "--wrap", "echo $$ > pid-$QSUB_TASK_ID; exec sleep 600")
    wait_until(lambda: job_of(node, job)["tasks"]["running"] == 4, what="both nodes are full")
    running = [pid_in(tmp_path / f"pid-{index}") for index in range(1, 5)]
    node.run("qsuspend", job)
    wait_until(lambda: [proc_state(pid) for pid in running] == ["T"] * 4, what="all stand still")
    tasks = job_of(node, job)["tasks"]
    assert (tasks["suspended"], tasks["running"], tasks["pending"]) == (4, 0, 5)
    node.run("qcancel", f"{job}_2")
    node.run("qresume", job)
    wait_until(lambda: job_of(node, job)["tasks"]["running"] == 4, what="it goes on")
    node.run("qcancel", "--wait", job)
