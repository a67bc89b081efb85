"""The real Snakemake with the profile in conf/ runs a small workflow on a live queue."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from env import Env, wait_until
from programs import commands_on_path
from qsub_py.model import JobInfo, State

pytest.importorskip("snakemake")
pytest.importorskip("snakemake_executor_plugin_cluster_generic")

PROFILE = Path(__file__).parents[2] / "conf" / "snakemake"
WORKFLOW = """\
rule all:
    input: "sum.txt"

rule square:
    output: "squares/{n}.txt"
    threads: 2
    resources: mem_mb=300, runtime=7
    shell: "echo $(({wildcards.n} * {wildcards.n})) > {output}; echo job $QSUB_JOB_ID"

rule sum:
    input: expand("squares/{n}.txt", n=range(1, 5))
    output: "sum.txt"
    shell: "cat {input} | awk '{{ total += $1 }} END {{ print total }}' > {output}"

rule bad:
    output: "bad.txt"
    shell: "echo oh no; exit 3"

rule slow:
    output: "slow.txt"
    shell: "touch begun; sleep 100"
"""


def begin(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start Snakemake; it asks for states more often than a person would want."""
    (folder / "Snakefile").write_text(WORKFLOW)
    environ = commands_on_path(folder)
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", "--profile", PROFILE,
         "--seconds-between-status-checks", "1", *words],
        cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(running: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = running.communicate(timeout=110)
    return running.returncode, said


def jobs(env: Env) -> list[JobInfo]:
    with contextlib.closing(env.store()) as store:
        return sorted(store.jobs(ended=True), key=lambda job: job.id)


def test_a_workflow(cluster_env: Env, tmp_path: Path) -> None:
    code, said = finish(begin(tmp_path))
    assert code == 0, said
    assert (tmp_path / "sum.txt").read_text() == "30\n"
    found = jobs(cluster_env)
    assert [job.name for job in found] == ["square"] * 4 + ["sum"]
    assert {job.state for job in found} == {State.COMPLETED}
    square = found[0]
    assert (square.cpus, square.mem_bytes, square.time_s) == (2, 300 * 2**20, 7 * 60)
    assert (found[-1].cpus, found[-1].mem_bytes) == (1, 1000 * 2**20)
    assert f"job {square.id}\n" in cluster_env.run("qlog", square.id).stdout


def test_a_job_that_fails(cluster_env: Env, tmp_path: Path) -> None:
    code, said = finish(begin(tmp_path, "bad.txt"))
    (job,) = jobs(cluster_env)
    assert code == 1 and f"external jobid '{job.id}'" in said
    assert job.state is State.FAILED and "oh no" in cluster_env.run("qlog", job.id).stdout


def test_a_server_that_goes_away_ends_nothing(cluster_env: Env, tmp_path: Path) -> None:
    running = begin(tmp_path)
    wait_until(lambda: (tmp_path / "squares").exists(), what="a job has run", timeout_s=60)
    os.kill(cluster_env.pid("server"), signal.SIGKILL)
    code, said = finish(running)
    assert code == 0, said
    assert (tmp_path / "sum.txt").read_text() == "30\n"
