"""What `doctor` looks at of the server, as this host sees it: the way, its settings, the key.

Starts nothing: an embedded server that is down is told of. Each function yields
(verdict, detail, cure).
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator

from qsub_py import config as configuration
from qsub_py import reach, upstream
from qsub_py import server as embedded
from qsub_py.config import Config, redact
from qsub_py.config_keys import key_path
from qsub_py.errors import StoreError
from qsub_py.keys import Keys
from qsub_py.node.findings import BAD, OK, WARN, Finding
from qsub_py.store_link import Link
from qsub_py.units import format_size

_TIMEOUT_S = 5.0
_SLOW_S, _WRONG_S = 0.5, 60.0


def _way(config: Config) -> str:
    if config.url:
        return f"direct, {redact(config.url)}"
    if found := upstream.read(config):
        return f"{found.way}, {redact(found.url)}" + (f" to {found.server}" if found.server else "")
    return "the embedded server of this host"


def _is_embedded(config: Config) -> bool:
    return not config.url and upstream.read(config) is None


def _open(config: Config) -> Link | None:
    """Return a connection to the server; None when it is the embedded one, and down."""
    if _is_embedded(config) and embedded.status(config.server_path()).state == "stopped":
        return None
    url, password = reach.endpoint(config, wait_s=_TIMEOUT_S)
    link = Link(url, password=password, timeout_s=_TIMEOUT_S)
    link.open()
    return link


def server(config: Config) -> Iterator[Finding]:
    """Whether the server answers, how fast, and whether it keeps what it is given."""
    way = _way(config)
    try:
        link = _open(config)
    except StoreError as error:
        yield BAD, f"{way}: {error}", error.hint or "see `qnode server status` where it runs"
        return
    if link is None:
        yield WARN, f"{way} does not run", "qnode server start (any qsub or qnode start does)"
        return
    with contextlib.closing(link):
        began = time.monotonic()
        link.command("PING")
        took = time.monotonic() - began
        is_slow = took > _SLOW_S
        cure = "calls will be slow; look for a closer way" if is_slow else ""
        yield (WARN if is_slow else OK), f"{way}: answers in {1000 * took:.1f} ms", cure
        facts = _facts(link)
        if not _is_embedded(config):
            yield from _policy(facts)
        yield from _memory(facts)


def _facts(link: Link) -> dict[str, str]:
    text = link.command("INFO").decode(errors="replace")
    return dict(re.findall(r"(?m)^(\w+):(.*?)\r?$", text))


def _policy(facts: dict[str, str]) -> Iterator[Finding]:
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        cure = "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in its redis.conf"
        yield BAD, f"the server throws data away when it is full ({policy})", cure
    if facts.get("aof_enabled") == "0":
        cure = "redis-cli CONFIG SET appendonly yes, and the same in its redis.conf"
        yield WARN, "the server has no append-only file: its death loses jobs", cure
    if facts.get("role") == "slave":
        yield BAD, "the server is a replica, which cannot be written to", "name its primary"


def _memory(facts: dict[str, str]) -> Iterator[Finding]:
    used, most = int(facts.get("used_memory", 0)), int(facts.get("maxmemory", 0))
    if most and used > 0.8 * most:
        detail = f"the server's memory is {100 * used // most} % full of {format_size(most)}"
        yield WARN, detail, "submissions are refused: delete old jobs, or give it more memory"


def clock(config: Config) -> Iterator[Finding]:
    """How far this host's clock is from the server's; only certificates and users mind."""
    with contextlib.suppress(StoreError):
        link = _open(config)
        if link is None:
            return
        with contextlib.closing(link):
            before = time.time()
            seconds, micros = link.command("TIME")
            middle = (before + time.time()) / 2
        off = middle - (int(seconds) + int(micros) / 1e6)
        if abs(off) < _WRONG_S:
            yield OK, f"{abs(off):.1f} s from the server's", ""
        else:
            how = "fast" if off > 0 else "slow"
            yield (
                WARN,
                f"{abs(off):.0f} s {how} beside the server's",
                ("set it (timedatectl, chronyd): jobs do not mind, certificates do"),
            )


def key(config: Config) -> Iterator[Finding]:
    """Whether this host has the key with which the cluster's newest job was signed."""
    if _is_embedded(config) and not key_path(config.cluster).exists():
        yield OK, "none yet: the first submission makes it", ""
        return
    have = [key_id[:8] for key_id in configuration.load_keys(config.cluster)]
    signer = ""
    with contextlib.suppress(StoreError):
        link = _open(config)
        if link is not None:
            with contextlib.closing(link):
                signer = _signer(link, config.cluster)
    if signer and signer not in have:
        yield (
            BAD,
            f"the newest job is signed with key {signer}, this host has {have[0]}",
            ("copy the cluster's key file here; `qnode start HOST` does so"),
        )
    else:
        yield OK, have[0] + (", which signed the newest job" if signer else ""), ""


def _signer(link: Link, cluster: str) -> str:
    """Return the id of the key that signed the newest job, "" when there is none."""
    keys = Keys(cluster)
    newest = link.command("ZREVRANGE", keys.prefix + "active", 0, 0)
    newest = newest or link.command("ZREVRANGE", keys.prefix + "ended", 0, 0)
    if not newest:
        return ""
    signature = link.command("HGET", keys.job(int(newest[0])), "sig") or b""
    return bytes(signature[:8]).decode("ascii", "replace")
