"""The agent's end of the keeper: start one, connect to it, exchange frames without blocking.

It knows the state directory's layout and the wire, and nothing of Redis.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from qsub_py.node.wire import Channel, FrameReader, frame

#: sun_path holds 108 bytes; a longer path is reached through a descriptor of its directory.
_SHORT_PATH = 100
_ANSWER_S = 1.0


@contextlib.contextmanager
def short_socket_path(node_dir: str) -> Iterator[str]:
    """Yield a path of the keeper's socket that fits into a socket address."""
    path = os.path.join(node_dir, "keeper.sock")
    if len(os.fsencode(path)) <= _SHORT_PATH:
        yield path
        return
    handle = os.open(node_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/keeper.sock"
    finally:
        os.close(handle)


def _dial(node_dir: str) -> socket.socket:
    """Connect to the keeper of `node_dir`; raise OSError when none listens."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(_ANSWER_S)
        with short_socket_path(node_dir) as path:
            sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


class KeeperLink(Channel):
    """A connection to the keeper. It is the agent's once `hello` was sent on it.

    `send` and `flush` take what fits and keep the rest (`waiting`); `receive` returns what
    is there. Both raise ConnectionError when the keeper is gone.
    """

    @classmethod
    def connect(cls, node_dir: str | os.PathLike[str]) -> KeeperLink:
        """Connect to the keeper of `node_dir`; raise OSError when none listens."""
        return cls(_dial(os.fspath(node_dir)))


def keeper_answers(node_dir: str | os.PathLike[str]) -> bool:
    """Ask for a sign of life, without taking the connection over from the agent."""
    try:
        with _dial(os.fspath(node_dir)) as sock:
            sock.sendall(frame({"op": "ping"}))
            reader = FrameReader()
            while data := sock.recv(4096):
                if reader.feed(data):
                    return True
    except OSError:
        pass
    return False


def start_keeper(
    node_dir: str | os.PathLike[str],
    agent_argv: Sequence[str],
    *,
    silence_s: float = 10.0,
    wait_s: float = 15.0,
) -> None:
    """Start a detached keeper and return once it answers.

    Two callers at once are fine: the keeper's lock lets one win, and both find it answering.
    Raise RuntimeError, with the end of the keeper's log, when none answers in `wait_s`.
    """
    directory = Path(node_dir).absolute()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_s
    while not keeper_answers(directory):
        if time.monotonic() > deadline:
            raise RuntimeError(f"no keeper answers in {directory}: {_last_words(directory)}")
        # A keeper that loses the race for the lock ends at once: so ask again, not only once.
        _launch(directory, agent_argv, silence_s)
        _await_answer(directory, min(deadline, time.monotonic() + 3.0))


def await_end(node_dir: str | os.PathLike[str], *, wait_s: float = 10.0) -> bool:
    """Wait until a keeper that was told to stop has gone; whether it has."""
    deadline = time.monotonic() + wait_s
    with open(os.path.join(node_dir, "keeper.lock"), "ab") as file:
        while time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                time.sleep(0.005)
    return False


def _launch(directory: Path, agent_argv: Sequence[str], silence_s: float) -> None:
    argv = [sys.executable, "-m", "qsub_py.node.keeper", str(directory), "--daemon"]
    argv += ["--silence", str(silence_s), "--agent-argv", json.dumps(list(agent_argv))]
    with open(directory / "keeper.log", "ab") as log:
        subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=_with_package_path(dict(os.environ)),
            start_new_session=True,
            check=False,
        )


def _with_package_path(env: dict[str, str]) -> dict[str, str]:
    """Let the new interpreter find this very package when it is not installed."""
    home = str(Path(__file__).resolve().parents[2])
    if os.path.basename(home) not in ("site-packages", "dist-packages"):
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (home, env.get("PYTHONPATH"))))
    return env


def _await_answer(directory: Path, deadline: float) -> None:
    while time.monotonic() < deadline and not keeper_answers(directory):
        time.sleep(0.01)


def _last_words(directory: Path) -> str:
    try:
        return (directory / "keeper.log").read_text(errors="replace")[-500:].strip()
    except OSError as error:
        return str(error)
