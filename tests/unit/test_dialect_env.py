"""The variables of other systems: which set a script wants, what stands in it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qsub_py.dialect_env import Facts, host_lines, of_attempt, of_job, of_task
from qsub_py.dialect_signs import wanted

FACTS = Facts(
    job=12, name="fit", owner="ann", queue="main", account="", cwd="/w", script_path="/w/job.sh",
    host="ws1", cpus=8, procs=0, mem_bytes=2**30, time_s=3600.0, is_array=False, count=1, first=0,
    last=0, step=1, host_file="/n/hosts/f", path="/bin", home="/home/ann", shell="/bin/sh",
)  # fmt: skip
ARRAY = replace(FACTS, is_array=True, count=3, first=2, last=6, step=2, procs=4)


@pytest.mark.parametrize(
    ("text", "system"),
    [
        ("echo $SLURM_ARRAY_TASK_ID", "slurm"),
        ("os.environ['SLURM_JOB_ID']", "slurm"),
        ("cd $PBS_O_WORKDIR", "pbs"),
        ("i=${PBS_ARRAYID}", "pbs"),
        ("prog $SGE_TASK_ID", "sge"),
        ("prog -t $NSLOTS", "sge"),
        ("out.${JOB_ID}", "sge"),
        ("JOB_ID=$(qsub x); qwait $JOB_ID", ""),
        ("echo $QSUB_TASK_ID", ""),
        ("MY_SLURM_JOB_IDS=3", ""),
        ("# about SLURM_CPUS_PER_TASK", ""),
        ("${SLURM_ARRAY_TASK_ID:-$PBS_ARRAY_INDEX}", "slurm"),
    ],
)
def test_what_a_script_wants(text: str, system: str) -> None:
    assert wanted(text) == system


def test_slurm() -> None:
    env = of_job("slurm", ARRAY) | of_task("slurm", 12, 4, is_array=True)
    assert env["SLURM_JOB_ID"] == env["SLURM_JOBID"] == "12_4"
    assert [env[f"SLURM_ARRAY_{name}"] for name in (
        "JOB_ID", "TASK_ID", "TASK_COUNT", "TASK_MIN", "TASK_MAX", "TASK_STEP")] == [
        "12", "4", "3", "2", "6", "2"]  # fmt: skip
    assert (env["SLURM_NTASKS"], env["SLURM_CPUS_PER_TASK"], env["SLURM_CPUS_ON_NODE"]) == (
        "4", "2", "8",
    )  # fmt: skip
    assert (env["SLURM_SUBMIT_DIR"], env["SLURM_JOB_NODELIST"]) == ("/w", "ws1")
    assert env["SLURM_MEM_PER_NODE"] == "1024"
    plain = of_job("slurm", FACTS) | of_task("slurm", 12, 0, is_array=False)
    assert plain["SLURM_JOB_ID"] == "12" and plain["SLURM_CPUS_PER_TASK"] == "8"
    assert not [name for name in plain if "ARRAY" in name]
    assert of_attempt("slurm", 2, "0,1", "/s") == {
        "SLURM_RESTART_COUNT": "1", "SLURM_JOB_GPUS": "0,1", "SLURM_GPUS_ON_NODE": "2",
    }  # fmt: skip


def test_pbs() -> None:
    env = of_job("pbs", ARRAY) | of_task("pbs", 12, 4, is_array=True)
    assert (env["PBS_JOBID"], env["PBS_ARRAY_INDEX"], env["PBS_ARRAYID"], env["PBS_ARRAY_ID"]) == (
        "12[4]", "4", "4", "12[]",
    )  # fmt: skip
    assert (env["PBS_O_WORKDIR"], env["PBS_NODEFILE"], env["PBS_ENVIRONMENT"]) == (
        "/w", "/n/hosts/f", "PBS_BATCH",
    )  # fmt: skip
    assert (env["PBS_NP"], env["NCPUS"]) == ("4", "8")
    assert of_task("pbs", 12, 0, is_array=False) == {"PBS_JOBID": "12"}
    assert of_attempt("pbs", 1, "", "/s") == {"TMPDIR": "/s", "PBS_JOBDIR": "/s"}
    assert host_lines("pbs", "ws1", 8, 3, "main") == "ws1\nws1\nws1\n"


def test_sge() -> None:
    env = of_job("sge", ARRAY) | of_task("sge", 12, 4, is_array=True)
    assert (env["JOB_ID"], env["SGE_TASK_ID"], env["NSLOTS"], env["JOB_NAME"]) == (
        "12", "4", "8", "fit",
    )  # fmt: skip
    assert [env[f"SGE_TASK_{name}"] for name in ("FIRST", "LAST", "STEPSIZE")] == ["2", "6", "2"]
    plain = of_job("sge", FACTS) | of_task("sge", 12, 0, is_array=False)
    assert plain["SGE_TASK_ID"] == plain["SGE_TASK_FIRST"] == "undefined"
    assert of_attempt("sge", 2, "", "/s") == {"TMPDIR": "/s", "TMP": "/s", "RESTARTED": "1"}
    assert host_lines("sge", "ws1", 8, 0, "main") == "ws1 8 main@ws1 UNDEFINED\n"


def test_nothing_for_others() -> None:
    assert of_job("", FACTS) == of_task("", 1, 0, is_array=True) == of_attempt("", 1, "", "") == {}
    prefixes = {"slurm": ("SLURM",), "pbs": ("PBS_", "NCPUS"), "sge": ()}
    for system, own in prefixes.items():
        names = of_job(system, ARRAY)
        assert not own or all(name.startswith(own) for name in names)
