"""What qhold and qrls share: one verb for each of the jobs named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from qsub_py.cli import common, ids, periodic
from qsub_py.errors import JobNotFound, SpecError

if TYPE_CHECKING:
    from qsub_py.client import Client


def switch(
    words: Sequence[str],
    *,
    command: str,
    done: str,
    schedule_verb: str,
    verb: Callable[[Client, int], bool],
) -> int:
    """Apply `verb` to each job, or schedule; one that does not exist makes the exit code 1."""
    refs = ids.parse(words)
    for ref in refs:
        if not ref.is_whole:
            raise SpecError(f"{ref}: tasks are held and released with their whole job")
    client, code = common.connect(), 0
    for ref in refs:
        try:
            for found in ids.find(client, ref):
                if verb(client, found.job.id):
                    common.hint(f"{command}: job {found.job.id} {done}")
                else:
                    common.complain(f"{command}: job {found.job.id} has ended already")
        except JobNotFound as error:
            if periodic.change(client, ref, schedule_verb, command=command):
                continue
            common.complain(f"{command}: {error}")
            code = 1
    return code
