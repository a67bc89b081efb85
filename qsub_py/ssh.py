"""SSH: from a host's name to a connection that runs commands and carries bytes.

The family's face; only the family imports paramiko, and only `connect` makes it do so, so
whoever needs a Route alone pays nothing. Errors of paramiko are translated in here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qsub_py.ssh_known import trust
from qsub_py.ssh_resolve import resolve
from qsub_py.ssh_route import Route
from qsub_py.ssh_secrets import Asker, Secrets

if TYPE_CHECKING:
    from qsub_py.ssh_connection import Connection, Finished
    from qsub_py.ssh_stream import Stream

__all__ = [
    "Asker",
    "Connection",
    "Finished",
    "Route",
    "Secrets",
    "Stream",
    "connect",
    "resolve",
    "trust",
]


def connect(
    route: Route, *, secrets: Secrets, asker: Asker | None = None, accept_new: bool = False
) -> Connection:
    """Open a connection: over the jumps, host keys checked, authenticated.

    Raises HostUnreachable, HostKeyUnknown, HostKeyChanged or AuthenticationFailed.
    """
    from qsub_py.ssh_connect import connect

    return connect(route, secrets=secrets, asker=asker, accept_new=accept_new)


def __getattr__(name: str) -> Any:
    """Bring in what comes with paramiko when it is asked for."""
    if name == "Stream":
        from qsub_py.ssh_stream import Stream

        return Stream
    if name in ("Connection", "Finished"):
        from qsub_py import ssh_connection

        return getattr(ssh_connection, name)
    raise AttributeError(name)
