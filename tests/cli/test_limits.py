"""Licences, caps and rates as a user sets, asks for and sees them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from env import Env, wait_until


def refused(env: Env, *words: str | int) -> str:
    """Run a command that must be refused; returns what it says, in one line and a hint."""
    done = env.run(*words, check=False)  # type: ignore[arg-type]
    assert done.returncode == 2, done
    return done.stderr


def test_set_show_remove(cluster_env: Env) -> None:
    assert "no limits" in cluster_env.run("qnode", "limits").stderr
    cluster_env.run("qnode", "limits", "license:matlab=4", "license:ansys=1")
    assert json.loads(cluster_env.run("qnode", "limits", "--json").stdout) == [
        {"kind": "license", "name": "ansys", "used": 0, "total": 1},
        {"kind": "license", "name": "matlab", "used": 0, "total": 4},
    ]
    shown = cluster_env.run("qnode", "limits", "license:ansys=none").stdout
    assert shown.split() == ["KIND", "NAME", "USED", "TOTAL", "license", "matlab", "0", "4"]


@pytest.mark.parametrize(
    "word", ["matlab=1", "license:matlab", "license:a b=1", "license:a=-1", "license:a=x", "x:a=1"]
)
def test_bad_limits(cluster_env: Env, word: str) -> None:
    assert refused(cluster_env, "qnode", "limits", word)


def test_a_job_waits_for_its_licence(cluster_env: Env, tmp_path: Path) -> None:
    assert "no licence is called matlab" in refused(cluster_env, "qsub", "-L", "matlab", "true")
    cluster_env.run("qnode", "limits", "license:matlab=1")
    stop = tmp_path / "stop"
    line = f"while ! test -e {stop}; do sleep 0.05; done"
    first = cluster_env.run("qsub", "-L", "matlab", "--wrap", line).stdout.strip()
    wait_until(lambda: "R" in cluster_env.run("qstat", "-o", "%t", "--noheader", first).stdout)
    second = cluster_env.run("qsub", "--licenses", "matlab:1", "true").stdout.strip()
    third = cluster_env.run("qsub", "-W", "true")
    assert third.returncode == 0, "what needs none is not kept"
    why = cluster_env.run("qstat", "--why", second).stdout
    assert "Licenses: 1 of 1 of licence matlab are in use" in why
    assert "matlab:1" in cluster_env.run("qstat", "-f", second).stdout
    assert "license  matlab     1      1" in cluster_env.run("qnode", "limits").stdout
    stop.touch()
    assert cluster_env.run("qwait", second).returncode == 0


def test_exclude_and_constraint(cluster_env: Env) -> None:
    node = json.loads(cluster_env.run("qnode", "list", "--json").stdout)[0]
    job = cluster_env.run("qsub", "-x", node["name"], "true").stdout.strip()
    why = cluster_env.run("qstat", "--why", job).stdout
    assert "is excluded by the job's --exclude" in why
    job = cluster_env.run("qsub", "-C", "fast|huge", "true").stdout.strip()
    why = cluster_env.run("qstat", "--why", job).stdout
    assert "lacks what --constraint asks for: fast|huge" in why
    ran = cluster_env.run("qsub", "-W", "-C", node["features"][0], "true")
    assert ran.returncode == 0
    assert "cannot be asked for" in refused(cluster_env, "qsub", "-C", "!fast", "true")
    shown = cluster_env.run("qsub", "--dry-run", "-x", "ws[1-2]", "-C", "a&b", "true").stdout
    assert "ws1,ws2" in shown and "a&b" in shown


def test_a_cap(cluster_env: Env, tmp_path: Path) -> None:
    shown = cluster_env.run("qnode", "limits", "owner:*=1").stdout
    assert shown.split()[4:] == ["owner", "*", "-", "1"]
    stop = tmp_path / "stop"
    cluster_env.run("qsub", "--wrap", f"while ! test -e {stop}; do sleep 0.05; done")
    second = cluster_env.run("qsub", "true").stdout.strip()
    wait_until(lambda: "AssocGrpCpuLimit" in cluster_env.run("qstat", "--why", second).stdout)
    cluster_env.run("qnode", "limits", "owner:*=2")
    assert cluster_env.run("qwait", second).returncode == 0
    stop.touch()


def test_a_rate(cluster_env: Env, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    line = f"date +%s%N >> {ledger}"
    job = cluster_env.run("qsub", "-a", "1-6", "--rate", "4/s", "--wrap", line).stdout.strip()
    assert "4/s" in cluster_env.run("qstat", "-f", job).stdout
    assert cluster_env.run("qwait", job).returncode == 0
    times = sorted(int(text) for text in ledger.read_text().split())
    assert times[-1] - times[0] > 0.5e9, "six of them take more than a second"
    slow = cluster_env.run("qsub", "-a", "1-2", "--rate", "web:1/h", "true").stdout.strip()
    wait_until(lambda: "RateLimit" in cluster_env.run("qstat", "--why", slow).stdout)
    assert "web:1/h" in cluster_env.run("qstat", "--why", slow).stdout
    assert "is no rate" in refused(cluster_env, "qsub", "--rate", "fast", "true")


def test_a_wide_job_on_two_nodes(cluster_env: Env, tmp_path: Path) -> None:
    """Narrow jobs come without end; one node keeps room for the wide one, the other works on."""
    cluster_env.start_node("n2", cpus=2)
    cluster_env.run("qnode", "limits", "license:seat=3")
    line = f"while ! test -e {tmp_path}/$QSUB_JOB_ID; do sleep 0.05; done"

    def narrow() -> str:
        return cluster_env.run("qsub", "--wrap", line).stdout.strip()

    def state(job: str) -> str:
        return cluster_env.run("qstat", "-a", "-o", "%t", "--noheader", job).stdout.strip()

    first = [narrow() for _ in range(4)]
    wait_until(lambda: all(state(job) == "R" for job in first))
    words = ["--cpus", 2, "-L", "seat:2", "--rate", "60/m", "true"]
    wide = cluster_env.run("qsub", *words).stdout.strip()
    stream = [narrow() for _ in range(6)]
    for number, job in enumerate(first):
        (tmp_path / job).touch()
        wait_until(lambda job=job: state(job) == "CD")
        if number == 0:
            wait_until(lambda: f"room for job {wide}" in
                       cluster_env.run("qstat", "--why", stream[-1]).stdout)  # fmt: skip
            assert "keeps room for it" in cluster_env.run("qstat", "--why", wide).stdout
    assert cluster_env.run("qwait", wide).returncode == 0
    wait_until(lambda: sum(state(job) == "R" for job in stream) == 4)
    assert all(state(job) != "CD" for job in stream)
    for job in stream:
        (tmp_path / job).touch()
