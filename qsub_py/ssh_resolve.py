"""From an alias to a Route, as OpenSSH reads the user's configuration."""

from __future__ import annotations

from qsub_py.ssh_route import Route


def resolve(alias: str, *, user: str = "", port: int = 0, address: str = "") -> Route:
    """Return how to reach a host; what is given by hand wins over the configuration."""
    raise NotImplementedError
