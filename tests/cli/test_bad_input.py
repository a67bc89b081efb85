"""Bad input (research/reliability.md, section D): one line, the right exit code, nothing done."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

from qsub_py.cli import common
from qsub_py.cli.qacct import qacct
from qsub_py.cli.qcancel import qcancel
from qsub_py.cli.qfetch import qfetch
from qsub_py.cli.qhold import qhold
from qsub_py.cli.qlog import qlog
from qsub_py.cli.qnode import qnode
from qsub_py.cli.qresult import qresult
from qsub_py.cli.qstat import qstat
from qsub_py.cli.qsub import qsub
from qsub_py.cli.qwait import qwait

Refuse = Callable[..., str]


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing may be half done: who asks for the server has failed the test."""

    def connect() -> None:
        raise AssertionError("bad input came as far as the server")

    monkeypatch.setattr(common, "connect", connect)
    monkeypatch.chdir(tmp_path)
    give_stdin(monkeypatch, b"")


def give_stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(data)))


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Run qsub; return its one line of complaint without `qsub: `."""

    def run(*words: str | Path, command: object = qsub, code: int = 2) -> str:
        got = common.run(command, list(map(str, words)))  # type: ignore[arg-type]
        out, err = capsys.readouterr()
        assert (got, out) == (code, ""), err
        name = command.name  # type: ignore[attr-defined]
        assert err.startswith(f"{name}: ") and err.endswith("\n") and err.count("\n") == 1, err
        assert "internal error" not in err and "Traceback" not in err
        assert not any(ord(char) < 32 for char in err[:-1]), "it could drive a terminal"
        return err[len(name) + 2 : -1]

    return run


def write(path: str, text: str | bytes, *, mode: int = 0o644) -> str:
    Path(path).write_bytes(text.encode() if isinstance(text, str) else text)
    Path(path).chmod(mode)
    return path


def test_01_nothing_to_run(refused: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nothing to run: standard input is empty" in refused()
    assert "nothing to run: standard input is empty" in refused("-")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    assert "nothing to run: give a script, a command or a function" in refused()
    assert "nothing to run: give a script" in refused("--cpus", "3")
    assert "nothing to run: --wrap is empty" in refused("--wrap", " ")
    assert "the first word is empty" in refused("")


def test_02_files_that_cannot_be_scripts(refused: Refuse) -> None:
    assert "no such file: 'job.sh'" in refused("job.sh")
    assert "no such file: './job'" in refused("./job")
    assert "no such file: 'f.py'" in refused("f.py:g")
    Path("d").mkdir()
    assert "'./d' is a directory" in refused("./d")
    assert "'d' is a directory" in refused("d")
    assert "no script and not executable; chmod +x" in refused(write("prog", b"\x7fELF\0\0"))
    assert "'empty.sh' is empty" in refused(write("empty.sh", "\n"))
    if os.geteuid():
        assert "Permission denied" in refused(write("secret.sh", "true", mode=0))


def test_02_commands_that_are_not_here(refused: Refuse) -> None:
    message = refused("no-such-command", "--x")
    assert "no such file or command: 'no-such-command'" in message
    assert "`qsub -- no-such-command`" in message
    assert "--wrap" in refused("echo hello")


def test_04_windows_line_ends(refused: Refuse) -> None:
    assert "line 1 of 'w.sh' ends in \\r (Windows); run dos2unix" in refused(
        write("w.sh", "#!/bin/sh\r\ntrue\r\n")
    )


@pytest.mark.parametrize(
    "text", ["5-1", "0-", "1-10:0", "a", "-3", "", "1,,2", "1-2-3", "1-10%0", "1%2%3", "1 2"]
)
def test_05_arrays(refused: Refuse, text: str) -> None:
    message = refused(f"--array={text}", "true")
    assert message.startswith("--array: ") and "1-100" in message


def test_06_too_large_an_array(refused: Refuse) -> None:
    assert "the limit is 10000000" in refused("-a", "1-10000001", "true")


@pytest.mark.parametrize("text", ["25h61m", "-5", "inf", "x", "1:2:3:4", "", "1e9"])
def test_08_times(refused: Refuse, text: str) -> None:
    message = refused(f"--time={text}", "true") if text else refused("--grace=", "true")
    assert message.startswith(("--time: ", "--grace: "))


@pytest.mark.parametrize("text", ["4Q", "-1G", "x", "1 2", "G", "0"])
def test_09_sizes(refused: Refuse, text: str) -> None:
    assert refused(f"--mem={text}", "true").startswith("--mem")
    assert refused(f"--mem-per-cpu={text}", "true").startswith("--mem-per-cpu")


@pytest.mark.parametrize("text", ["0", "-1", "1e9", "x", "", "1.5", "1000001", "\u0663"])
def test_10_cpus(refused: Refuse, text: str) -> None:
    assert refused(f"--cpus={text}", "true").startswith("--cpus takes a")


def test_10_other_numbers(refused: Refuse) -> None:
    assert "--gpus takes" in refused("--gpus=-1", "true")
    assert "--gres: 'fpga:1' is not gpu:N" in refused("--gres=fpga:1", "true")
    assert "different things" in refused("--gres=gpu:2", "-G", "1", "true")
    assert "exclude each other" in refused("--mem=1G", "--mem-per-cpu=1G", "true")
    assert "--priority takes" in refused("--priority=high", "true")


def test_11_unknown_options(refused: Refuse) -> None:
    assert "did you mean --array?" in refused("--aray", "1", "true")
    assert "No such option" in refused("--jason", command=qstat)


@pytest.mark.parametrize("name", ["a\x1b[31mb", "a\nb", "x" * 300, "", "-x", "a b", "a/b"])
def test_12_names(refused: Refuse, name: str) -> None:
    assert refused(f"--name={name}", "true").startswith("--name: bad name")


def test_14_output_files(refused: Refuse) -> None:
    assert "unknown '%q'" in refused("-o", "%q", "true")
    Path("d").mkdir()
    assert "'d' is a directory" in refused("-o", "d", "true")
    assert "'e/' is a directory" in refused("-e", "e/", "true")
    assert "all 3 tasks would write to 'x.out'; put %a" in refused("-a1-3", "-o", "x.out", "true")
    assert "all 3 tasks would write" in refused("-a1-3", "-e", "%x-%A.err", "true")


def test_15_directories(refused: Refuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is not a directory" in refused("-D", write("file", "x"), "true")
    assert "--chdir is empty" in refused("--chdir=", "true")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "the current directory does not exist any more" in refused("true")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("A", "A is not set here"),
        ("1A=2", "'1A' is no name of a variable"),
        ("ALL,NONE", "exclude each other"),
        ("A=1,,B=2", "an empty word"),
        ("", "an empty word"),
        ("ALL,-", "bad word '-'"),
    ],
)
def test_16_exports(refused: Refuse, text: str, part: str) -> None:
    assert part in refused(f"--export={text}", "true")


def test_17_too_much(refused: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "an argument has 200001 bytes" in refused("true", "x" * 200_000)
    assert "put it into a file" in refused("true", "x" * 200_000)
    assert "arguments and environment have" in refused("true", *["x" * 100_000] * 12)
    monkeypatch.setenv("BIG", "x" * 200_000)
    assert "the variable BIG has" in refused("true")


def test_18_large_input(refused: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    give_stdin(monkeypatch, b"#" * (1024 * 1024 + 1))
    assert "longer than 1 MB; put it in a file" in refused()
    give_stdin(monkeypatch, b"a\0b")
    assert "it has NUL bytes" in refused()


@pytest.mark.parametrize("word", ["abc", "12_", "12_[5-1]", "0", "99999999999999999999", "12-3",
                                  "12_a", "@~x", "-1"])  # fmt: skip
@pytest.mark.parametrize("command", [qstat, qcancel, qhold, qwait, qlog, qresult, qfetch])
def test_20_ids(refused: Refuse, word: str, command: object) -> None:
    refused(word, command=command)


def test_20_one_bad_id_stops_all(refused: Refuse) -> None:
    assert "bad job id 'x'" in refused("1", "x", command=qcancel)
    assert "with their whole job" in refused("1", "2_3", command=qhold)


def test_19_cancel_what(refused: Refuse) -> None:
    assert "nothing to cancel; name jobs, or write --all" in refused(command=qcancel)
    assert "no signal 'FOO'" in refused("1", "-s", "FOO", command=qcancel)
    assert "no signal '99'" in refused("1", "-s", "99", command=qcancel)
    assert "cannot be cancelled; write PD or R" in refused("1", "-t", "CD", command=qcancel)


def test_stat_options(refused: Refuse) -> None:
    assert "no column 'nam'; did you mean name?" in refused("-o", "id,nam", command=qstat)
    assert "no column '%7Z'" in refused("-o", "%i %7Z", command=qstat)
    assert "no state 'XX'" in refused("-s", "XX", command=qstat)
    assert "--interval" in refused("-w", "-i", "0", command=qstat)
    assert "--interval" in refused("-w", "-i", "x", command=qstat)
    assert "--why and --tree exclude each other" in refused("--tree", "--why", command=qstat)
    assert "--start and --periodic" in refused("--periodic", "--start", command=qstat)
    assert "--tasks and --watch" in refused("-t", "-w", command=qstat)
    assert "--tree prints no JSON" in refused("--tree", "--json", command=qstat)


def test_accounting_options(refused: Refuse) -> None:
    assert "see qstat -t 2_3" in refused("2_3", command=qacct)
    assert "--csv and --json exclude" in refused("--csv", "--json", command=qacct)
    assert "--days and --owners exclude" in refused("--days", "--owners", command=qacct)
    assert "--yes is about --purge" in refused("-y", command=qacct)
    assert "or 7d: so long ago" in refused("-S", "then", command=qacct)


def test_node_options(refused: Refuse) -> None:
    assert "bad host" in refused("start", "host 1", command=qnode)
    assert "given twice" in refused("start", "ann@h1", "bob@h1", command=qnode)
    assert "--name is for" in refused("start", "--server-on", "h1", "--name", "x", "h2",
                                      command=qnode)  # fmt: skip
    assert "starts no node" in refused("start", "--server-on", "h1", "--cpus", "2", command=qnode)
    assert "bad host" in refused("start", "--server-on", "h1", "h 2", command=qnode)
    assert "bad path" in refused("start", "--server-on", "h1", "h2", "--python", "a;b",
                                 command=qnode)  # fmt: skip
    assert "--python is for" in refused("start", "--python", "/usr/bin/python3", command=qnode)
    assert "--all takes no names" in refused("stop", "--all", "h1", command=qnode)
    assert "--cpus takes" in refused("start", "--cpus", "0", command=qnode)
    assert "bad size" in refused("start", "--mem", "4Q", command=qnode)
    assert "--mem must be above 0" in refused("start", "--mem", "0", command=qnode)
    assert "bad node name" in refused("start", "--name", "a b", command=qnode)
    assert "bad word for --queues" in refused("start", "--queues", "a,,b", command=qnode)


def test_25_configuration(refused: Refuse, isolated_env: Path) -> None:
    path = isolated_env / ".config" / "qsub_py" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text("[job]\ncpu = 3\n")
    assert f"{path}:2: unknown key 'job.cpu'; did you mean cpus?" in refused("true", code=78)
    path.write_text("[job\n")
    assert f"{path}:1:" in refused("true", code=78)


def test_other_refusals(refused: Refuse) -> None:
    assert "--wrap and true exclude each other" in refused("--wrap", "x", "true")
    assert refused("--begin=yesterdayish", "true").startswith("--begin: bad time")
    assert refused("--nodelist=a,,b", "true").startswith("--nodelist: bad node")
    assert refused("--queue=", "true").startswith("--queue: bad name")
    assert "--priority takes a whole number" in refused("--priority=+-3", "true")
    assert "--key takes" in refused("--key=", "true")
    assert "--comment is longer" in refused("--comment", "x" * 2000, "true")
    assert "there is no program 'nopython'" in refused("--python", "nopython", "true")
    assert "no such directory" in refused("--env", "nowhere", "true")
    assert "no conda environment 'nowhere'" in refused("--env", "conda:nowhere", "true")
    Path("d").mkdir()
    assert "has no bin/python" in refused("--env", "d", "true")


def test_directives(refused: Refuse) -> None:
    head = "#!/bin/sh\n# a comment\n\n"
    assert "job.sh, line 4: no such option: --cpu" in refused(
        write("job.sh", head + "#QSUB --cpu 3\n")
    )
    assert "'x' is no option; a #QSUB line holds options only" in refused(
        write("job.sh", head + "#QSUB --cpus 3 x\n")
    )
    assert "--wrap belongs on the command line" in refused(
        write("job.sh", head + "#QSUB --wrap x\n")
    )
    assert "line 4: #QSUB 'x: No closing quotation" in refused(write("job.sh", head + "#QSUB 'x\n"))
    assert "--cpus takes" in refused(write("job.sh", head + "#QSUB --cpus 0\n"))


def test_functions(refused: Refuse) -> None:
    write("m.py", "import json\ndef f(a, b=1): pass\nx = 3\nasync def c(): pass\n"
                  "def g():\n    yield 1\n")  # fmt: skip
    assert "has no function 'nope'" in refused("m.py:nope")
    assert "did you mean json?" in refused("m.py:jsom")
    assert "'x' in 'm.py' is no function" in refused("m.py:x")
    assert "coroutine or generator" in refused("m.py:c")
    assert "coroutine or generator" in refused("m.py:g")
    assert "m.py:f(a, b=1): missing a required argument" in refused("m.py:f")
    assert "too many positional" in refused("m.py:f", "1", "2", "3")
    assert "unexpected keyword argument 'z'" in refused("m.py:f", "1", "z=2")
    assert "is given twice" in refused("m.py:f", "a=1", "a=2")
    assert "cannot import 'no_such_module'" in refused("no_such_module:f")
    assert "SyntaxError" in refused(write("bad.py", "def") + ":f")
    assert "ValueError: \\x1b[31m" in refused(
        write("b2.py", "raise ValueError('\\x1b[31m')") + ":f"
    )
    assert "ended with exit(3); put what it runs under" in refused(
        write("b3.py", "import sys; sys.exit(3)") + ":f"
    )
    assert "could be meant for qsub or for m.py:f" in refused("m.py:f", "--lr", "3")


LOCKED = """\
import threading
class C:
    def __call__(self): return 1
c = C()
c.l = threading.Lock()
"""


def test_functions_that_cannot_travel(refused: Refuse) -> None:
    write("lock.py", LOCKED)
    assert "cannot be pickled" in refused("lock.py:c", code=1)


def test_a_traceback_is_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert common.run(qsub, ["--debug", "--cpus", "0", "true"]) == 2
    assert "Traceback" in capsys.readouterr().err
