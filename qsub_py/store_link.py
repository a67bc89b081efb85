"""One connection to the server, over which scripts are called and pipelined.

A lost connection is an error that the caller hears, once: nothing is sent again and nothing
reconnects without a word, since a script may have run although its reply never came.
Errors of the socket and of the server become those of `errors.py` here and nowhere else.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from qsub_py.errors import StoreBusy, StoreError, StoreMismatch, StoreUnavailable
from qsub_py.resp import LOOPBACK, Argument, LoopbackConnection, Refusal, UnixConnection
from qsub_py.text import redact

__all__ = ["Argument", "Link", "Script", "script"]

_INCLUDE = re.compile(r"^--- @include (.*)$", re.MULTILINE)
_TRY_LATER = ("OOM", "BUSY", "LOADING", "MISCONF", "READONLY", "TRYAGAIN", "MASTERDOWN")
_NOT_ALLOWED = ("NOAUTH", "WRONGPASS", "NOPERM", "SCHEMA")


class Script:
    """A Lua file with its shared parts included, and its SHA-1."""

    def __init__(self, name: str) -> None:
        text = _lua(name)

        def include(match: re.Match[str]) -> str:
            parts = match.group(1).split()
            return "\n".join(_INCLUDE.sub(include, _lua(f"lib/{part}")) for part in parts)

        self.name = name
        self.body = _INCLUDE.sub(include, text).encode()
        self.sha = hashlib.sha1(self.body).hexdigest()


def _lua(name: str) -> str:
    # Not importlib.resources: its import alone takes 4 ms of each command.
    path = os.path.join(os.path.dirname(__file__), "lua", f"{name}.lua")
    with open(path, encoding="utf-8") as file:
        return file.read()


_scripts: dict[str, Script] = {}


def script(name: str) -> Script:
    """Return the script of this name, read once."""
    if name not in _scripts:
        _scripts[name] = Script(name)
    return _scripts[name]


class Link:
    """A connection that is opened at the first use and again after each loss."""

    def __init__(self, url: str, *, password: str = "", timeout_s: float = 10.0) -> None:
        self.url = url
        self.timeout_s = timeout_s
        self._password = password
        self._connection = _connection(url, password, timeout_s)
        self._is_open = False
        #: Changes with each server process; empty while there is no connection.
        self.run_id = ""

    def open(self) -> None:
        """Connect when not connected; learn the server's run id."""
        if self._is_open:
            return
        with _Translated(self):
            self._connection.connect()
            self._connection.send([("INFO", "server")])
            info = self._connection.read(None).decode()
            self._is_open = True
        found = re.search(r"run_id:(\w+)", info)
        self.run_id = found.group(1) if found else ""

    def close(self) -> None:
        """Drop the connection; the next use opens a new one."""
        self._is_open = False
        self.run_id = ""
        self._connection.disconnect()

    def retarget(self, url: str, password: str) -> bool:
        """Aim at another server, or another way to it; return whether that changed anything."""
        if (url, password) == (self.url, self._password):
            return False
        connection = _connection(url, password, self.timeout_s)
        self.close()
        self.url, self._password, self._connection = url, password, connection
        return True

    def command(self, *words: Argument, timeout_s: float | None = None) -> Any:
        """Run one command and return its reply (bytes, ints, lists)."""
        self.open()
        with _Translated(self):
            self._connection.send([words])
            return self._connection.read(timeout_s)

    def send(self, *words: Argument) -> None:
        """Send one command; `receive` must follow, or `close`."""
        self.open()
        with _Translated(self):
            self._connection.send([words])

    def receive(self) -> Any:
        """Return the reply to `send`."""
        with _Translated(self):
            return self._connection.read(None)

    def fileno(self) -> int:
        """Return the socket's descriptor, to wait on."""
        return int(self._connection.fileno())

    def pipeline(self, commands: Iterable[Sequence[Argument]]) -> list[Any]:
        """Send commands in one write and return their replies; an error reply is raised."""
        commands = list(commands)
        self.open()
        with _Translated(self):
            self._connection.send(commands)
            return self._sound([self._reply() for _ in commands])

    def call(self, name: str, key: str, *arguments: Argument) -> Any:
        """Run the script `name`, sending its body when the server does not know it."""
        return self.calls([(name, key, *arguments)])[0]

    def calls(self, requests: Sequence[Sequence[Argument]]) -> list[Any]:
        """Run scripts (name, key, argument...) in one round trip, in this order.

        A server that lost its script cache refuses them before it does anything: such a one
        is sent again with its body, and then it runs after those that were known.
        """
        self.open()
        with _Translated(self):
            self._connection.send(("EVALSHA", script(str(r[0])).sha, 1, *r[1:]) for r in requests)
            replies = [self._reply() for _ in requests]
            for i, reply in enumerate(replies):
                if isinstance(reply, Refusal) and str(reply).startswith("NOSCRIPT"):
                    body = script(str(requests[i][0])).body
                    self._connection.send([("EVAL", body, 1, *requests[i][1:])])
                    replies[i] = self._reply()
            return self._sound(replies)

    def load(self, *names: str) -> None:
        """Bring scripts to the server's cache, so that several sent at once run in their order.

        A server that does not let us (ACL) is left as it is.
        """
        self.open()
        with _Translated(self):
            self._connection.send([("SCRIPT", "LOAD", script(name).body) for name in names])
            for _ in names:
                self._reply()

    def _reply(self) -> Any:
        try:
            return self._connection.read(None)
        except Refusal as refusal:
            return refusal

    def _sound(self, replies: list[Any]) -> list[Any]:
        for reply in replies:
            if isinstance(reply, Refusal):
                raise reply
        return replies


def _connection(url: str, password: str, timeout_s: float) -> Any:
    try:
        if url.startswith("unix:"):
            return UnixConnection(url, password, timeout_s)
        if re.match(rf"redis://([^/?#]*@)?{re.escape(LOOPBACK)}(?![\w.-])", url):
            return LoopbackConnection(url, password, timeout_s)
        # Late, because it takes 0.1 s, which only servers elsewhere are worth.
        from qsub_py.store_tcp import TcpConnection

        return TcpConnection(url, password, timeout_s)
    except (ValueError, TypeError) as error:
        raise StoreMismatch(f"not the URL of a server: {error}") from None


class _Translated:
    """Turn errors into ours; after a broken exchange the connection is closed."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            return
        if not isinstance(error, Refusal):
            # Also on KeyboardInterrupt: a reply may be on its way to whoever asks next.
            self._link.close()
        if isinstance(error, (Refusal, OSError)):
            raise _translate(error, self._link.url) from error


def _translate(error: Exception, url: str) -> StoreError:
    text = " ".join(str(error).split())
    where = shown(url)
    if isinstance(error, OSError):
        way, _, cure = unquote(urlsplit(url).fragment).partition(";")
        by = f", by {way}" if way else ""
        return StoreUnavailable(
            f"no answer from the server at {where}{by}: {text}", hint=cure or _cure(url, text)
        )
    if text.startswith(_NOT_ALLOWED):
        return StoreMismatch(
            f"the server at {where} refused us: {text}",
            hint="check the user and password in the URL, and the rights of that user",
        )
    if text.startswith(_TRY_LATER):
        return StoreBusy(f"the server at {where} cannot take this now: {text}")
    return StoreError(f"the server at {where} said: {text}")


def _cure(url: str, text: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "`ca` (QSUB_CA) is the file of the authority that certified the server by this name"
    speaks_plainly = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "Timeout connecting")
    if url.startswith("rediss:") and any(words in text for words in speaks_plainly):
        return "does that port speak TLS? If it does not, write redis:// or give another port"
    return "see `qnode server status`; QSUB_URL names another server"


#: What reach.py adds to an URL and is of no interest to a reader.
_OWN_WORDS = re.compile(r"[?&](owner|ssl_ca_certs)=[^&#]*")


def shown(url: str) -> str:
    """Return an URL for a message: without its password and what is only for programs."""
    return _OWN_WORDS.sub("", redact(url.partition("#")[0]))
