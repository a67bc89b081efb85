"""qstat --outcome: one word on a job, for workflow tools: running, success or failed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from qsub_py.cli import common, ids
from qsub_py.errors import JobNotFound, SpecError, StoreBusy, StoreUnavailable
from qsub_py.model import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qsub_py.cli.ids import Picked
    from qsub_py.client import Client

#: A server that is away for longer is taken to come back later.
_PATIENCE_S = 10.0
RUNNING, SUCCESS, FAILED = "running", "success", "failed"


def show(words: Sequence[str]) -> int:
    """Print how a job (or a task) is; while the server cannot be reached it is running."""
    if len(words) != 1:
        raise SpecError("--outcome takes one job", hint="write qstat --outcome JOB")
    print(_outcome(words[0]))
    return 0


def _outcome(word: str) -> str:
    ref = ids.parse_one(word)
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            client = common.connect()
            return of(client, ids.find_one(client, ref))
        except JobNotFound as error:
            common.complain(f"qstat: {error}")
            return FAILED
        except (StoreUnavailable, StoreBusy) as error:
            if time.monotonic() > deadline:
                common.complain(f"qstat: {error}")
                return RUNNING
        time.sleep(0.5)


def of(client: Client, picked: Picked) -> str:
    """Return the word for what is picked: success when all of it has completed."""
    job = picked.job
    if picked.ranges is None:
        if not job.has_ended:
            return RUNNING
        return SUCCESS if job.state is State.COMPLETED else FAILED
    states = [
        state for first, last in picked.ranges
        for state, _ in client.ask(lambda s: s.states(job.id, first, last - first + 1))  # noqa: B023
    ]  # fmt: skip
    if not all(state.is_terminal for state in states):
        return RUNNING
    return SUCCESS if set(states) == {State.COMPLETED} else FAILED
