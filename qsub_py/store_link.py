"""One connection to the server, over which scripts are called and pipelined.

Built on redis-py's connection, which speaks the protocol, TLS and AUTH, but without its pool
and its retries: those send a script again whose reply came late, and reconnect without
a word. Here a lost connection is an error that the caller hears, once.
Errors of redis-py become those of `errors.py` here and nowhere else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from qsub_py.errors import StoreBusy, StoreError, StoreMismatch, StoreUnavailable

Argument = str | bytes | int | float
_INCLUDE = re.compile(r"^--- @include (.*)$", re.MULTILINE)
_TRY_LATER = ("OOM", "BUSY", "LOADING", "MISCONF", "READONLY", "TRYAGAIN", "MASTERDOWN")
_NOT_ALLOWED = ("NOAUTH", "WRONGPASS", "NOPERM", "SCHEMA")


class Script:
    """A Lua file with its shared parts included, and its SHA-1."""

    def __init__(self, name: str) -> None:
        folder = resources.files(__package__) / "lua"
        text = (folder / f"{name}.lua").read_text("utf-8")

        def include(match: re.Match[str]) -> str:
            parts = match.group(1).split()
            return "\n".join((folder / "lib" / f"{part}.lua").read_text("utf-8") for part in parts)

        self.name = name
        self.body = _INCLUDE.sub(include, text).encode()
        self.sha = hashlib.sha1(self.body).hexdigest()


_scripts: dict[str, Script] = {}


def script(name: str) -> Script:
    """Return the script of this name, read once."""
    if name not in _scripts:
        _scripts[name] = Script(name)
    return _scripts[name]


class Link:
    """A connection that is opened at the first use and again after each loss."""

    def __init__(self, url: str, *, password: str = "", timeout_s: float = 10.0) -> None:
        never = Retry(NoBackoff(), 0)
        options: dict[str, Any] = {
            "socket_timeout": timeout_s,
            "retry": never,
            "retry_on_error": [],
            "health_check_interval": 0,
            "protocol": 2,
        }
        if password:
            options["password"] = password
        if not url.startswith("unix:"):
            options |= {"socket_connect_timeout": 5.0, "socket_keepalive": True}
        self.url = url
        self.timeout_s = timeout_s
        try:
            pool = redis.ConnectionPool.from_url(url, **options)
            self._connection: Any = pool.make_connection()
        except (ValueError, TypeError) as error:
            raise StoreMismatch(f"not a server's URL: {error}") from None
        self._is_open = False
        #: Changes with each server process; empty while there is no connection.
        self.run_id = ""

    def open(self) -> None:
        """Connect when not connected; learn the server's run id."""
        if self._is_open:
            return
        with _Translated(self):
            self._connection.connect()
            self._connection.send_command("INFO", "server")
            info = self._connection.read_response(disable_decoding=True).decode()
            self._is_open = True
        found = re.search(r"run_id:(\w+)", info)
        self.run_id = found.group(1) if found else ""

    def close(self) -> None:
        """Drop the connection; the next use opens a new one."""
        self._is_open = False
        self.run_id = ""
        self._connection.disconnect()

    def command(self, *words: Argument, timeout_s: float | None = None) -> Any:
        """Run one command and return its reply (bytes, ints, lists)."""
        self.open()
        with _Translated(self):
            self._connection.send_command(*words)
            return self._read(timeout_s)

    def pipeline(self, commands: Iterable[Sequence[Argument]]) -> list[Any]:
        """Send commands in one write and return their replies; an error reply is raised."""
        commands = list(commands)
        self.open()
        with _Translated(self):
            self._connection.send_packed_command(self._connection.pack_commands(commands))
            replies = [self._read_or_error() for _ in commands]
        for reply in replies:
            if isinstance(reply, Exception):
                raise _translate(reply, self.url)
        return replies

    def call(self, name: str, key: str, *arguments: Argument) -> Any:
        """Run the script `name`, sending its body when the server does not know it."""
        return self.calls([(name, key, *arguments)])[0]

    def calls(self, requests: Sequence[Sequence[Argument]]) -> list[Any]:
        """Run scripts (name, key, argument...) in one round trip, in this order.

        A server that lost its script cache refuses each of them before it does anything;
        these are sent again with their bodies.
        """
        self.open()
        with _Translated(self):
            packed = [("EVALSHA", script(str(r[0])).sha, 1, *r[1:]) for r in requests]
            self._connection.send_packed_command(self._connection.pack_commands(packed))
            replies = [self._read_or_error() for _ in requests]
            for i, reply in enumerate(replies):
                if isinstance(reply, redis.exceptions.NoScriptError):
                    request = requests[i]
                    body = script(str(request[0])).body
                    self._connection.send_command("EVAL", body, 1, *request[1:])
                    replies[i] = self._read(None)
        for reply in replies:
            if isinstance(reply, Exception):
                raise _translate(reply, self.url)
        return replies

    def _read(self, timeout_s: float | None) -> Any:
        if timeout_s is None:
            return self._connection.read_response(disable_decoding=True)
        return self._connection.read_response(disable_decoding=True, timeout=timeout_s)

    def _read_or_error(self) -> Any:
        try:
            return self._connection.read_response(disable_decoding=True)
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
            raise
        except redis.exceptions.ResponseError as error:
            return error


class _Translated:
    """Turn redis-py's errors into ours; after a broken exchange the connection is closed."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, redis.exceptions.NoScriptError):
            return
        if not isinstance(error, redis.exceptions.ResponseError):
            # Also on KeyboardInterrupt: a reply may be on its way to whoever asks next.
            self._link.close()
        if isinstance(error, (redis.exceptions.RedisError, OSError)):
            raise _translate(error, self._link.url) from error


def redacted(url: str) -> str:
    """Return the URL without its password."""
    return re.sub(r"(://[^:/@]*:)[^@]*@", r"\1***@", url)


def _translate(error: Exception, url: str) -> StoreError:
    text = " ".join(str(error).split())
    where = redacted(url)
    if isinstance(error, redis.exceptions.AuthenticationError) or text.startswith(_NOT_ALLOWED):
        return StoreMismatch(
            f"the server at {where} refused us: {text}",
            hint="check the user and password in the URL, and the rights of that user",
        )
    if isinstance(
        error, (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError)
    ):
        if isinstance(error, redis.exceptions.BusyLoadingError):
            return StoreBusy(f"the server at {where} is still reading its files")
        return StoreUnavailable(
            f"no answer from the server at {where}: {text}",
            hint="see `qnode server status`; QSUB_URL names another server",
        )
    if isinstance(error, redis.exceptions.OutOfMemoryError) or text.startswith(_TRY_LATER):
        return StoreBusy(f"the server at {where} cannot take this now: {text}")
    return StoreError(f"the server at {where} said: {text}")
