"""Where the server is: of the configuration, of another host, or the embedded one of this host.

The embedded server is started on demand; so is the supervisor of tunnels to other hosts, when
there are such hosts and it is gone.
"""

from __future__ import annotations

import contextlib

from qsub_py import server
from qsub_py.config import Config, claim_serving
from qsub_py.errors import NodeError
from qsub_py.server_lock import is_locked


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
    _keep_tunnels(config)
    return embedded.url, embedded.password


def _keep_tunnels(config: Config) -> None:
    """Start the supervisor of the tunnels again, if there are hosts for it and it is gone."""
    directory = config.tunnel_path()
    if not (directory / "hosts.json").exists() or is_locked(directory / "tunnel.lock"):
        return
    from qsub_py import tunnel

    with contextlib.suppress(NodeError):  # the hosts' nodes wait; this command need not
        tunnel.start(config)


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
