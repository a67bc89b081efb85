"""hosts.toml: the user's hosts, their options and groups. Part of `config`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qsub_py.config_paths import config_dir
from qsub_py.config_toml import Source, check_given, fill_table, read_toml
from qsub_py.errors import ConfigError, SpecError
from qsub_py.hosts import HostBook, HostOptions, check_python, expand_ranges, parse_host
from qsub_py.text import check_name, quoted
from qsub_py.units import parse_size

_SECTIONS = ("defaults", "hosts", "groups")


def load_hosts(path: Path | None = None) -> HostBook:
    """Return what `path` (else ~/.config/qsub_py/hosts.toml, which may be absent) says.

    Raises ConfigError with file, line and the nearest known key.
    """
    raw, source, _ = read_toml(path or config_dir() / "hosts.toml", must_exist=path is not None)
    for section, table in raw.items():
        if section not in _SECTIONS or not isinstance(table, dict):
            raise ConfigError(
                f"{source.at((section,))}: {quoted(section)} is none of its tables",
                hint="hosts.toml has [defaults], [hosts.NAME] and [groups]",
            )
    defaults = _options(HostOptions(), raw.get("defaults", {}), ("defaults",), source)
    hosts = {}
    for name, table in raw.get("hosts", {}).items():
        keys = ("hosts", name)
        if not isinstance(table, dict):
            raise ConfigError(f"{source.at(keys)}: write [hosts.{name}] and its keys below it")
        options = _options(defaults, table, keys, source)
        try:
            for single in expand_ranges(name):
                if ":" not in single and parse_host(single) != (single, {}):
                    raise SpecError(f"{single} is more than a name",
                                    hint="user has a key of its own below it")  # fmt: skip
                if single in hosts:
                    raise SpecError(f"{single} is listed twice")
                hosts[single] = options
        except SpecError as error:
            raise ConfigError(f"{source.at(keys)}: {error}", hint=error.hint) from None
    groups = {
        name: check_given(members, (), ("groups", name), source, {})
        for name, members in raw.get("groups", {}).items()
    }
    return HostBook(hosts, groups, defaults, source.name if raw else "")


def _options(
    base: HostOptions, table: Mapping[str, Any], keys: tuple[str, ...], source: Source
) -> HostOptions:
    options: HostOptions = fill_table(base, table, keys, source, {})
    try:
        for word in (*options.features, *options.queues):
            check_name(word)
        parse_size(options.mem or "0")
        check_python(options.python)
        for name, least, most in (("cpus", 0, 4096), ("port", 0, 65535), ("gpus", -1, 1024)):
            if not least <= getattr(options, name) <= most:
                raise SpecError(f"{name} is not between {least} and {most}")
    except SpecError as error:
        raise ConfigError(f"{source.at(keys)}: {error}", hint=error.hint) from None
    return options
