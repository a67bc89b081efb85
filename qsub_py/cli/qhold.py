"""qhold: keep waiting jobs from starting."""

from __future__ import annotations

from collections.abc import Sequence

import click

from qsub_py.cli import common
from qsub_py.cli.switching import switch


@click.command("qhold")
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@common.options
def qhold(jobs: tuple[str, ...]) -> int:
    """Keep the waiting tasks of JOBS from starting; what runs goes on."""
    return switch(
        jobs,
        command="qhold",
        done="is held",
        schedule_verb="hold",
        verb=lambda client, job: client.ask(lambda store: store.hold(job)),
    )


def main(words: Sequence[str] | None = None) -> None:
    """Run qhold (console script)."""
    common.main(qhold, words)
