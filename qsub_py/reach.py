"""Where the server is: of the configuration, of another host, or the embedded one of this host.

The embedded server is started on demand; so is the supervisor of tunnels to other hosts, when
there are such hosts and it is gone.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

from qsub_py import server
from qsub_py.config import Config, claim_serving
from qsub_py.errors import NodeError
from qsub_py.server_lock import is_locked

#: How long a command waits for the tunnel to a server on another host.
_AWAIT_S = 10.0


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
            if found.way == "ssh":
                _keep_tunnels(config, awaited=found.server, wait_s=min(_AWAIT_S, wait_s))
            return found.link_url(), found.password
    embedded = serve(config, wait_s=wait_s)
    _keep_tunnels(config)
    return embedded.url, embedded.password


def open_port(config: Config, *, wait_s: float = 60.0) -> server.Endpoint:
    """Return this host's embedded server with a port of 127.0.0.1, for hosts that come by SSH.

    One that runs without is restarted; the port stays its own. Raises as `endpoint` does.
    """
    port = config.server.port if config.server.port != "0" else "auto"
    config = replace(config, server=replace(config.server, port=port))
    found = serve(config, wait_s=wait_s)
    if not found.port:
        server.stop(config.server_path())
        found = serve(config, wait_s=wait_s)
    return found


def _keep_tunnels(config: Config, *, awaited: str = "", wait_s: float = 0.0) -> None:
    """Start what keeps the tunnels again, if there is something to keep and it is gone.

    Waits for the one tunnel that this host itself needs.
    """
    directory = config.tunnel_path()
    if not directory.exists():
        return
    # Other hosts' nodes wait for theirs; this command need not.
    with contextlib.suppress(NodeError):
        if (directory / "hosts.json").exists() and not is_locked(directory / "tunnel.lock"):
            from qsub_py import tunnel

            if awaited:
                tunnel.ensure(config, wait_s=wait_s)
                tunnel.await_up(config, [awaited], timeout_s=wait_s)
            else:
                tunnel.start(config)
        if (directory / "node.json").exists() and not is_locked(directory / "node.lock"):
            from qsub_py import tunnel_node

            tunnel_node.start(config)


def serve(config: Config, *, wait_s: float = 60.0) -> server.Endpoint:
    """Return this host's embedded server, started if need be; raises as `endpoint` does."""
    directory = config.server_path()
    claim_serving(config.cluster, directory)
    return server.ensure(
        directory,
        binary=config.server.binary,
        maxmemory_bytes=config.server.maxmemory_bytes,
        appendfsync=config.server.appendfsync,
        port=config.server.port,
        wait_s=wait_s,
    )
