"""README's tables for those who come from elsewhere: every command and expression is run."""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import qsub_py
from env import Env
from qsub_py.model import State

pytestmark = pytest.mark.timeout(300)
README = (Path(__file__).parents[2] / "README.rst").read_text()
#: What is said besides commands and Python.
WORDS = {"DEP_FAILED", "registered", "solar", 'retention = "30d"', "--gres=gpu:1"}
#: Run by tests/cluster: it takes SSH.
ELSEWHERE = {"qnode start h1 h2"}
COMMAND = re.compile(r"q[a-z]+( |$)")
#: The job that the tables call 12.
NUMBER = r"(?<!\d)12(?!\d)"
#: Commands that are about a job which has ended, or runs.
READERS = ("qlog", "qresult", "qwait", "qrerun", "qacct 12", "qsub")
RUNNING = ("qsuspend", "qcancel -s", "qresume")
SIM = """\
import qsub_py
def add(a, b): return a + b
def total(parts): return sum(parts)
"""


def literals(title: str) -> list[str]:
    """What stands in double backquotes in the last column of a section's table."""
    section = re.split(r"\n[^\n]+\n-{4,}\n", README.split(f"\n{title}\n---", 1)[1], maxsplit=1)[0]
    rows = re.split(r"\n   \* - ", section)[2:]
    cells = [row.split("\n     - ")[-1] for row in rows]
    return [text for cell in cells for text in re.findall(r"``(.+?)``", cell)]


@pytest.fixture
def here(env: Env, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Env]:
    """An environment without a node, in a directory with a script and a module."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "job.sh").write_text("#!/bin/sh\necho done\n")
    (work / "sim.py").write_text(SIM)
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend(str(work))
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in sorted({text.split()[0] for title in TITLES for text in literals(title)
                        if COMMAND.match(text)} | {"qsub"}):  # fmt: skip
        path = programs / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} -m qsub_py {name} "$@"\n')
        path.chmod(0o700)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    yield env
    for words in (["qcancel", "--all"], ["qnode", "stop", "--now"]):
        env.run(*words, check=False)


TITLES = ("Coming from Celery", "Coming from Slurm or PBS")


class Follower:
    """Does what the tables say, each command on a job of its own."""

    def __init__(self, env: Env) -> None:
        self.env = env
        self.jobs: dict[str, int] = {}
        self.has_node = False

    def job_for(self, command: str) -> int:
        """Make a job that the command is about: running, ended or held."""
        if command.startswith(RUNNING):
            job = self.env.qsub("-a", "1-3", "--wrap", "trap : USR1; sleep 30")
            self.env.wait_state(job, State.RUNNING)
        elif command.startswith(READERS):
            does_fail = command.startswith("qrerun") or "afternotok" in command
            code = "test $QSUB_TASK_ID = 2" if does_fail else "exit 0"
            job = self.env.qsub("-a", "1-3", "--wrap", f"echo '{{\"x\": 1}}'; {code}")
            self.env.wait_job(job)
        else:
            job = self.env.qsub("-H", "-a", "1-3", "job.sh")
        return job

    def run(self, command: str) -> None:
        """Run one command; it must succeed."""
        if not self.has_node and not command.startswith("qnode start"):
            self.env.run("qnode", "start", "--name", "n1")
        self.has_node = not command.startswith("qnode stop")
        text, job = command.replace("NODE", "n1"), 0
        if re.search(NUMBER, text):
            job = self.job_for(command)
            text = re.sub(NUMBER, str(job), text)
        if command == "qstat -w":
            return self.watch()
        done = subprocess.run(["/bin/sh", "-c", text], capture_output=True, text=True, timeout=60,
                              stdin=subprocess.DEVNULL)  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        if command.startswith(RUNNING):
            self.env.run("qcancel", job)
        is_job = command.startswith("qsub ") and not re.search("--(every|cron)", command)
        if is_job and done.stdout.strip().isdigit():
            self.jobs[command] = int(done.stdout)

    def watch(self) -> None:
        """Start what shows the queue again and again; interrupt it."""
        words = [sys.executable, "-m", "qsub_py", "qstat", "-w", "-i", "0.1"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(20) in (0, 130)

    def jobs_went(self) -> None:
        """All that was submitted has completed, or waits for what it was told to."""
        deadline = time.monotonic() + 60
        for command, job in self.jobs.items():
            while True:
                with contextlib.closing(self.env.store()) as store:
                    info = store.job(job)
                if info.state is State.COMPLETED:
                    break
                waits = info.state is State.PENDING and may_wait(command)
                if waits:
                    break
                assert info.state in (State.PENDING, State.RUNNING, State.COMPLETING), (
                    f"{command}: {info.state.name} {info.reason}"
                )
                assert time.monotonic() < deadline, f"{command} is still {info.state.name}"
                time.sleep(0.05)


def may_wait(command: str) -> bool:
    """Whether a job submitted so has reason to wait here."""
    words = shlex.split(command)
    asks = {"--begin", "-b", "-H", "--queue", "--gpus", "-C", "--rate", "-d", "-a", "--after"}
    return bool(asks & set(words))


def follow_commands(env: Env, title: str) -> Follower:
    """Run all commands of a table."""
    follower = Follower(env)
    for text in literals(title):
        if COMMAND.match(text) and text not in ELSEWHERE:
            follower.run(text)
    return follower


def test_every_word_is_known() -> None:
    """A literal that is neither a command, nor Python, nor listed here would never be tested."""
    for title in TITLES:
        found = literals(title)
        assert len(found) > 20
        others = {text for text in found if not COMMAND.match(text) and not is_python(text)}
        assert others <= WORDS


def is_python(text: str) -> bool:
    """Whether a literal is an expression or a statement."""
    return "(" in text or text.startswith(("raise ", "Job(", "f."))


@pytest.mark.parametrize("title", TITLES)
def test_commands(here: Env, title: str) -> None:
    follow_commands(here, title).jobs_went()


def test_python(here: Env) -> None:
    import sim  # type: ignore[import-not-found]

    here.start_node()
    done = here.qsub("-a", "1-3", "--wrap", "echo 7")
    here.wait_job(done)
    expected: dict[str, Callable[[Any], bool]] = {
        "submit(add, 2, 3)": lambda got: got.result(60) == 5,
        "submit(add, submit(add, 1, 2), 3)": lambda got: got.result(60) == 6,
        "submit(total, [submit(add, i, i) for i in range(10)])": lambda got: got.result(60) == 90,
        "list(map(add, [1, 2], [3, 4]))": lambda got: got == [4, 6],
        "Job(12).results()": lambda got: list(got) == [7, 7, 7],
        "Job(12).state": lambda got: got is State.COMPLETED or got == "COMPLETED",
        "f.done()": lambda got: got is True,
        "f.exception()": lambda got: got is None,
        "f.cancel()": lambda got: got is False,  # it has ended
        "qsub_py.checkpoint()": lambda got: got is False,
    }
    future = qsub_py.submit(sim.add, 1, 1)
    assert future.result(60) == 2
    names = {**vars(sim), "f": future, **{name: getattr(qsub_py, name) for name in
             ("submit", "map", "Job", "Executor")}}  # fmt: skip
    for text in literals(TITLES[0]):
        if not is_python(text) or COMMAND.match(text):
            continue
        if text.startswith("raise "):
            with pytest.raises(qsub_py.Requeue):
                exec(text, names)
        elif text.startswith("Executor("):
            with eval(text, names) as executor:
                assert executor.submit(sim.add, 1, 2).result(60) == 3
        else:
            assert expected.pop(text)(eval(text.replace("12", str(done)), names)), text
    assert not expected
