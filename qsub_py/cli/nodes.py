"""What qnode does with nodes and the server beyond one call of the store."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from qsub_py import render
from qsub_py.cli import common
from qsub_py.cli.shapes import seconds
from qsub_py.config import Config, redact
from qsub_py.errors import ConfigError, NodeError
from qsub_py.model import NodeInfo
from qsub_py.units import format_size

if TYPE_CHECKING:
    from qsub_py.client import Client

_GONE_S = 30.0


def chosen(client: Client, names: Sequence[str], *, everything: bool = False) -> list[NodeInfo]:
    """Return the live nodes called `names`; without names those of this host. NodeError."""
    nodes = client.ask(lambda store: store.nodes())
    if everything:
        return nodes
    if not names:
        here = _local_uids(client.config)
        found = [node for node in nodes if node.uid in here]
        if not found:
            raise NodeError("no node runs on this host", hint="`qnode list` shows those elsewhere")
        return found
    by_name = {node.name: node for node in nodes}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise NodeError(f"no node is called {', '.join(missing)}", hint="see `qnode list`")
    return [by_name[name] for name in dict.fromkeys(names)]


def _local_uids(config: Config) -> set[str]:
    from qsub_py.node.local import local_nodes

    return {settings.uid for settings, _, _ in local_nodes(config)}


def stop_nodes(client: Client, nodes: Sequence[NodeInfo], *, now: bool) -> int:
    """Tell nodes to stop and wait until they have; returns the exit code."""
    order = json.dumps({"op": "stop", "now": now})
    for node in nodes:
        _tell(client, node.uid, order)
    running = sum(node.running for node in nodes)
    if running and not now:
        common.hint(f"qnode: waits for the end of what they run ({running} tasks); "
                    "`--now` takes it away, to run again elsewhere")  # fmt: skip
    try:
        return max((_await_stopped(client, node, now=now) for node in nodes), default=0)
    except KeyboardInterrupt:
        common.complain("qnode: the nodes stop when what they run has ended; see `qnode list`")
        return common.EXIT_INTERRUPTED


def _await_stopped(client: Client, node: NodeInfo, *, now: bool) -> int:
    wait_s = _GONE_S if now or not node.running else None
    if not _await_gone(client, node, wait_s):
        common.complain(f"qnode: node {node.name} has not confirmed yet; see `qnode logs`")
        return 75
    print(f"node {node.name} has stopped", flush=True)
    return 0


def _tell(client: Client, uid: str, order: str) -> None:
    client.ask(lambda store: store.drain(uid, reason="stopping"))
    client.ask(lambda store: store.order_node(uid, order))


def _await_gone(client: Client, node: NodeInfo, wait_s: float | None) -> bool:
    deadline = None if wait_s is None else time.monotonic() + wait_s
    pause = 0.05
    while deadline is None or time.monotonic() < deadline:
        if all(other.uid != node.uid for other in client.ask(lambda store: store.nodes())):
            return True
        time.sleep(pause)
        pause = min(1.0, pause * 1.1)
    return False


def switch(client: Client, node: NodeInfo, *, drains: bool, reason: str = "") -> None:
    """Let a node start nothing new, or let it work again."""
    if drains:
        client.ask(lambda store: store.drain(node.uid, reason=reason))
    else:
        client.ask(lambda store: store.resume(node.uid))


def start_server(config: Config) -> str:
    """Start the embedded server, or ours on another host, and return a sentence."""
    from qsub_py import far_server

    if far := far_server.load(config):
        from qsub_py.cli.fleet import start_far_server

        return start_far_server(config, far)
    _check_embedded(config)
    from qsub_py.reach import endpoint

    url, _ = endpoint(config)
    return f"the server runs at {redact(url)}"


def stop_server(config: Config) -> str:
    """Stop the embedded server, or ours on another host, and return a sentence."""
    from qsub_py import far_server, server

    if far := far_server.load(config):
        from qsub_py.cli.fleet import stop_far_server

        return stop_far_server(config, far)
    _check_embedded(config)

    was_running = server.stop(config.server_path())
    return "the server has stopped" if was_running else "the server did not run"


def show_status(config: Config, *, as_json: bool) -> int:
    """Print how the server is; returns the exit code."""
    if config.url or config.upstream_path().exists():
        return _show_configured(as_json=as_json)
    from qsub_py import server

    status = server.status(config.server_path())
    if as_json:
        render.show_json(asdict(status))
    else:
        pairs = [("server", status.state), ("directory", str(config.server_path()))]
        if status.state == "running":
            used, most = format_size(status.memory_bytes), format_size(status.maxmemory_bytes)
            pairs += [
                ("socket", status.socket), ("program", f"{status.program} {status.version}"),
                ("pid", str(status.pid)), ("up", seconds(status.uptime_s)),
                ("memory", f"{used} of {most}"),
                ("clients", str(status.clients)),
            ]  # fmt: skip
        render.show_fields(pairs)
        sys.stdout.flush()
    return 0 if status.state == "running" else 69


def _show_configured(*, as_json: bool) -> int:
    client = common.connect()
    health = client.store.health()
    if as_json:
        render.show_json({"state": "running", "url": client.store.url, **asdict(health)})
    else:
        limit = format_size(health.memory_limit_bytes) if health.memory_limit_bytes else "no limit"
        render.show_fields([
            ("server", "running"), ("url", client.store.url),
            ("memory", f"{format_size(health.memory_bytes)} of {limit}"),
        ])  # fmt: skip
    return 0


def _check_embedded(config: Config) -> None:
    if config.url:
        raise ConfigError(
            f"the server is the one at {redact(config.url)}, which is not ours to start or stop",
            hint="unset QSUB_URL (or url in the configuration) for the embedded one",
        )
    if config.upstream_path().exists():
        raise ConfigError(
            f"cluster {config.cluster} is served by another host, which is not ours to stop",
            hint="do it where the cluster was started",
        )
