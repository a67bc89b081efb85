"""A host on which nothing is installed, made to run our code over one SSH connection.

The near end of `node/remote.py`: finds a Python there, sends the bundle unless the host has it, and
then asks for one thing after another. Neither the user's login shell (csh, fish, a noisy
.bashrc) nor spaces in paths matter: one constant line is run, all else goes through its stdin.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import qsub_py
from qsub_py.bundle import Bundle
from qsub_py.errors import NodeError, SshLost
from qsub_py.hosts import Host, check_python
from qsub_py.text import safe

if TYPE_CHECKING:
    from qsub_py.ssh import Connection, Stream

Header = dict[str, Any]

MARK = b"\x1eqsub_py bootstrap 1\n"
_READY_S = 60.0
_ANSWER_S = 120.0
_NONE = b"qsub_py-no-python"
#: Where Pythons are that are not on PATH of a shell without a terminal.
_PLACES = (
    *(f"python3.{minor}" for minor in (13, 12, 11, 10)),
    "python3",
    *(
        f'"$HOME"/{name}/bin/python3'
        for name in ("miniforge3", "mambaforge", "miniconda3", "anaconda3")
    ),
    '"$HOME"/.local/share/uv/python/*/bin/python3',
    '"$HOME"/.pyenv/versions/*/bin/python3',
)


def command_line(python: str = "") -> str:
    """Return the line that finds a Python and lets it run what comes on stdin; SpecError.

    It has no quote inside its quotes, no `!`, no backslash and no line end: so sh, csh and fish
    read it alike.
    """
    places = check_python(python) or " ".join(_PLACES)
    fits = '"$p" -c "import sys; sys.exit(sys.version_info < (3, 10))" >/dev/null 2>&1'
    runs = (
        'exec "$p" -c "import sys; exec(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())))"'
    )
    tells = f'"{python or "python3"}" --version 2>&1; echo {_NONE.decode()}; exit 86'
    return f"exec /bin/sh -c 'for p in {places}; do {fits} && {runs}; done; {tells}'"


class Remote:
    """A host that runs our code; close it when done."""

    def __init__(self, host: Host, connection: Connection) -> None:
        self.host = host
        self.connection = connection
        #: What the host said of itself: python, executable, machine, cache, noexec, ...
        self.facts: Header = {}
        self._stream: Stream = connection.open(command_line(host.options.python))
        self._buffer = b""

    def enter(self, bundle: Bundle) -> None:
        """Make the host run the bundle; NodeError says what is in the way."""
        path = os.path.join(os.path.dirname(qsub_py.__file__), "node", "bootstrap.py")
        with open(path, "rb") as file:
            code = file.read()
        with contextlib.suppress(OSError, SshLost):  # it has ended: what it said tells why
            self._stream.write(b"%d\n" % len(code) + code)
        self._await_mark()
        self.facts = self.ask({"op": "look", "dir": self.host.options.dir, "hash": bundle.hash})
        if not self.facts["have"]:
            self.ask({"op": "unpack", "hash": bundle.hash}, bundle.path.read_bytes())
        if not self.ask({"op": "enter", "hash": bundle.hash})["ok"]:
            self.ask({"op": "unpack", "hash": bundle.hash}, bundle.path.read_bytes())
            self.ask({"op": "enter", "hash": bundle.hash})

    def ask(self, header: Header, blob: bytes = b"") -> Header:
        """Return the answer to a request; NodeError when the host refuses or is silent."""
        self._send(header, blob)
        return self._answer(_ANSWER_S)

    def stream(self, header: Header) -> Iterator[Header]:
        """Yield the answers to a request that has many."""
        self._send(header, b"")
        while True:
            answer = self._answer(None)
            if not answer.get("more"):
                return
            yield answer

    def close(self) -> None:
        """End the connection; nodes that were started live on."""
        self._stream.close()
        self.connection.close()

    def _send(self, header: Header, blob: bytes) -> None:
        head = json.dumps(header).encode()
        sizes = len(head).to_bytes(4, "big") + len(blob).to_bytes(4, "big")
        self._stream.write(sizes + head + blob)

    def _answer(self, timeout_s: float | None) -> Header:
        sizes = self._exactly(8, timeout_s)
        head, body = int.from_bytes(sizes[:4], "big"), int.from_bytes(sizes[4:], "big")
        header: Header = json.loads(self._exactly(head, timeout_s))
        self._exactly(body, timeout_s)
        if "error" in header:
            raise NodeError(f"{self.host.name}: {header['error']}", hint=header.get("hint", ""))
        return header

    def _exactly(self, size: int, timeout_s: float | None) -> bytes:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while len(self._buffer) < size:
            piece = self._read(None if deadline is None else deadline - time.monotonic())
            if not piece:
                raise NodeError(f"{self.host.name}: {self._last_words()}")
            self._buffer += piece
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _read(self, timeout_s: float | None) -> bytes:
        try:
            return self._stream.read(65536, None if timeout_s is None else max(0.0, timeout_s))
        except TimeoutError:
            raise NodeError(f"{self.host.name}: it does not answer", hint="try again") from None

    def _await_mark(self) -> None:
        """Pass over what the login shell says, up to our mark."""
        deadline = time.monotonic() + _READY_S
        while MARK not in self._buffer:
            piece = self._read(deadline - time.monotonic())
            if not piece:
                raise self._no_python()
            self._buffer += piece
        self._buffer = self._buffer.partition(MARK)[2]

    def _no_python(self) -> NodeError:
        name, said = self.host.name, self._buffer + self._stream.stderr()
        if _NONE not in said:
            return NodeError(f"{name}: {self._last_words()}", hint=f"try `ssh {name} true`")
        wanted = self.host.options.python
        version = re.search(rb"Python (\d[\d.]*)", said)
        cure = "install Python 3.10 or newer there, or name one with --python PATH"
        if version:
            which = f"{wanted} is" if wanted else "the Python there is"
            return NodeError(
                f"{name}: {which} {version[1].decode()}, needed is 3.10 or newer", hint=cure
            )
        what = f"there is no {wanted}" if wanted else "there is no python3"
        return NodeError(f"{name}: {what}", hint=cure)

    def _last_words(self) -> str:
        text = (self._buffer + b"\n" + self._stream.stderr()).decode("utf-8", "replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return (
            f"the host said: {safe(lines[-1])[:200]}" if lines else "the host closed the connection"
        )
