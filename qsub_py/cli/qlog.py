"""qlog: show what a job printed, from any host."""

from __future__ import annotations

from collections.abc import Sequence

import click

from qsub_py.cli import common, ids
from qsub_py.model import State


@click.command("qlog")
@click.argument("job", metavar="JOB[_TASK]")
@click.option("-f", "--follow", is_flag=True, help="Go on while the job runs.")
@click.option("-e", "--errors", is_flag=True, help="Its errors, where they are apart (qsub -e).")
@common.options
def qlog(job: str, follow: bool, errors: bool) -> int:
    """Show the output of a JOB (12, last) or of tasks (12_3, 12_[1-5])."""
    from qsub_py.cli.logs import print_outputs

    ref = ids.parse_one(job)
    client = common.connect()
    picked = ids.find_one(client, ref)
    positions = None if picked.ranges is None else list(picked.positions())
    if errors and not ids.spec_of(client, picked.job).error:
        common.hint("qlog: its errors are with its output")
    try:
        count = print_outputs(
            client, picked.job.id, positions=positions, does_follow=follow, errors=errors
        )
    except KeyboardInterrupt:
        return common.EXIT_INTERRUPTED
    if not count:
        waits = picked.job.counts.get(State.PENDING, 0) > 0
        what = "has not started" if waits else "has no tasks"
        common.complain(f"qlog: job {picked.job.id} {what}; `qlog -f {job}` waits for its output")
        return 1
    return 0


def main(words: Sequence[str] | None = None) -> None:
    """Run qlog (console script)."""
    common.main(qlog, words)
