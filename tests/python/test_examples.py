"""The examples run as a newcomer would run them, and say what they promise."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

import qsub_py
from env import Env

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
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("qsub", "qwait", "qlog", "qrerun", "qresult"):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m qsub_py {name} "$@"\n')
        (programs / name).chmod(0o755)
    done = subprocess.run(
        [EXAMPLES / "study.sh", "out"], cwd=tmp_path, capture_output=True, text=True, timeout=110,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable,
             "PATH": f"{programs}:{os.environ['PATH']}"}, check=False,
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
