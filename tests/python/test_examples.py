"""The examples run as a newcomer would run them, and say what they promise."""

from __future__ import annotations

import csv
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import qsub_py
from env import Env
from programs import commands_on_path

ROOT = Path(qsub_py.__file__).parents[1]
EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *words: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *words], cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=100,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_map_pi(tmp_path: Path) -> None:
    words = run("map_pi.py", "20", "5000", cwd=tmp_path).split()
    assert words[:3] == ["pi", "is", "about"] and abs(float(words[3]) - 3.14) < 0.05


def test_reattach(tmp_path: Path) -> None:
    job = run("reattach.py", cwd=tmp_path).strip()
    lines = run("reattach.py", job, cwd=tmp_path).splitlines()
    assert lines[1].split() == ["27", "111", "steps"]
    assert lines[-1].split() == ["-1", "failed:", "-1", "is", "not", "positive"]


def test_digits(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    out = run("digits.py", "--out", "results", "--folds", "2", cwd=tmp_path)
    assert "best: C=" in out and out.count("C=") == 5
    with (tmp_path / "results" / "digits.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24 and max(float(row["accuracy"]) for row in rows) > 0.9
    assert (tmp_path / "results" / "digits.png").read_bytes().startswith(b"\x89PNG")


def test_joblib_grid(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    out = run("joblib_grid.py", "--folds", "2", cwd=tmp_path).splitlines()
    assert [line.split()[0] for line in out[:4]] == ["C=0.1", "C=1", "C=10", "C=100"]
    assert out[4].startswith("best: {'C': ") and float(out[4].split()[-1]) > 0.9


def test_flask_app(cluster: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("flask")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    web = importlib.import_module("flask_app").app.test_client()
    assert web.post("/primes?below=lots").status_code == 400
    made = web.post("/primes?below=1000000")
    assert made.status_code == 202
    where = made.headers["Location"]
    cluster.wait_job(made.json["id"])
    assert web.get(where).json == {"id": made.json["id"], "state": "COMPLETED", "result": 78498}
    assert web.delete(where).json["state"] == "COMPLETED"
    other = cluster.qsub("true")
    assert web.get(f"/jobs/{other}").status_code == web.get("/jobs/99999").status_code == 404


def test_other_language(cluster: Env, tmp_path: Path) -> None:
    has_json = ["perl", "-MJSON::PP", "-e", "1"]
    if not shutil.which("perl") or subprocess.run(has_json, capture_output=True).returncode:
        pytest.skip("there is no perl with JSON::PP")
    done = subprocess.run(
        [EXAMPLES / "other_language.pl"], cwd=tmp_path, capture_output=True, text=True,
        env=commands_on_path(tmp_path), timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1:3] == ["ended with exit code 1", "task 1 on n1: COMPLETED, printed 1"]
    assert lines[8] == "task 7 on n1: FAILED, printed 49" and len(lines) == 12


def test_hello(cluster: Env, tmp_path: Path) -> None:
    done = cluster.run("qsub", "-f", EXAMPLES / "hello.sh", cwd=tmp_path)
    assert "on node n1, with 1 cpu(s)" in done.stdout
    assert f"Submitted from {tmp_path}." in done.stdout


def test_array(cluster: Env, tmp_path: Path) -> None:
    job = cluster.run("qsub", "--wait", EXAMPLES / "array.sh", cwd=tmp_path).stdout.strip()
    log = cluster.run("qlog", job).stdout
    assert all(f"{n} squared is {n * n}\n" in log for n in range(1, 11))


def test_study(cluster: Env, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    done = subprocess.run(
        [EXAMPLES / "study.sh", "out"], cwd=tmp_path, capture_output=True, text=True, timeout=110,
        env={**commands_on_path(tmp_path), "PYTHON": sys.executable}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "fold-2.npz" in done.stdout and "tasks run again" in done.stdout
    with (tmp_path / "out" / "digits.csv").open() as file:
        rows = list(csv.DictReader(file))
    points = {(row["C"], row["gamma"], row["fold"]) for row in rows}
    assert len(rows) == len(points) == 18
    assert {row["state"] for row in rows} == {"COMPLETED"}
    assert max(float(row["accuracy"]) for row in rows) > 0.95
    assert (tmp_path / "out" / "digits.png").read_bytes().startswith(b"\x89PNG")
