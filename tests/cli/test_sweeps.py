"""Sweeps through the commands: what is refused, what runs, what is shown."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from env import Env, wait_until
from qsub_py.cli import common, submitting
from qsub_py.cli.draft import Draft
from qsub_py.cli.qsub import qsub
from qsub_py.jobs import Job
from qsub_py.model import JobSpec, State
from qsub_py.payload import unpack_function
from qsub_py.sweep import from_plain

Refuse = Callable[..., str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def submitted(
    monkeypatch: pytest.MonkeyPatch, here: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Draft]:
    """Run qsub and return what it would send to the server."""
    drafts: list[Draft] = []

    def keep(draft: Draft, **_: bool) -> int:
        drafts.append(draft)
        return 0

    monkeypatch.setattr(submitting, "submit", keep)

    def run(*words: str) -> Draft:
        assert common.run(qsub, list(words)) == 0, capsys.readouterr().err
        return drafts.pop()

    return run


@pytest.fixture
def refused(here: Path, capsys: pytest.CaptureFixture[str]) -> Refuse:
    def run(*words: str) -> str:
        assert common.run(qsub, ["--dry-run", *words]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1
        return err.removeprefix("qsub: ").strip()

    return run


def points(draft: Draft) -> list[dict[str, Any]]:
    return list(from_plain(draft.spec.sweep))


# -- specs ---------------------------------------------------------------------------------


def test_spec(submitted: Callable[..., Draft]) -> None:
    draft = submitted("--sweep", "lr=0.1,0.01", "--sweep", "seed=1:2", "--max-fails", "10%",
                      "--skip-if-exists", "out/{lr}.npz", "echo", "--lr", "{lr}")  # fmt: skip
    spec = draft.spec
    assert points(draft)[1] == {"lr": 0.1, "seed": 2}
    assert (spec.is_array, spec.segments.count, spec.argv) == (True, 4, ("echo", "--lr", "{lr}"))
    assert (draft.max_fails, spec.skip_if_exists, draft.pages) == ("10%", "out/{lr}.npz", ())
    assert JobSpec.from_bytes(spec.to_bytes()) == spec
    assert b'"sweep"' not in submitted("true").spec.to_bytes(), "older nodes take other jobs"


def test_late_options_and_directives(submitted: Callable[..., Draft]) -> None:
    Path("t.py").write_text("#QSUB --sweep a=1:3 --zip --sweep b=x,y,z\n")
    late = submitted("t.py", "--sweep", "lr=1,2", "--", "--lr", "{lr}")
    assert late.spec.argv == ("--lr", "{lr}") and len(points(late)) == 2
    assert points(submitted("t.py"))[2] == {"a": 3, "b": "z"}


def test_wrap_is_quoted_by_the_shell(submitted: Callable[..., Draft]) -> None:
    spec = submitted("--sweep", "s=a", "--wrap", 'echo {s} "{s:>3}" ${s}').spec
    assert spec.script == '#!/bin/sh\necho "${1}" "${2}" ${s}\n'
    assert spec.argv == ("{s}", "{s:>3}")


def test_functions_get_keywords(submitted: Callable[..., Draft]) -> None:
    Path("m.py").write_text("def f(path, *, lr, **more): return path, lr, more\n")
    draft = submitted("--sweep", "lr=1", "--sweep", "seed=2", "--sweep", "n=3", "m.py:f", "x{n}")
    assert from_plain(draft.spec.sweep).keywords == ("lr", "seed")
    assert draft.spec.argv == ("x{n}",)
    assert unpack_function(draft.function)("a", lr=1, seed=2) == ("a", 1, {"seed": 2})


def test_samples(submitted: Callable[..., Draft]) -> None:
    same = [submitted("--sweep", "a=1:1000000", "--sweep", "b=1:1000000", "--sample", "9",
                      "--seed", "4", "true") for _ in range(2)]  # fmt: skip
    assert points(same[0]) == points(same[1]) and len(same[0].spec.to_bytes()) < 10_000
    drawn = submitted("--sweep", "a=1:9", "--sample", "3", "true")
    assert drawn.spec.sweep["sample"][0] == 3


def test_files(submitted: Callable[..., Draft]) -> None:
    Path("p.csv").write_text("lr,name\n0.1,a\n1,b\n")
    Path("p.json").write_text('[{"x": [1]}, {"x": null}]')
    Path("lines").write_text("a b\nc\n")
    found = submitted("--from-csv", "p.csv", "--sweep", "k=1,2", "true")
    assert points(found)[1:3] == [
        {"lr": 0.1, "name": "a", "k": 2}, {"lr": 1.0, "name": "b", "k": 1}
    ]  # fmt: skip
    assert points(submitted("--from-json", "p.json", "true")) == [{"x": [1]}, {"x": None}]
    assert points(submitted("--each-line", "lines", "true")) == [{"line": "a b"}, {"line": "c"}]
    Path("many").write_text("".join(f"line number {n}\n" for n in range(5000)))
    many = submitted("--each-line", "many", "true")
    assert len(many.spec.to_bytes()) < 10_000 and len(many.pages) == 6


def test_shipped_files_are_those_of_all_points(submitted: Callable[..., Draft]) -> None:
    Path("d").mkdir()
    for name in "ab":
        (Path("d") / name).write_text(name)
    draft = submitted("--sweep", "f=a,b", "--sweep", "n=1:9", "--ship", "d/{f}", "--fetch",
                      "out/{f}/*.npz", "true")  # fmt: skip
    assert [ship.name for ship in draft.spec.ship] == ["d/a", "d/b"]
    assert draft.spec.fetch == ("out/*/*.npz",)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--sweep", "lr"], "--sweep: 'lr' has no =; write NAME=a,b,c"),
        (["--sweep", "a=1", "--sweep", "a=2"], "the parameter a is given twice"),
        (["--sweep", "a=1:3", "--sweep", "b=1:2", "--zip"], "a has 3, b has 2"),
        (["--sweep", "a=1:3", "-a", "1-3"], "--sweep and --array exclude each other"),
        (["--sweep", "a=1:3", "-a", "%0"], "bad limit in array '%0'"),
        (["--sweep", "a=1:3", "-a", "%2,%3"], "bad limit in array '%2,%3'"),
        (["-a", "%2"], "bad part '' in array '%2'"),
        (["--zip"], "--zip needs --sweep"),
        (["--sample", "3"], "--sample needs --sweep"),
        (["--sweep", "a=1:3", "--seed", "3"], "--seed needs --sample"),
        (["--sweep", "a=1:3", "--sample", "4"], "more than the 3 points"),
        (["--sweep", "a=1:3", "--sample", "0"], "--sample takes a number from 1"),
        (["--sweep", "a=1:10000001"], "at most 10000000 tasks; draw some"),
        (["--from-csv", "no.csv"], "cannot read --from-csv 'no.csv': No such file"),
        (["--from-csv", "x", "--each-line", "y"], "exclude each other"),
        (["--sweep", "a=1:3", "-o", "out"], "all 3 tasks would write to 'out'; put %a"),
        (["--sweep", "a=1:3", "--sweep", "b=1:2", "-o", "{a}"], "into it, or all of {a} {b}"),
        (["--sweep", "a=x", "-o", "{a:.3f}%a"], "does not suit the value 'x'"),
        (["--sweep", "a=1", "--max-fails", "x"], "--max-fails: 'x' is no number"),
        (["--sweep", "a=1", "--max-fails", "101%"], "--max-fails: '101%'"),
        (["--sweep", "a=1", "--skip-if-exists", "%q"], "--skip-if-exists: unknown '%q'"),
        (["--extend", "12"], "--extend needs new points"),
        (["--extend", "12_3", "--sweep", "a=1"], "--extend takes a job, not tasks"),
        (["--extend", "12", "--sweep", "a=1", "--cpus", "2"], "--cpus cannot be given"),
    ],
)
def test_refused(refused: Refuse, words: list[str], text: str) -> None:
    extends = "--extend" in words
    assert text in refused(*words, *([] if extends else ["true"]))


def test_refused_functions(refused: Refuse) -> None:
    Path("m.py").write_text("def f(lr): pass\n")
    assert "m.py:f takes no parameter x; name it" in refused("--sweep", "x=1", "m.py:f")
    assert "lr is an argument and a parameter" in refused("--sweep", "lr=1", "m.py:f", "lr=2")
    assert "--extend runs what the job runs" in refused("--extend", "3", "--sweep", "a=1", "true")


def test_dry_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--dry-run", "--sweep", "lr=0.1,0.01", "--sweep", "s='a b',c", "--sample", "3",
             "--seed", "1", "--max-fails", "1", "-a", "%2", "echo", "{lr}", "{s}"]  # fmt: skip
    assert common.run(qsub, words) == 0
    out = capsys.readouterr().out
    assert "tasks        3 of 4, seed 1 (lr, s)" in out
    assert "at once      2 of them at most" in out
    assert "stops        when more than 1 of the tasks have failed" in out
    assert out.count("\ntask ") == 3 and "s=a b  echo 0." in out and "'a b'" in out
    assert common.run(qsub, ["--dry-run", "--sweep", "n=1:1000000", "true"]) == 0
    assert "...          and 999995 more" in capsys.readouterr().out


# -- what runs -----------------------------------------------------------------------------


@pytest.fixture
def node(cluster_env: Env, here: Path) -> Iterator[Env]:
    yield cluster_env


def table(env: Env, *words: str | int, check: bool = True) -> list[dict[str, str]]:
    text = env.run("qresult", "--csv", *words, check=check).stdout
    return list(csv.DictReader(io.StringIO(text)))


def tasks(env: Env, job: int | str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(env.run("qstat", "-t", "--json", job).stdout)
    return found


GRID = ("--sweep", "lr=0.1,1", "--sweep", "s='x y',2")


def test_scripts_and_commands(node: Env, here: Path) -> None:
    (here / "s.sh").write_text(
        '#!/bin/sh\necho "$1|$QSUB_PARAMS|$QSUB_PARAM_LR|$QSUB_PARAM_s|$QSUB_TASK_ID'
        '|$QSUB_TASK_COUNT"\n'
    )
    script = node.qsub("-W", *GRID, "-o", "o/{lr}_{s}.txt", "s.sh", "<{lr:.2f}>")
    command = node.qsub("-W", *GRID, "--", "printf", "%s-", "{lr}", "{s}")
    wrapped = node.qsub("-W", *GRID, "--wrap", "printf '%s;' {s} \"{lr}\"")
    assert (here / "o" / "0.1_x y.txt").read_text() == ('<0.10>|{"lr":0.1,"s":"x y"}|0.1|x y|0|4\n')
    assert sorted(path.name for path in (here / "o").iterdir()) == [
        "0.1_2.txt", "0.1_x y.txt", "1_2.txt", "1_x y.txt"
    ]  # fmt: skip
    assert node.run("qlog", f"{command}_2").stdout == "1-x y-"
    assert node.run("qlog", f"{wrapped}_2").stdout == "x y;1;"
    assert [t["params"] for t in tasks(node, script)][1] == {"lr": 0.1, "s": 2}
    assert "lr=0.1 s=x y" in node.run("qstat", "-t", script).stdout
    assert tasks(node, f"{script}_[3]")[0]["params"] == {"lr": 1, "s": 2}


def test_python_scripts_and_functions(node: Env, here: Path) -> None:
    (here / "s.py").write_text(
        "import os, sys, json\nif __name__ == '__main__':\n"
        "    print(json.dumps({'words': sys.argv[1:], **json.loads(os.environ['QSUB_PARAMS'])}))\n"
        "def f(word, lr, s):\n"
        "    return {'word': word, 'types': [type(lr).__name__, type(s).__name__]}\n"
    )
    python = node.qsub("-W", *GRID, "s.py", "--", "{s}", "{{lr}}", "{q}")
    call = node.qsub("-W", *GRID, "s.py:f", "w{lr}")
    assert [json.loads(row["words"]) for row in table(node, python)] == [
        ["x y", "{lr}", "{q}"], ["2", "{lr}", "{q}"]
    ] * 2  # fmt: skip
    rows = table(node, call)
    assert [row["word"] for row in rows] == ["w0.1", "w0.1", "w1", "w1"]
    assert rows[1]["types"] == '["float", "int"]' and rows[2]["types"] == '["int", "str"]'


def test_rows_in_pages(node: Env, here: Path) -> None:
    lines = [f"line {n:06}, which is rather long" for n in range(3000)]
    (here / "many").write_text("\n".join(lines))
    job = node.qsub("-H", "--each-line", "many", "--wrap", 'echo "[\\"{line}\\"]"')
    assert node.run("qcancel", f"{job}_[3-2995]").returncode == 0
    node.run("qrls", job)
    node.wait_job(job)
    found = table(node, f"{job}_[0-2,2996-2999]")
    assert [row["result"] for row in found] == [
        json.dumps([line]) for line in lines[:3] + lines[2996:]
    ]
    assert [row["line"] for row in found][-1] == lines[-1]


def test_skip_if_exists(node: Env, here: Path) -> None:
    (here / "out").mkdir()
    (here / "out" / "2.npz").touch()
    (here / "m.py").write_text("def f(n): return n\n")
    for words in (("--wrap", "echo ran"), ("m.py:f",)):
        job = node.qsub("-W", "--sweep", "n=1:3", "--skip-if-exists", "out/{n}.npz", *words)
        found = tasks(node, job)
        assert {t["state"] for t in found} == {"COMPLETED"}
        assert [t["reason"] for t in found] == ["", f"skipped: {here}/out/2.npz exists", ""]
    job = node.qsub("-W", "-a", "1-2", "--skip-if-exists", "out/%a.npz", "touch", "ran")
    assert [t["reason"][:7] for t in tasks(node, job)] == ["", "skipped"]


def test_a_file_of_an_attempt_that_failed_skips_nothing(node: Env, here: Path) -> None:
    (here / "m.py").write_text(
        "import os\ndef f(n):\n    open(f'{n}.f', 'a').write('x')\n"
        "    assert os.environ['QSUB_ATTEMPT'] == '2'\n"
    )
    again = ("-W", "--sweep", "n=1:2", "--retries", 1, "--backoff", 0, "--skip-if-exists")
    line = "printf x >> {n}.c; test $QSUB_ATTEMPT = 2"
    for name, words in (("c", ("--wrap", line)), ("f", ("m.py:f",))):
        job = node.qsub(*again, f"{{n}}.{name}", *words)
        found = tasks(node, job)
        assert {(t["state"], t["attempt"], t["reason"]) for t in found} == {("COMPLETED", 2, "")}
        assert [(here / f"{n}.{name}").read_text() for n in (1, 2)] == ["xx", "xx"]


def test_extend_while_it_runs_and_afterwards(node: Env, here: Path) -> None:
    (here / "m.py").write_text(
        "import os, time\ndef f(a, b):\n    with open('log', 'a') as log: log.write(f'{a}{b} ')\n"
        "    while not os.path.exists('go'): time.sleep(0.01)\n    return a * b\n"
    )
    job = node.qsub("--sweep", "a=1,2", "--sweep", "b=1:2", "m.py:f")
    node.wait_state(job, State.RUNNING)
    assert node.qsub("--extend", job, "--sweep", "b=2:3") == job
    (here / "go").touch()
    node.wait_job(job)
    assert node.qsub("--extend", "last", "--sweep", "a=2:3", "--wait") == job
    found = table(node, job)
    assert [(row["a"], row["b"], row["result"]) for row in found] == [
        *(("1", "1", "1"), ("1", "2", "2"), ("2", "1", "2"), ("2", "2", "4"), ("1", "3", "3")),
        *(("2", "3", "6"), ("3", "1", "3"), ("3", "2", "6"), ("3", "3", "9")),
    ]
    assert sorted((here / "log").read_text().split()) == sorted(
        f"{a}{b}" for a in (1, 2, 3) for b in (1, 2, 3)
    )
    done = node.run("qsub", "--extend", job, "--sweep", "a=1:3")
    assert done.stdout == f"{job}\n" and "nothing was added" in done.stderr
    assert node.store().job(job).total == 9
    text = node.run("qsub", "--extend", job, "--sweep", "a=3:4", "--dry-run").stdout
    assert "tasks        3 more, from 9 on" in text and "task 9       a=4 b=1" in text
    assert [row.params for row in Job(job).rows()][8] == {"a": 3, "b": 3}


def test_extend_is_refused_with_a_reason(node: Env, here: Path) -> None:
    plain = node.qsub("true")
    job = node.qsub("-H", "--sweep", "a=1,2", "true")
    for words, text in (
        ((plain, "--sweep", "a=3"), f"job {plain} is no sweep"),
        ((job, "--sweep", "b=3"), "b is not among them"),
        ((99, "--sweep", "a=3"), "there is no job 99"),
    ):
        done = node.run("qsub", "--extend", *words, check=False)
        assert done.returncode in (1, 2) and text in done.stderr
    node.run("qcancel", job)
    done = node.run("qsub", "--extend", job, "--sweep", "a=3", check=False)
    assert done.returncode == 1 and "was cancelled or given up as a whole" in done.stderr


def test_a_larger_sample(node: Env) -> None:
    job = node.qsub("-H", "--sweep", "a=1:100", "--sample", 3, "--seed", 1, "true")
    node.run("qsub", "--extend", job, "--sample", 5)
    node.run("qsub", "--extend", job, "--sample", 5)
    params = [t["params"]["a"] for t in tasks(node, job)]
    assert len(set(params)) == len(params) == 5
    grid = ("--sweep", "a=1:1000000", "--sweep", "b=1:1000000")
    huge = node.qsub("-H", *grid, "--sample", 3, "true")
    node.run("qsub", "--extend", huge, "--sweep", "b=1:2000000", "--sample", 4)
    assert len({(t["params"]["a"], t["params"]["b"]) for t in tasks(node, huge)}) == 7
    done = node.run("qsub", "--extend", huge, "--sweep", "b=0", "--sample", 2000000, check=False)
    assert done.returncode == 2 and "more than the 1000000 points" in done.stderr


def test_failures_run_again(node: Env, here: Path) -> None:
    job = node.qsub("--sweep", "n=1:6", "--wrap", "test -e ok || test {n} != 2 -a {n} != 5")
    node.wait_job(job)
    assert [t["state"][0] for t in tasks(node, job)] == list("CFCCFC")
    done = node.run("qrerun", job, check=False)
    assert done.returncode == 2 and f"write qrerun {job} --failed" in done.stderr
    other = node.qsub("-W", "false", check=False)
    assert node.run("qrerun", other, job, check=False).returncode == 2
    assert node.store().job(other).state is State.FAILED, "all is checked before anything runs"
    (here / "ok").touch()
    assert node.run("qrerun", f"{job}_[1]").stdout == f"job {job}: 1 task runs again\n"
    node.wait_job(job)
    assert node.run("qrerun", job, "--failed").stdout == f"job {job}: 1 task runs again\n"
    node.wait_job(job)
    found = tasks(node, job)
    assert [(t["state"], t["attempt"]) for t in found] == [
        ("COMPLETED", 1 + (n in (1, 4))) for n in range(6)
    ]
    assert "nothing to run again" in node.run("qrerun", job, "--state", "F,TO").stderr
    assert node.run("qrerun", 99, job, "--failed", check=False).returncode == 1
    assert node.run("qrerun", job, "--all").stdout == f"job {job}: 6 tasks run again\n"
    assert node.wait_job(job).state is State.COMPLETED


def test_a_hopeless_sweep_is_stopped(node: Env, here: Path) -> None:
    job = node.qsub("--max-fails", 3, "--sweep", "n=1:5000", "--wrap", "test -e ok")
    info = node.wait_job(job)
    assert info.state is State.FAILED and info.counts[State.CANCELLED] > 0
    assert info.reason == "more than 3 of its tasks failed (--max-fails)"
    assert {t["reason"] for t in tasks(node, f"{job}_[4990-4999]")} == {info.reason}
    (here / "ok").touch()
    node.run("qrerun", job, "--state", "F,CA")
    wait_until(lambda: node.store().job(job).counts[State.COMPLETED] > 0, what="some go well")
    node.run("qcancel", job, "--wait")


# -- with retries, limits and schedules ------------------------------------------------------


def test_a_point_that_needs_more_keeps_its_parameters(node: Env, here: Path) -> None:
    hog = "import os, sys, time; x = b'x' * (int(sys.argv[1]) << 20); "
    hog += "time.sleep(3 * (len(x) > 1)); "
    hog += "print(os.environ['QSUB_MEM_BYTES'] + '; ' + os.environ['QSUB_PARAMS'])"
    (here / "m.py").write_text(
        "import os, time\ndef f(n):\n    if n == 2 and os.environ['QSUB_TIME_S'] == '1':\n"
        "        time.sleep(60)\n    return [n, os.environ['QSUB_TIME_S']]\n"
    )
    more = ("--mem", "64M", "--on-oom", "mem*2", "--backoff", 0)
    command = node.qsub("-W", "--sweep", "mb=0,90", *more, "--", sys.executable, "-c", hog, "{mb}")
    for at, size, mb in ((0, 64, 0), (1, 128, 90)):
        said = node.run("qlog", f"{command}_{at}").stdout
        assert said == f'{size << 20}; {{"mb":{mb}}}\n'
    more = ("-t", "1s", "--on-timeout", "time*40", "--backoff", 0, "--grace", "0s")
    call = node.qsub("-W", "--sweep", "n=1:2", *more, "m.py:f")
    assert [row["result"] for row in table(node, call)] == ['[1, "1"]', '[2, "40"]']
    assert [t["attempt"] for t in tasks(node, call)] == [1, 2]


def test_retries_do_not_count_as_failures(node: Env) -> None:
    words = ("--max-fails", 0, "--retries", 1, "--backoff", 0, "--sweep", "n=1:4", "--wrap")
    job = node.qsub("-W", *words, "test $QSUB_ATTEMPT = 2")
    assert {(t["state"], t["attempt"]) for t in tasks(node, job)} == {("COMPLETED", 2)}
    job = node.qsub(*words, "false")
    info = node.wait_job(job)
    assert info.reason == "more than 0 of its tasks failed (--max-fails)"


def test_failed_ones_run_again_while_others_wait_for_a_retry(node: Env, here: Path) -> None:
    line = "test -e ok || case {n} in 1) exit 3;; 2) exit 4;; esac"
    words = ("--retry-on", "exit=3", "--backoff", "1h", "--sweep", "n=1:3", "--wrap", line)
    job = node.qsub(*words)
    store = node.store()
    wait_until(lambda: store.job(job).later and store.job(job).counts[State.FAILED])
    (here / "ok").touch()
    assert node.run("qrerun", job, "--failed").stdout == f"job {job}: 1 task runs again\n"
    wait_until(lambda: store.job(job).counts[State.COMPLETED] == 2)
    assert [t["state"] for t in tasks(node, job)] == ["PENDING", "COMPLETED", "COMPLETED"]
    node.run("qcancel", job)
    node.wait_job(job)
    node.run("qrerun", job, "--state", "CA")
    assert node.wait_job(job).state is State.COMPLETED
    assert [t["attempt"] for t in tasks(node, job)] == [2, 2, 1]


def test_so_many_at_once(node: Env, here: Path) -> None:
    line = "mkdir lock && sleep 0.05 && rmdir lock"
    job = node.qsub("-W", "-a", "%1", "--sweep", "n=1:6", "--wrap", line)
    assert node.store().job(job).state is State.COMPLETED
    job = node.qsub("-H", "-a", "%2", "--sweep", "n=1:50", "true")
    assert f"{job}_[0-49%2]" in node.run("qstat", "-t", job).stdout


def test_again_and_again(node: Env, here: Path) -> None:
    lines = [f"line {n:06}, which is rather long" for n in range(3000)]
    (here / "many").write_text("\n".join(lines))
    words = ("--each-line", "many", "--sample", 3, "--seed", 1, "--max-fails", 1, "-a", "%2")
    schedule = node.qsub("--every", "1h", *words, "--retries", 1, "--backoff", 0, "--wrap",
                         'echo "[\\"{line}\\", $QSUB_SCHEDULE_ID]"; test -e ok')  # fmt: skip
    store = node.store()
    [job] = wait_until(lambda: [found.id for found in store.jobs(active=True, ended=True)])
    info = node.wait_job(job)
    assert (info.schedule, info.limit) == (schedule, 2)
    assert info.reason == "more than 1 of its tasks failed (--max-fails)"
    assert [t["attempt"] for t in tasks(node, job) if t["state"] == "FAILED"].count(2) == 2
    (here / "ok").touch()
    node.run("qrerun", job, "--state", "F,CA")
    assert node.wait_job(job).state is State.COMPLETED
    node.run("qsub", "--extend", job, "--sample", 5, "-W")
    found = table(node, job)
    assert len({row["line"] for row in found}) == 5
    assert [json.loads(row["result"]) for row in found] == [[r["line"], schedule] for r in found]
    assert "line" in node.run("qstat", "-t", job).stdout


# -- the table -----------------------------------------------------------------------------


def test_table(node: Env, here: Path) -> None:
    job = node.qsub("--sweep", "lr=0.1,0.01", "--sweep", "n=1:2", "--wrap",
                    "echo start; echo '{\"acc\": 0.123456789{n}, \"lr\": {lr}, \"loss\": NaN}';"
                    " echo done; test {lr} != 0.01 -o {n} != 2")  # fmt: skip
    node.wait_job(job)
    done = node.run("qresult", job, check=False)
    assert done.returncode == 1
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["JOBID", "lr", "n", "ST", "EXIT", "WALL", "acc", "loss", "ERROR"]
    assert lines[1][:5] + lines[1][6:] == [f"{job}_0", "0.1", "1", "CD", "0", "0.123457", "nan"]
    assert lines[4][3:5] + lines[4][6:] == ["F", "1", "exit", "code", "1"]
    rows = table(node, job, check=False)
    assert list(rows[0]) == ["index", "lr", "n", "state", "exit_code", "wall_s", "acc", "loss",
                             "error"]  # fmt: skip
    assert float(rows[1]["acc"]) == 0.1234567892 and float(rows[0]["wall_s"]) > 0
    found = json.loads(node.run("qresult", "--json", job, check=False).stdout)
    assert found[1]["params"] == {"lr": 0.1, "n": 2} and found[1]["result"]["loss"] is None
    assert found[3] == {"index": 3, "params": {"lr": 0.01, "n": 2}, "state": "FAILED",
                        "exit_code": 1, "wall_s": found[3]["wall_s"], "result": None,
                        "error": "exit code 1"}  # fmt: skip


def test_scalars_and_what_waits(node: Env, here: Path) -> None:
    (here / "m.py").write_text("def f(x): return x * x\n")
    job = node.qsub("--sweep", "x=1:3", "m.py:f")
    node.wait_job(job)
    assert [row["result"] for row in table(node, job)] == ["1", "4", "9"]
    held = node.qsub("-H", "--sweep", "x=1:3", "m.py:f")
    assert [row["state"] for row in table(node, held)] == ["PENDING"] * 3
    assert node.run("qresult", held).stdout.count(" PD") == 3
    plain = node.qsub("-W", "--wrap", "echo '{\"a\": 1}'")
    assert node.run("qresult", plain).stdout == "{'a': 1}\n"
    silent = node.qsub("-W", "--wrap", "echo hi")
    done = node.run("qresult", silent, check=False)
    assert done.returncode == 1 and "printed no JSON" in done.stderr


def test_wide_tables_fit_a_terminal(node: Env, here: Path) -> None:
    (here / "m.py").write_text("def f(x): return {f'column_{n}': 'some text' for n in range(20)}\n")
    job = node.qsub("-W", "--sweep", "x=1:2", "m.py:f")
    code = (
        "import fcntl, os, pty, struct, sys, termios\npid, fd = pty.fork()\nif not pid:\n"
        f"    os.execv(sys.executable, [sys.executable, '-m', 'qsub_py', 'qresult', '{job}'])\n"
        "fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))\n"
        "out = b''\ntry:\n    while data := os.read(fd, 4096): out += data\n"
        "except OSError: pass\nos.waitpid(pid, 0)\nsys.stdout.buffer.write(out)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60,
                          env={**os.environ, "NO_COLOR": "1", "TERM": "dumb"})  # fmt: skip
    lines = done.stdout.decode().replace("\r", "").splitlines()
    assert max(map(len, lines)) <= 80 and sum(line.startswith("JOBID") for line in lines) > 2
    assert sum("column_19" in line for line in lines) == 1
    assert max(map(len, node.run("qresult", job).stdout.splitlines())) > 200, "in a pipe one row"


def test_plot(node: Env, here: Path) -> None:
    (here / "m.py").write_text("def f(lr, seed): return {'acc': lr + seed}\n")
    job = node.qsub("-W", "--sweep", "lr=logspace(-4,-1,4)", "--sweep", "seed=1:2", "m.py:f")
    for words, text in (
        (["--plot", "x=lr"], "y= is missing; write --plot x=lr y=accuracy"),
        (["--plot", "lr", "y=acc"], "'lr' says nothing"),
        (["x=lr"], "x=lr could be meant for --plot"),
        (["-o", "a.png"], "-o is the file of --plot"),
        (["--csv", "--json"], "exclude each other"),
    ):
        done = node.run("qresult", job, *words, check=False)
        assert done.returncode == 2 and text in done.stderr
    if pytest.importorskip("matplotlib"):
        words = ["--plot", "x=lr", "y=acc", "by=seed", "-o", "p.png"]
        assert node.run("qresult", job, *words).stdout == "p.png\n"
        assert (here / "p.png").read_bytes().startswith(b"\x89PNG")
        assert node.run("qresult", job, "--plot", "x=lr", "y=acc").stdout == f"job-{job}.png\n"
        done = node.run("qresult", job, "--plot", "x=lr", "y=ac", check=False)
        assert done.returncode == 1 and "did you mean acc?" in done.stderr


def test_plot_without_matplotlib(node: Env, here: Path) -> None:
    (here / "block").mkdir()
    (here / "block" / "matplotlib.py").write_text("raise ImportError\n")
    job = node.qsub("-W", "--sweep", "a=1:2", "--wrap", "echo {a}")
    env = {**os.environ, "PYTHONPATH": f"{here}/block:{os.environ.get('PYTHONPATH', '')}"}
    done = node.run("qresult", job, "--plot", "x=a", "y=result", check=False, env=env)
    assert done.returncode == 1 and "pip install 'qsub_py[plot]'" in done.stderr


def test_frame(node: Env, here: Path) -> None:
    pytest.importorskip("pandas")
    (here / "m.py").write_text("def f(lr): return {'acc': lr * 2, 'lr': lr}\n")
    job = node.qsub("-W", "--sweep", "lr=0.5,1", "m.py:f")
    frame = Job(job).to_frame()
    assert list(frame.columns[:6]) == ["task", "lr", "state", "exit_code", "wall_s", "acc"]
    assert list(frame.acc) == [1.0, 2.0] and list(frame.lr) == [0.5, 1.0]


def test_a_million(node: Env, here: Path) -> None:
    """Accepted, listed, extended and cancelled; a task far out is looked at by itself."""
    job = node.qsub("-H", "--sweep", "a=1:1000", "--sweep", "b=1:1000", "true", "{a}", "{b}")
    node.run("qsub", "--extend", job, "--sweep", "a=1:2000")
    (info,) = json.loads(node.run("qstat", "--json", job).stdout)
    assert info["tasks"]["pending"] == 2_000_000
    assert tasks(node, f"{job}_1999999")[0]["params"] == {"a": 2000, "b": 1000}
    node.run("qcancel", job)
    assert node.wait_job(job).counts[State.CANCELLED] == 2_000_000
