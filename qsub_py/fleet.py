"""The hosts that this head has started nodes on: how to reach them again, and what they run.

A file of the state directory, STATE/fleet/CLUSTER.json; no secrets are in it. The store knows
the nodes; this knows the way to their hosts when a node is dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from qsub_py.config import Config
from qsub_py.errors import ConfigError, SpecError
from qsub_py.hosts import Host, HostOptions
from qsub_py.ssh import Route


@dataclass(frozen=True, slots=True)
class Member:
    """A host with a node that was started from here."""

    host: Host
    route: Route
    #: "tunnel" or "direct": how it reaches the server.
    way: str
    #: Hash of the bundle that it runs.
    bundle: str = ""
    #: What `qnode start` was told beside the host's own options.
    options: Mapping[str, Any] | None = None
    #: Stopped by the user: `ensure` leaves it alone.
    is_stopped: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "host": self.host.to_json(), "route": json.loads(self.route.to_json()),
            "way": self.way, "bundle": self.bundle, "options": dict(self.options or {}),
            "is_stopped": self.is_stopped,
        }  # fmt: skip

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Member:
        """Read `to_json` back."""
        route = Route.from_json(json.dumps(raw["route"]))
        return cls(Host.from_json(raw["host"]), route, raw["way"], raw.get("bundle", ""),
                   raw.get("options", {}), raw.get("is_stopped", False))  # fmt: skip


def members(config: Config) -> dict[str, Member]:
    """Return the hosts by node name; raises ConfigError when the file is damaged."""
    path = _path(config)
    try:
        raw = json.loads(path.read_bytes())
        return {name: Member.from_json(entry) for name, entry in raw.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise ConfigError(
            f"{path} is damaged", hint="delete it and start the nodes again"
        ) from None


def settled(config: Config, host: Host) -> Host:
    """Return a host with what is not said anew as it was said of its node, if that runs.

    Raises SpecError for another account, address or directory: a second start there would take
    the way to the server from the node that runs.
    """
    known = members(config).get(host.name)
    if known is None or known.is_stopped:
        return host
    asked, before, route = host.options, known.host.options, known.route
    were = {"user": before.user or route.user, "port": before.port or route.port,
            "address": before.address or route.hostname, "dir": before.dir}  # fmt: skip
    for key, was in were.items():
        if getattr(asked, key) not in (was, getattr(HostOptions(), key)):
            raise SpecError(
                f"node {host.name} was started with {key} {was or '(the home directory)'}",
                hint=f"to start it otherwise, stop it first: qnode stop {host.name}",
            )
    said = {item.name: value for item in fields(asked)
            if (value := getattr(asked, item.name)) != item.default}  # fmt: skip
    return replace(host, options=replace(before, **said))


def kept_options(config: Config, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `qnode start` was told of a node, over what it was told before if that runs."""
    known = members(config).get(name)
    before = known.options if known and not known.is_stopped else None
    return {**(before or {}), **{key: one for key, one in options.items() if one is not None}}


def put(config: Config, member: Member) -> None:
    """Record a host, in place of what was known of it."""
    with _locked(config):
        _save(config, members(config) | {member.host.name: member})


def drop(config: Config, name: str) -> None:
    """Forget a host."""
    with _locked(config):
        _save(config, {key: one for key, one in members(config).items() if key != name})


def _path(config: Config) -> Path:
    return config.state_path() / "fleet" / f"{config.cluster}.json"


@contextlib.contextmanager
def _locked(config: Config) -> Iterator[None]:
    path = _path(config)
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with open(path.with_suffix(".lock"), "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def _save(config: Config, all_members: Mapping[str, Member]) -> None:
    path = _path(config)
    draft = path.with_suffix(f".{os.getpid()}")
    text = json.dumps({name: member.to_json() for name, member in all_members.items()}, indent=1)
    draft.touch(mode=0o600)
    draft.write_text(text + "\n", "utf-8")
    draft.replace(path)
