"""The installed commands against a real server and node, as a user in a pipe meets them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from env import Env, wait_until
from qsub_py.cli import common
from qsub_py.cli.main import COMMANDS, qsub_py
from qsub_py.model import State


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory that the test works in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def node(cluster_env: Env, here: Path) -> Iterator[Env]:
    """Return a system with one node of two cpus."""
    yield cluster_env


def stat(env: Env, *words: str | int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(env.run("qstat", "--json", *words).stdout)
    return found


def log(env: Env, *words: str | int) -> str:
    return env.run("qlog", *words).stdout


def test_every_form_of_a_job(node: Env, here: Path) -> None:
    (here / "job.sh").write_text("#!/bin/bash\necho script $BASH_VERSION $1 $QSUB_CPUS\n")
    (here / "helper.py").write_text("word = 'helped'\n")
    (here / "s.py").write_text(
        "import sys, helper\nprint(helper.word, sys.argv[1:], __file__, __name__)\n"
        "def f(x, y=2):\n    print('called')\n    return {'x': x, 'y': y}\n"
    )
    jobs = [
        node.qsub("-W", "job.sh", "a", "--cpus", 2),
        node.qsub("-W", "s.py", "--mem", "100M", "a", "--", "--lr", 3),
        node.qsub("-W", "--", "echo", "command", "--cpus", 9),
        node.qsub("-W", "--wrap", "echo a | tr a b"),
        node.qsub("-W", "-", "x", input="echo stdin $1\n", stdin=None),
        node.qsub("-W", "s.py:f", 3, "y=[1]"),
    ]
    assert re.fullmatch(r"script \d\S* a 2\n", log(node, jobs[0]))
    assert log(node, jobs[1]) == f"helped ['a', '--lr', '3'] {here}/s.py __main__\n"
    assert log(node, jobs[2]) == "command --cpus 9\n"
    assert log(node, jobs[3]) == "b\n"
    assert log(node, jobs[4]) == "stdin x\n"
    assert node.run("qresult", jobs[5]).stdout == "{'x': 3, 'y': [1]}\n"
    assert log(node, jobs[5]).endswith("called\n")
    assert [job["state"] for job in stat(node, "-a")] == ["COMPLETED"] * 6


def test_the_script_that_was_submitted_runs(node: Env, here: Path) -> None:
    path = here / "job.sh"
    path.write_text("#!/bin/sh\necho first\n")
    job = node.qsub("-H", path)
    path.write_text("#!/bin/sh\necho second\n")
    node.run("qrls", job)
    node.run("qwait", job)
    assert log(node, job) == "first\n"


@pytest.mark.parametrize(
    ("line", "code", "state"),
    [
        ("exit 7", 7, "FAILED"),
        ("kill -SEGV $$", 139, "FAILED"),
        ("exit 0", 0, "COMPLETED"),
    ],
)
def test_exit_codes(node: Env, line: str, code: int, state: str) -> None:
    done = node.run("qsub", "-W", "--wrap", line, check=False)
    assert done.returncode == code
    job = int(done.stdout)
    assert node.run("qwait", job, check=False).returncode == code
    (found,) = stat(node, job)
    assert (found["state"], found["exit_code"]) == (state, code)


def test_exit_codes_of_limits_and_cancelled(node: Env) -> None:
    assert node.run("qsub", "-W", "-t", "1s", "sleep", 60, check=False).returncode == 124
    held = node.qsub("-H", "true")
    node.run("qcancel", held)
    assert node.run("qwait", held, check=False).returncode == 3
    slow = node.qsub("sleep", 60)
    assert node.run("qwait", "--timeout", "0.2s", slow, check=False).returncode == 75
    node.run("qcancel", slow)
    assert node.run("qwait", slow, check=False).returncode in (3, 143)


def test_an_array(node: Env, here: Path) -> None:
    job = node.qsub(
        *("-a", "2-10:4%1", "-o", "out/%x-%3a.txt", "-J", "arr", "--wrap"),
        'echo $QSUB_TASK_ID of $QSUB_TASK_COUNT; [ "$QSUB_TASK_ID" != 6 ]',
    )
    assert node.run("qwait", job, check=False).returncode == 1
    assert sorted(path.name for path in (here / "out").iterdir()) == [
        "arr-002.txt", "arr-006.txt", "arr-010.txt",
    ]  # fmt: skip
    assert (here / "out" / "arr-006.txt").read_text() == "6 of 3\n"
    assert log(node, job) == (
        f"==> {job}_2 <==\n2 of 3\n\n==> {job}_6 <==\n6 of 3\n\n==> {job}_10 <==\n10 of 3\n"
    )
    assert log(node, f"{job}_10") == "10 of 3\n"
    tasks = stat(node, "-t", job)
    assert [(t["index"], t["state"], t["exit_code"]) for t in tasks] == [
        (2, "COMPLETED", 0), (6, "FAILED", 1), (10, "COMPLETED", 0),
    ]  # fmt: skip
    assert [t["index"] for t in stat(node, "-t", f"{job}_[6,10]")] == [6, 10]
    assert node.run("qwait", f"{job}_[2,10]").returncode == 0
    assert node.run("qwait", f"{job}_6", check=False).returncode == 1
    done = node.run("qlog", f"{job}_3", check=False)
    assert (done.returncode, done.stderr) == (1, f"qlog: job {job} has no task 3\n")


def test_results_of_an_array_of_calls(node: Env, here: Path) -> None:
    (here / "m.py").write_text(
        "import os\ndef f(k):\n    i = int(os.environ['QSUB_TASK_ID'])\n"
        "    if i == 3: raise ValueError('no \\x1b three')\n    return {'i': i, 'p': i ** k}\n"
    )
    job = node.qsub("-a", "1-3", "m.py:f", "k=2")
    node.run("qwait", job, check=False)
    done = node.run("qresult", job, check=False)
    assert done.returncode == 1
    lines = [re.sub(r" +[0-9.]+s", "", line) for line in done.stdout.splitlines()]
    assert [line.split() for line in lines] == [
        ["JOBID", "ST", "EXIT", "WALL", "i", "p", "ERROR"],
        [f"{job}_1", "CD", "0", "1", "1"],
        [f"{job}_2", "CD", "0", "2", "4"],
        [f"{job}_3", "F", "1", "ValueError:", "no", "\\x1b", "three"],
    ]
    csv = re.sub(r"0,[^,]+,", "0,W,", node.run("qresult", "--csv", f"{job}_[1-2]").stdout)
    head = "index,state,exit_code,wall_s,i,p\n"
    assert csv == head + "1,COMPLETED,0,W,1,1\n2,COMPLETED,0,W,2,4\n"
    rows = json.loads(node.run("qresult", "--json", job, check=False).stdout)
    assert rows[0] == {"index": 1, "params": {}, "state": "COMPLETED", "exit_code": 0,
                       "wall_s": rows[0]["wall_s"], "result": {"i": 1, "p": 1},
                       "error": None}  # fmt: skip
    assert rows[2]["error"] == "ValueError: no \x1b three"
    assert "Traceback" in log(node, f"{job}_3") and "in f" in log(node, f"{job}_3")


def test_cancel(node: Env) -> None:
    job = node.qsub("-a", "1-100", "sleep", 60)
    wait_until(lambda: stat(node, job)[0]["tasks"]["running"] == 2, what="two tasks run")
    node.run("qcancel", f"{job}_[50-60]")
    assert stat(node, job)[0]["tasks"]["cancelled"] == 11
    node.run("qcancel", "-t", "PD", job)
    counts = stat(node, job)[0]["tasks"]
    assert (counts["pending"], counts["cancelled"]) == (0, 98)
    node.run("qcancel", "--wait", job)
    (found,) = stat(node, job)
    assert (found["state"], found["tasks"]["cancelled"]) == ("CANCELLED", 100)
    again = node.run("qcancel", job)
    assert again.stderr == f"qcancel: job {job} has ended already (CANCELLED)\n"


def test_cancel_goes_on_after_what_is_not_there(node: Env) -> None:
    job = node.qsub("-H", "true")
    done = node.run("qdel", 999, job, check=False)
    assert (done.returncode, done.stderr) == (1, "qcancel: there is no job 999\n")
    assert stat(node, job)[0]["state"] == "CANCELLED"


def test_cancel_by_name_and_all(node: Env) -> None:
    first, second = node.qsub("-H", "-J", "one", "true"), node.qsub("-H", "-J", "two", "true")
    node.run("qcancel", "-n", "one")
    assert [job["id"] for job in stat(node)] == [second]
    node.run("qcancel", "--all")
    assert stat(node) == []
    assert node.run("qcancel", "--all").stderr.startswith("qcancel: no active jobs of ")
    assert stat(node, first)[0]["state"] == "CANCELLED"


def test_signals_are_sent(node: Env) -> None:
    code = "import signal, time; signal.signal(10, lambda *_: exit(print('got it'))); "
    job = node.qsub("--", sys.executable, "-uc", code + "print('ready'); time.sleep(60)")
    wait_until(lambda: log(node, job) == "ready\n" if is_running(node, job) else None)
    node.run("qcancel", "-s", "USR1", job)
    node.run("qwait", job)
    assert log(node, job) == "ready\ngot it\n"
    done = node.run("qcancel", "-s", "USR1", node.qsub("-H", "true"), check=False)
    assert done.returncode == 1 and "nothing runs" in done.stderr


def is_running(env: Env, job: int) -> bool:
    return stat(env, job)[0]["state"] == "RUNNING"


def test_hold_and_release(node: Env) -> None:
    job = node.qsub("-H", "true")
    assert stat(node, job)[0]["reason"] == "JobHeldUser"
    why = node.run("qstat", "--why", job).stdout
    assert why == f"job {job} (true) waits: JobHeldUser: it is held; `qrls {job}` lets it go\n"
    node.run("qrls", job)
    node.run("qwait", job)
    assert node.run("qhold", job).stderr == f"qhold: job {job} has ended already\n"
    assert node.run("qrls", 99, check=False).returncode == 1


def test_why_it_waits(node: Env) -> None:
    job = node.qsub("--cpus", 3, "true")
    assert node.run("qstat", "--why", "last").stdout.splitlines() == [
        f"job {job} (true) waits: Resources: needs 3 cpus, the largest node has 2",
        "  n1  has 2 cpus, needed are 3",
    ]
    later = node.qsub("--begin", "now+1hour", "true")
    assert stat(node, later)[0]["reason"] == "BeginTime"
    elsewhere = node.qsub("-w", "n7", "true")
    assert stat(node, elsewhere)[0]["reason"] == "ReqNodeNotAvail"
    lines = node.run("qstat").stdout.splitlines()
    assert [line.split()[-1] for line in lines[1:]] == [
        "(Resources)", "(BeginTime)", "(ReqNodeNotAvail)",
    ]  # fmt: skip


def test_follow_prints_while_it_runs(node: Env, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "qsub_py", "qsub", "-f", "--wrap",
            f"echo one; until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo two; exit 3"
            ]  # fmt: skip
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          stdin=subprocess.DEVNULL) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        job = int(process.stderr.readline())
        assert process.stdout.readline() == "one\n"
        assert is_running(node, job)
        (tmp_path / "go").touch()
        assert process.stdout.read() == "two\n"
        assert process.wait() == 3


def test_a_log_is_passed_on_as_it_is(node: Env) -> None:
    job = node.qsub("-W", "--wrap", r"printf 'a\033[31m\000\377\n'")
    argv = [sys.executable, "-m", "qsub_py", "qlog", str(job)]
    assert subprocess.run(argv, capture_output=True, check=True).stdout == b"a\x1b[31m\0\xff\n"


def test_a_large_log_is_whole(node: Env) -> None:
    job = node.qsub("-W", "--wrap", "seq 1 300000")
    assert log(node, job).splitlines() == [str(n) for n in range(1, 300_001)]


def test_interrupted_wait_leaves_the_job(node: Env) -> None:
    argv = [sys.executable, "-m", "qsub_py", "qsub", "-W", "sleep", "60"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          stdin=subprocess.DEVNULL) as process:  # fmt: skip
        assert process.stdout is not None
        job = int(process.stdout.readline())
        node.wait_state(job, State.RUNNING)
        time.sleep(0.3)  # it may still be on its way from printing to waiting
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert f"`qwait {job}`" in errors and f"`qlog -f {job}`" in errors
    assert is_running(node, job)
    node.run("qcancel", job)


def test_key_makes_one_job(env: Env, here: Path) -> None:
    assert env.qsub("--key", "k", "true") == env.qsub("--key", "k", "true")
    assert env.qsub("--key", "other", "true") != env.qsub("--key", "k", "true")


def test_without_nodes_and_jobs(env: Env, here: Path) -> None:
    done = env.run("qstat")
    assert (done.stdout, done.stderr.startswith("no active jobs of ")) == ("", True)
    assert env.run("qstat", "--json").stdout == "[]\n"
    assert env.run("qnode", "list").stderr == "no nodes; start one here with `qnode start`\n"
    assert env.run("qnode", "list", "--json").stdout == "[]\n"
    job = env.qsub("true")
    assert stat(env)[0]["reason"] == "ReqNodeNotAvail"
    assert (
        "no node is running; start one with `qnode start`" in env.run("qstat", "--why", job).stdout
    )
    done = env.run("qlog", job, check=False)
    assert done.returncode == 1 and "has not started" in done.stderr


def test_unknown_jobs(env: Env, here: Path) -> None:
    for command in ("qstat", "qlog", "qresult", "qfetch", "qwait", "qcancel", "qhold", "qrls"):
        done = env.run(command, 7, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"{command}: there is no job 7\n"
    assert "you have no jobs yet" in env.run("qstat", "last", check=False).stderr


def test_dry_run_sends_nothing(env: Env, here: Path) -> None:
    done = env.run("qsub", "--dry-run", "-a", "1-10%2", "-c", 2, "-t", "1h", "true", "x")
    assert done.stdout.splitlines()[:4] == [
        "would submit true",
        "runs         true x",
        "tasks        10 (1-10%2)",
        "needs        cpus 2, memory the node's share, gpus 0, time limit 1:00:00",
    ]
    assert not (env.home / ".local").exists()


def test_the_id_as_json(env: Env, here: Path) -> None:
    first = json.loads(env.run("qsub", "--json", "-H", "true").stdout)
    swept = env.run("qsub", "-H", "--sweep", "x=1,2", "--json", "true", "{x}").stdout
    assert json.loads(swept) == {"id": first["id"] + 1}
    more = env.run("qsub", "--json", "--extend", first["id"] + 1, "--sweep", "x=3").stdout
    assert (swept, more) == (f'{{"id": {first["id"] + 1}}}\n',) * 2
    done = env.run("qsub", "--json", "--dry-run", "true", check=False)
    assert (done.returncode, done.stdout) == (2, "") and "leave one out" in done.stderr


def test_the_server_comes_back_with_the_jobs(env: Env, here: Path) -> None:
    job = env.qsub("true")
    assert env.run("qnode", "server", "stop").stdout == "the server has stopped\n"
    assert env.run("qnode", "server", "status", check=False).returncode == 69
    assert [found["id"] for found in stat(env)] == [job]
    assert "running" in env.run("qnode", "server", "status").stdout


def test_a_server_that_cannot_be_reached(
    env: Env, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QSUB_URL", "redis://:pa55word@127.0.0.1:1/0")
    for words in (["qstat"], ["qsub", "true"], ["qcancel", "1"], ["qnode", "list"]):
        done = env.run(words[0], *words[1:], check=False)
        assert (done.returncode, done.stdout) == (69, "")
        assert done.stderr.count("\n") == 1 and "127.0.0.1:1" in done.stderr
        assert "pa55word" not in done.stderr
    monkeypatch.setenv("QSUB_URL", "http://x")
    assert env.run("qstat", check=False).returncode == 78


def test_a_reader_that_leaves(env: Env, here: Path) -> None:
    for _ in range(3):
        env.qsub("-H", "true")
    read_end, write_end = os.pipe()
    os.close(read_end)
    argv = [sys.executable, "-m", "qsub_py", "qstat"]
    done = subprocess.run(argv, stdout=write_end, stderr=subprocess.PIPE, text=True)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_any_locale(env: Env, here: Path, monkeypatch: pytest.MonkeyPatch, locale: str) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    job = env.qsub("-J", "größe", "true")
    assert "gr" in env.run("qstat", job).stdout


def test_node_life(env: Env, here: Path) -> None:
    out = env.run("qnode", "start", "--name", "a1", "--cpus", 2, "--mem", "1G").stdout
    assert out.startswith("node a1 is up: 2 cpus, 1G, Python 3.")
    env.node_dirs["a1"] = Path(env.config.state_path(), "nodes", "default.a1")
    again = env.run("qnode", "start", "--name", "a1", "--cpus", 2, "--mem", "1G").stdout
    assert again == out.replace("is up", "runs already")
    (found,) = json.loads(env.run("qnode", "list", "--json").stdout)
    assert (found["name"], found["state"], found["cpus"], found["cpus_free"]) == ("a1", "up", 2, 2)
    assert env.run("qnode", "list").stdout.splitlines()[1].split()[:3] == ["a1", "up", "0/2"]
    env.run("qnode", "drain", "a1", "--reason", "disk")
    job = env.qsub("true")
    assert "draining): disk" in env.run("qstat", "--why", job).stdout
    env.run("qnode", "resume", "a1")
    assert env.run("qwait", job).returncode == 0
    slow = env.qsub("sleep", 1.5)
    env.wait_state(slow, State.RUNNING)
    assert env.run("qnode", "restart").stdout == "node a1 is up again\n"
    assert env.run("qwait", slow).returncode == 0
    assert stat(env, "-t", slow)[0]["attempt"] == 1
    assert env.run("qnode", "stop").stdout == "node a1 has stopped\n"
    assert env.run("qnode", "list", "--json").stdout == "[]\n"
    done = env.run("qnode", "stop", check=False)
    assert (done.returncode, "no node runs on this host" in done.stderr) == (1, True)


def test_completion(env: Env, here: Path) -> None:
    lines = env.run("completion", "bash").stdout
    assert 'eval "$(_QSTAT_COMPLETE=bash_source qstat)"' in lines
    completing = {**os.environ, "_QSUB_COMPLETE": "bash_complete", "COMP_WORDS": "qsub --cp",
                  "COMP_CWORD": "1"}  # fmt: skip
    argv = [sys.executable, "-c", "from qsub_py.cli.qsub import main; main()"]
    done = subprocess.run(argv, env=completing, capture_output=True, text=True, check=True)
    assert "--cpus" in done.stdout


def test_every_command_has_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        command = qsub_py.get_command(click.Context(qsub_py), name)
        assert command is not None
        assert common.run(command, ["--help"]) == common.run(command, ["--version"]) == 0
        shown = capsys.readouterr().out
        assert f"Usage: {name}" in shown and f"{name} (qsub_py) " in shown


def test_commands_by_their_verbs(env: Env, here: Path) -> None:
    assert "qcancel" in env.run("--help").stdout
    assert env.run("stat").stderr.startswith("no active jobs")
    assert env.run("release", 7, check=False).stderr == "qrls: there is no job 7\n"
    assert env.run("nonsense", check=False).returncode == 2
