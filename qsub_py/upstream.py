"""Where the server of another host is: the record that makes this host one of its cluster.

Written here by the head (over SSH), read by whatever asks for the server on this host: the
agent at each join, `qstat`, a job that submits jobs. `python -m qsub_py.upstream` rewrites it
from JSON on standard input, for a tunnel that came back with another port. The password lies
in a file beside it and never in the URL.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from qsub_py.config import Config, load
from qsub_py.config_paths import private_dir
from qsub_py.errors import ConfigError, QsubError
from qsub_py.text import check_name, quoted, redact

WAYS = ("tunnel", "direct", "ssh")
_CURE = "run `qnode ensure` where the cluster was started, or delete it to leave the cluster"
_MOST_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Upstream:
    """The server of a cluster that lives elsewhere; the password is not shown by repr."""

    url: str
    #: "tunnel": the head keeps a port of this host open; "ssh": this host keeps a connection
    #: to `server`; "direct".
    way: str = "tunnel"
    #: The host that keeps the way (or the server).
    server: str = ""
    #: Path of the authority's certificate, for rediss://.
    ca: str = ""
    password: str = field(default="", repr=False)

    def link_url(self) -> str:
        """Return the URL for a `Link`, with what it must check and the words for its errors."""
        if self.way == "direct":
            return with_ca(self.url, self.ca)
        if self.way == "ssh":
            return self.url + "#" + quote(f"SSH to {self.server};run `qnode ensure`")
        words = f"the tunnel from {self.server};run `qnode ensure` on {self.server}"
        return f"{self.url}?owner=me#{quote(words)}"


def with_ca(url: str, ca: str) -> str:
    """Return a rediss:// URL that trusts only the authority in the file `ca`, if one is given."""
    if not ca:
        return url
    if not url.startswith("rediss:"):
        raise ConfigError(f"ca is set, but {redact(url)} has no TLS", hint="write rediss://")
    path = os.path.abspath(os.path.expanduser(ca))
    if not os.access(path, os.R_OK):
        raise ConfigError(f"cannot read ca {path}", hint="give the path of a PEM file")
    return f"{url}{'&' if '?' in url else '?'}ssl_ca_certs={quote(path, safe='')}"


def split_password(url: str) -> tuple[str, str]:
    """Return an URL without its password, and the password."""
    parts = urlsplit(url)
    user, _, word = parts.netloc.rpartition("@")[0].partition(":")
    at_host = parts.netloc.rpartition("@")[2]
    words = [item for item in parts.query.split("&") if item]
    secret = [item for item in words if item.startswith("password=")]
    query = "&".join(item for item in words if item not in secret)
    netloc = f"{user}@{at_host}" if user else at_host
    bare = urlunsplit((parts.scheme, netloc, parts.path, query, ""))
    if parts.scheme == "unix" and not netloc and not bare.startswith("unix://"):
        bare = bare.replace("unix:", "unix://", 1)
    return bare, unquote(word or (secret[0].partition("=")[2] if secret else ""))


# -- the record ----------------------------------------------------------------------------


def read(config: Config) -> Upstream | None:
    """Return the record of this host for `config.cluster`, None without one; ConfigError."""
    path = config.upstream_path()
    try:
        text = _private_text(path)
    except FileNotFoundError:
        return None
    try:
        raw = json.loads(text)
        found = Upstream(*(str(raw.get(key, "")) for key in ("url", "way", "server", "ca")))
    except (ValueError, AttributeError):
        raise _damaged(path) from None
    if found.way not in WAYS or not found.url.startswith(("redis://", "rediss://", "unix://")):
        raise _damaged(path)
    with contextlib.suppress(FileNotFoundError):
        return replace(found, password=_private_text(_beside(path, "password")).strip())
    return found


def write(
    config: Config,
    *,
    url: str,
    way: str,
    server: str = "",
    password: str | None = None,
    ca: str | None = None,
) -> Upstream:
    """Make `url` this host's server for the cluster.

    `ca` is the text of a PEM file. None keeps the password (or ca) there is, "" removes it. Each
    file is replaced whole, the record last. Raises ConfigError, also where the cluster's head is.
    """
    path = config.upstream_path()
    bare, inside = split_password(url)
    if way not in WAYS:
        raise ConfigError(f"unknown way {quoted(way)}", hint="one of " + ", ".join(WAYS))
    if way == "tunnel" and (config.tunnel_path() / "hosts.json").exists():
        raise ConfigError(
            f"this host is the head of cluster {config.cluster} itself",
            hint="start its node with `qnode start`, without a host",
        )
    private_dir(path.parent, cure="set QSUB_STATE_DIR to a local directory you can write to")
    pem = _beside(path, "ca.pem")
    try:
        _put(_beside(path, "password"), inside or password)
        _put(pem, ca)
        record = {"url": bare, "way": way, "server": server, "ca": str(pem) if pem.exists() else ""}
        _replace(path, json.dumps(record) + "\n")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
    found = read(config)
    assert found is not None
    return found


def remove(config: Config) -> bool:
    """Forget the record, so that this host is on its own again; return whether there was one."""
    path = config.upstream_path()
    had_one = path.exists()
    for place in (path, _beside(path, "password"), _beside(path, "ca.pem")):
        place.unlink(missing_ok=True)
    return had_one


def refresh(message: Mapping[str, Any]) -> Upstream:
    """Write the record as the head's message says (see `main`); ConfigError, SpecError."""
    config = load()
    config = replace(
        config,
        cluster=check_name(str(message.get("cluster") or config.cluster), what="cluster name"),
        state_dir=str(message.get("state_dir") or config.state_dir),
    )
    way = str(message.get("way") or "tunnel")
    url = str(message.get("url") or "")
    if not url:
        url = f"redis://127.0.0.1:{int(message['port'])}"
    secret, pem = message.get("password"), message.get("ca")
    server = str(message.get("server") or "")
    return write(config, url=url, way=way, server=server, password=secret, ca=pem)


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f"{path.name[:-5]}.{kind}")


def _damaged(path: Path) -> ConfigError:
    return ConfigError(f"{path} is damaged", hint=_CURE)


def _private_text(path: Path) -> str:
    """Return the text of a file that only this user can read or replace; FileNotFoundError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(fd, encoding="utf-8") as file:
            status = os.fstat(fd)
            if status.st_uid != os.geteuid():
                raise ConfigError(f"{path} belongs to another user", hint=_CURE)
            if stat.S_IMODE(status.st_mode) & 0o077:
                raise ConfigError(f"other users can read {path}", hint=f"chmod 600 {path}")
            return file.read(_MOST_BYTES)
    except (FileNotFoundError, ConfigError):
        raise
    except (OSError, UnicodeDecodeError):
        raise _damaged(path) from None


def _put(path: Path, text: str | None) -> None:
    if text:
        _replace(path, text)
    elif text is not None:
        path.unlink(missing_ok=True)


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def main() -> None:
    """Rewrite the record from one JSON object on standard input.

    Keys: `port` (a loopback port; or `url`), `cluster`, `state_dir`, `way`, `server`,
    `password`, `ca`; a secret that is absent keeps what is there.
    """
    try:
        message = json.loads(sys.stdin.buffer.read(2**20))
        found = refresh(message)
    except QsubError as error:
        sys.exit(f"{error}; {error.hint}" if error.hint else str(error))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        sys.exit(f"the message makes no sense: {error!r}")
    print(json.dumps({"url": found.url, "way": found.way, "server": found.server}))


if __name__ == "__main__":
    main()
