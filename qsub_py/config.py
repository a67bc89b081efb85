"""The user's settings: defaults < ~/.config/qsub_py/config.toml < QSUB_* variables.

Fields are named as in the file (conf/qsub.toml shows all of them). Options of the command
line come on top, in the commands. Knows nothing of what the settings are used for.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from qsub_py.config_keys import install_keys, key_id_of, key_text, load_key, load_keys
from qsub_py.config_paths import (
    claim_serving,
    config_dir,
    default_state_dir,
    host_name,
    private_dir,
    user_name,
)
from qsub_py.config_toml import Source, check_given, fill_table, read_toml
from qsub_py.errors import ConfigError
from qsub_py.text import check_name, check_pattern, has_password, quoted, redact
from qsub_py.units import parse_duration, parse_size

__all__ = [
    "Config",
    "claim_serving",
    "config_dir",
    "host_name",
    "install_keys",
    "key_id_of",
    "key_text",
    "load",
    "load_key",
    "load_keys",
    "redact",
    "user_name",
]


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """[server]: the embedded server, used while `url` is empty."""

    binary: str = ""
    maxmemory: str = "25%"
    appendfsync: str = "no"
    port: str = "0"

    @property
    def maxmemory_bytes(self) -> int:
        """`maxmemory` in bytes; a percentage is of this host's (or container's) memory."""
        if self.maxmemory.endswith("%"):
            return _memory_bytes() * int(self.maxmemory[:-1]) // 100
        return parse_size(self.maxmemory)


@dataclass(frozen=True, slots=True)
class JobConfig:
    """[job]: defaults of qsub's options."""

    output: str = ""
    error: str = ""
    queue: str = "main"
    cpus: int = 1
    mem: str = ""
    time: str = ""
    export: str = "ALL"
    ship_limit: str = "512M"
    fetch_limit: str = "100M"
    fetch_total: str = "1G"


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """[node]: defaults of the options of qnode start."""

    name: str = ""
    cpus: int = 0
    mem: str = ""
    gpus: int = -1
    features: tuple[str, ...] = ()
    queues: tuple[str, ...] = ("main",)


@dataclass(frozen=True, slots=True)
class Config:
    """All settings, checked."""

    cluster: str = "default"
    url: str = ""
    ca: str = ""
    state_dir: str = ""
    retention: str = "30d"
    server: ServerConfig = field(default_factory=ServerConfig)
    job: JobConfig = field(default_factory=JobConfig)
    node: NodeConfig = field(default_factory=NodeConfig)

    @property
    def retention_s(self) -> float:
        """How long an ended job is kept, in seconds; 0: for ever."""
        return parse_duration(self.retention, bare_s=86400.0)

    def state_path(self) -> Path:
        """Return this host's state directory, created 0700; raises ConfigError."""
        path = Path(self.state_dir).expanduser() if self.state_dir else default_state_dir()
        return private_dir(path, cure="set QSUB_STATE_DIR to a local directory you can write to")

    def server_path(self) -> Path:
        """Return the directory of the embedded server (created by it); raises ConfigError."""
        return self.state_path() / "server"

    def upstream_path(self) -> Path:
        """Return the record that says where the server of another host is (see `upstream`)."""
        return self.state_path() / "upstream" / f"{self.cluster}.json"

    def tunnel_path(self) -> Path:
        """Return the directory of the tunnels to other hosts (see `tunnel`)."""
        return self.state_path() / "tunnel" / self.cluster


def _memory_bytes() -> int:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return total


def load(environ: Mapping[str, str] | None = None) -> Config:
    """Return the settings in force for this process; raises ConfigError."""
    path = config_dir() / "config.toml"
    config = load_file(path)
    return _with_environment(config, os.environ if environ is None else environ)


def load_file(path: Path) -> Config:
    """Return the defaults as changed by `path`, which may be absent; raises ConfigError."""
    raw, source, status = read_toml(path)
    config: Config = fill_table(Config(), raw, (), source, _CHECKS)
    if status and has_password(config.url) and stat.S_IMODE(status.st_mode) & 0o077:
        raise ConfigError(
            f"{path} has a password in url and other users can read it", hint=f"chmod 600 {path}"
        )
    return config


def _with_environment(config: Config, environ: Mapping[str, str]) -> Config:
    """Return `config` changed by QSUB_CLUSTER, QSUB_SERVER_BINARY and the like."""
    for keys, default in _leaves(config):
        variable = "QSUB_" + "_".join(keys).upper()
        text = environ.get(variable, "")
        if not text:
            continue
        given: Any = text
        if isinstance(default, tuple):
            given = [item.strip() for item in text.split(",") if item.strip()]
        elif isinstance(default, int):
            given = int(text) if re.fullmatch(r"-?\d{1,9}", text, re.ASCII) else text
        value = check_given(given, default, keys, Source(variable), _CHECKS)
        config = _replaced(config, keys, value)
    return config


def _leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found: list[tuple[tuple[str, ...], Any]] = []
    for item in fields(value):
        inner, keys = getattr(value, item.name), (*path, item.name)
        found += _leaves(inner, keys) if is_dataclass(inner) else [(keys, inner)]
    return found


def _replaced(value: Any, keys: tuple[str, ...], new: Any) -> Any:
    if len(keys) > 1:
        new = _replaced(getattr(value, keys[0]), keys[1:], new)
    return replace(value, **{keys[0]: new})


def _at_least(least: int) -> Callable[[int], None]:
    def check(number: int) -> None:
        if not least <= number <= 1_000_000:
            raise ValueError(f"{number} is not between {least} and 1000000")

    return check


def _check_fsync(word: str) -> None:
    if word not in ("no", "everysec", "always"):
        raise ValueError(f"{quoted(word)} is not one of no, everysec, always")


def _check_memory(text: str) -> None:
    if not re.fullmatch(r"(?!0+%)\d{1,2}%", text) and parse_size(text) < 2**24:
        raise ValueError(f"{quoted(text)} is less than 16M")


def _check_port(text: str) -> None:
    if text != "auto" and not (re.fullmatch(r"\d{1,5}", text, re.ASCII) and int(text) < 65536):
        raise ValueError(f'{quoted(text)} is not "auto" or a number from 0 to 65535')


def _check_url(url: str) -> None:
    if url and not re.match(r"(redis|rediss|unix)://", url):
        raise ValueError(f"{quoted(redact(url))} must begin with redis://, rediss:// or unix://")


def _check_name(name: str) -> None:
    if name:
        check_name(name)


def _check_size(text: str) -> None:
    if text:
        parse_size(text)


def _check_time(text: str) -> None:
    if text:
        parse_duration(text)


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "cluster": check_name,
    "url": _check_url,
    "retention": lambda text: parse_duration(text, bare_s=86400.0),
    "server.maxmemory": _check_memory,
    "server.appendfsync": _check_fsync,
    "server.port": _check_port,
    "job.output": check_pattern,
    "job.error": check_pattern,
    "job.queue": check_name,
    "job.cpus": _at_least(1),
    "job.mem": _check_size,
    "job.time": _check_time,
    "job.ship_limit": parse_size,
    "job.fetch_limit": parse_size,
    "job.fetch_total": parse_size,
    "node.name": _check_name,
    "node.cpus": _at_least(0),
    "node.mem": _check_size,
    "node.gpus": _at_least(-1),
    "node.features": check_name,
    "node.queues": check_name,
}
