"""qsuspend: stop what runs of jobs, for a while."""

from __future__ import annotations

from collections.abc import Sequence

import click

from qsub_py.cli import common
from qsub_py.cli.suspending import switch


@click.command("qsuspend")
@click.argument("jobs", nargs=-1, required=True, metavar="JOB[_TASKS]...")
@common.options
def qsuspend(jobs: tuple[str, ...]) -> int:
    """Stop the running tasks of JOBS (12, 12_3, 12_[1-5]) until qresume; nothing more of a whole
    job starts. Their time limit stands still; cpus, memory and gpus stay booked."""
    return switch(jobs, verb="suspend")


def main(words: Sequence[str] | None = None) -> None:
    """Run qsuspend (console script)."""
    common.main(qsuspend, words)
