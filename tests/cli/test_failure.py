"""What is done when a task fails, as a user asks for it and sees it."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path

import pytest

from env import Env, wait_until
from qsub_py.model import State

COUNT = "echo $QSUB_ATTEMPT >> {}; [ $QSUB_ATTEMPT -ge {} ] || exit {}"


def attempts(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def test_retries_until_it_works(cluster_env: Env, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    line = COUNT.format(ledger, 3, 75)
    done = cluster_env.run(
        "qsub", "--retries", 3, "--backoff", "0", "--wait", "--wrap", line, check=False
    )
    assert (done.returncode, attempts(ledger)) == (0, ["1", "2", "3"])
    [task] = json.loads(cluster_env.run("qstat", "-t", "--json", "last").stdout)
    assert (task["state"], task["attempt"]) == ("COMPLETED", 3)


def test_only_for_the_reasons_given(cluster_env: Env, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    words = ["qsub", "--retry-on", "exit=75,77", "--backoff", "0", "--wait", "--wrap"]
    done = cluster_env.run(*words, COUNT.format(ledger, 2, 77) + "; exit 9", check=False)
    assert (done.returncode, attempts(ledger)) == (9, ["1", "2"])


def test_what_waits_for_its_next_try(cluster_env: Env, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    words = ["qsub", "-a", "1-2", "--retries", "1", "--backoff", "1h", "--wrap"]
    job = int(cluster_env.run(*words, f"[ $QSUB_TASK_ID = 1 ] || exit 3; echo 1 > {ledger}").stdout)
    with closing(cluster_env.store()) as store:
        wait_until(lambda: store.job(job).later == 1 and store.job(job).counts[State.COMPLETED])
    [row] = json.loads(cluster_env.run("qstat", "--json", job).stdout)
    assert (row["state"], row["reason"]) == ("PENDING", "BeginTime")
    assert "1 task failed" in (why := cluster_env.run("qstat", "--why", job).stdout) or (
        "its task failed" in why
    )
    table = cluster_env.run("qstat", "-t", job).stdout.splitlines()
    [line] = [line for line in table if f"{job}_2" in line]
    assert line.split() == [f"{job}_2", "PD", "1", "(BeginTime)"]
    cluster_env.run("qcancel", job)
    assert cluster_env.wait_job(job).state is State.CANCELLED


def test_exit_99_and_100(cluster_env: Env, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    line = f"echo $QSUB_ATTEMPT >> {ledger}; case $QSUB_ATTEMPT in 1|2) exit 99;; 3) exit 100; esac"
    job = int(cluster_env.run("qsub", "--requeue-exit", "--wrap", line).stdout)
    with closing(cluster_env.store()) as store:
        wait_until(lambda: store.job(job).is_held)
    assert attempts(ledger) == ["1", "2", "3"]
    [row] = json.loads(cluster_env.run("qstat", "--json", job).stdout)
    assert (row["state"], row["reason"]) == ("PENDING", "JobHeldUser")
    assert "exited with 100" in cluster_env.run("qstat", "--why", job).stdout
    cluster_env.run("qrls", job)
    assert cluster_env.wait_job(job).state is State.COMPLETED
    assert attempts(ledger) == ["1", "2", "3", "4"]


def test_99_means_nothing_unless_asked_for(cluster_env: Env) -> None:
    done = cluster_env.run("qsub", "--wait", "--wrap", "exit 99", check=False)
    assert done.returncode == 99


def test_a_script_that_raises_requeue(cluster_env: Env, tmp_path: Path) -> None:
    script = tmp_path / "again.py"
    script.write_text(
        "import os, qsub_py\n"
        "if os.environ['QSUB_ATTEMPT'] == '1': raise qsub_py.Requeue\n"
        "print('second')\n"
    )
    done = cluster_env.run("qsub", "-f", script, check=False)
    assert (done.returncode, done.stdout) == (0, "second\n")


def test_a_script_that_saves_in_time(cluster_env: Env, tmp_path: Path) -> None:
    script = tmp_path / "long.py"
    script.write_text(
        "import os, time, qsub_py\n"
        "assert not qsub_py.checkpoint()\n"
        "n = int(open('state').read()) if os.path.exists('state') else 0\n"
        "while n < 3:\n"
        "    time.sleep(0.05)\n"
        "    if qsub_py.checkpoint():\n"
        "        open('state', 'w').write(str(n + 1))\n"
        "        raise qsub_py.Requeue\n"
        "print('done after', os.environ['QSUB_ATTEMPT'])\n"
    )
    words = ["--time", "60s", "--signal", "USR1@59", "-D", tmp_path, "-f"]
    done = cluster_env.run("qsub", *words, script, check=False)
    assert (done.returncode, done.stdout) == (0, "done after 4\n")


def test_more_time_after_the_limit(cluster_env: Env, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    words = ["-t", "1s", "--on-timeout", "time*40", "--backoff", "0", "--grace", "0s", "--wait"]
    line = f"echo $QSUB_TIME_S >> {ledger}; [ $QSUB_TIME_S = 40 ] || sleep 60"
    done = cluster_env.run("qsub", *words, "--wrap", line, check=False)
    assert (done.returncode, attempts(ledger)) == (0, ["1", "40"])


def test_more_memory_after_out_of_memory(cluster_env: Env, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    hog = f"import os; open({str(ledger)!r}, 'a').write(os.environ['QSUB_MEM_BYTES'] + ' '); "
    hog += "x = b'x' * (90 << 20); import time; time.sleep(3)"
    words = ["--mem", "64M", "--on-oom", "mem*2", "--backoff", "0", "--wait"]
    done = cluster_env.run("qsub", *words, "--", sys.executable, "-c", hog, check=False)
    assert (done.returncode, attempts(ledger)) == (0, [str(64 << 20), str(128 << 20)])


def test_a_memory_limit_is_told(cluster_env: Env) -> None:
    hog = "x = b'x' * (90 << 20); import time; time.sleep(60)"
    words = ["--mem", "64M", "--wait", "--", sys.executable, "-c", hog]
    assert cluster_env.run("qsub", *words, check=False).returncode == 137
    [task] = json.loads(cluster_env.run("qstat", "-t", "--json", "last").stdout)
    assert task["state"] == "OUT_OF_MEMORY"
    assert task["max_rss_bytes"] > 64 << 20
    assert "memory limit of 64M: it used" in cluster_env.run("qstat", "-t", "last").stdout


@pytest.mark.parametrize(("words", "complaint"), [
    (["--retries", "many"], "--retries"),
    (["--retries", "-1"], "--retries"),
    (["--retries", "1001"], "--retries"),
    (["--backoff", "1s"], "--backoff is of no use"),
    (["--retries", "1", "--backoff", "1h,1s"], "longest wait is shorter"),
    (["--retry-on", "75"], "no reason to retry"),
    (["--retry-on", "exit=0"], "1 to 255"),
    (["--retry-on", "exit=75-70"], "1 to 255"),
    (["--retry-on", "signal=NO"], "no such signal"),
    (["--retry-on", "node", "--no-requeue"], "exclude"),
    (["--on-oom", "mem*2"], "add --mem"),
    (["--mem", "1G", "--on-oom", "2"], "write mem*2"),
    (["--mem", "1G", "--on-oom", "mem*1"], "above 1"),
    (["--on-timeout", "time*2"], "add --time"),
    (["--signal", "USR1"], "add --time"),
    (["--time", "1m", "--signal", "USR1@1m"], "before the start"),
    (["--time", "1m", "--signal", "R:USR1@10"], "B:USR1@60"),
    (["--time", "1m", "--signal", "FOO@10"], "no such signal"),
])  # fmt: skip
def test_bad_input(env: Env, words: list[str], complaint: str) -> None:
    done = env.run("qsub", "--dry-run", *words, "true", check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_dry_run_says_it(env: Env) -> None:
    done = env.run("qsub", "--dry-run", "--mem", "1G", "-t", "1h", "--retries", 2, "--on-oom",
                   "mem*1.5", "--signal", "B:USR1", "true")  # fmt: skip
    assert "up to 2 retries on any-failure" in done.stdout
    assert "1.5 times the memory" in done.stdout
    assert "SIGUSR1 to its shell 1m before" in done.stdout
