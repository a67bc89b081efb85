"""qsub-py shims: write commands that other batch systems have, for tools which run them.

What each of them does is in the modules beside (one for each system); this one only writes the
small programs that call them, with the Python and the package that run now.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from qsub_py.cli import common
from qsub_py.errors import QsubError, SpecError
from qsub_py.text import quoted

_SLURM = ("sbatch", "squeue", "scancel", "sacct", "scontrol", "srun", "sinfo")
_PBS = ("qsub", "qstat", "qdel", "qhold", "qrls", "qalter", "qselect")
#: System -> its tools.
TOOLS = {"slurm": _SLURM, "pbs": _PBS, "torque": _PBS, "sge": _PBS}

_MARK = "# Made by `qsub-py shims"
_PROGRAM = """\
{first_line}
{mark} {system}`: {tool} as {system} has it, on a queue of qsub_py.
import sys
{path}
from qsub_py.cli.shims.run import main

main({system!r}, {tool!r})
"""
#: The kernel reads so much of the first line, and no quotes.
_LONGEST = 120


@click.command("shims")
@click.argument("system", metavar="slurm|pbs|torque|sge")
@click.argument("directory", metavar="DIR")
@common.options
def shims(system: str, directory: str) -> None:
    """Write the commands of a batch system into DIR, for tools that drive it.

    \b
    slurm            sbatch squeue scancel sacct scontrol srun sinfo
    pbs torque sge   qsub qstat qdel qhold qrls qalter qselect

    Put DIR first on PATH where the tool runs. They print what that system prints, and use the
    queue that qsub uses.
    """
    if system not in TOOLS:
        raise SpecError(f"there is no system {quoted(system)}", hint=f"write {', '.join(TOOLS)}")
    folder = Path(directory).expanduser().absolute()
    for tool in TOOLS[system]:
        _check_ours(folder / tool)
    folder.mkdir(parents=True, exist_ok=True)
    for tool in TOOLS[system]:
        _write(folder / tool, program(system, tool))
        print(folder / tool)
    common.hint(f"shims: put them first: export PATH={folder}:$PATH")


def program(system: str, tool: str) -> str:
    """Return the text of a tool, which needs neither PATH nor a variable to find this package."""
    home = Path(__file__).resolve().parents[3]
    is_installed = home.name in ("site-packages", "dist-packages")
    return _PROGRAM.format(
        first_line=_first_line(sys.executable), mark=_MARK, system=system, tool=tool,
        path="" if is_installed else f"\nsys.path.insert(1, {str(home)!r})",
    )  # fmt: skip


def _first_line(python: str) -> str:
    if len(python) < _LONGEST and not set(python) & set(" \t'\"\\$`"):
        return f"#!{python}"
    # To sh it is a command, to Python a text.
    word = python.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("`", "\\`")
    return f"#!/bin/sh\n'''exec' \"{word}\" \"$0\" \"$@\"\n' '''"


def _check_ours(path: Path) -> None:
    """Raise QsubError where another program would be lost."""
    if not os.path.lexists(path):
        return
    try:
        is_ours = not path.is_symlink() and _MARK in path.read_text(errors="replace")[:2000]
    except OSError:
        is_ours = False
    if not is_ours:
        raise QsubError(f"{path} is another program", hint="name a directory of its own")


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text)
    draft.chmod(0o755)
    draft.replace(path)


def main(words: Sequence[str] | None = None) -> None:
    """Run `qsub-py shims`."""
    common.main(shims, words)
