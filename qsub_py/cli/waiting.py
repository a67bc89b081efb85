"""Waiting for jobs to end: the progress bar, the exit code, and Ctrl-C which leaves them be."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from qsub_py import render
from qsub_py.cli import common
from qsub_py.cli.shapes import failed_count
from qsub_py.model import JobInfo, State
from qsub_py.reasons import explain
from qsub_py.store_limits import read_limits

if TYPE_CHECKING:
    from qsub_py.client import Client

_WHY_EVERY_S = 2.0


def wait(client: Client, jobs: Sequence[int], *, command: str, timeout: float | None = None) -> int:
    """Wait until all `jobs` have ended; return the first exit code that is not 0.

    75 when `timeout` seconds pass before.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    ended: list[JobInfo] = []
    for job in jobs:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            with render.progress(f"job {job}") as update:
                info = client.wait(job, timeout=left, poll=_Poll(client, update))
        except KeyboardInterrupt:
            common.complain(_goes_on(job, command))
            return common.EXIT_INTERRUPTED
        if not info.has_ended:
            common.complain(f"{command}: job {job} has not ended yet")
            return 75
        ended.append(info)
        tell_failure(info, command)
    return next((code for code in map(client.exit_code, ended) if code), 0)


def follow(client: Client, job: int) -> int:
    """Print a job's output while it runs; return its exit code."""
    from qsub_py.cli.logs import print_outputs

    try:
        print_outputs(client, job, positions=None, does_follow=True, errors=False)
        info = client.wait(job)
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            print(file=sys.stderr)  # the terminal shows ^C in the job's line
        common.complain(_goes_on(job, "qsub"))
        return common.EXIT_INTERRUPTED
    tell_failure(info, "qsub")
    return client.exit_code(info)


def tell_failure(info: JobInfo, command: str) -> None:
    """Tell a person how a job ended, unless well."""
    if info.state is State.COMPLETED:
        return
    failed = failed_count(info)
    how = info.state.name + (f", exit code {info.exit_code}" if info.exit_code else "")
    if info.total > 1:
        how = f"{failed} of {info.total} tasks did not complete ({how})"
    why = f": {info.reason}" if info.reason else ""
    why += "".join(f"; {name}: {sentence}" for name, sentence in [*info.unfit.items()][:1])
    common.hint(f"{command}: job {info.id}: {how}{why};"
                f" see `qlog {info.id}`, `qstat -t {info.id}`")  # fmt: skip


def _goes_on(job: int, command: str) -> str:
    return (
        f"{command}: job {job} goes on; `qwait {job}` waits for it again,"
        f" `qlog -f {job}` shows its output, `qcancel {job}` ends it"
    )


class _Poll:
    """Feeds the progress bar; asks now and then why a waiting job does not start."""

    def __init__(self, client: Client, update: Callable[[int, int, str], None]) -> None:
        self._client, self._update = client, update
        self._asked_at, self._why = float("-inf"), ""

    def __call__(self, job: JobInfo) -> None:
        ended = sum(count for state, count in job.counts.items() if state.is_terminal)
        self._update(ended, max(job.total, 1), self._note(job))

    def _note(self, job: JobInfo) -> str:
        running, failed = job.counts.get(State.RUNNING, 0), failed_count(job)
        parts = [f"{running} running"] if running else []
        parts += [f"{failed} failed"] if failed else []
        if not running and job.counts.get(State.PENDING) and render.is_terminal(sys.stderr):
            parts.append(f"waits: {self._reason(job)}")
        return ", ".join(parts)

    def _reason(self, job: JobInfo) -> str:
        if time.monotonic() - self._asked_at > _WHY_EVERY_S:
            self._asked_at = time.monotonic()
            nodes = self._client.ask(lambda store: store.nodes(gone=True))
            limits = self._client.ask(lambda store: read_limits(store, [job]))
            now = self._client.ask(lambda store: store.now())
            why = explain(job, nodes, now=now, limits=limits)
            self._why = why.sentence if why else ""
        return self._why
