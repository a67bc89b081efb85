"""A batch as the agent hands it over: tasks of one job for one slot, run one after another."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from qsub_py.node.ledger import Entry, Key
from qsub_py.node.processes import Tree
from qsub_py.node.wire import Header

#: A task that runs longer than this sends the rest of its batch back.
LONG_S = 0.1
#: So many jobs' common parts the agent tells by their keys before it begins anew.
MOST_COMMONS = 1024


class Unfit(Exception):
    """A task cannot be started on this node; the text says why."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why we end a task: the state it gets, the reason told, the time it has to tidy up."""

    state: str
    why: str
    grace_s: float


class Commons:
    """What all batches of a job have in common: told once under a key, then by the key alone."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, Any]] = {}

    def of(self, header: Header) -> dict[str, Any]:
        """Return the common part of a `run` order; raise KeyError when it was never told."""
        key: str | None = header.get("common_key")
        common: dict[str, Any] | None = header.get("common")
        if key is None:
            return header["common"]  # type: ignore[no-any-return]
        if common is None:
            return self._known[key]
        self._known.pop(key, None)
        self._known[key] = common
        # Twice as many as the agent thinks that we know.
        if len(self._known) > MOST_COMMONS * 2:
            del self._known[next(iter(self._known))]
        return common


@dataclass(slots=True)
class Batch:
    """One `run` order."""

    key: Key
    job: int
    kind: str
    common: dict[str, Any]
    #: Variables that are not the whole job's: its attempt, devices, scratch directory.
    env: dict[str, str]
    tasks: list[dict[str, Any]] | dict[str, int]
    chunks: list[list[int]]
    body: bytes
    #: Where the results of other calls lie that these need (call_inputs.Row).
    inputs: list[list[Any]]
    #: Set once the ledger took it.
    entry: Entry = field(init=False)

    @classmethod
    def from_header(cls, header: Header, body: bytes, commons: Commons) -> Batch:
        """Read a `run` frame; raise KeyError, TypeError or ValueError when it is malformed."""
        info = header["batch"]
        key = (header["slot"], info["uid"], info["first"], info["attempt"], info["epoch"])
        if header["kind"] not in ("command", "call"):
            raise ValueError(f"no such kind of task: {header['kind']}")
        return cls(
            key=key,
            job=info["job"],
            kind=header["kind"],
            common=commons.of(header),
            env=header.get("env", {}),
            tasks=header["tasks"],
            chunks=header.get("chunks", []),
            body=body,
            inputs=header.get("inputs", []),
        )

    @property
    def uid(self) -> str:
        """The job's."""
        return self.key[1]

    @property
    def attempt(self) -> int:
        """The number of the attempt."""
        return self.key[3]

    def positions(self) -> Sequence[int]:
        """Return the positions of its tasks in the order they run."""
        if isinstance(self.tasks, dict):
            return range(self.tasks["first"], self.tasks["first"] + self.tasks["count"])
        return [task["pos"] for task in self.tasks]


def task_cookie(key: Key, pos: int, node_dir: str) -> bytes:
    """Return what marks the processes of a task in their environment.

    The node's directory is in it, so that nodes on one host never take another's for theirs.
    """
    slot, uid, _, attempt, epoch = key
    node = zlib.crc32(os.fsencode(node_dir))
    return f"{uid}.{pos}.{attempt}.{epoch}.{slot}.{node:08x}".encode()


class Run(Protocol):
    """A batch being run. `over` is called once, when nothing of it is left."""

    batch: Batch

    def begin(self) -> None:
        """Start what may start now; called again when the fence opens."""

    def kill(self, positions: set[int] | None, verdict: Verdict) -> None:
        """End these tasks (None: all)."""

    def signal(self, positions: set[int] | None, number: int, whom: str) -> None:
        """Signal what runs."""

    def suspend(self, value: bool) -> None:
        """Stop what runs for its user, or let it go on."""

    def relimit(self) -> None:
        """Take the time limit anew from the batch's common part."""

    def lapse(self) -> None:
        """The fence has passed: start nothing, pause what may run elsewhere."""

    def take_back(self) -> None:
        """Return what has not begun."""

    def drop(self) -> None:
        """Kill all of it and report nothing but that."""

    def tree(self) -> Tree | None:
        """Return the processes of what runs."""

    def state(self) -> Header:
        """Return what the agent is told of it after a reconnect."""


Over = Callable[[], None]


def environment(env: dict[str, str]) -> dict[bytes, bytes]:
    """Encode an environment; undecodable bytes come back as they were."""
    return {os.fsencode(name): os.fsencode(value) for name, value in env.items()}


def excuse(error: OSError, path: str) -> str:
    """Say why something could not be started on this node."""
    words = {
        "FileNotFoundError": "no such file or directory",
        "NotADirectoryError": "not a directory",
        "PermissionError": "no permission",
    }
    text = words.get(type(error).__name__) or (error.strerror or str(error)).lower()
    return f"{text}: {path} on this node"


def enter(cwd: str) -> None:
    """Go to the directory that a process is to start in; raise Unfit."""
    try:
        os.chdir(cwd)
    except FileNotFoundError:
        raise Unfit(
            f"no such directory: {cwd} on this node (submit with --ship . or -D DIR)"
        ) from None
    except OSError as error:
        raise Unfit(excuse(error, cwd)) from error
