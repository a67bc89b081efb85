"""Schedules as a user makes, sees, holds and ends them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from env import Env, wait_until


def listed(env: Env, *words: str) -> list[dict[str, Any]]:
    out = env.run("qstat", "--periodic", "--json", *words).stdout
    found: list[dict[str, Any]] = json.loads(out)
    return found


def test_from_beginning_to_end(cluster_env: Env, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    line = f"echo $QSUB_JOB_ID $QSUB_SCHEDULE_ID $QSUB_DUE_AT >> {ledger}"
    made = cluster_env.run("qsub", "--every", "1s", "--times", 3, "--name", "tick", "--wrap", line)
    schedule = int(made.stdout)
    [row] = listed(cluster_env)
    assert (row["id"], row["name"], row["when"], row["overlap"]) == (
        schedule, "tick", "every 1s", "skip",
    )  # fmt: skip
    wait_until(lambda: listed(cluster_env) == [], what="it is over")
    [row] = listed(cluster_env, "-a")
    assert row["fired"] + row["missed"] + row["skipped"] >= 3
    assert row["left"] == 0
    lines = [text.split() for text in ledger.read_text().splitlines()]
    assert {words[1] for words in lines} == {str(schedule)}
    assert len({words[2] for words in lines}) == len(lines), "one job for each time"
    job = int(lines[0][0])
    assert "tick" in cluster_env.run("qstat", "-f", job).stdout, "its spec is verified"


def test_hold_release_cancel(cluster_env: Env, tmp_path: Path) -> None:
    words = ["--every", "1h", "--overlap", "allow", "--hold", "--wrap", f"echo >> {tmp_path}/ran"]
    schedule = int(cluster_env.run("qsub", *words).stdout)
    assert listed(cluster_env)[0]["reason"] == "JobHeldUser"
    cluster_env.run("qrls", schedule)
    wait_until(lambda: listed(cluster_env)[0]["next_at"])
    cluster_env.run("qhold", schedule)
    assert listed(cluster_env)[0]["held"]
    assert str(schedule) in cluster_env.run("qstat", "--periodic").stdout
    assert listed(cluster_env, str(schedule))[0]["id"] == schedule
    for words in (["qstat", schedule], ["qrerun", schedule], ["qalter", schedule, "-t", "1h"]):
        done = cluster_env.run(*words, check=False)
        assert (done.returncode, f"`qstat --periodic {schedule}` shows it" in done.stderr) == (1, 1)
    missing = cluster_env.run("qstat", "--periodic", 999, check=False)
    assert (missing.returncode, missing.stderr) == (1, "qstat: there is no schedule 999\n")
    cluster_env.run("qcancel", schedule)
    assert listed(cluster_env) == []
    [row] = listed(cluster_env, "-a")
    assert row["reason"].startswith("cancelled by ")
    done = cluster_env.run("qcancel", schedule, check=False)
    assert (done.returncode, "ended already" in done.stderr) == (0, True)
    assert cluster_env.run("qcancel", 999, check=False).returncode == 1
    assert cluster_env.run("qhold", 999, check=False).returncode == 1


def test_same_key_same_schedule(cluster_env: Env) -> None:
    words = ["qsub", "--cron", "@daily", "--key", "nightly", "true"]
    assert cluster_env.run(*words).stdout == cluster_env.run(*words).stdout
    assert len(listed(cluster_env)) == 1


def test_a_function(cluster_env: Env, tmp_path: Path) -> None:
    script = tmp_path / "mod.py"
    path = str(tmp_path / "out")
    script.write_text(f"def tick(n):\n    print(n, file=open({path!r}, 'a'))\n")
    cluster_env.run("qsub", "--every", "1s", "--times", 2, f"{script}:tick", "7")
    out = tmp_path / "out"
    wait_until(lambda: out.exists() and out.read_text().count("7") >= 2)


@pytest.mark.parametrize(("words", "complaint"), [
    (["--every", "0.5s"], "at least 1s"),
    (["--every", "often"], "--every"),
    (["--cron", "* * *"], "five fields"),
    (["--cron", "61 * * * *"], "--cron"),
    (["--every", "1h", "--cron", "@daily"], "exclude"),
    (["--cron", "@daily", "--timezone", "Mars/Olympus"], "no time zone"),
    (["--every", "1h", "--timezone", "UTC"], "says nothing"),
    (["--every", "1h", "--overlap", "maybe"], "skip or queue or allow"),
    (["--every", "1h", "--catch-up", "all"], "one or none"),
    (["--every", "1h", "--times", "0"], "--times"),
    (["--every", "1h", "--until", "2001-01-01"], "over already"),
    (["--every", "1h", "--wait"], "no end"),
    (["--every", "1h", "-d", "afterok:1"], "--dependency says nothing with --every"),
    (["--cron", "@daily", "--after", "1"], "--overlap queue"),
    (["--overlap", "skip"], "again and again"),
    (["--times", "3"], "again and again"),
])  # fmt: skip
def test_bad_input(env: Env, words: list[str], complaint: str) -> None:
    done = env.run("qsub", *words, "true", check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr


def test_dry_run_shows_the_next_times(env: Env) -> None:
    words = ["--dry-run", "--cron", "30 2 * * *", "--timezone", "Europe/Berlin", "true"]
    done = env.run("qsub", *words)
    [line] = [line for line in done.stdout.splitlines() if line.startswith("again")]
    assert line.count("02:30:00 C") >= 2, line
