"""What nodes need to reach a server's host by themselves: a key of the cluster, and that host's.

The key pair lies beside the cluster's key on the head. It opens one port of the server's host
(`ssh_keygen.restricted`) and nothing else.
"""

from __future__ import annotations

import base64

from qsub_py.config import Config
from qsub_py.config_keys import key_path
from qsub_py.config_paths import create_once, private_dir
from qsub_py.errors import ConfigError, NodeError
from qsub_py.ssh import Route
from qsub_py.ssh_keygen import make_key, restricted
from qsub_py.ssh_known import entries


def comment_of(cluster: str) -> str:
    """Return the comment by which the key's line is found again on the server's host."""
    return f"qsub_py-{cluster}"


def node_key(config: Config) -> tuple[str, str]:
    """Return (private key, public line) of the cluster's nodes, made once. ConfigError."""
    path = key_path(config.cluster).with_suffix(".ssh")
    private_dir(path.parent, cure="set XDG_CONFIG_HOME to a directory you can write to")
    try:
        if not path.exists():
            private, public = make_key(comment_of(config.cluster))
            create_once(path, f"{public}\n{private}".encode())
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"other users can read {path}", hint=f"chmod 600 {path}")
        public, _, private = path.read_text("ascii").partition("\n")
    except OSError as error:
        raise ConfigError(f"cannot use {path}: {error.strerror}") from None
    return private, public


def authorized_line(config: Config, port: int) -> str:
    """Return the line that lets nodes in on the server's host, to this port of 127.0.0.1."""
    return restricted(node_key(config)[1], port)


def host_keys(route: Route) -> list[str]:
    """Return "TYPE BASE64" of each key that known_hosts has for a host; NodeError for none."""
    found = [
        f"{one.key_type} {base64.b64encode(one.blob).decode()}"
        for one in entries(route.known_hosts)
        if not one.marker and one.is_for(route.known_as)
    ]
    if not found:
        raise NodeError(
            f"{route.alias}: no known_hosts file has its key by itself",
            hint=f"log in there once with `ssh {route.alias}`",
        )
    return list(dict.fromkeys(found))
