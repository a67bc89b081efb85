"""Opening a connection: each host on the way, its key checked, the user authenticated."""

from __future__ import annotations

from qsub_py.ssh_connection import Connection
from qsub_py.ssh_route import Route
from qsub_py.ssh_secrets import Asker, Secrets


def connect(
    route: Route, *, secrets: Secrets, asker: Asker | None = None, accept_new: bool = False
) -> Connection:
    """Open a connection, over the jumps of the route."""
    raise NotImplementedError
