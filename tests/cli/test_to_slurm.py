"""qsub --to slurm: the script that it prints makes the same job, given back to our own sbatch."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from qsub_py.cli import common, submitting
from qsub_py.cli.qsub import qsub
from qsub_py.cli.shims import sending
from qsub_py.cli.spec import Draft
from qsub_py.dialect_slurm import SLURM

Printed = Callable[..., str]


@pytest.fixture
def printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Printed:
    """Run qsub --to slurm and return the script."""
    monkeypatch.chdir(tmp_path)
    Path("job.sh").write_text('#!/bin/bash\n#QSUB --retries 2\necho $QSUB_TASK_ID "$@"\n')

    def run(*words: str) -> str:
        assert common.run(qsub, ["--to", "slurm", *words]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run


def submitted(*words: str) -> Draft:
    """Return what qsub would send."""
    drafts: list[Draft] = []

    def keep(draft: Draft, **_: object) -> int:
        drafts.append(draft)
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submitting, "submit", keep)
        assert common.run(qsub, list(words)) == 0
    return drafts[0]


def given_back(text: str) -> Draft:
    """Return what our sbatch makes of a script."""
    Path("printed.sh").write_text(text)
    return sending.read(SLURM, ["printed.sh"]).draft


def compared(draft: Draft) -> tuple[object, ...]:
    """Return all of a job that both ways can say."""
    spec = draft.spec
    plain = replace(
        spec, script=None, script_path="", argv=(), retry=None, compat="", sweep={},
        output=spec.output.replace("%j", "%A_%a") if spec.is_array else spec.output,
    )  # fmt: skip
    return plain, draft.priority, draft.limit, draft.is_held, draft.begin, draft.wishes


@pytest.mark.parametrize(
    "line",
    [
        "-c 3 --mem 1500K -t 90s -J fit job.sh a",
        "-a 1-9:2%2 -o out.%j.txt -e %x.%4a.err job.sh",
        "-a 0,3,7-9 --gpus 2 -q gpu -w n1 job.sh",
        "-t 2-03:04:05 --signal B:USR1@60 --no-requeue -H --priority 5 job.sh",
        "-n 4 -c 2 --mem-per-cpu 100M job.sh",
        "-b now+1hour --comment about -A physics -d singleton job.sh",
        "--export NONE,A=1 -D / -- echo hi",
        "-x n2,n3 -C a&b|c -L matlab:2,x job.sh",
        "--wrap true",
    ],
)
def test_the_same_job(printed: Printed, line: str) -> None:
    words = line.split()
    mine = submitted(*words)
    assert compared(given_back(printed(*words))) == compared(mine)


def run_task(text: str, task: int | None = None) -> str:
    """Run the script as Slurm would."""
    Path("printed.sh").write_text(text)
    env = {"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    if task is not None:
        env |= {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_JOB_ID": "6"}
    return subprocess.run(
        [text.partition("\n")[0][2:], "printed.sh"], env=env, capture_output=True, text=True,
        check=True,
    ).stdout  # fmt: skip


def test_it_does_the_same(printed: Printed) -> None:
    assert run_task(printed("job.sh", "a", "b c")) == "0 a b c\n"
    assert run_task(printed("-a", "1-5", "job.sh", "x"), 4) == "4 x\n"
    text = printed("--", "sh", "-c", "echo $QSUB_JOB_ID $QSUB_TASK_MAX $OMP_NUM_THREADS")
    assert run_task(text) == "7 0 1\n"
    Path("x.py").write_text("import sys; print(sys.argv, __file__)\n")
    path = str(Path("x.py").absolute())
    assert run_task(printed("x.py", "1")) == f"{[path, '1']} {path}\n"
    text = printed("--export", "ALL,-GONE", "--wrap", "echo ${GONE-unset}")
    assert run_task(text) == "unset\n"


def test_a_sweep_is_a_table(printed: Printed) -> None:
    words = ["--sweep", "lr=0.1,0.01", "--sweep", "who=it's,you", "-a", "%2"]
    text = printed(*words, "--wrap", "echo {lr} {who} $QSUB_PARAM_lr $QSUB_PARAMS")
    assert run_task(text, 2) == '0.01 it\'s 0.01 {"lr":0.01,"who":"it\'s"}\n'
    assert run_task(printed(*words, "--", "echo", "{lr}", "a{who}"), 1) == "0.1 ayou\n"
    assert run_task(printed(*words, "job.sh", "{lr}"), 3) == "3 0.01\n"
    draft = given_back(text)
    assert (draft.spec.segments.count, draft.limit) == (4, 2)


def test_what_slurm_has_no_word_for(printed: Printed) -> None:
    text = printed("--ship", "job.sh", "--fetch", "*.npz", "-a", "1-5000", "--rate",
                   "10/m", "--deadline", "tomorrow", "job.sh")  # fmt: skip
    assert "at most 10/m tasks" in text and "has not begun by tomorrow" in text
    assert "# Not in Slurm: up to 2 retries" in text
    assert "# Not in Slurm: files that travel. Copy them there: job.sh" in text
    assert "MaxArraySize" in text
    Path("pbs.sh").write_text("#PBS -N x\ncd $PBS_O_WORKDIR\n")
    text = printed("pbs.sh")
    assert "# The script was written for PBS" in text and "#PBS" not in text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-d afterok:12 job.sh", "ids of jobs here mean nothing to Slurm"),
        ("--after 12 job.sh", "ids of jobs here mean nothing to Slurm"),
        ("--every 5m job.sh", "runs a job once"),
        ("-w n1,n2 job.sh", "asks for all of the nodes"),
        ("os:getcwd", "no script"),
        ("--sweep a=1:5000 job.sh {a}", "too long"),
        ("--sweep a=1:5 -o {a}.out job.sh {a}", "parameters into --output"),
    ],
)
def test_refused(
    printed: Printed, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    assert common.run(qsub, ["--to", "slurm", *line.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err


def test_other_systems_are_not_known(printed: Printed, capsys: pytest.CaptureFixture[str]) -> None:
    assert common.run(qsub, ["--to", "lsf", "job.sh"]) == 2
    assert "write --to slurm" in capsys.readouterr().err
    Path("job.sh").write_text("#QSUB --to slurm\ntrue\n")
    assert common.run(qsub, ["job.sh"]) == 2
