"""The server on another host (`qnode start --server-on HOST`): put there once, known from then on.

Its host needs nothing installed: where it has no server program it is lent ours. Other hosts
reach it by their own ssh with a key of the cluster's that opens one port there and nothing else;
this host by a tunnel. The record lies beside the fleet's, 0600, for it holds that key.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qsub_py import config as configuration
from qsub_py import fleet, server, server_start, ssh_keygen, tunnel, upstream
from qsub_py.config import Config
from qsub_py.errors import ConfigError, NodeError
from qsub_py.hosts import Host
from qsub_py.remote import Remote
from qsub_py.ssh import Route, Secrets
from qsub_py.store import Store

_UP_S = 30.0


@dataclass(frozen=True, slots=True)
class FarServer:
    """Where the server is, and what other hosts need to reach it."""

    #: The host as `qnode start` was told it.
    place: Host
    #: How other hosts reach it by SSH.
    host: str
    user: str
    ssh_port: int
    server_port: int
    #: "TYPE BASE64", as this host has verified it.
    host_key: str
    private_key: str = field(repr=False)

    @property
    def name(self) -> str:
        """How the user calls its host."""
        return self.place.name

    def request(self) -> dict[str, Any]:
        """Return what a host is told to join it, but for the secrets."""
        return {
            "host": self.host, "user": self.user, "ssh_port": self.ssh_port,
            "server_port": self.server_port, "host_keys": [self.host_key], "server": self.name,
        }  # fmt: skip


def load(config: Config) -> FarServer | None:
    """Return the record, None when the server is on this host (or anywhere by its URL)."""
    path = _path(config)
    try:
        raw = json.loads(path.read_bytes())
        return FarServer(**{**raw, "place": Host.from_json(raw["place"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError):
        raise ConfigError(f"{path} is damaged", hint="run `qnode start --server-on HOST`") from None


def check(config: Config, host: Host) -> None:
    """Raise NodeError where the server cannot move to `host` without losing sight of jobs."""
    if config.url:
        raise NodeError("the server is the one of the configuration (url)",
                        hint="remove url from config.toml to use --server-on")  # fmt: skip
    known = load(config)
    if known:
        if known.name != host.name:
            raise NodeError(f"the server is on {known.name} already",
                            hint="QSUB_CLUSTER=NAME begins another cluster")  # fmt: skip
        return
    if record := upstream.read(config):
        raise NodeError(f"this host belongs to the cluster of {record.server}",
                        hint="move its server from there")  # fmt: skip
    if any(not member.is_stopped for member in fleet.members(config).values()):
        raise NodeError("nodes elsewhere work for the server of this host",
                        hint="stop them first: qnode stop --all")  # fmt: skip
    if running := server.running(config.server_path()):
        link = Store.connect(running.url, password=running.password, cluster=config.cluster)
        with contextlib.closing(link) as store:
            active = len(store.jobs(active=True))
        if active:
            have = "1 job that has" if active == 1 else f"{active} jobs that have"
            raise NodeError(
                f"the server of this host has {have} not ended",
                hint="let them end, or begin another cluster: QSUB_CLUSTER=NAME",
            )


def serve(config: Config, remote: Remote, route: Route, secrets: Secrets) -> FarServer:
    """Make the host that `remote` is on the cluster's server, and this host one of its users.

    Raises NodeError, ConfigError. Twice is the same as once.
    """
    request = {"cluster": config.cluster}
    if not remote.ask({"op": "program", **request})["has"]:
        remote.ask({"op": "lend", **request}, _program_for(remote.facts))
    known = load(config)
    private, public = _key_pair(config, known)
    told = {"keys": configuration.key_text(config.cluster), "public": public}
    answer = remote.ask({"op": "serve", **request}, json.dumps(told).encode())
    name = remote.host.name
    message = {"cluster": config.cluster, "state_dir": answer["state_dir"]}
    tunnel.add_pull(config, name, route, secrets, answer["argv"], message)
    found = tunnel.await_up(config, [name], timeout_s=_UP_S)
    status = found.get(name)
    if status is None or status.state != "up":
        why = status.error if status else "the tunnel did not come up"
        if known is None:
            tunnel.remove(config, name)
            upstream.remove(config)
        raise NodeError(f"{name}: {why}")
    made = FarServer(
        remote.host, route.hostname, route.user, route.port, answer["port"],
        remote.connection.host_key, private,
    )  # fmt: skip
    _save(config, made)
    return made


def close(config: Config, far: FarServer) -> None:
    """End this host's tunnel to the server, which would start it again."""
    tunnel.remove(config, far.name, keeps_record=True)


def is_near(config: Config, far: FarServer) -> bool:
    """Whether this host's tunnel to the server is up."""
    status = tunnel.status(config).get(far.name)
    return status is not None and status.state == "up"


def _key_pair(config: Config, known: FarServer | None) -> tuple[str, str]:
    """Return the private key and the public line, the ones of before when there are any."""
    comment = f"qsub_py-{config.cluster}"
    if known is None:
        return ssh_keygen.make_key(comment)
    return known.private_key, ssh_keygen.public_line(known.private_key, comment)


def _program_for(facts: Mapping[str, Any]) -> bytes:
    """Return our server program, if that host can run it; NodeError, ConfigError."""
    theirs, ours = facts["machine"], platform.machine()
    if theirs != ours:
        what = f"it has no server program, and ours is for {ours}, not {theirs}"
        raise NodeError(f"{facts['host']}: {what}",
                        hint="install valkey-server or redis-server there")  # fmt: skip
    return Path(server_start.find_program()).read_bytes()


def _path(config: Config) -> Path:
    return config.state_path() / "fleet" / f"{config.cluster}.server.json"


def _save(config: Config, made: FarServer) -> None:
    path = _path(config)
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(asdict(made)) + "\n", "utf-8")
        draft.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
