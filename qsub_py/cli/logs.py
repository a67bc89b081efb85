"""What tasks printed: live from the node that has it, else the tail kept in the server.

On a terminal control characters are shown, not sent (CWE-150); elsewhere the bytes are passed on
as they are.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qsub_py.cli import common
from qsub_py.cli.ids import Picked, spec_of
from qsub_py.cli.tasks import task_id, tasks_of
from qsub_py.model import (
    RESULT_BLOB_ERROR,
    RESULT_ERROR,
    JobInfo,
    JobSpec,
    NodeInfo,
    State,
    TaskInfo,
)
from qsub_py.sweep_fill import fill
from qsub_py.text import safe
from qsub_py.units import expand_pattern

if TYPE_CHECKING:
    from qsub_py.client import Client

#: How much of an output is kept in the server (see node/reports.py): a shorter one is whole.
_TAIL_BYTES = {State.COMPLETED: 4096}
_FAILED_TAIL_BYTES = 16384
#: Below this every task's tail was kept (the budget of a job is 16 MB, half for failures).
_ALL_KEPT_BYTES = 8 * 1024 * 1024 - 16384
#: A piece as the node sends it; a smaller one is the newest.
_PIECE_BYTES = 256 * 1024
#: How often a waiting task is looked at.
_LOOK_EVERY_S = 0.5
#: How long a node may take to begin sending.
_SILENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Output:
    """One task's output: where to look for it."""

    job: JobInfo
    spec: JobSpec
    task: TaskInfo

    @property
    def node(self) -> str:
        """The name of the node that has it, "" when none had the task."""
        return self.task.outcome.node if self.task.outcome else self.task.node


def print_outputs(
    client: Client,
    job: int,
    *,
    positions: Sequence[int] | None,
    does_follow: bool,
    errors: bool,
) -> int:
    """Print the outputs of a job's tasks, one after another; return how many were there."""
    info = client.ask(lambda store: store.job(job))
    spec = spec_of(client, info)
    ranges = None if positions is None else tuple((at, at) for at in positions)
    picked = Picked(info, ranges)
    if does_follow and picked.count > 1:
        from qsub_py.cli.follow import follow_all

        return follow_all(client, picked, spec, errors=errors)
    printer = _Printer(is_headed=picked.count > 1)
    shown = 0
    for task in _live_tasks(client, picked) if does_follow else tasks_of(client, picked):
        if task.state is State.PENDING or (task.state.is_terminal and task.outcome is None):
            continue
        shown += 1
        printer.begin(task_id(info, task.index))
        _print_one(
            client, Output(info, spec, task), printer, does_follow=does_follow, errors=errors
        )
    if shown and not printer.has_printed:
        common.hint(f"qlog: {picked.shown}: nothing was printed")
    return shown


def _live_tasks(client: Client, picked: Picked) -> Iterator[TaskInfo]:
    """Yield the tasks one after another, each once it has started."""
    for position in picked.positions():
        yield _await_start(client, picked.job, position)


def _task(client: Client, job: JobInfo, position: int) -> TaskInfo:
    return next(tasks_of(client, Picked(job, ((position, position),))))


def _await_start(client: Client, job: JobInfo, position: int) -> TaskInfo:
    """Return the task as soon as it runs or has ended."""
    pause, is_told = 0.02, False
    while True:
        (state, _), *_rest = client.ask(lambda store: store.states(job.id, position, 1))
        if state is not State.PENDING:
            return _task(client, job, position)
        time.sleep(pause)
        pause = min(pause * 1.5, _LOOK_EVERY_S)
        if pause == _LOOK_EVERY_S and not is_told:
            common.hint(f"qlog: job {job.id} waits; `qstat --why {job.id}` says why")
            is_told = True


class _Printer:
    """Writes outputs, those of several tasks under headings as tail(1) does."""

    def __init__(self, *, is_headed: bool) -> None:
        self._is_headed, self._name = is_headed, ""
        self._write = writer()
        self.has_printed = False

    def begin(self, name: str) -> None:
        """The next bytes are the output of task `name`; without any it has no heading."""
        self._name = name

    def write(self, data: bytes) -> None:
        """Write a piece of the task's output."""
        if not data:
            return
        if self._is_headed and self._name:
            print(("\n" if self.has_printed else "") + f"==> {self._name} <==", flush=True)
        self._name, self.has_printed = "", True
        self._write(data)

    def end(self) -> None:
        """Show what is left of a character that was cut off."""
        self._write(b"")


def _print_one(
    client: Client, output: Output, printer: _Printer, *, does_follow: bool, errors: bool
) -> None:
    stream = "err" if errors and output.spec.error else "out"
    while True:
        attempt, is_over = output.task.attempt, output.task.outcome is not None
        if is_over or not does_follow:
            _print_kept(client, output, printer, stream)
            return
        log = LiveLog(client, output, stream)
        _copy(_live(log, does_follow=True), printer)
        task = _settled(client, output)
        output = replace(output, task=task)
        if task.outcome is not None and task.attempt == attempt:
            if not log.has_ended or not log.sent:
                _print_kept(client, output, printer, stream, sent=log.sent)
            else:
                printer.write(traceback_of(client, task))
                printer.end()
            return
        common.hint(f"qlog: attempt {attempt} ended; the task runs again")
        output = replace(output, task=_await_start(client, output.job, task.position))


def _copy(pieces: Iterable[bytes], printer: _Printer) -> bool:
    """Print pieces; return whether there were any."""
    found = False
    for piece in pieces:
        printer.write(piece)
        found = True
    return found


def _print_kept(
    client: Client, output: Output, printer: _Printer, stream: str, *, sent: int = 0
) -> None:
    """Print what a task has printed so far, or what is left of it, after its first `sent` bytes."""
    _copy(kept_output(client, output, stream, sent=sent), printer)
    if stream == "out":
        printer.write(traceback_of(client, output.task))
    printer.end()


def traceback_of(client: Client, task: TaskInfo) -> bytes:
    """Return the traceback of a call that raised, b"" for all else."""
    end = task.outcome
    if end is None or end.result_kind not in (RESULT_ERROR, RESULT_BLOB_ERROR):
        return b""
    from qsub_py.failures import RemoteTraceback, load_failure

    failure = load_failure(end, lambda ref: client.ask(lambda store: store.large_result(ref)))
    cause = failure.__cause__ if failure else None
    text = cause.text if isinstance(cause, RemoteTraceback) else f"{failure}"
    return f"{text.rstrip()}\n".encode("utf-8", "backslashreplace")


def _settled(client: Client, output: Output) -> TaskInfo:
    """Return the task once the server has its end (it comes just after the log's)."""
    deadline = time.monotonic() + _SILENCE_S
    while True:
        task = _task(client, output.job, output.task.position)
        is_same = task.state in (State.RUNNING, State.COMPLETING, State.SUSPENDED)
        if not (is_same and task.attempt == output.task.attempt) or time.monotonic() > deadline:
            return task
        time.sleep(0.1)


def kept_output(client: Client, output: Output, stream: str, *, sent: int = 0) -> Iterator[bytes]:
    """Yield a task's output after its first `sent` bytes: from its node, else the tail."""
    tail = b""
    if stream == "out":
        tail = client.ask(lambda store: store.tail(output.job.id, output.task.position))
        if output.task.outcome is not None and _is_whole(client, output, tail):
            yield tail[sent:]
            return
    log = LiveLog(client, output, stream, sent=sent)
    yield from _live(log, does_follow=False)
    if log.is_answered:
        return
    if stream == "err":
        yield from _own_file(output, sent)
    elif tail:
        common.hint(f"qlog: node {output.node} has no more of it than the last {len(tail)} bytes:")
        yield tail


def _is_whole(client: Client, output: Output, tail: bytes) -> bool:
    """Whether the tail kept in the server is all that an ended task has printed."""
    if tail:
        return len(tail) < _TAIL_BYTES.get(output.task.state, _FAILED_TAIL_BYTES)
    return client.ask(lambda store: store.tail_bytes(output.job.id)) < _ALL_KEPT_BYTES


def _live(log: LiveLog, *, does_follow: bool) -> Iterator[bytes]:
    """Yield the pieces that the node sends."""
    is_there = log.ask()
    while is_there and not log.has_ended:
        entries = log.read(1.0)
        piece = b""
        for piece in log.take(entries):
            yield piece
        if does_follow and log.silent_s > _SILENCE_S:
            is_there = log.still_runs()
            log.ask_again()
        elif not does_follow and entries and len(piece) < _PIECE_BYTES:
            return
        elif not does_follow and log.silent_s > (0.5 if log.is_answered else _SILENCE_S):
            is_there = False
    if not log.is_answered and log.output.task.outcome is None:
        common.hint(f"qlog: node {log.output.node} does not answer")


class LiveLog:
    """The output of one task as its node sends it; a new agent of the node is asked anew."""

    def __init__(self, client: Client, output: Output, stream: str, *, sent: int = 0) -> None:
        self.output, self._client, self._stream = output, client, stream
        self.name, self.after = "", "0"
        #: How many bytes have come, and how many of those to come did so before.
        self.sent, self._skip = sent, 0
        self.has_ended = self.is_answered = False
        self._agent_at = 0.0
        self._heard_at = time.monotonic()

    @property
    def silent_s(self) -> float:
        """How long nothing has come."""
        return time.monotonic() - self._heard_at

    def ask(self) -> bool:
        """Ask the node that has the task for its output; False when it cannot be asked."""
        node = self._node()
        if node is None:
            return False
        self.name, self.after, self._skip = secrets.token_hex(8), "0", self.sent
        self._agent_at, self._heard_at = node.started_at, time.monotonic()
        job, position = self.output.job, self.output.task.position
        order = {"op": "tail", "job": job.id, "uid": job.uid, "stream": self._stream,
                 "position": position, "attempt": self.output.task.attempt,
                 "log": self.name}  # fmt: skip
        # Said to be wanted before it is asked for: a node drops a log that nobody reads.
        self._client.ask(lambda store: store.follow(self.name, "0", block_s=0.001))
        self._client.ask(lambda store: store.order_node(node.uid, json.dumps(order)))
        return True

    def ask_again(self) -> None:
        """Ask a new agent, which does not know what the former one was asked."""
        node = self._node()
        if node is not None and node.started_at != self._agent_at:
            self.ask()
        self._heard_at = time.monotonic()

    def read(self, block_s: float) -> list[tuple[str, dict[bytes, bytes]]]:
        """Return what has come."""
        return self._client.ask(lambda s: s.follow(self.name, self.after, block_s=block_s))

    def still_runs(self) -> bool:
        """Whether the task, whose node is silent, runs on."""
        job, position = self.output.job.id, self.output.task.position
        [(state, attempt)] = self._client.ask(lambda s: s.states(job, position, 1))
        is_same = attempt == min(self.output.task.attempt, 15)
        return is_same and state in (State.RUNNING, State.COMPLETING)

    def _node(self) -> NodeInfo | None:
        nodes = self._client.ask(lambda store: store.nodes())
        return next((node for node in nodes if node.name == self.output.node), None)

    def take(self, entries: Iterable[tuple[str, dict[bytes, bytes]]]) -> Iterator[bytes]:
        """Yield what is new in entries of the log."""
        for number, fields in entries:
            self.after, self._heard_at, self.is_answered = number, time.monotonic(), True
            piece = fields.get(b"d", b"")
            if b"o" in fields:  # where it begins: an agent that dies may be followed by one
                self._skip = max(0, self.sent - int(fields[b"o"]))  # that sends it again
            known = min(self._skip, len(piece))
            self._skip -= known
            self.sent += len(piece) - known
            if piece := piece[known:]:
                yield piece
            if b"end" in fields:
                self.has_ended = True
                return


def _own_file(output: Output, sent: int) -> Iterator[bytes]:
    """Yield the errors' own file, which may lie on a file system that this host shares."""
    spec = output.spec
    path = expand_pattern(
        spec.error, job=output.job.id, index=output.task.index, name=spec.name, user=spec.owner,
        node=output.node, is_array=spec.is_array,
    )  # fmt: skip
    path = os.path.join(spec.cwd, fill(path, output.task.params or {}))
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(sent)
        while piece := file.read(_PIECE_BYTES):
            yield piece


def writer() -> Callable[[bytes], None]:
    """Return what writes bytes to standard output, made harmless on a terminal; b"" flushes."""
    raw = sys.stdout.buffer
    if not sys.stdout.isatty():

        def pass_on(data: bytes) -> None:
            sys.stdout.flush()
            raw.write(data)
            raw.flush()

        return pass_on
    decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def show(data: bytes) -> None:
        text = decoder.decode(data, final=not data).replace("\r\n", "\n").replace("\r", "\n")
        sys.stdout.write(safe(text, keep="\n\t"))
        sys.stdout.flush()

    return show
