"""qrls: let held jobs start."""

from __future__ import annotations

from collections.abc import Sequence

import click

from qsub_py.cli import common
from qsub_py.cli.switching import switch


@click.command("qrls")
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@common.options
def qrls(jobs: tuple[str, ...]) -> int:
    """Let held JOBS start."""
    return switch(
        jobs,
        command="qrls",
        done="is released",
        schedule_verb="release",
        verb=lambda client, job: client.ask(lambda store: store.release(job)),
    )


def main(words: Sequence[str] | None = None) -> None:
    """Run qrls (console script)."""
    common.main(qrls, words)
