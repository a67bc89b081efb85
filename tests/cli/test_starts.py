"""`qstat --why` and `qstat --start` say when a job starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from env import Env, wait_until
from qsub_py.model import State


@pytest.fixture
def node(cluster_env: Env, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Env:
    monkeypatch.chdir(tmp_path)
    return cluster_env


def test_by_time_limits(node: Env) -> None:
    runs = node.qsub("-c", 2, "-t", "1h", "--", "sleep", "600")
    began = node.wait_state(runs, State.RUNNING).started_at or 0.0
    before = node.qsub("-c", 2, "-t", "30m", "--", "sleep", "600")
    waits = node.qsub("-c", 2, "true")
    rows = json.loads(node.run("qstat", "--start", "--json").stdout)
    assert [row["id"] for row in rows] == [before, waits]
    assert rows[0]["start_at"] == pytest.approx(began + 3600, abs=2)
    assert rows[1]["start_at"] == pytest.approx(began + 3600 + 1800, abs=2)
    said = node.run("qstat", "--why", waits).stdout
    assert "starts at about" in said
    assert f"when job {before}, which is before it, ends on n1 at its time limit" in said
    assert node.run("qstat", "--start").stdout.splitlines()[0].split()[4] == "START"
    node.run("qsuspend", runs)
    assert "is suspended" in node.run("qstat", "--why", before).stdout
    assert f"`qresume {runs}` lets it go on" in node.run("qstat", "--why", runs).stdout
    node.run("qcancel", runs, before, waits)


def test_without_limits(node: Env) -> None:
    runs = node.qsub("-c", 2, "--", "sleep", "600")
    node.wait_state(runs, State.RUNNING)
    waits = node.qsub("true")
    said = node.run("qstat", "--why", waits).stdout
    assert f"no estimate of its start: job {runs} on n1 has no time limit" in said
    held = node.qsub("-H", "true")
    assert "start" not in node.run("qstat", "--why", held).stdout
    assert node.run("qstat", "--start", held).stdout.split()[-2] == "-"
    node.run("qcancel", runs)
    wait_until(lambda: not json.loads(node.run("qstat", "--json", "-s", "PD").stdout)[1:],
               what="the waiting one runs")  # fmt: skip
