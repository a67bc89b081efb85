"""--dependency and --after through the installed commands, and what qstat says of them."""

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


def stat(env: Env, *words: str | int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(env.run("qstat", "--json", *words).stdout)
    return found


def refused(env: Env, *words: str | int, code: int) -> str:
    done = env.run("qsub", *words, "true", check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_pipeline(node: Env) -> None:
    first = node.qsub("-H", "-J", "prepare", "--", "sh", "-c", "echo a > part")
    second = node.qsub("-d", f"afterok:{first}", "-J", "train", "--", "sh", "-c", "cat part > all")
    third = node.qsub("--after", first, second, "-J", "report", "--", "cat", "all")
    [row] = stat(node, third)
    assert (row["state"], row["reason"]) == ("PENDING", "Dependency")
    said = node.run("qstat", "--why", second).stdout
    assert said == (
        f"job {second} (train) waits: Dependency: afterok:{first}: job {first} is PENDING\n"
    )
    said = node.run("qstat", "--why", third).stdout
    assert f"  afterok:{first}: job {first} is PENDING" in said
    assert f"  afterok:{second}: job {second} is PENDING" in said
    assert f"afterok:{second}: job {second} is PENDING" in node.run("qstat", "-f", third).stdout
    tree = node.run("qstat", "--tree").stdout.splitlines()
    assert tree == [
        f"{first} prepare PENDING (JobHeldUser)",
        f"|- {second} train PENDING (Dependency)",
        f"|  `- {third} report PENDING (Dependency)",
        f"`- {third} report PENDING (Dependency) (see above)",
    ]
    node.run("qrls", first)
    assert node.wait_job(third).state is State.COMPLETED
    assert node.run("qlog", third).stdout == "a\n"


def test_failed_parent(node: Env) -> None:
    first = node.qsub("--", "sh", "-c", "exit 3")
    second = node.qsub("-d", f"afterok:{first}", "true")
    third = node.qsub("-d", f"afterok:{second}", "true")
    node.wait_job(third)
    done = node.run(
        "qsub", "-W", "-d", f"afternotok:{first},afterany:{second}", "echo", check=False
    )
    assert done.returncode == 0
    assert node.run("qwait", third, check=False).returncode == 1
    rows = stat(node, second, third)
    assert [row["state"] for row in rows] == ["DEP_FAILED"] * 2
    assert rows[0]["reason"] == f"afterok:{first} failed: job {first} FAILED"
    table = node.run("qstat", second).stdout
    assert "DF" in table
    assert "(DependencyNeverSatisfied)" in table
    why = node.run("qstat", "--why", third).stdout
    assert "DependencyNeverSatisfied" in why
    assert f"job {second} DEP_FAILED" in why
    late = node.run("qsub", "-W", "-d", f"afterok:{first}?afterany:{second}", "true")
    assert late.returncode == 0, "one of both is enough"


def test_arrays_and_single_tasks(node: Env) -> None:
    first = node.qsub("-a", "2-8:2", "--", "sh", "-c", "test $QSUB_TASK_ID != 4")
    each = node.qsub("-a", "2,4,8", "-d", f"aftercorr:{first}", "true")
    one = node.qsub("-d", f"afterok:{first}_6", "true")
    some = node.qsub("-d", f"afterok:{first}_[2,6-8:2]", "true")
    bad = node.qsub("-d", f"afterok:{first}_[2-4:2]", "true")
    for job, state in ((one, State.COMPLETED), (some, State.COMPLETED), (bad, State.DEP_FAILED)):
        assert node.wait_job(job).state is state
    node.wait_job(each)
    rows = stat(node, "-t", each)
    assert {row["index"]: row["state"] for row in rows} == {
        2: "COMPLETED", 4: "DEP_FAILED", 8: "COMPLETED",
    }  # fmt: skip
    why = node.run("qstat", "--why", each).stdout
    assert f"NeverSatisfied: tasks of job {first} that it needs did not complete" in why
    assert "DependencyNeverSatisfied" in node.run("qstat", "-t", each).stdout
    said = refused(node, "-a", "1-4", "-d", f"aftercorr:{first}", code=2)
    assert f"job {first} has no task 1" in said


def test_singleton(node: Env) -> None:
    plain = node.qsub("-H", "-J", "only", "true")
    first = node.qsub("-J", "only", "-d", "singleton", "true")
    second = node.qsub("-J", "only", "-d", "singleton", "true")
    other = node.qsub("-J", "another", "-d", "singleton", "true")
    assert node.wait_job(other).state is State.COMPLETED
    assert [row["reason"] for row in stat(node, first, second)] == ["Dependency"] * 2
    why = node.run("qstat", "--why", second).stdout
    assert "an earlier job called only has not ended" in why
    assert "names them" not in why
    node.run("qrls", plain)
    assert node.wait_job(second).state is State.COMPLETED
    begun = [node.wait_job(job).started_at for job in (plain, first, second)]
    assert begun == sorted(begun, key=float)  # type: ignore[arg-type]


def test_held_and_cancelled_parents(node: Env) -> None:
    first = node.qsub("-H", "true")
    second = node.qsub("--after", first, "true")
    always = node.qsub("-d", f"afterany:{first}", "true")
    node.run("qcancel", first)
    assert node.wait_job(second).state is State.DEP_FAILED
    assert node.wait_job(always).state is State.COMPLETED


def test_directive_and_dry_run(node: Env, tmp_path: Path) -> None:
    first = node.qsub("true")
    script = tmp_path / "job.sh"
    script.write_text(f"#!/bin/sh\n#QSUB --dependency afterany:{first}\ntrue\n")
    assert node.wait_job(node.qsub(script)).state is State.COMPLETED
    said = node.run("qsub", "--dry-run", "-d", f"afterok:{first},singleton", "true").stdout
    assert f"singleton,afterok:{first}" in said


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["-d", "afterok:999999"], 1, "there is no job 999999"),
        (["--after", "999999"], 1, "there is no job 999999"),
        (["-d", "afterk:1"], 2, "did you mean afterok"),
        (["-d", "afterok"], 2, "of which job"),
        (["-d", "afterok:1,afterany:2?afterok:3"], 2, "do not mix"),
        (["-d", "aftercorr:1?afterok:2"], 2, "aftercorr cannot be one of several choices"),
        (["-d", "after:1+5"], 2, "minutes after a start"),
        (["-d", "aftercorr:1_3"], 2, "about whole jobs"),
        (["-d", "afterok:x"], 2, "bad job id"),
        (["-d", ""], 2, "no dependency"),
        (["--after", ""], 2, "needs the ids"),
    ],
)
def test_refused(node: Env, words: list[str], code: int, text: str) -> None:
    assert text in refused(node, *words, code=code)


def test_no_such_task(node: Env) -> None:
    first = node.qsub("-a", "1-3", "true")
    assert f"job {first} has no task 7" in refused(node, "-d", f"afterok:{first}_7", code=1)


# -- with retries and schedules ----------------------------------------------------------------


def test_a_failure_that_is_tried_again_is_none(node: Env, tmp_path: Path) -> None:
    go = tmp_path / "go"
    first = node.qsub("--retries", "1000", "--backoff", "1s", "--wrap", f"test -e {go}")
    second = node.qsub("-d", f"afterok:{first}", "true")
    third = node.qsub("-d", f"afternotok:{first}", "true")
    wait_until(lambda: int(stat(node, "-t", first)[0]["attempt"]) > 1, what="it is tried again")
    assert [row["state"] for row in stat(node, second, third)] == ["PENDING"] * 2
    go.touch()
    assert node.wait_job(second).state is State.COMPLETED
    assert node.wait_job(third).state is State.DEP_FAILED


def test_exit_100_holds_what_waits(node: Env, tmp_path: Path) -> None:
    line = "test $QSUB_ATTEMPT != 1 || exit 100"
    first = node.qsub("--requeue-exit", "--wrap", line)
    second = node.qsub("-d", f"afterany:{first}", "true")
    wait_until(lambda: stat(node, first)[0]["reason"] == "JobHeldUser", what="it is held")
    assert stat(node, second)[0]["reason"] == "Dependency"
    tree = node.run("qstat", "--tree", first, second).stdout
    assert tree.splitlines()[0].endswith("PENDING (JobHeldUser)")
    node.run("qrls", first)
    assert node.wait_job(second).state is State.COMPLETED


def test_the_job_of_a_schedule(node: Env) -> None:
    """It can be waited for, task by task; its spec is verified as the schedule's."""
    schedule = node.qsub("--every", "1h", "--array", "3-5", "true")
    wait_until(lambda: listed(node, schedule)["last_job"], what="it has fired")
    job = listed(node, schedule)["last_job"]
    second = node.qsub("-a", "3-5", "-d", f"aftercorr:{job}", "true")
    assert node.wait_job(second).state is State.COMPLETED
    said = refused(node, "-d", f"afterok:{schedule}", code=2)
    assert f"{schedule} is a schedule" in said
    assert "one of its jobs" in said


def listed(env: Env, schedule: int) -> dict[str, Any]:
    rows: list[dict[str, Any]] = json.loads(env.run("qstat", "--periodic", "--json").stdout)
    [row] = [row for row in rows if row["id"] == schedule]
    return row


def test_rerun_of_what_still_cannot_run(node: Env, tmp_path: Path) -> None:
    """It says which job to run again; --tree of that one runs all of them."""
    good = tmp_path / "good"
    first = node.qsub("--", "sh", "-c", f"test -e {good}")
    second = node.qsub("--after", first, "true")
    third = node.qsub("--after", second, "true")
    assert node.wait_job(third).state is State.DEP_FAILED
    for job, label in ((second, first), (third, second)):
        done = node.run("qrerun", job, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        state = "FAILED" if label == first else "DEP_FAILED"
        assert done.stderr == (
            f"qrerun: job {job} cannot run: afterok:{label} failed: job {label} {state};"
            f" this runs both again: qrerun {first} --tree\n"
        )
        assert node.wait_job(job).state is State.DEP_FAILED
    good.touch()
    assert "waits again" in node.run("qrerun", first, "--tree").stdout
    for job in (first, second, third):
        assert node.wait_job(job).state is State.COMPLETED


def test_rerun_of_what_waits_for_a_cancelled_one(node: Env) -> None:
    first = node.qsub("-H", "true")
    second = node.qsub("--after", first, "true")
    node.run("qcancel", first)
    node.wait_job(second)
    done = node.run("qrerun", second, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.endswith(f"run that again first: qrerun {first} --state CA\n")


def test_rerun_of_tasks_that_still_cannot_run(node: Env) -> None:
    first = node.qsub("-a", "0-3", "--wrap", "test $QSUB_TASK_ID -gt 1")
    second = node.qsub("-a", "0-3", "-d", f"aftercorr:{first}", "true")
    assert node.wait_job(second).counts[State.DEP_FAILED] == 2
    done = node.run("qrerun", second, "--all", check=False)
    assert done.returncode == 1
    assert done.stdout == f"job {second}: 2 tasks run again\n"
    assert done.stderr.startswith(f"qrerun: 2 tasks of job {second} cannot run: ")
    assert f"qrerun {first} --tree" in done.stderr
