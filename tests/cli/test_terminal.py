"""The commands on a terminal: hints appear, and nothing a job prints or is called drives it."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from env import Env
from qsub_py.model import State

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Screen:
    """A command that runs on a pseudo-terminal, and what it has printed."""

    def __init__(self, words: list[str]) -> None:
        self._master, slave = pty.openpty()
        self.text = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "qsub_py", *words], stdin=slave, stdout=slave, stderr=slave,
            start_new_session=True,
        )  # fmt: skip
        os.close(slave)

    def read_until(self, condition: Callable[[str], object], *, timeout_s: float = 20.0) -> None:
        """Read until `condition` holds for the text so far, or the command has ended."""
        deadline = time.monotonic() + timeout_s
        while not condition(self.text) and time.monotonic() < deadline:
            if not select.select([self._master], [], [], 0.2)[0]:
                continue
            try:
                piece = os.read(self._master, 65536)
            except OSError:  # EIO: the last one has closed it
                return
            self.text += piece.decode(errors="replace").replace("\r\n", "\n")

    def press(self, keys: bytes) -> None:
        """Type."""
        os.write(self._master, keys)

    def end(self) -> int:
        """Read to the end and return the exit code."""
        self.read_until(lambda _: False)
        code = self.process.wait(20)
        os.close(self._master)
        return code


def screen(*words: str | int) -> tuple[str, int]:
    """Run a command on a terminal; return what it shows, without colours, and its exit code."""
    shown = Screen(list(map(str, words)))
    code = shown.end()
    return _COLOURS.sub("", shown.text), code


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "40")
    monkeypatch.chdir(tmp_path)


def test_hints_for_a_newcomer(env: Env) -> None:
    assert screen("qsub")[0] == (
        "qsub: nothing to run: give a script, a command or a function; see qsub --help\n"
    )
    shown, code = screen("qsub", "true")
    assert (shown.splitlines()[0], code) == ("1", 0)
    assert "it waits: no node is running; start one here with `qnode start`" in shown
    table = screen("qstat")[0].splitlines()
    assert " ".join(table[0].split()) == "JOBID NAME USER ST TIME CPUS TASKS NODELIST(REASON)"
    assert table[1].split()[-1] == "(ReqNodeNotAvail)"
    assert table[2] == "qstat: no node is running; start one with `qnode start`"
    assert screen("qcancel", 1)[0] == "qcancel: job 1: 1 waiting cancelled\n"
    assert "`qstat -a` shows ended ones" in screen("qstat")[0]


def test_a_job_that_asks_too_much_is_told_at_once(cluster_env: Env) -> None:
    shown, _ = screen("qsub", "--cpus", 3, "true")
    assert "qsub: it waits: needs 3 cpus, the largest node has 2" in shown
    assert "no running node can take it" in screen("qsub", "-w", "n7", "true")[0]


def test_a_script_with_foreign_directives(env: Env) -> None:
    Path("job.sh").write_text("#!/bin/sh\n#SBATCH --mem=4G --mail-type=END\ntrue\n")
    shown, _ = screen("qsub", "job.sh")
    assert "qsub: without effect: --mail-type=END (mail is not sent)" in shown


def test_logs_are_made_harmless(cluster_env: Env) -> None:
    job = cluster_env.qsub("-W", "--wrap", r"printf '\033]0;x\007\033[2Ja\tb\r\nc\rd\n'")
    assert screen("qlog", job)[0] == "\\x1b]0;x\\x07\\x1b[2Ja\tb\nc\nd\n"


def test_wait_shows_a_bar_and_how_it_ended(cluster_env: Env) -> None:
    shown, code = screen("qsub", "-W", "-a", "1-4", "--wrap", "sleep 0.4; exit $QSUB_TASK_ID")
    assert code == 1
    assert "/4" in shown and "running" in shown
    assert "qsub: job 1: 4 of 4 tasks did not complete (FAILED, exit code 1);" in shown


def test_interrupt_in_wait(cluster_env: Env) -> None:
    shown = Screen(["qsub", "-W", "sleep", "60"])
    shown.read_until(lambda text: "1 running" in text)
    cluster_env.wait_state(1, State.RUNNING)
    shown.press(b"\x03")
    shown.process.send_signal(2)  # the pseudo-terminal is nobody's controlling terminal
    assert shown.end() == 130
    assert "qsub: job 1 goes on; `qwait 1` waits for it again" in shown.text


def test_watch_ends_quietly(env: Env) -> None:
    env.qsub("-J", "shown", "true")
    shown = Screen(["qstat", "-w", "-i", "0.2"])
    shown.read_until(lambda text: text.count("shown") > 1)
    shown.process.send_signal(2)
    assert shown.end() == 0
    assert "Traceback" not in shown.text


def test_plain_text_on_a_dumb_terminal(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    env.qsub("-H", "true")
    shown = Screen(["qstat"])
    shown.end()
    assert "\x1b" not in shown.text and "JobHeldUser" in shown.text
