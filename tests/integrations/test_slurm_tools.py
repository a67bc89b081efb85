"""Real programs that drive Slurm run on a live queue through the shims."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import qsub_py
from env import Env

ROOT = Path(qsub_py.__file__).parents[1]

DASK = """\
from dask.distributed import Client
from dask_jobqueue import SLURMCluster

def main():
    with SLURMCluster(cores=1, memory="500MB", processes=1, local_directory=".", interface="lo",
                      scheduler_options={"dashboard_address": ":0"}) as cluster:
        cluster.scale(jobs=2)
        with Client(cluster) as client:
            client.wait_for_workers(2, timeout=90)
            print(sum(client.gather(client.map(lambda x: x * x, range(10)))))

if __name__ == "__main__":
    main()
"""

SUBMITIT = """\
import operator
import submitit

submitit.slurm.slurm.SlurmJob.watcher._delay_s = 0.5
executor = submitit.AutoExecutor(folder="log", cluster="slurm")
executor.update_parameters(timeout_min=4, cpus_per_task=1, mem_gb=0.2, slurm_array_parallelism=2)
print(executor.submit(operator.add, 2, 3).result())
print([job.result() for job in executor.map_array(operator.mul, [1, 2, 3], [4, 5, 6])])
try:
    executor.submit(operator.truediv, 1, 0).result()
except submitit.core.utils.FailedJobError as error:
    print("ZeroDivisionError" in str(error))
"""


def run(env: Env, folder: Path, program: str) -> list[str]:
    """Run a program with Slurm's commands on its PATH; return the lines it printed."""
    env.run("shims", "slurm", folder / "slurm")
    (folder / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=folder, capture_output=True, text=True, timeout=110,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{folder}/slurm:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_dask_jobqueue(cluster_env: Env, tmp_path: Path) -> None:
    pytest.importorskip("dask_jobqueue")
    assert run(cluster_env, tmp_path, DASK) == ["285"]


def test_submitit(cluster_env: Env, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    assert run(cluster_env, tmp_path, SUBMITIT) == ["5", "[4, 10, 18]", "True"]
