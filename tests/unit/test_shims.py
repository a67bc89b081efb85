"""What foreign commands print, made from jobs that were never submitted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import qsub_py
from qsub_py.cli import shims
from qsub_py.cli.shims import args, pbs_words, sge_words, slurm_run, slurm_words
from qsub_py.cli.shims.looking import Row, ranges
from qsub_py.cli.shims.pbs_words import Entry
from qsub_py.cli.shims.slurm_control import hosts
from qsub_py.cli.shims.slurm_fields import FIELDS, LETTERS, NAMES, At
from qsub_py.cli.shims.slurm_format import by_letters, by_names, by_sacct, columns, lines, parsable
from qsub_py.cli.shims.slurm_nodes import grouped
from qsub_py.errors import SpecError
from qsub_py.model import JobInfo, NodeInfo, Outcome, State

NOW = 1_700_000_100.0
JOB = JobInfo(
    id=12, uid="u", name="fit", owner="ann", queue="main", kind="command", priority=0, cpus=2,
    mem_bytes=2**30, gpus=0, time_s=3600.0, submitted_at=NOW - 100, started_at=NOW - 65,
    ended_at=None, counts={State.RUNNING: 1}, limit=0, is_held=False, is_open=False,
    is_array=False, begin_at=0.0, exit_code=None, nodes=("n1",), reason="", unfit={}, lane="",
)  # fmt: skip
ROW = Row(JOB, State.RUNNING, node="n1", started_at=NOW - 65)
ARRAY = replace(JOB, is_array=True, limit=2, counts={State.PENDING: 5, State.RUNNING: 1})
WAITING = Row(ARRAY, State.PENDING, together=((4, 6), (8, 8)), reason="Resources")
TASK = Row(ARRAY, State.RUNNING, 3, node="n1", started_at=NOW - 65)


def at(*rows: Row) -> list[At]:
    return [At(row, NOW) for row in rows]


def test_squeue() -> None:
    fields = by_letters("%i %t", LETTERS, "squeue")
    assert lines(fields, at(ROW, TASK, WAITING), header=False) == [
        "12 R", "12_3 R", "12_[4-6,8%2] PD",
    ]  # fmt: skip
    usual = by_letters("%.8i %5j|%M %l %R %%", LETTERS, "squeue")
    assert lines(usual, at(ROW, replace(WAITING, together=())), header=True) == [
        "   JOBID NAME |TIME TIME_LIMIT NODELIST(REASON) %",
        "      12 fit  |1:05 1:00:00 n1 %",
        "      12 fit  |0:00 1:00:00 (Resources) %",
    ]
    named = by_names("JobID:4,StateCompact:.4,NAME", NAMES, "squeue")
    assert lines(named, at(ROW), header=False) == ["12     Rfit"]
    with pytest.raises(SpecError, match="no field '%z'"):
        by_letters("%z", LETTERS, "squeue")
    with pytest.raises(SpecError, match="no field 'size'"):
        by_names("size", NAMES, "squeue")


def test_sacct() -> None:
    ended = replace(
        ROW, state=State.FAILED, job=replace(JOB, ended_at=NOW, exit_code=3, counts={}),
        outcome=Outcome(0, State.FAILED, exit_code=3, node="n1", started_at=NOW - 65, ended_at=NOW),
    )  # fmt: skip
    fields = by_sacct("JobID,State,ExitCode,elapsed", FIELDS, "sacct")
    rows = at(ended, replace(WAITING, job=replace(ARRAY, is_held=True)))
    assert parsable(fields, rows, header=True, delimiter="|", ends=False) == [
        "JobID|State|ExitCode|Elapsed",
        "12|FAILED|3:0|00:01:05",
        "12_[4-6,8%2]|PENDING|0:0|00:00:00",
    ]
    assert parsable(fields, rows[:1], header=False, delimiter=";", ends=True) == [
        "12;FAILED;3:0;00:01:05;"
    ]
    wide = by_sacct("jobid,state%20,jobname%-5,state%3", FIELDS, "sacct")
    assert columns(wide, rows[:1], header=True) == [
        "JobID                       State JobNa Sta ",
        "------------ -------------------- ----- --- ",
        "12                         FAILED fit   FA+ ",
    ]
    words = {State.SUSPENDED: "RUNNING", State.DEP_FAILED: "CANCELLED", State.PENDING: "PENDING"}
    assert {state: slurm_words.accounted(state) for state in words} == words


def test_words_of_slurm() -> None:
    assert slurm_words.our_ids(["12.batch", "12_3.0", "12_[1-3]", "7"]) == [
        "12", "12_3", "12_[1-3]", "7",
    ]  # fmt: skip
    assert slurm_words.read_states("all") is None
    assert slurm_words.read_states("PD,running,CF") == {State.PENDING, State.RUNNING}
    with pytest.raises(SpecError):
        slurm_words.read_states("sleeping")
    assert slurm_words.duration(93784) == "1-02:03:04"
    assert (slurm_words.memory(2**31), slurm_words.memory(2**20 * 3 + 1)) == ("2G", "4M")
    assert hosts("n[01-03,7].a,b") == ["n01.a", "n02.a", "n03.a", "n7.a", "b"]
    assert ranges([1, 2, 3, 5, 7, 8]) == ((1, 3), (5, 5), (7, 8))


def test_srun_names_its_files() -> None:
    env = {"SLURM_JOB_ID": "12_3", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}
    assert slurm_run.path_of("logs/%A_%3a_%t_log.%%", env) == "logs/12_003_0_log.%"
    with pytest.raises(SpecError):
        slurm_run.path_of("%k", env)
    for words, text in (
        (["-n", "4", "true"], "one process"), (["--pty", "sh"], "not known"),
        ([], "nothing to run"), (["no-such-program"], "no program"),
        (["--export=NONE", "true"], "write ALL"),
    ):  # fmt: skip
        with pytest.raises(SpecError, match=text):
            slurm_run.run_inside(words, {**env, "SLURM_NTASKS": "1"})


@pytest.mark.parametrize(
    ("row", "torque", "pro"),
    [
        (ROW, "R", "R"),
        (replace(ROW, state=State.PENDING), "Q", "Q"),
        (replace(ROW, state=State.PENDING, job=replace(JOB, is_held=True)), "H", "H"),
        (replace(ROW, state=State.PENDING, job=replace(JOB, unmet=1)), "H", "H"),
        (replace(ROW, state=State.PENDING, job=replace(JOB, begin_at=NOW + 9)), "W", "W"),
        (replace(ROW, state=State.SUSPENDED), "S", "S"),
        (replace(ROW, state=State.COMPLETING), "E", "E"),
        (replace(ROW, state=State.TIMEOUT), "C", "F"),
        (Row(ARRAY, State.RUNNING), "B", "B"),
        (WAITING, "Q", "Q"),
        (TASK, "R", "R"),
        (replace(TASK, state=State.COMPLETED), "C", "X"),
    ],
)
def test_letters_of_pbs(row: Row, torque: str, pro: str) -> None:
    assert pbs_words.letter(row, NOW, "torque") == torque
    assert pbs_words.letter(row, NOW, "pbs") == pro


def test_qstat_of_pbs() -> None:
    entries = [Entry(ROW, NOW, "pbs"), Entry(Row(ARRAY, State.RUNNING), NOW, "pbs"),
               Entry(TASK, NOW, "pbs")]  # fmt: skip
    assert [one.id for one in entries] == ["12", "12[]", "12[3]"]
    assert [line.split() for line in pbs_words.table(entries[:1])[2:]] == [
        ["12", "fit", "ann", "00:01:05", "R", "main"],
    ]  # fmt: skip
    assert pbs_words.table([]) == []
    text = pbs_words.full(entries[:1])
    assert text[:2] == ["Job Id: 12", "    Job_Name = fit"]
    assert "    job_state = R" in text and "    Resource_List.walltime = 01:00:00" in text
    found = json.loads(pbs_words.as_json(entries, NOW))
    assert found["Jobs"]["12[3]"]["job_state"] == "R"
    assert found["Jobs"]["12"]["Resource_List"]["mem"] == "1024mb"
    assert "Jobs" not in json.loads(pbs_words.as_json([], NOW))


def test_ids_of_others() -> None:
    ours = {"12": "12", "12.server": "12", "12[].s": "12", "12[3]": "12_3", "12[1-3].s": "12_[1-3]",
            "12-3.s": "12_3"}  # fmt: skip
    assert {word: pbs_words.our_id(word) for word in ours} == ours
    assert [pbs_words.is_id(word) for word in ("12[]", "workq", "@server")] == [True, False, False]
    assert [sge_words.our_id(word) for word in ("12", "12.3", "12.1-9:2")] == [
        "12", "12_[3]", "12_[1-9:2]",
    ]  # fmt: skip
    for read in (pbs_words.our_id, sge_words.our_id):
        with pytest.raises(SpecError):
            read("x")


def test_qstat_of_grid_engine() -> None:
    held = replace(ROW, state=State.PENDING, job=replace(JOB, is_held=True))
    failed = replace(held, job=replace(JOB, is_held=True, held_why="3"))
    suspended = replace(ROW, state=State.SUSPENDED)
    rows = [ROW, held, failed, suspended, WAITING]
    found = sge_words.lines(rows)
    assert found[0].split()[:5] == ["job-ID", "prior", "name", "user", "state"]
    assert found[1].startswith("-----")
    assert [line.split()[4] for line in found[2:]] == ["r", "hqw", "Eqw", "r", "qw"]
    assert found[-1].split()[-1] == "4-6:1,8"
    assert sge_words.lines([]) == []


def test_sinfo_groups_nodes() -> None:
    node = NodeInfo(
        "u", "n1", "h", "up", 4, 4, 2**32, 2**32, 0, (), ("main", "gpu"), (), 0, "", 9, ""
    )
    nodes = [node, replace(node, name="n2", cpus_free=1), replace(node, name="n3", state="lost")]
    found = [(g.queue, g.state, [n.name for n in g.nodes]) for g in grouped(nodes, queues=["gpu"])]
    assert found == [("gpu", "down", ["n3"]), ("gpu", "idle", ["n1"]), ("gpu", "mix", ["n2"])]
    assert len(grouped(nodes, states=["idle"], is_each=True)) == 2


def test_command_lines_are_taken_apart() -> None:
    table = (("-j --jobs", 1), ("-h --noheader", 0), ("-o --format", 1))
    asked = args.read_getopt(["-hj1,2", "x", "--form=%i", "--job", "3"], table)
    assert (asked.all("-j"), asked.has("-h"), asked.last("-o"), asked.words) == (
        ("1", "2", "3"), True, "%i", ("x",),
    )  # fmt: skip
    assert args.read_getopt(["-h", "x", "-h"], table, stops=True).words == ("x", "-h")
    for words in (["-z"], ["--nothing"], ["-j"]):
        with pytest.raises(SpecError):
            args.read_getopt(words, table)
    plain = args.read_words(["12", "-t", "1-3"], (("-t", 1), ("-f", 0)))
    assert (plain.words, plain.last("-t")) == (("12",), "1-3")
    for words in (["-x"], ["-t"]):
        with pytest.raises(SpecError):
            args.read_words(words, (("-t", 1),))


def test_programs_start_with_any_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a place"
    folder.mkdir()
    python = folder / "python"
    python.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(python))
    path = folder / "squeue"
    path.write_text(shims.program("slurm", "squeue"))
    path.chmod(0o755)
    # Called by this name a Python of a virtual environment does not know that it is one.
    env = {**os.environ, "PYTHONPATH": str(Path(qsub_py.__file__).parents[1])}
    done = subprocess.run([path, "--version"], capture_output=True, text=True, env=env, check=False)
    assert done.stdout.startswith("qsub_py ") and done.stderr == "", done
