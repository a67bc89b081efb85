"""A TOML file of the user's put into a dataclass, with errors that name file, line and cure.

Part of `config`: config.toml and hosts.toml are read so. Keys and types are those of the
dataclass's fields; what its values mean is the caller's affair.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from qsub_py.errors import ConfigError, SpecError
from qsub_py.text import did_you_mean, quoted

#: Dotted key -> what raises SpecError or ValueError for a bad value of it.
Checks = Mapping[str, Callable[[Any], Any]]


def read_toml(
    path: Path, *, must_exist: bool = False
) -> tuple[dict[str, Any], Source, os.stat_result | None]:
    """Return (entries, where they come from, the file's status) of a file that may be absent.

    Raises ConfigError: unreadable, not TOML, of another user, or writable by others.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            raw = file.read()
    except FileNotFoundError:
        if must_exist:
            raise ConfigError(f"{path} does not exist") from None
        return {}, Source(str(path)), None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    _check_owner(path, status)
    text = _decode(raw, path)
    return _parse_toml(text, path), Source(str(path), text), status


def _check_owner(path: Path, status: os.stat_result) -> None:
    """Refuse a file that others can change: it names programs to run."""
    if status.st_uid not in (os.geteuid(), 0):
        raise ConfigError(f"{path} belongs to another user", hint=f"chown {os.geteuid()} {path}")
    if stat.S_IMODE(status.st_mode) & 0o002:
        raise ConfigError(f"other users can write to {path}", hint=f"chmod o-w {path}")


def _decode(raw: bytes, path: Path) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        raise ConfigError(f"{path}:{line}:{column}: not UTF-8") from None


def _parse_toml(text: str, path: Path) -> dict[str, Any]:
    # Not at the top: commands without a configuration file start 4 ms sooner.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return dict(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        match = re.search(r"\(at line (\d+), column (\d+)\)", message)
        line, column = match.groups() if match else (text.count("\n") + 1, 1)
        what = message.partition(" (at ")[0]
        raise ConfigError(f"{path}:{line}:{column}: {what}") from None


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value came from, for messages: a file with its text, or a variable."""

    name: str
    text: str = ""

    def at(self, keys: tuple[str, ...]) -> str:
        line = _line_of(self.text, keys)
        return f"{self.name}:{line}" if line else self.name


def _line_of(text: str, keys: tuple[str, ...]) -> int:
    """Return the line on which a TOML key is set, 0 if not found (it has odd quotes)."""
    section: tuple[str, ...] = ()
    fallback = 0
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+\s*([^\]]*?)\s*\]", line):
            section = _dotted(header[1])
            name: tuple[str, ...] = ()
        elif assignment := re.match(r"\s*([^=#]+?)\s*=", line):
            name = _dotted(assignment[1])
        else:
            continue
        if section + name == keys:
            return number
        if not fallback and section + name == keys[: len(section + name)]:
            fallback = number
    return fallback


def _dotted(name: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in name.split("."))


def fill_table(
    value: Any, raw: Mapping[str, Any], path: tuple[str, ...], source: Source, checks: Checks
) -> Any:
    """Return the dataclass `value` with the entries of one TOML table put in."""
    known = {item.name: getattr(value, item.name) for item in fields(value)}
    changes = {}
    for key, given in raw.items():
        keys = (*path, key)
        if key not in known:
            raise _unknown(keys, list(known), source)
        if is_dataclass(known[key]) and isinstance(given, dict):
            changes[key] = fill_table(known[key], given, keys, source, checks)
        else:
            changes[key] = check_given(given, known[key], keys, source, checks)
    return replace(value, **changes)


def _unknown(keys: tuple[str, ...], known: list[str], source: Source) -> ConfigError:
    cure = did_you_mean(keys[-1], known, alike=0.5) or "known: " + ", ".join(known)
    return ConfigError(f"{source.at(keys)}: unknown key {quoted('.'.join(keys))}", hint=cure)


def check_given(
    given: Any, default: Any, keys: tuple[str, ...], source: Source, checks: Checks
) -> Any:
    """Return a value of the default's type that passes its key's check; raises ConfigError."""
    name = ".".join(keys)
    if isinstance(default, tuple) and isinstance(given, list):
        given = tuple(given)
    is_good = type(given) is type(default) and not is_dataclass(default)
    if isinstance(given, tuple):
        is_good = is_good and all(isinstance(item, str) for item in given)
    if not is_good:
        wanted = {str: "text in quotes", int: "a whole number", tuple: "a list of texts"}
        what = wanted.get(type(default), "a table")
        raise ConfigError(f"{source.at(keys)}: {name} must be {what}, not {quoted(repr(given))}")
    try:
        if check := checks.get(name):
            for item in given if isinstance(given, tuple) else (given,):
                check(item)
    except (SpecError, ValueError) as error:
        raise ConfigError(f"{source.at(keys)}: {name}: {error}") from None
    return given
