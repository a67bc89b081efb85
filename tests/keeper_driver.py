"""Drives a real keeper process the way an agent does, for the tests of the node."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cloudpickle

from qsub_py.node.keeper_link import KeeperLink, keeper_answers
from qsub_py.node.wire import Item, read_items

ROOT = str(Path(__file__).resolve().parents[1])
DEADLINE_S = 20.0
UID = "00000000000000aa"


def boot_now() -> float:
    """Return the clock of fences."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wait_for(condition: Callable[[], Any], what: str = "a condition") -> Any:
    """Poll until `condition` is true; fail after a long deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.005)
    raise AssertionError(f"waited in vain for {what}")


def is_alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def is_stopped(pid: int) -> bool:
    """Whether SIGSTOP holds a process; a shell that waits for a stopped vfork child shows D."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "TD"


def chunk(calls: Iterable[tuple[tuple[Any, ...], dict[str, Any]]]) -> bytes:
    """Pack calls as the client does."""
    packed = [cloudpickle.dumps(call, 5) for call in calls]
    sizes = struct.pack(f"<{len(packed)}I", *map(len, packed))
    return b"R" + struct.pack("<I", len(packed)) + sizes + b"".join(packed)


def by_value(fn: Any) -> bytes:
    """Pickle a function with its module's own functions by value, as the client does."""
    cloudpickle.register_pickle_by_value(sys.modules[fn.__module__])
    data: bytes = cloudpickle.dumps(fn)
    return data


class Keeper:
    """A keeper process and our connection to it."""

    def __init__(self, node_dir: Path, *, silence_s: float = 60.0, agent_argv: Any = (),
                 words: tuple[str, ...] = ()) -> None:  # fmt: skip
        self.node_dir = node_dir
        self.silence_s, self.words = silence_s, words
        self.agent_argv = list(agent_argv)
        self.items: dict[tuple[str, int], Item] = {}
        self.results: dict[tuple[str, int], bytes] = {}
        self.frames: list[tuple[dict[str, Any], bytes]] = []
        self.seqs: list[int] = []
        self.link: KeeperLink | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Keeper:
        """Start the process and wait for its answer."""
        argv = [sys.executable, "-m", "qsub_py.node.keeper", str(self.node_dir)]
        argv += ["--silence", str(self.silence_s), "--agent-argv", json.dumps(self.agent_argv)]
        argv += self.words
        env = {**os.environ, "PYTHONPATH": ROOT}
        self.process = subprocess.Popen(argv, env=env, cwd="/", start_new_session=True)
        wait_for(lambda: keeper_answers(self.node_dir), "the keeper")
        return self

    def connect(self, *, fence_s: float | None = 1000.0) -> Keeper:
        """Be its agent; with a fence unless told otherwise."""
        if self.link is not None:
            self.link.close()
        self.link = KeeperLink.connect(self.node_dir)
        self.state()
        if fence_s is not None:
            self.fence(fence_s)
        return self

    def send(self, header: dict[str, Any], body: bytes = b"") -> None:
        """Send one order."""
        assert self.link is not None
        self.link.send(header, body)

    def fence(self, seconds: float) -> None:
        """Set the fence so far from now."""
        self.send({"op": "fence", "boot_at": boot_now() + seconds})

    def listen(self, timeout_s: float = 0.0) -> None:
        """Take in what the keeper says."""
        assert self.link is not None
        poll = select.poll()
        poll.register(self.link.fileno(), select.POLLIN)
        if self.link.waiting:
            self.link.flush()
        if not poll.poll(timeout_s * 1000):
            return
        for header, body in self.link.receive():
            self.frames.append((header, body))
            if header["op"] == "ended":
                self.seqs.append(header["seq"])
                for item, result in read_items(header, body):
                    self.items[header["key"][1], item.pos] = item
                    self.results[header["key"][1], item.pos] = result

    def until(self, condition: Callable[[], Any], what: str = "the keeper's word") -> Any:
        """Listen until `condition` is true."""
        deadline = time.monotonic() + DEADLINE_S
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise AssertionError(f"waited in vain for {what}; heard {self.frames[-5:]}")
            self.listen(0.02)
        return value

    def heard(self, op: str, **fields: Any) -> list[dict[str, Any]]:
        """Return the frames of one kind heard so far."""
        return [
            header
            for header, _ in self.frames
            if header["op"] == op and all(header.get(k) == v for k, v in fields.items())
        ]

    def await_op(self, op: str, **fields: Any) -> dict[str, Any]:
        """Listen until such a frame comes; return the last."""
        return self.until(lambda: self.heard(op, **fields), f"{op} {fields}")[-1]

    def await_item(self, pos: int, uid: str = UID) -> Item:
        """Listen until a task has ended."""
        return self.until(lambda: self.items.get((uid, pos)), f"the end of task {pos}")

    def await_items(self, count: int, uid: str = UID) -> list[Item]:
        """Listen until tasks 0 to count - 1 have ended."""
        return [self.await_item(pos, uid) for pos in range(count)]

    def result(self, pos: int, uid: str = UID) -> Any:
        """Return the unpickled result of a call."""
        item = self.await_item(pos, uid)
        data = Path(item.file).read_bytes() if item.file else self.results[uid, pos]
        return pickle.loads(data)

    def run(
        self,
        tasks: list[dict[str, Any]],
        *,
        slot: int = 0,
        uid: str = UID,
        first: int | None = None,
        attempt: int = 1,
        **common: Any,
    ) -> list[Any]:
        """Hand over a batch of commands; return its key."""
        settings = {
            "argv": ["true"],
            "env": {"PATH": os.environ["PATH"]},
            "cwd": "/",
            "umask": 0o22,
            "limit_s": 0,
            "grace_s": 10,
            "requeue": True,
            "script": None,
            **common,
        }
        first = tasks[0]["pos"] if first is None else first
        info = {"job": 1, "uid": uid, "first": first, "count": len(tasks)}
        batch = {**info, "attempt": attempt, "epoch": 1}
        tasks = [{"env": {}, "out": "", "err": "", **task} for task in tasks]
        order = {"op": "run", "slot": slot, "batch": batch, "kind": "command"}
        self.send({**order, "common": settings, "tasks": tasks})
        return [slot, uid, first, attempt, 1]

    def shell(self, *scripts: str, **options: Any) -> list[Any]:
        """Hand over a batch of shell lines, one a task."""
        lines = [{"pos": n, "argv": ["/bin/sh", "-c", text]} for n, text in enumerate(scripts)]
        return self.run(lines, **options)

    def call(
        self,
        fn: Any,
        calls: list[Any],
        *,
        slot: int = 0,
        uid: str = UID,
        first: int = 0,
        attempt: int = 1,
        tasks: Any = None,
        packed: list[bytes] | None = None,
        at: int = 0,
        **common: Any,
    ) -> list[Any]:
        """Hand over a batch of calls: a list of argument tuples; return its key."""
        path = self.node_dir / f"fn-{uid}"
        path.write_bytes(b"R" + (fn if isinstance(fn, bytes) else by_value(fn)))
        chunks = packed or [chunk((args, {}) for args in calls)]
        offsets = itertools.accumulate(map(len, chunks), initial=0)
        settings = {
            "python": "",
            "env": {"PATH": os.environ["PATH"]},
            "cwd": "/",
            "umask": 0o22,
            "limit_s": 0,
            "grace_s": 10,
            "requeue": True,
            "fn_key": uid,
            "fn_path": str(path),
            **common,
        }
        compact = {"first": first, "count": len(calls), "chunk": 0, "at": at}
        info = {"job": 1, "uid": uid, "first": first, "count": len(calls)}
        order = {
            "op": "run",
            "slot": slot,
            "batch": {**info, "attempt": attempt, "epoch": 1},
            "kind": "call",
            "common": settings,
            "tasks": tasks or {**compact, "index_first": first, "index_step": 1},
            "chunks": [[start, len(data)] for start, data in zip(offsets, chunks, strict=False)],
        }
        self.send(order, b"".join(chunks))
        return [slot, uid, first, attempt, 1]

    def state(self) -> dict[str, Any]:
        """Say hello again and return the state that is the answer."""
        count = len(self.heard("state"))
        self.send({"op": "hello", "version": 1, "pid": os.getpid()})
        self.until(lambda: len(self.heard("state")) > count, "the state")
        return self.heard("state")[-1]

    def kill_9(self) -> None:
        """Kill the keeper process."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Stop it, by force if need be."""
        if self.link is not None:
            with contextlib.suppress(OSError):
                self.send({"op": "stop"})
            self.link.close()
            self.link = None
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGKILL)
                self.process.wait()
