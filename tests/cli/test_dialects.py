"""Words and scripts of Slurm, PBS and Grid Engine through qsub; nothing is sent."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from qsub_py.cli import common, submitting
from qsub_py.cli.draft import Draft
from qsub_py.cli.qsub import qsub
from qsub_py.model import JobSpec

Submitted = Callable[..., Draft]
Refuse = Callable[..., str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory that the test works in, with a script in it."""
    monkeypatch.chdir(tmp_path)
    write("job.sh", "#!/bin/sh\ntrue\n")
    return tmp_path


@pytest.fixture
def submitted(
    monkeypatch: pytest.MonkeyPatch, here: Path, capsys: pytest.CaptureFixture[str]
) -> Submitted:
    """Run qsub and return what it would send to the server; `told` is what it was asked to do."""
    drafts: list[Draft] = []
    asked: list[bool] = []

    def keep(draft: Draft, *, does_wait: bool, does_follow: bool) -> int:
        drafts.append(draft)
        asked.append(does_wait)
        return 0

    monkeypatch.setattr(submitting, "submit", keep)

    def run(*words: str, does_wait: bool = False) -> Draft:
        assert common.run(qsub, list(words)) == 0, capsys.readouterr().err
        assert asked.pop() == does_wait
        return drafts.pop()

    return run


@pytest.fixture
def refused(here: Path, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Run qsub; return its one line of complaint."""

    def run(*words: str) -> str:
        assert common.run(qsub, ["--dry-run", *words]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and "internal error" not in err
        return err.removeprefix("qsub: ").strip()

    return run


def line(text: str) -> list[str]:
    """Return the words of a command line."""
    return text.split()


def write(path: str, text: str) -> str:
    Path(path).write_text(text)
    return path


# -- the 25 lines --------------------------------------------------------------------------


def test_line_01_late_cpus(submitted: Submitted) -> None:
    write("script.py", "print()\n")
    assert submitted("script.py", "--cpus", "3").spec.cpus == 3


@pytest.mark.parametrize("text", ["--lr 0.1", "--name foo --time 3"])
def test_lines_02_03_options_behind_a_script(refused: Refuse, text: str) -> None:
    write("train.py", "print()\n")
    word = text.split()[0]
    message = refused("train.py", *line(text))
    assert f"`qsub {word} ... train.py`" in message
    assert f"`qsub train.py -- {word} ...`" in message


def test_lines_04_05_commands_keep_their_words(submitted: Submitted, here: Path) -> None:
    words = ("python3", "-c", "print(1)")
    assert submitted(*words).spec.argv == words
    (here / "bin").mkdir()
    Path(write("bin/blastn", "#!/bin/sh\n")).chmod(0o755)
    os.environ["PATH"] += f":{here}/bin"
    try:
        words = ("blastn", "-e", "10", "-o", "o", "-query", "q")
        spec = submitted(*words).spec
    finally:
        os.environ["PATH"] = os.environ["PATH"].removesuffix(f":{here}/bin")
    assert (spec.argv, spec.output, spec.error) == (words, "", "")


@pytest.mark.parametrize(
    ("text", "readings"),
    [
        ("-t 1-10", ("--array 1-10", "--time 1-10")),  # 6
        ("-tc 4 -t 1-100", ("--array 1-100", "--time 1-100")),  # 7
        ("-N 2", ("nodes", "--name 2")),  # 9
        ("-a 202612312359", ("--begin", "--array 202612312359")),  # 16
        ("-p -100", ("--priority -100", "--queue -100")),  # 17
        ("-w e", ("--dry-run", "--nodelist e")),  # 25
    ],
)
def test_lines_06_07_09_16_17_25_name_both_readings(
    refused: Refuse, text: str, readings: tuple[str, str]
) -> None:
    message = refused(*line(text), "job.sh")
    assert "could mean two things" in message
    assert all(reading in message for reading in readings)


def test_line_07_with_a_clear_array(submitted: Submitted) -> None:
    draft = submitted("-tc", "4", "--array", "1-100", "job.sh")
    assert (draft.limit, draft.spec.segments.count) == (4, 100)


def test_line_08_an_array_of_pbs(submitted: Submitted) -> None:
    spec = submitted("-J", "1-10", "job.sh").spec
    assert (spec.segments.parts, spec.is_array, spec.name) == (((1, 10, 1),), True, "job.sh")
    assert submitted("-J", "x", "job.sh").spec.name == "x"


def test_lines_10_to_13_words_of_grid_engine(submitted: Submitted, here: Path) -> None:
    assert submitted("-pe", "smp", "4", "job.sh").spec.cpus == 4
    assert submitted("-cwd", "job.sh").spec.cwd == str(here)
    assert submitted("-wd", "/tmp", "job.sh").spec.cwd == "/tmp"
    assert submitted("-terse", "job.sh").spec == submitted("job.sh").spec


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("-W depend=afterok:12", "afterok"),  # 14
        ("-hold_jid 12", "afterany"),  # 21
    ],
)
def test_lines_14_21_dependencies(submitted: Submitted, text: str, kind: str) -> None:
    (wish,) = submitted(*line(text), "job.sh").wishes
    assert (wish.kind, str(wish.ref)) == (kind, "12")


def test_line_15_block(submitted: Submitted) -> None:
    submitted("-W", "block=true", "job.sh", does_wait=True)
    submitted("-sync", "y", "job.sh", does_wait=True)
    submitted("-W", "job.sh", does_wait=True)


def test_line_18_resources(submitted: Submitted) -> None:
    assert submitted("-l", "walltime=1:00:00", "job.sh").spec.time_s == 3600
    spec = submitted("-l", "h_rt=60", "-l", "h_vmem=2G", "-pe", "smp", "3", "job.sh").spec
    assert (spec.time_s, spec.mem_bytes, spec.cpus) == (60, 3 * 2**31, 3)
    spec = submitted("-l", "select=1:ncpus=2:mem=1gb,walltime=30", "job.sh").spec
    assert (spec.cpus, spec.mem_bytes, spec.time_s) == (2, 2**30, 30)


def test_line_19_environment(submitted: Submitted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_VAR", "1")
    assert submitted("-V", "job.sh").spec.env["MY_VAR"] == "1"
    env = submitted("-v", "A=1", "job.sh").spec.env
    assert (env["A"], env["MY_VAR"]) == ("1", "1")


def test_line_20_a_program_of_grid_engine(submitted: Submitted) -> None:
    spec = submitted("-b", "y", "-N", "x", "echo", "hi").spec
    assert (spec.argv, spec.name, spec.script) == (("echo", "hi"), "x", None)
    assert submitted("-b", "y", "./job.sh", "-x", "--cpus").spec.argv == (
        "./job.sh",
        "-x",
        "--cpus",
    )
    assert submitted("-b", "16:00", "job.sh").begin == "16:00"


def test_line_22_words_of_slurm(submitted: Submitted) -> None:
    spec = submitted(*line("--partition gpu --gres=gpu:1 -n 8 job.sh")).spec
    assert (spec.queue, spec.gpus, spec.cpus, spec.procs) == ("gpu", 1, 8, 8)
    assert submitted(*line("-n 4 -c 2 --ntasks-per-node=4 job.sh")).spec.cpus == 8
    assert submitted(*line("-n 4 job.sh --cpus 3")).spec.cpus == 12


def test_line_23_no_abbreviations(refused: Refuse) -> None:
    message = refused("--depend=afterok:12", "job.sh")
    assert "options cannot be abbreviated: did you mean --dependency?" in message


def test_line_24_a_directory_of_torque(refused: Refuse) -> None:
    message = refused("-d", "/scratch", "job.sh")
    assert "could mean two things" in message
    assert "--chdir /scratch" in message and "--dependency afterok:JOB" in message


# -- the command line in one dialect -------------------------------------------------------


def test_a_dialect_settles_what_could_mean_two_things(
    submitted: Submitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    sge = submitted(*line("--dialect sge -t 1-10 -tc 4 -N fit -p -5 -a 12312359 job.sh"))
    assert (sge.spec.segments.count, sge.limit, sge.spec.name) == (10, 4, "fit")
    assert (sge.priority, sge.begin, sge.spec.compat) == (-5, "12/31 23:59", "sge")
    pbs = submitted(*line("--dialect pbs -N 2 -J 1-3 -j oe -o out.txt job.sh")).spec
    assert (pbs.name, pbs.segments.count, pbs.output) == ("2", 3, "out.txt.%a")
    monkeypatch.setenv("QSUB_DIALECT", "slurm")
    slurm = submitted(*line("-N 1 -t 10 -a 1-3 --mail-type=END --ship job.sh job.sh")).spec
    assert (slurm.time_s, slurm.segments.count, len(slurm.ship)) == (600, 3, 1)
    spec = submitted("-n", "2", "--wrap=echo $SLURM_JOB_ID", "--parsable").spec
    assert (spec.name, spec.cpus, spec.compat) == ("wrap", 2, "slurm")
    assert submitted(*line("--dialect auto -N x job.sh")).spec.name == "x"


def test_bad_dialects(refused: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is no dialect 'condor'" in refused("--dialect", "condor", "job.sh")
    assert "comes before the words that it explains" in refused(
        "-n", "2", "--dialect", "sge", "job.sh"
    )
    assert "--compat: there is no system 'lsf'" in refused("--compat", "lsf", "job.sh")
    monkeypatch.setenv("QSUB_DIALECT", "condor")
    assert "there is no dialect 'condor'" in refused("job.sh")


def test_two_words_for_one_thing(submitted: Submitted, refused: Refuse) -> None:
    assert "--cpus and `-pe smp 4` say different things; leave one out" in refused(
        *line("--cpus 2 -pe smp 4 job.sh")
    )
    assert "--mem and `-l h_vmem=1G` say different things" in refused(
        *line("--mem 2G -l h_vmem=1G job.sh")
    )
    assert "`-l walltime=60`" in refused(*line("-t 5 -l walltime=60 job.sh"))
    assert submitted(*line("--cpus 4 -pe smp 4 job.sh")).spec.cpus == 4
    env = submitted(*line("--export A=1 -v B=2 job.sh")).spec.env
    assert (env["A"], env["B"]) == ("1", "2")


# -- directives ----------------------------------------------------------------------------


def test_each_in_its_own_meaning(submitted: Submitted) -> None:
    pbs = submitted(write("a.sh", "#!/bin/sh\n#PBS -p 10 -N x\n#PBS -l walltime=90\ntrue\n"))
    assert (pbs.priority, pbs.spec.name, pbs.spec.time_s) == (10, "x", 90)
    slurm = submitted(write("b.sh", "#!/bin/sh\n#SBATCH -p gpu\n#SBATCH -t 10 -N 1\ntrue\n"))
    assert (slurm.spec.queue, slurm.spec.time_s) == ("gpu", 600)
    sge = submitted(write("c.sh", "#!/bin/sh\n#$ -t 1-10\n#$ -N 3x\ntrue\n"))
    assert (sge.spec.segments.count, sge.spec.name) == (10, "3x")
    assert [draft.spec.compat for draft in (pbs, slurm, sge)] == ["pbs", "slurm", "sge"]
    assert sge.spec.retry is not None and sge.spec.retry.obeys_exit
    assert pbs.spec.retry is slurm.spec.retry is None


def test_who_wins(submitted: Submitted, monkeypatch: pytest.MonkeyPatch) -> None:
    write("job.sh", "#!/bin/sh\n#$ -N sge -P acc -pe smp 7 -wd /\n#PBS -N pbs -l ncpus=6 -q pbs\n"
                    "#SBATCH -J slurm -n 2 -c 2 -p slurm\n#QSUB -J own\ntrue\n")  # fmt: skip
    spec = submitted("job.sh").spec
    assert (spec.name, spec.cpus, spec.queue, spec.account, spec.cwd) == (
        "own", 4, "slurm", "acc", "/",
    )  # fmt: skip
    assert submitted("-N", "line", "-D", "/tmp", "job.sh").spec.name == "line"
    assert submitted("-c", "3", "job.sh").spec.cpus == 6, "for each of Slurm's processes"
    assert submitted("--dialect", "pbs", "job.sh").spec.queue == "pbs"
    assert submitted("--dialect", "sge", "job.sh").spec.cpus == 7
    assert submitted("--ignore-directives", "job.sh").spec.name == "job.sh"
    monkeypatch.setenv("QSUB_JOB_CPUS", "5")
    assert submitted("job.sh").spec.cpus == 5
    monkeypatch.delenv("QSUB_JOB_CPUS")
    write("job.sh", "#!/bin/sh\n#SBATCH --mem=4G\n#$ -l h_vmem=1G\ntrue\n")
    assert submitted("job.sh").spec.mem_bytes == 2**32
    assert submitted("--mem-per-cpu", "1G", "job.sh").spec.mem_bytes == 2**30


def test_where_directives_stand(submitted: Submitted) -> None:
    head = "-- a comment\n%QSUB -J tex\n//SBATCH --time=5\n\n  #PBS -q q\n ##SBATCH --mem=1G\n"
    spec = submitted(write("a.txt", head + "  #SBATCH --mem=2G\n# SBATCH --mem=3G\n#SBATCHED x\n"
                           "true\n#QSUB -J late\n#SBATCH --mem=4G\n#$ -N late\n")).spec  # fmt: skip
    assert (spec.name, spec.time_s, spec.queue, spec.mem_bytes) == ("tex", 300, "q", 0)
    far = "#" * 32 * 1024 + "\n#SBATCH --mem=4G\ntrue\n"
    assert submitted(write("far.sh", far)).spec.mem_bytes == 0
    large = "#!/bin/sh\n#SBATCH --mem=4G\n" + "true\n" * 300_000
    Path(write("large.sh", large)).chmod(0o755)
    spec = submitted("large.sh").spec
    assert (spec.script, spec.mem_bytes, spec.compat) == (None, 2**32, "slurm")
    assert submitted(write("e.sh", "#$HOME is not a directive\n#$\n#$$$ nor this\ntrue\n"))


def test_mistakes_name_file_and_line(refused: Refuse) -> None:
    def complaint(text: str) -> str:
        return refused(write("job.sh", f"#!/bin/sh\n{text}\ntrue\n"))

    assert complaint("#SBATCH --nodes=2").startswith(
        "job.sh, line 2: `--nodes=2`: a task runs on one node; "
    )
    assert "job.sh, line 3: Slurm has no option '--foo'" in complaint("#\n#SBATCH --foo")
    assert "job.sh, line 2: `select=2`: a task runs on one node" in complaint("#PBS -l select=2")
    assert "job.sh, line 2: 'hi' is no option of Grid Engine" in complaint("#$ -V hi")
    assert "job.sh, line 2: `--wrap=x` belongs on the command line" in complaint("#SBATCH --wrap=x")
    assert "job.sh, line 2: `-b y` belongs on the command line" in complaint("#$ -b y")
    assert "job.sh, line 4: this #$ line stands after the first command" in complaint(
        "#$ -cwd\ntrue\n#$ -N x"
    )
    assert "job.sh, line 2: `-t 1-10` could mean two things" in complaint("#QSUB -t 1-10")


def test_signals_need_a_limit_only_with_ours(submitted: Submitted, refused: Refuse) -> None:
    write("job.sh", "#!/bin/sh\n#SBATCH --signal=B:USR2@30\ntrue\n")
    assert submitted("job.sh").spec.notice is None
    notice = submitted("-t", "10", "job.sh").spec.notice
    assert notice is not None and (notice.before_s, notice.is_shell_only) == (30, True)
    assert "comes before the time limit" in refused("--signal", "USR1@60", "job.sh")


def test_shell_and_umask(submitted: Submitted) -> None:
    spec = submitted(write("a.sh", "#PBS -S /bin/bash -W umask=077\ntrue\n")).spec
    assert spec.script is not None and spec.script.startswith("#!/bin/bash\n#PBS")
    assert spec.umask == 0o077
    spec = submitted(write("b.sh", "#!/bin/sh\n#$ -S /bin/bash\ntrue\n")).spec
    assert spec.script is not None and spec.script.startswith("#!/bin/bash\n#$ -S")
    login = "#!/bin/bash -l\n#$ -S /bin/bash\ntrue\n"
    assert submitted(write("c.sh", login)).spec.script == login
    python = "#!/usr/bin/env python3\n#$ -S /usr/bin/python3\n#$ -N fit\nprint()\n"
    spec = submitted(write("d.py", python)).spec
    assert (spec.script, spec.name) == (python, "fit")


def test_whose_variables(submitted: Submitted) -> None:
    def compat(text: str, *words: str) -> str:
        return submitted(*words, write("a.sh", f"#!/bin/sh\n{text}\n")).spec.compat

    assert compat("echo $SLURM_ARRAY_TASK_ID") == "slurm"
    assert compat("echo $SLURM_ARRAY_TASK_ID", "--compat", "none") == ""
    assert compat("#PBS -N x\necho $SLURM_JOB_ID") == "pbs"
    assert compat("true", "--compat", "torque") == "pbs"
    assert compat("#QSUB --compat sge\ntrue") == "sge"
    assert compat("true") == ""
    assert submitted("--compat", "slurm", "echo").spec.compat == "slurm"
    spec = submitted("job.sh").spec
    assert b'"compat"' not in spec.to_bytes(), "older nodes take other jobs"
    spec = submitted("--compat", "slurm", "-n", "2", "job.sh").spec
    assert JobSpec.from_bytes(spec.to_bytes()) == spec


def test_dry_run_tells_what_was_read(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("job.sh", "#!/bin/sh\n#QSUB --comment x\n#SBATCH -J fit --mail-type=END\ntrue\n")
    assert common.run(qsub, ["--dry-run", "-terse", "-pe", "smp", "2", "job.sh"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split(None, 1)[1] for row in rows if row.startswith(("read", "var"))] == [
        "also those of slurm",
        "command line: -terse -> no effect (qsub prints the id alone anyway)",
        "command line: -pe smp 2 -> --cpus=2",
        "job.sh, line 2: --comment x -> --comment=x",
        "job.sh, line 3: -J fit -> --name=fit",
        "job.sh, line 3: --mail-type=END -> no effect (mail is not sent)",
    ]


def test_a_person_is_told_of_words_without_effect(submitted: Submitted) -> None:
    notes = submitted("-terse", "-m", "n", "job.sh").notes
    assert notes == ("without effect: -terse (qsub prints the id alone anyway), "
                     "-m n (mail is not sent)",)  # fmt: skip
