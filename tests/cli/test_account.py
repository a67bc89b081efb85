"""qacct with real jobs: what they used, days and owners, purge."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from pathlib import Path

import pytest

from env import Env, wait_until
from qsub_py.config import user_name


@pytest.fixture
def ran(cluster_env: Env, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Env, int, int]:
    """Return a system with a job of two tasks that burned cpu time, and one that failed."""
    monkeypatch.chdir(tmp_path)
    burn = "import time; x = bytearray(30_000_000)\nwhile time.process_time() < 0.3: pass"
    good = cluster_env.qsub("-W", "-a", "0-1", "--mem", "300M", "-J", "burn", "python3", "-c", burn)
    bad = int(cluster_env.run("qsub", "-W", "false", check=False).stdout)
    return cluster_env, good, bad


def test_jobs(ran: tuple[Env, int, int]) -> None:
    env, good, bad = ran
    rows = json.loads(env.run("qacct", "--json").stdout)
    assert [row["id"] for row in rows] == [bad, good]
    assert rows[0]["state"] == "FAILED"
    assert rows[0]["enough_mem"] is None
    used = rows[1]
    assert (used["ended_tasks"], used["completed_tasks"], used["exit_code"]) == (2, 2, 0)
    assert used["cpu_s"] >= 0.6
    assert used["max_rss_bytes"] >= 30_000_000
    assert used["booked_mem_bytes"] >= 300 * 2**20
    assert 0 < used["mem_efficiency"] < 1
    assert used["enough_time_s"] == 60.0
    lines = env.run("qacct").stdout.splitlines()
    assert lines[0].split() == ["JOBID", "NAME", "USER", "STATE", "EXIT", "TASKS", "ELAPSED",
                                "CPUTIME", "CPUEFF", "MAXRSS", "MEMEFF"]  # fmt: skip
    assert [line.split()[0] for line in lines[1:]] == [str(bad), str(good)]
    table = list(csv.DictReader(io.StringIO(env.run("qacct", "--csv", good).stdout)))
    assert table[0]["name"] == "burn"
    full = env.run("qacct", good).stdout
    assert "cpu efficiency" in full
    assert "--mem" in full.split("would have done")[1]
    assert "would have done" not in env.run("qacct", bad).stdout


def test_times_days_and_owners(ran: tuple[Env, int, int]) -> None:
    env, _, _ = ran
    assert len(json.loads(env.run("qacct", "--json", "-S", "1h").stdout)) == 2
    assert json.loads(env.run("qacct", "--json", "-E", "1h").stdout) == []
    assert "no jobs of nobody-else have ended\n" in env.run("qacct", "-u", "nobody-else").stderr
    assert "have ended then" in env.run("qacct", "-E", "1h").stderr
    days = json.loads(env.run("qacct", "--days", "--json").stdout)
    assert sum(day["tasks"] for day in days) == 3
    (mine,) = json.loads(env.run("qacct", "--owners", "--json").stdout)
    assert (mine["owner"], mine["tasks"], mine["failed"]) == (user_name(), 3, 1)
    assert "CPUTIME" in env.run("qacct", "--days").stdout


def test_purge(ran: tuple[Env, int, int]) -> None:
    env, good, bad = ran
    waits = env.qsub("-H", "true")
    refused = env.run("qacct", "--purge", waits, check=False)
    assert (refused.returncode, "has not ended" in refused.stderr) == (1, True)
    env.run("qacct", "--purge", good)
    assert env.run("qstat", good, check=False).returncode == 1
    env.run("qacct", "--purge", "--older", "0s")
    assert env.run("qstat", bad, check=False).returncode == 1
    assert [job["id"] for job in json.loads(env.run("qstat", "--json").stdout)] == [waits]
    days = json.loads(env.run("qacct", "--days", "--json").stdout)
    assert sum(day["tasks"] for day in days) == 3, "days outlive the jobs"


def test_a_node_deletes_what_is_old(
    ran: tuple[Env, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    env, _, _ = ran
    held = env.qsub("-H", "true")
    monkeypatch.setenv("QSUB_RETENTION", "1s")
    env.run("qnode", "stop", "n1")
    with contextlib.closing(env.store()) as store:
        last = max(job.ended_at for job in store.jobs(active=False, ended=True))
        wait_until(lambda: store.now() > last + 1, what="they are old")  # a node looks as it begins
        env.start_node("n1")
        wait_until(lambda: not store.jobs(active=False, ended=True), what="the ended ones go")
        assert [job.id for job in store.jobs()] == [held]
    days = json.loads(env.run("qacct", "--days", "--json").stdout)
    assert sum(day["tasks"] for day in days) == 3


@pytest.mark.parametrize(
    "words",
    [("--purge",), ("--older", "7d"), ("--purge", "1", "--older", "7d"), ("--days", "1"),
     ("-S", "yesteryear"), ("--purge", "--older", "old"), ("-n", "0")],
)  # fmt: skip
def test_refused(cluster_env: Env, words: tuple[str, ...]) -> None:
    done = cluster_env.run("qacct", *words, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
