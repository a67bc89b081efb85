"""Where the server is: of the configuration, of another host, or the embedded one of this host.

The embedded server is started on demand; so is the supervisor of tunnels to other hosts, when
there are such hosts and it is gone.
"""

from __future__ import annotations

from qsub_py import server
from qsub_py.config import Config, claim_serving


def endpoint(config: Config, *, wait_s: float = 60.0) -> tuple[str, str]:
    """Return (URL, password) of the cluster's server, for a `Link`.

    The embedded one runs when this returns: waits up to `wait_s` for a server that starts or
    reads its files. Raises ConfigError, StoreUnavailable (it cannot be started), StoreBusy (it
    still reads its files).
    """
    if config.url and not config.ca:
        return config.url, ""
    if config.url or config.upstream_path().exists():
        # Only hosts of a cluster that is served elsewhere pay for this import.
        from qsub_py import upstream

        if config.url:
            return upstream.with_ca(config.url, config.ca), ""
        if found := upstream.read(config):
            return found.link_url(), found.password
    embedded = serve(config, wait_s=wait_s)
    return embedded.url, embedded.password


def serve(config: Config, *, wait_s: float = 60.0) -> server.Endpoint:
    """Return this host's embedded server, started if need be; raises as `endpoint` does."""
    directory = config.server_path()
    claim_serving(config.cluster, directory)
    return server.ensure(
        directory,
        binary=config.server.binary,
        maxmemory_bytes=config.server.maxmemory_bytes,
        appendfsync=config.server.appendfsync,
        wait_s=wait_s,
    )
