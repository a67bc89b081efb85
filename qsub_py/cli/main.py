"""qsub-py: all commands under one name, for hosts where another `qsub` is on PATH."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Sequence

import click

from qsub_py.cli import common

#: Command -> (other verbs for it, what it does).
COMMANDS: dict[str, tuple[tuple[str, ...], str]] = {
    "qsub": (("sub", "submit"), "Submit a job and print its id."),
    "qstat": (("stat", "status"), "Show jobs, tasks, and why they wait."),
    "qcancel": (("cancel", "qdel", "del"), "Cancel jobs or tasks."),
    "qhold": (("hold",), "Keep waiting jobs from starting."),
    "qsuspend": (("suspend",), "Stop what runs of jobs, for a while."),
    "qresume": (("resume",), "Let suspended jobs go on."),
    "qalter": (("alter",), "Change jobs that were submitted."),
    "qrls": (("rls", "release"), "Let held jobs go."),
    "qrerun": (("rerun",), "Run ended tasks again, in the same job."),
    "qwait": (("wait",), "Wait until jobs have ended."),
    "qlog": (("log", "logs"), "Show what a job printed."),
    "qresult": (("result", "results"), "Show the results of tasks: a table, CSV, JSON, a plot."),
    "qfetch": (("fetch", "files"), "Collect the files that a job brings back."),
    "qacct": (("acct", "account"), "Show what jobs, users and days have used."),
    "qnode": (("node",), "Start, stop and look at nodes and the server."),
    "shims": ((), "Write commands of Slurm, PBS or Grid Engine that use this queue."),
    "completion": ((), "Print the line that sets up completion for a shell."),
}
_CANONICAL = {alias: name for name, (aliases, _) in COMMANDS.items() for alias in aliases}


class Verbs(click.Group):
    """A group that imports a command when it is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by any of its names."""
        name = _CANONICAL.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"qsub_py.cli.{name}")
        command: click.Command = getattr(module, name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group("qsub-py", cls=Verbs)
@common.options
def qsub_py() -> None:
    """A batch job system; each VERB is the command of that name (`qsub-py stat` is qstat)."""


def main(words: Sequence[str] | None = None) -> None:
    """Run `qsub-py VERB` (console script, `python -m qsub_py`)."""
    arguments = list(sys.argv[1:] if words is None else words)
    first = arguments[0] if arguments else ""
    name = _CANONICAL.get(first, first)
    if name in COMMANDS and "_QSUB_PY_COMPLETE" not in os.environ:
        # The command itself runs, so its messages begin with its own name.
        _note_other_qsub()
        command = qsub_py.get_command(click.Context(qsub_py), name)
        assert command is not None
        common.main(command, arguments[1:])
    common.main(qsub_py, arguments or ["--help"])


def _note_other_qsub() -> None:
    """Say once a host, to a person, that `qsub` alone is another program here."""
    other = shutil.which("qsub")
    if not sys.stderr.isatty() or other is None or _is_ours(other):
        return
    from qsub_py.config_paths import default_state_dir
    from qsub_py.errors import QsubError

    try:
        default_state_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
        (default_state_dir() / "told-of-other-qsub").touch(exist_ok=False)
    except (OSError, QsubError):
        return
    common.hint(f"qsub-py: `qsub` alone is {other} here; `qsub-py qsub` is always this one")


def _is_ours(program: str) -> bool:
    """Whether a console script is one of this package."""
    try:
        with open(program, "rb") as file:
            return b"qsub_py" in file.read(4096)
    except OSError:
        return True
