"""The environment and the interpreter a job gets: `--export`, `--env`, `--python`.

What belongs to the host (home, terminal, session) stays here; the node adds its own. Variables
of another batch system stay too, since libraries take them for a running job of it.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from qsub_py.errors import SpecError
from qsub_py.text import quoted

#: Plain words, which are Grid Engine's only inside one of its jobs.
_GRID_ENGINE_ONLY = frozenset(
    [
        "JOB_ID",
        "JOB_NAME",
        "TASK_ID",
        "NSLOTS",
        "QUEUE",
        "REQUEST",
        "RESTARTED",
        "NHOSTS",
        "PE_HOSTFILE",
    ]
)
#: Not exported by ALL; each can still be named.
HOST_VARIABLES = frozenset(
    [
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "PWD",
        "OLDPWD",
        "SHLVL",
        "_",
        "MAIL",
        "HOSTNAME",
        "HOST",
        "TMPDIR",
        "TMP",
        "TEMP",
        "DISPLAY",
        "WAYLAND_DISPLAY",
        "XAUTHORITY",
        "WINDOWID",
        "DBUS_SESSION_BUS_ADDRESS",
        "DESKTOP_SESSION",
        "TERM",
        "TERMINFO",
        "TERMCAP",
        "COLORTERM",
        "COLUMNS",
        "LINES",
        "TMUX",
        "TMUX_PANE",
        "STY",
        "GPG_TTY",
        "PS1",
        "PROMPT_COMMAND",
        "CUDA_VISIBLE_DEVICES",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
    ]
)
_HOST_PREFIXES = (
    "XDG_", "SSH_", "TERM_", "VSCODE_", "QSUB_", "SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "PBS_",
    "SGE_", "PMI_", "PMIX_", "OMPI_", "LC_TERMINAL", "_QSUB", "_QSTAT", "_QNODE",
)  # fmt: skip
_NAME = re.compile(r"[^\W\d]\w*", re.ASCII)
#: execve(2): one string of more than 32 pages is refused by the kernel.
MAX_STRING_BYTES = 128 * 1024 - 1
MAX_TOTAL_BYTES = 1024 * 1024


def exported(texts: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that `--export` (given once or more) asks for; raises SpecError."""
    items = [item for text in texts or ("ALL",) for item in _items(text)]
    chosen: dict[str, str] = {}
    if "ALL" in items or all(item.startswith("-") for item in items):
        chosen = {name: value for name, value in environ.items() if _travels(name, environ)}
    if "NONE" in items and len(items) > 1 and "ALL" in items:
        raise SpecError("--export: ALL and NONE exclude each other")
    for item in items:
        if item.startswith("-"):
            _drop(chosen, item[1:])
        elif item not in ("ALL", "NONE"):
            name, value = _assignment(item, environ)
            chosen[name] = value
    return chosen


def _travels(name: str, environ: Mapping[str, str]) -> bool:
    if name in _GRID_ENGINE_ONLY:
        return "SGE_TASK_ID" not in environ
    return name not in HOST_VARIABLES and not name.startswith(_HOST_PREFIXES)


def _items(text: str) -> Iterator[str]:
    """Split at commas; quotes keep a comma in a value: `A=1,B='x,y'`."""
    for match in re.finditer(r"""((?:[^,'"]|'[^']*'|"[^"]*"|['"])*)(,|$)""", text):
        item = match[1].strip()
        if item:
            yield item
        elif match[2] or not text.strip():
            raise SpecError(
                f"--export: an empty word in {quoted(text)}", hint="write ALL, NONE or A,B=1"
            )


def _drop(chosen: dict[str, str], pattern: str) -> None:
    if not pattern or "=" in pattern:
        raise SpecError(f"--export: bad word {quoted('-' + pattern)}", hint="write ALL,-NAME")
    for name in fnmatch.filter(list(chosen), pattern):
        del chosen[name]


def _assignment(item: str, environ: Mapping[str, str]) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not _NAME.fullmatch(name):
        raise SpecError(
            f"--export: {quoted(name)} is no name of a variable",
            hint="write ALL, NONE, A,B=1 or ALL,-NAME",
        )
    if equals:
        quotes = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
        return name, value[1:-1] if quotes else value
    if name not in environ:
        raise SpecError(f"--export: {name} is not set here", hint=f"write {name}=VALUE")
    return name, environ[name]


@dataclass(frozen=True, slots=True)
class Interpreter:
    """Which Python runs .py scripts: one that was asked for, or the submitter's as a hint."""

    python: str = ""
    hint: str = ""


def interpreter(python: str | None, environment: str, environ: Mapping[str, str]) -> Interpreter:
    """Return the interpreter of `--python`, of the `--env` directory, or the submitter's own.

    The submitter's own is that of the active virtual or conda environment, where qsub itself
    may be installed elsewhere (pipx); else the one that runs qsub.
    """
    if python:
        found = shutil.which(os.path.expanduser(python))
        if found is None:
            raise SpecError(f"--python: there is no program {quoted(python)} here")
        return Interpreter(python=os.path.abspath(found))
    if environment:
        return Interpreter(python=os.path.join(environment, "bin", "python"))
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        active = os.path.join(environ.get(variable, ""), "bin", "python")
        if environ.get(variable) and os.access(active, os.X_OK):
            return Interpreter(hint=active)
    return Interpreter(hint=sys.executable)


def check_size(argv: Sequence[str], env: Mapping[str, str]) -> None:
    """Raise SpecError when no kernel would start this: too long a word, too much of all."""
    total = 0
    for what, text in [("an argument", word) for word in argv] + [
        (f"the variable {name}", f"{name}={value}") for name, value in env.items()
    ]:
        size = len(os.fsencode(text)) + 1
        total += size
        if size > MAX_STRING_BYTES:
            raise SpecError(
                f"{what} has {size} bytes; the system's limit is {MAX_STRING_BYTES}",
                hint="put it into a file" if "arg" in what else "leave it out: --export ALL,-NAME",
            )
    if total > MAX_TOTAL_BYTES:
        raise SpecError(
            f"arguments and environment have {total} bytes; the limit is {MAX_TOTAL_BYTES}",
            hint="use a script or a file, or --export with fewer variables",
        )


def check_minor(python: str, minor: str) -> None:
    """Raise SpecError unless the interpreter asked for can read what this one pickled."""
    if not python:
        return
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        found = subprocess.run(
            [python, "-c", code], capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        raise SpecError(f"{quoted(python)} does not run: {error}") from None
    if found != minor:
        raise SpecError(
            f"{quoted(python)} is Python {found}, the function was read by Python {minor}",
            hint="install qsub_py there and run that qsub, or submit a script",
        )
