"""Where the server is: the one of the configuration, or the embedded one, started on demand."""

from __future__ import annotations

from qsub_py import server
from qsub_py.config import Config, claim_serving


def endpoint(config: Config, *, wait_s: float = 60.0) -> tuple[str, str]:
    """Return (URL, password) of the cluster's server, which runs when this returns.

    Waits up to `wait_s` for a server that starts or reads its files. Raises ConfigError,
    StoreUnavailable (it cannot be started), StoreBusy (it still reads its files).
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
        wait_s=wait_s,
    )
    return found.url, found.password
