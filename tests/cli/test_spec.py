"""What the options of a submission make of its spec; nothing is sent."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from qsub_py.activation import activated
from qsub_py.cli import common, submitting
from qsub_py.cli.draft import Draft
from qsub_py.cli.functions import read_arguments
from qsub_py.cli.qsub import qsub
from qsub_py.environ import exported, interpreter
from qsub_py.model import JobSpec
from qsub_py.payload import unpack_function

Submitted = Callable[..., Draft]


@pytest.fixture
def submitted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Submitted:
    """Run qsub and return what it would send to the server."""
    drafts: list[Draft] = []

    def keep(draft: Draft, **_: bool) -> int:
        drafts.append(draft)
        return 0

    monkeypatch.setattr(submitting, "submit", keep)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.delenv("CONDA_PREFIX", raising=False)

    def run(*words: str) -> Draft:
        assert common.run(qsub, list(words)) == 0, capsys.readouterr().err
        return drafts.pop()

    return run


def write(path: str, text: str | bytes, *, mode: int = 0o644) -> str:
    Path(path).write_bytes(text.encode() if isinstance(text, str) else text)
    Path(path).chmod(mode)
    return path


def test_command(submitted: Submitted, tmp_path: Path) -> None:
    spec = submitted("true", "--cpus", "3").spec
    assert (spec.kind, spec.argv, spec.script, spec.name) == (
        "command",
        ("true", "--cpus", "3"),
        None,
        "true",
    )
    assert (spec.cpus, spec.mem_bytes, spec.gpus, spec.time_s) == (1, 0, 0, 0.0)
    assert (spec.cwd, spec.output, spec.error, spec.queue) == (str(tmp_path), "", "", "main")
    assert (spec.is_array, spec.segments.count, spec.requeue) == (False, 1, True)


def test_command_behind_dashes_need_not_be_here(submitted: Submitted) -> None:
    assert submitted("--", "no-such-command", "-x").spec.argv == ("no-such-command", "-x")


def test_resources(submitted: Submitted) -> None:
    draft = submitted(
        *[
            "-c", "4", "--mem-per-cpu", "1G", "--gres", "gpu:a100:2", "-t", "1-02:00:00", "-J",
            "x", "--priority", "-5"
        ],
        *[
            "-q", "fast", "-w", "n1,n2", "-w", "n2,n3", "--no-requeue", "--grace", "3", "-H",
            "-A", "p1"
        ],
        "--comment", "a b", "true",
    )  # fmt: skip
    spec = draft.spec
    assert (spec.cpus, spec.mem_bytes, spec.gpus) == (4, 4 * 2**30, 2)
    assert (spec.time_s, spec.grace_s, spec.requeue) == (93600.0, 3.0, False)
    assert (spec.name, spec.queue, spec.nodelist) == ("x", "fast", ("n1", "n2", "n3"))
    assert (spec.account, spec.comment) == ("p1", "a b")
    assert (draft.priority, draft.is_held) == (-5, True)
    assert submitted("--mem", "500", "true").spec.mem_bytes == 500 * 2**20
    assert submitted("--gres", "gpu", "true").spec.gpus == 1


def test_array(submitted: Submitted) -> None:
    draft = submitted("-a", "1-10:2%3", "true")
    assert (draft.limit, draft.spec.is_array, draft.spec.segments.parts) == (3, True, ((1, 9, 2),))
    merged = submitted("-a", "1-3,2-4", "true")
    assert list(merged.spec.segments) == [1, 2, 3, 4]
    assert merged.notes == ("numbers written twice count once: 1-4",)
    assert submitted("-a", "7", "true").spec.is_array


def test_script(submitted: Submitted, tmp_path: Path) -> None:
    text = "#!/bin/bash\necho \xe9\n"
    write("job.sh", text)
    spec = submitted("job.sh", "a", "--cpus", "2", "--", "--cpus", "9").spec
    assert (spec.script, spec.script_path) == (text, str(tmp_path / "job.sh"))
    assert (spec.argv, spec.cpus, spec.name) == (("a", "--cpus", "9"), 2, "job.sh")


def test_script_without_interpreter_is_told(submitted: Submitted) -> None:
    assert submitted(write("plain.sh", "true\n")).notes == (
        "plain.sh has no #! line: /bin/sh runs it",
    )


def test_script_bytes_survive(submitted: Submitted) -> None:
    data = b"#!/bin/sh\necho \xff\xfe\n"
    spec = submitted(write("job.sh", data)).spec
    again = JobSpec.from_bytes(spec.to_bytes())
    assert again == spec
    assert again.script is not None and again.script.encode("utf-8", "surrogateescape") == data


def test_python_script(
    submitted: Submitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = submitted(write("a b.py", "print(1)\r\n"), "x").spec
    assert (spec.script_path, spec.argv) == (str(tmp_path / "a b.py"), ("x",))
    assert (spec.python, spec.python_hint, spec.name) == ("", sys.executable, "a_b.py")
    assert submitted("--python", sys.executable, "a b.py").spec.python == sys.executable
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setenv("VIRTUAL_ENV", str(venv))
    assert submitted("a b.py").spec.python_hint == str(venv / "bin" / "python")


def test_environment_directory(submitted: Submitted, tmp_path: Path) -> None:
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").symlink_to(sys.executable)
    spec = submitted("--env", "venv", "true").spec
    assert spec.python == str(tmp_path / "venv/bin/python")
    assert spec.env["PATH"].startswith(str(tmp_path / "venv/bin") + ":")
    assert spec.env["VIRTUAL_ENV"] == str(tmp_path / "venv")


def test_programs_and_large_files_run_in_place(submitted: Submitted, tmp_path: Path) -> None:
    here = str(tmp_path)
    assert submitted(write("prog", b"\x7fELF\0", mode=0o755), "x").spec.argv == (
        f"{here}/prog",
        "x",
    )
    large = "#" * 2**20 + "\nprint()\n"
    assert submitted(write("big.sh", large, mode=0o755)).spec.argv == (f"{here}/big.sh",)
    spec = submitted(write("big.py", large)).spec
    assert (spec.script, spec.argv) == (None, (sys.executable, f"{here}/big.py"))


def test_wrap_and_standard_input(submitted: Submitted, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = submitted("--wrap", "echo $HOME | cat").spec
    assert (spec.script, spec.script_path, spec.name) == (
        "#!/bin/sh\necho $HOME | cat\n",
        "",
        "wrap",
    )
    read_end, write_end = os.pipe()
    os.write(write_end, b"#QSUB --cpus 2\necho hi\n")
    os.close(write_end)
    with open(read_end) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        spec = submitted("-", "a", "--mem", "1G").spec
    assert (spec.script, spec.name, spec.argv) == ("#QSUB --cpus 2\necho hi\n", "stdin", ("a",))
    assert (spec.cpus, spec.mem_bytes) == (2, 2**30)


def test_function(submitted: Submitted, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("helper.py", "def twice(x): return 2 * x\n")
    write("m.py", "import helper\nprint('imported')\ndef f(a, b=1): return helper.twice(a) + b\n")
    draft = submitted("m.py:f", "3", "b=4", "--array", "1-5", "--cpus", "2")
    spec = draft.spec
    assert (spec.kind, spec.function_name, spec.name) == ("call", "m.py:f", "f")
    assert (spec.is_bare_call, spec.segments.count, spec.cpus) == (True, 5, 2)
    assert spec.python_minor == "{}.{}".format(*sys.version_info)
    assert (spec.path, spec.python_hint) == ((str(tmp_path),), sys.executable)
    assert unpack_function(draft.function)() == 10
    assert capsys.readouterr().out == "", "what a module prints is no job id"


def test_function_of_a_module(submitted: Submitted) -> None:
    draft = submitted("math:hypot", "3", "4.0")
    assert unpack_function(draft.function)() == 5.0
    assert draft.spec.function_name == "math:hypot"


def test_arguments_of_functions() -> None:
    words = [
        "3",
        "2.5",
        "abc",
        "[1, 'x']",
        "None",
        "k=1e-3",
        "s='t'",
        "u=v",
        "a==b",
        "http://x?a=b",
    ]
    assert read_arguments(words) == (
        (3, 2.5, "abc", [1, "x"], None, "http://x?a=b"),
        {"k": 1e-3, "s": "t", "u": "v", "a": "=b"},
    )


def test_directives_are_weaker_than_the_command_line(
    submitted: Submitted, isolated_env: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("job.sh", "#!/bin/sh\n#\n#QSUB --cpus 2 --name 'x.y' # note\n#QSUB -t 1h\n#QSUBX\n"
                    "true\n#QSUB --cpus 7\n")  # fmt: skip
    folder = isolated_env / ".config" / "qsub_py"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('[job]\ncpus = 5\nmem = "1G"\ntime = "9h"\n')
    spec = submitted("job.sh").spec
    assert (spec.cpus, spec.name, spec.time_s, spec.mem_bytes) == (2, "x.y", 3600.0, 2**30)
    assert submitted("-c", "3", "job.sh").spec.cpus == 3
    assert submitted("job.sh", "--cpus", "4").spec.cpus == 4
    assert submitted("true").spec.cpus == 5
    monkeypatch.setenv("QSUB_JOB_CPUS", "6")
    assert submitted("job.sh").spec.cpus == 6


def test_output(submitted: Submitted, isolated_env: Path) -> None:
    assert submitted("-o", "~/%j.out", "true").spec.output == f"{isolated_env}/%j.out"
    spec = submitted("-a", "1-3", "-o", "o/%4a.txt", "-e", "/dev/null", "true").spec
    assert (spec.output, spec.error) == ("o/%4a.txt", "/dev/null")


def test_begin_is_kept_as_written_for_the_servers_clock(submitted: Submitted) -> None:
    assert submitted("--begin", "now+1hour", "true").begin == "now+1hour"


# -- the environment -----------------------------------------------------------------------

ENVIRON = {
    "PATH": "/bin", "LANG": "C", "TOKEN": "s", "HOME": "/h", "USER": "u", "SHELL": "/bin/sh",
    "PWD": "/p", "TMPDIR": "/t", "XDG_RUNTIME_DIR": "/r", "SSH_AUTH_SOCK": "/s", "DISPLAY": ":0",
    "TERM": "xterm", "SLURM_JOB_ID": "1", "PBS_JOBID": "2", "SGE_ROOT": "/g",
    "OMP_NUM_THREADS": "9",
    "CUDA_VISIBLE_DEVICES": "0", "QSUB_JOB_ID": "4", "QSUB_URL": "redis://:pw@h", "MY_VAR": "1",
    "JOB_ID": "mine",
}  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        ((), "PATH LANG TOKEN MY_VAR JOB_ID"),
        (("ALL",), "PATH LANG TOKEN MY_VAR JOB_ID"),
        (("NONE",), ""),
        (("NONE,A=1",), "A"),
        (("PATH,MY_VAR",), "PATH MY_VAR"),
        (("ALL,-TOKEN",), "PATH LANG MY_VAR JOB_ID"),
        (("-TOKEN,-MY_*",), "PATH LANG JOB_ID"),
        (("ALL", "HOME,OMP_NUM_THREADS"), "PATH LANG TOKEN MY_VAR JOB_ID HOME OMP_NUM_THREADS"),
    ],
)
def test_export(texts: tuple[str, ...], names: str) -> None:
    assert set(exported(texts, ENVIRON)) == set(names.split())


def test_export_values() -> None:
    assert exported(("A=1,B='x,y',C=\"p=q\",D=",), {}) == {
        "A": "1",
        "B": "x,y",
        "C": "p=q",
        "D": "",
    }
    assert exported(("ALL,PATH=/x",), ENVIRON)["PATH"] == "/x"


def test_grid_engine_words_are_foreign_only_in_its_jobs() -> None:
    assert "JOB_ID" not in exported((), {**ENVIRON, "SGE_TASK_ID": "1"})


def test_conda_environments_are_found_without_conda(tmp_path: Path) -> None:
    from qsub_py.activation import find_environment

    root = tmp_path / "conda"
    for name in (".", "envs/ml"):
        (root / name / "bin").mkdir(parents=True)
        (root / name / "conda-meta").mkdir()
        (root / name / "bin" / "python").symlink_to(sys.executable)
    environ = {"CONDA_EXE": str(root / "bin" / "conda"), "PATH": "/bin"}
    assert find_environment("conda:ml", environ) == str(root / "envs/ml")
    assert find_environment("conda:base", environ) == str(root)
    env = activated(environ, str(root / "envs/ml"))
    assert (env["CONDA_DEFAULT_ENV"], env["CONDA_PREFIX"]) == ("ml", str(root / "envs/ml"))


def test_the_submitters_python_is_only_a_hint() -> None:
    found = interpreter(None, "", {})
    assert (found.python, found.hint) == ("", sys.executable)


def test_a_spec_is_json_without_secrets(
    submitted: Submitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QSUB_URL", "redis://:pa55@host")
    spec = submitted("true").spec
    assert b"pa55" not in spec.to_bytes()
    assert json.loads(replace(spec, env={}).to_bytes())["argv"] == ["true"]
