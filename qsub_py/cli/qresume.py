"""qresume: let suspended jobs go on."""

from __future__ import annotations

from collections.abc import Sequence

import click

from qsub_py.cli import common
from qsub_py.cli.suspending import switch


@click.command("qresume")
@click.argument("jobs", nargs=-1, required=True, metavar="JOB[_TASKS]...")
@common.options
def qresume(jobs: tuple[str, ...]) -> int:
    """Let suspended JOBS or tasks (12, 12_3, 12_[1-5]) go on."""
    return switch(jobs, verb="resume")


def main(words: Sequence[str] | None = None) -> None:
    """Run qresume (console script)."""
    common.main(qresume, words)
