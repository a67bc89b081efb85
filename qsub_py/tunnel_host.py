"""One host's tunnel: a thread that keeps an SSH connection to it, and the port on its side.

Never gives up. Each connection gets a new loopback port on the host, and tells it there; so a
host finds the server again however often the way to it broke.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from qsub_py import ssh
from qsub_py.config import host_name
from qsub_py.errors import (
    AuthenticationFailed,
    ForwardRefused,
    HostKeyChanged,
    HostKeyUnknown,
    QsubError,
    SshError,
)
from qsub_py.text import safe
from qsub_py.tunnel_dial import Dialer, Meter
from qsub_py.tunnel_place import Entry
from qsub_py.tunnel_pull import Pull

_LEAST_S, _MOST_S = 0.2, 10.0
#: What only a person can mend is not tried again sooner.
_SLOW_S = 60.0
#: A connection that held so long was sound: the next attempt comes at once.
_SOUND_S = 20.0
_TELL_S = 60.0
#: So many hosts are connected to at the same time; a key exchange costs tens of milliseconds.
_GATE = threading.BoundedSemaphore(32)

Report = Callable[["HostTunnel", dict[str, Any]], None]


class HostTunnel(threading.Thread):
    """The thread of one host; `stop` ends it."""

    def __init__(
        self, name: str, entry: Entry, secrets: ssh.Secrets, dialer: Dialer, report: Report
    ) -> None:
        super().__init__(name=f"tunnel-{name}", daemon=True)
        self.host, self._entry, self._secrets = name, entry, secrets
        self._dialer, self._report = dialer, report
        self._has_news = threading.Event()
        self._is_over = self._was_up = False
        self._since = 0.0
        self._pull: Pull | None = None
        self._connection: ssh.Connection | None = None
        self._lost = 0
        self.meter = Meter()
        #: The supervisor's number for this telling of the host.
        self.serial = 0

    def stop(self) -> None:
        """End the tunnel, from another thread."""
        self._is_over = True
        self._has_news.set()
        # Here and now: a tunnel that takes our place listens on the same path.
        if self._pull is not None:
            self._pull.close()
        connection = self._connection
        if connection is not None:
            connection.close()

    def retry(self) -> None:
        """Try again now, if it is waiting to."""
        self._has_news.set()

    def run(self) -> None:
        """Connect, serve, and again."""
        pause_s = 0.0
        while not self._is_over:
            began_at = time.monotonic()
            try:
                self._serve()
                error: Exception | None = None
            except (QsubError, OSError) as caught:
                error = caught
            except Exception as caught:  # a bug of ours or of a library ends no tunnel
                error = SshError(f"internal error: {type(caught).__name__}: {caught}")
            if self._is_over:
                return
            self._tell_trouble(error)
            was_sound = time.monotonic() > began_at + _SOUND_S
            pause_s = _pause_s(error, 0.0 if was_sound else pause_s)
            if self._has_news.wait(pause_s * random.uniform(0.5, 1.0)):
                pause_s = 0.0
            self._has_news.clear()

    def _serve(self) -> None:
        """Hold one connection until it is lost; raises QsubError, OSError."""
        if self._entry.kind == "pull" and self._pull is None:
            self._pull = Pull(self._dialer.config, self.host)
        with _GATE:
            connection = ssh.connect(ssh.Route.from_json(self._entry.route), secrets=self._secrets)
        self._connection = connection
        try:
            if self._is_over:
                return
            port = self._pull_open(connection) if self._pull else self._open(connection)
            self._say("up", port=port)
            while not self._is_over and not connection.wait_dead(5.0):
                pass
        finally:
            self._connection = None
            if self._pull:
                self._pull.let_go()
            connection.close()
        self._lost += 1

    def _open(self, connection: ssh.Connection) -> int:
        """Open the port on the host and say there where it is; return it."""
        port = connection.forward_back(lambda: self._dialer.dial(self.meter))
        message = {"way": "tunnel", "server": host_name(), **self._entry.message}
        self._tell(connection, message | {"port": port, "password": self._dialer.password()})
        return port

    def _pull_open(self, connection: ssh.Connection) -> int:
        """Have the server started there, and lead our socket to it; return its port."""
        assert self._pull
        answer = self._tell(connection, self._entry.message)
        try:
            # When the server there is gone, a new connection starts it again.
            return self._pull.lead_to(connection, answer, connection.close)
        except (ValueError, KeyError, TypeError) as error:
            raise SshError(f"{self.host}: its answer makes no sense: {error}") from None

    def _tell(self, connection: ssh.Connection, message: Mapping[str, Any]) -> str:
        """Run the entry's command there with a message; return what it answers."""
        text = json.dumps(dict(message)) + "\n"
        done = connection.run(self._entry.command, text.encode(), timeout_s=_TELL_S)
        if done.code:
            said = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
            raise SshError(
                f"{self.host}: it did not join: "
                + safe(said[-1] if said else f"exit code {done.code}"),
                hint=f"run `qnode start {self.host}` again",
            )
        lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else ""

    def _tell_trouble(self, error: Exception | None) -> None:
        if isinstance(error, ForwardRefused):
            self._say("refused", error=_words(error))
        else:
            self._say("down", error=_words(error) if error else "the connection was lost")

    def _say(self, state: str, *, port: int = 0, error: str = "") -> None:
        if (state == "up") != self._was_up or not self._since:
            self._was_up, self._since = state == "up", time.time()
        facts = {"state": state, "port": port, "error": error, "lost": self._lost}
        self._report(self, facts | {"since": self._since})


def _pause_s(error: Exception | None, last_s: float) -> float:
    """Return how long to wait after an end; `last_s` is how long it was before."""
    if isinstance(error, (AuthenticationFailed, HostKeyChanged, HostKeyUnknown, ForwardRefused)):
        return _SLOW_S
    return min(_MOST_S, max(_LEAST_S, 2 * last_s))


def _words(error: Exception) -> str:
    """Return an error as one line with its cure."""
    hint = getattr(error, "hint", "")
    if isinstance(error, AuthenticationFailed):
        hint = "run `qnode ensure`, which asks for a passphrase where one is needed"
    return f"{error}; {hint}" if hint else str(error)
