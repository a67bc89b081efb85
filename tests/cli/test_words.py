"""Telling apart the words of a qsub command line (DESIGN section 6)."""

from __future__ import annotations

import pytest

from qsub_py.cli import options
from qsub_py.cli.words import LATE_OPTIONS, Split, split, split_late
from qsub_py.errors import SpecError

TABLE = options.table_of(options.make_options())


def refusal(*argv: str) -> str:
    with pytest.raises(SpecError) as caught:
        split(argv, TABLE)
    return f"{caught.value}; {caught.value.hint}"


def late_refusal(*argv: str) -> str:
    with pytest.raises(SpecError) as caught:
        split_late(argv, TABLE, target="train.py")
    return f"{caught.value}; {caught.value.hint}"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("true", Split((), ("true",))),
        ("true -x --cpus 3", Split((), ("true", "-x", "--cpus", "3"))),
        ("--cpus 3 true", Split(("--cpus=3",), ("true",))),
        ("--cpus=3 true", Split(("--cpus=3",), ("true",))),
        ("-c 3 true", Split(("--cpus=3",), ("true",))),
        ("-c3 true", Split(("--cpus=3",), ("true",))),
        ("-t10:00 -a1-10%2 true", Split(("--time=10:00", "--array=1-10%2"), ("true",))),
        ("-J x -N y --job-name z", Split(("--name=x", "--name=y", "--name=z"), ())),
        ("-W -f true", Split(("--wait", "--follow"), ("true",))),
        ("--test-only true", Split(("--dry-run",), ("true",))),
        ("--no-requeue true", Split(("--no-requeue",), ("true",))),
        ("-c 2 -- true --cpus -- 3", Split(("--cpus=2",), ("true", "--cpus", "--", "3"), True)),
        ("-", Split((), ("-",))),
        ("- --cpus 3", Split((), ("-", "--cpus", "3"))),
        ("--priority -5 true", Split(("--priority=-5",), ("true",))),
        ("--export=-TOKEN true", Split(("--export=-TOKEN",), ("true",))),
        ("-W depend.sh", Split(("--wait",), ("depend.sh",))),
        ("-t 90 true", Split(("--time=90",), ("true",))),
        ("-a 2500 true", Split(("--array=2500",), ("true",))),
        ("-p main -w n1 true", Split(("--queue=main", "--nodelist=n1"), ("true",))),
        ("", Split((), ())),
    ],
)
def test_split(argv: str, expected: Split) -> None:
    assert split(argv.split(), TABLE) == expected


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (
            "--cpu 3 true",
            "no such option: --cpu; options cannot be abbreviated: did you mean --cpu",
        ),
        ("--aray 1 true", "did you mean --array?"),
        ("--xyzzy true", "no such option: --xyzzy; see qsub --help"),
        ("-z true", "no such option: -z"),
        ("-fW true", "short options do not cluster: -fW; write -f -W"),
        ("-Jname true", "no such option: -Jname; write -J name"),
        ("-cpus 3 true", "did you mean --cpus?"),
        ("--wait=3 true", "`--wait` takes no value"),
        ("--name", "`--name` needs a value"),
        ("--name -- true", "`--name` needs a value"),
        ("--name --cpus 3 true", "`--name` needs a value, not --cpus"),
        ("-5 true", "no such option: -5"),
    ],
)
def test_split_refuses(argv: str, part: str) -> None:
    assert part in refusal(*argv.split())


@pytest.mark.parametrize(
    ("argv", "system", "value", "words"),
    [
        ("-terse true", "sge", "", ("true",)),
        ("-wd /tmp true", "sge", "/tmp", ("true",)),
        ("-pe smp 4 true -pe", "sge", "smp 4", ("true", "-pe")),
        ("-hold_jid 12 true", "sge", "12", ("true",)),
        ("-b y echo hi", "sge", "y", ("echo", "hi")),
        ("-j y true", "sge", "y", ("true",)),
        ("-j oe true", "pbs", "oe", ("true",)),
        ("-l h_rt=60,mem_free=1G true", "sge", "h_rt=60,mem_free=1G", ("true",)),
        ("-l mem=1gb,walltime=60 true", "pbs", "mem=1gb,walltime=60", ("true",)),
        ("-lwalltime=60 true", "pbs", "walltime=60", ("true",)),
        ("-J 1-10 true", "pbs", "1-10", ("true",)),
        ("-W depend=afterok:12 true", "pbs", "depend=afterok:12", ("true",)),
        ("-V true", "pbs", "", ("true",)),
        ("-n 8 true", "slurm", "8", ("true",)),
        ("-n8 true", "slurm", "8", ("true",)),
        ("--ntasks=8 true", "slurm", "8", ("true",)),
        ("--mail-type END true", "slurm", "END", ("true",)),
    ],
)
def test_words_that_only_one_system_has(
    argv: str, system: str, value: str, words: tuple[str, ...]
) -> None:
    found = split(argv.split(), TABLE)
    assert [(item.dialect.name, item.value) for item in found.foreign] == [(system, value)]
    assert (found.options, found.words) == ((), words)


def test_a_dialect_reads_words_in_its_meaning() -> None:
    sge = split(["--dialect", "sge", "-t", "1-10", "-N", "2", "--cpus", "3", "true"], TABLE)
    assert [item.name for item in sge.foreign] == ["-t", "-N"]
    assert sge.options == ("--dialect=sge", "--cpus=3")
    slurm = split(["--dialect=slurm", "-N", "1", "-t", "5", "--cpus-per-task=2", "true"], TABLE)
    assert [item.name for item in slurm.foreign] == ["-N", "-t", "--cpus-per-task"]
    assert "comes before the words that it" in refusal("-t", "5", "--dialect", "sge", "true")
    assert "did you mean slurm?" in refusal("--dialect", "slrum", "true")
    assert "Grid Engine has no option '-z'" in refusal("--dialect", "sge", "-z", "true")


@pytest.mark.parametrize(
    ("argv", "readings"),
    [
        ("-t 1-10 true", ("--array 1-10", "--time 1-10")),
        ("-N 2 true", ("nodes", "--name 2")),
        ("-p 5 true", ("--priority 5", "--queue 5")),
        ("-w e true", ("--dry-run", "--nodelist e")),
        ("-a 202611211200 true", ("--begin", "--array 202611211200")),
        ("-a 1200 true", ("--begin", "--array 1200")),
        ("-p -100 true", ("--priority -100", "--queue -100")),
        ("-h true", ("--help", "--hold")),
    ],
)
def test_ambiguous_words_name_both_readings(argv: str, readings: tuple[str, str]) -> None:
    message = refusal(*argv.split())
    assert "could mean two things" in message
    assert all(reading in message for reading in readings)


@pytest.mark.parametrize(
    ("argv", "late", "own"),
    [
        ("a b", (), ("a", "b")),
        ("a --cpus 3 b", ("--cpus=3",), ("a", "b")),
        ("--cpus=3 --wait", ("--cpus=3", "--wait"), ()),
        ("--mem 1G --gpus 1 --time 1h --array 1-3 --follow --dry-run",
         ("--mem=1G", "--gpus=1", "--time=1h", "--array=1-3", "--follow", "--dry-run"), ()),
        ("-1 -.5 -", (), ("-1", "-.5", "-")),
        ("a -- --cpus 3 --lr", (), ("a", "--cpus", "3", "--lr")),
        ("-- a -- b", (), ("a", "--", "b")),
    ],
)  # fmt: skip
def test_split_late(argv: str, late: tuple[str, ...], own: tuple[str, ...]) -> None:
    assert split_late(argv.split(), TABLE, target="train.py") == (late, own)


@pytest.mark.parametrize("word", ["--lr", "--lr=3", "-x", "-c", "--queue", "--help", "-W"])
def test_other_options_behind_a_script_show_both_cures(word: str) -> None:
    message = late_refusal("a", word)
    assert f"`qsub {word} ... train.py`" in message
    assert f"`qsub train.py -- {word} ...`" in message


def test_late_options_are_exactly_those_of_the_design() -> None:
    assert set(LATE_OPTIONS) == set(
        [
            "--cpus",
            "--mem",
            "--gpus",
            "--time",
            "--array",
            "--sweep",
            "--wait",
            "--follow",
            "--dry-run",
        ]
    )
