"""Where the server is: the one of the configuration, or the embedded one, started on demand."""

from __future__ import annotations

from qsub_py import server
from qsub_py.config import Config, claim_serving


def endpoint(config: Config) -> tuple[str, str]:
    """Return (URL, password) of the cluster's server, which runs when this returns.

    Raises ConfigError, StoreUnavailable (it cannot be started), StoreBusy (it reads its files).
    """
    if config.url:
        return config.url, ""
    directory = config.server_path()
    claim_serving(config.cluster, directory)
    found = server.ensure(
        directory,
        binary=config.server.binary,
        maxmemory_bytes=config.server.maxmemory_bytes,
        appendfsync=config.server.appendfsync,
    )
    return found.url, found.password
