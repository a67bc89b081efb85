"""qlog -f of several tasks at once: whole lines as they come, each with its task's id before it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from qsub_py.cli import common
from qsub_py.cli.ids import Picked
from qsub_py.cli.logs import LiveLog, Output, kept_output, traceback_of, writer
from qsub_py.cli.tasks import task_id, tasks_of
from qsub_py.model import JobSpec, State, TaskInfo

if TYPE_CHECKING:
    from qsub_py.client import Client

#: So many tasks are followed at once; the others have their turn, or are shown at their end.
_MOST = 32
#: So many tasks from the first that has not ended are looked at.
_WINDOW = 4096
_LOOK_S = 0.5
#: After this silence of a followed task it is asked for whether it still runs.
_SILENCE_S = 5.0
_MOST_LINE_BYTES = 64 * 1024


def follow_all(client: Client, picked: Picked, spec: JobSpec, *, errors: bool) -> int:
    """Print the outputs of tasks while they run, until all have ended; return how many had any."""
    return _Crowd(client, picked, spec, "err" if errors and spec.error else "out").run()


class _Lines:
    """Cuts the output of one task into lines and puts its name before each."""

    def __init__(self, name: str) -> None:
        self._name = f"{name}: ".encode()
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return the lines that are whole now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MOST_LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
        return b"".join(self._name + line + b"\n" for line in lines)

    def end(self) -> bytes:
        """Return the last line, which has no end."""
        return self.feed(b"\n") if self._rest else b""


class _Crowd:
    """The tasks that are followed now, and those that wait for it."""

    def __init__(self, client: Client, picked: Picked, spec: JobSpec, stream: str) -> None:
        self._client, self._picked, self._spec, self._stream = client, picked, spec, stream
        self._job = picked.job
        self._coming = picked.positions()
        self._open: list[int] = []
        self._logs: dict[int, LiveLog] = {}
        self._lines: dict[int, _Lines] = {}
        #: What was followed, by position: attempt, and how many bytes of it, -1: all.
        self._seen: dict[int, tuple[int, int]] = {}
        self._write = writer()
        self._look_at = 0.0
        self._shown = 0
        self._is_told = self._has_printed = False

    def run(self) -> int:
        """Go on until every task has ended."""
        while True:
            if time.monotonic() >= self._look_at:
                self._open += islice(self._coming, _WINDOW - len(self._open))
                if not self._open:
                    break
                self._look()
                self._look_at = time.monotonic() + _LOOK_S
            self._listen()
        if self._shown and not self._has_printed:
            common.hint(f"qlog: {self._picked.shown}: nothing was printed")
        return self._shown

    # -- which tasks -----------------------------------------------------------------------

    def _look(self) -> None:
        """See which tasks have ended and which have begun."""
        job, spec = self._job, self._spec
        running = {t.position: t for t in self._client.ask(lambda s: s.running(job.id, spec))}
        states = dict(self._states())
        ended = [at for at in self._open if states[at].is_terminal and at not in self._logs]
        if ended:
            self._end(ended)
            gone = set(ended)
            self._open = [at for at in self._open if at not in gone]
        for at in self._open:
            if len(self._logs) >= _MOST:
                break
            task = running.get(at)
            if task and at not in self._logs and self._seen.get(at, (0, 0))[0] != task.attempt:
                self._begin(task)
        if not self._logs and not running and not ended and not self._is_told:
            self._is_told = True
            common.hint(f"qlog: job {job.id} waits; `qstat --why {job.id}` says why")

    def _states(self) -> Iterator[tuple[int, State]]:
        # A few that are not meant cost less than a round trip for each that is.
        for first, last in _runs(self._open, gap=256):
            for at, (state, _) in enumerate(self._asked(first, last + 1 - first), first):
                yield at, state

    def _asked(self, first: int, count: int) -> list[tuple[State, int]]:
        return self._client.ask(lambda store: store.states(self._job.id, first, count))

    def _begin(self, task: TaskInfo) -> None:
        if task.position in self._seen:
            common.hint(f"qlog: task {self._name(task)} runs again, attempt {task.attempt}")
        log = LiveLog(self._client, Output(self._job, self._spec, task), self._stream)
        if log.ask():
            self._logs[task.position] = log
            self._lines[task.position] = _Lines(self._name(task))

    def _name(self, task: TaskInfo) -> str:
        return task_id(self._job, task.index)

    def _end(self, positions: Sequence[int]) -> None:
        """Print what is there of ended tasks beside what was followed."""
        ranges = tuple(_runs(positions))
        for task in tasks_of(self._client, Picked(self._job, ranges)):
            if task.outcome is None:  # it never began
                continue
            self._shown += 1
            lines = _Lines(self._name(task))
            attempt, sent = self._seen.pop(task.position, (0, 0))
            sent = sent if attempt == task.attempt else 0
            if sent >= 0:
                output = Output(self._job, self._spec, task)
                for piece in kept_output(self._client, output, self._stream, sent=sent):
                    self._print(lines.feed(piece))
                self._print(lines.end())
            if self._stream == "out":
                self._print(lines.feed(traceback_of(self._client, task)))

    # -- what they print -------------------------------------------------------------------

    def _listen(self) -> None:
        """Print what has come, and let go of what has ended."""
        if not self._logs:
            time.sleep(max(0.0, min(_LOOK_S, self._look_at - time.monotonic())))
            return
        names = {log.name: log.after for log in self._logs.values()}
        found = self._client.ask(lambda store: store.follow_many(names, block_s=_LOOK_S))
        for at, log in list(self._logs.items()):
            for piece in log.take(found.get(log.name, ())):
                self._print(self._lines[at].feed(piece))
            if log.has_ended:
                self._leave(at)
            elif log.silent_s > _SILENCE_S:
                if log.still_runs():
                    log.ask_again()
                else:
                    self._leave(at)

    def _leave(self, position: int) -> None:
        log = self._logs.pop(position)
        self._print(self._lines.pop(position).end())
        sent = -1 if log.has_ended and log.sent else log.sent
        self._seen[position] = (log.output.task.attempt, sent)
        self._look_at = 0.0

    def _print(self, data: bytes) -> None:
        if data:
            self._has_printed = True
            self._write(data)


def _runs(positions: Iterable[int], gap: int = 1) -> Iterator[tuple[int, int]]:
    """Yield positions, which ascend, as (first, last) of those at most `gap` apart."""
    first = last = None
    for at in positions:
        if last is not None and at - last <= gap:
            last = at
            continue
        if first is not None and last is not None:
            yield first, last
        first = last = at
    if first is not None and last is not None:
        yield first, last
