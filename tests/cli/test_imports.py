"""A command imports only what it needs: people wait for it to start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from env import Env

HEAVY = {"paramiko", "rich", "cloudpickle", "redis", "asyncio", "numpy", "importlib.metadata",
         "difflib"}  # fmt: skip
SHOW = """\
import sys
from qsub_py.cli import main
try:
    main.main(sys.argv[1:])
finally:
    print(*sys.modules, file=sys.stderr)
"""


def imported(*words: str) -> set[str]:
    """Return the modules that a command has imported when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", SHOW, *words], capture_output=True, text=True, check=True,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "words", ["qsub --help", "qstat --help", "qnode --help", "--help", "qsub --dry-run true"]
)
def test_without_the_server(words: str) -> None:
    found = imported(*words.split())
    assert not found & HEAVY
    assert "qsub_py.store" not in found and "qsub_py.client" not in found
    assert "qsub_py.sweep" not in found or words == "qsub --dry-run true"


@pytest.mark.parametrize("words", ["qsub true", "qstat", "qstat --json", "qcancel --all"])
def test_off_a_terminal(words: str, env: Env) -> None:
    assert not imported(*words.split()) & HEAVY


def test_a_call_needs_cloudpickle(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text("def f(): pass\n")
    found = imported("qsub", "--dry-run", f"{path}:f")
    assert "cloudpickle" in found and not found & (HEAVY - {"cloudpickle", "asyncio"})


def test_the_tables_of_other_systems_are_for_their_words(tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/sh\ntrue\n")
    for words in (["-c", "2", "-W"], ["-J", "x", "-t", "5"]):
        assert "qsub_py.dialect" not in imported("qsub", "--dry-run", *words, str(script))
    script.write_text("#!/bin/sh\n#PBS -N x\ntrue\n")
    assert "qsub_py.dialect_pbs" in imported("qsub", "--dry-run", str(script))
