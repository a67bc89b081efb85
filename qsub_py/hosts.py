"""Hosts as users write them: `host1 user@host2:2222 node[01-12] @group`, and hosts.toml's entries.

Pure: the file is read by `config_hosts`, the way to a host is found by `ssh`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from qsub_py.errors import SpecError
from qsub_py.text import quoted

#: More hosts than this in one range is a typing error.
MAX_HOSTS = 4096
#: What a host may be called: it becomes an argument of ssh and the name of a node.
_ALIAS = re.compile(r"(?!-)[\w.-]{1,128}", re.ASCII)
_USER = re.compile(r"(?!-)[\w.+@\\-]{1,128}", re.ASCII)
_PYTHON = re.compile(r"~?[\w./+@-]+", re.ASCII)
_RANGE = re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)
_WORD = re.compile(
    r"(?:(?P<user>.*)@)?"
    r"(?:\[(?P<six>[0-9A-Fa-f:.%]+:[^\]]*)\]|(?P<host>.*?))"
    r"(?::(?P<port>\d+))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class HostOptions:
    """What hosts.toml can say of a host; every key has a default."""

    address: str = ""
    user: str = ""
    port: int = 0
    #: 0: all of the host's.
    cpus: int = 0
    #: "": all of the host's.
    mem: str = ""
    #: -1: all of the host's.
    gpus: int = -1
    features: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    #: The interpreter that runs the node; "" is looked for.
    python: str = ""
    #: The environment of the jobs there: a directory, or conda:NAME.
    env: str = ""
    avoid_busy_gpus: bool = False
    #: A directory to use there instead of the home directory.
    dir: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """A host to start a node on: its name in the cluster, which is ssh's, and its options."""

    name: str
    options: HostOptions = field(default_factory=HostOptions)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Host:
        """Read `to_json` back; keys of another version are passed over."""
        known = {item.name for item in fields(HostOptions)}
        given = {key: value for key, value in raw["options"].items() if key in known}
        for name in ("features", "queues"):
            given[name] = tuple(given.get(name, ()))
        return cls(raw["name"], HostOptions(**given))


@dataclass(frozen=True, slots=True)
class HostBook:
    """The hosts and groups that hosts.toml names."""

    hosts: Mapping[str, HostOptions] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    defaults: HostOptions = field(default_factory=HostOptions)
    source: str = ""

    def find(self, words: Sequence[str]) -> list[Host]:
        """Return the hosts that words name, each once, in their order; raises SpecError."""
        found: dict[str, Host] = {}
        for word in words:
            for host in self._expanded(word, ()):
                if found.setdefault(host.name, host) != host:
                    raise SpecError(
                        f"{host.name} is given twice, with different users or ports",
                        hint="a host has one node: leave one of them out",
                    )
        return list(found.values())

    def all(self) -> list[Host]:
        """Return every host that has an entry of its own or stands in a group."""
        groups = [f"@{name}" for name in self.groups]
        return self.find([*self.hosts, *groups])

    def _expanded(self, word: str, inside: tuple[str, ...]) -> Iterator[Host]:
        if not word.startswith("@"):
            for single in expand_ranges(word):
                yield self._host(single)
            return
        name = word[1:]
        if name not in self.groups:
            known = ", ".join(f"@{group}" for group in self.groups) or "none"
            raise SpecError(
                f"no group is called {quoted(word)}",
                hint=f"groups stand under [groups] in hosts.toml; there are: {known}",
            )
        if name in inside:
            raise SpecError(f"the group {quoted(word)} contains itself", hint="see hosts.toml")
        for member in self.groups[name]:
            yield from self._expanded(member, (*inside, name))

    def _host(self, word: str) -> Host:
        name, given = parse_host(word)
        options = self.hosts.get(name, self.defaults)
        return Host(name, replace(options, **given))


def parse_host(word: str) -> tuple[str, dict[str, Any]]:
    """Return (name, what was said of user and port) of `[user@]host[:port]`; raises SpecError."""
    match = _WORD.fullmatch(word)
    name = (match["six"] or match["host"] or "") if match else ""
    if not match or not (match["six"] or _ALIAS.fullmatch(name)):
        raise SpecError(
            f"bad host {quoted(word)}",
            hint="write host, user@host or user@host:port; an IPv6 address as [2001:db8::1]",
        )
    if "%" in name:
        raise SpecError(
            f"{quoted(word)} cannot name a node",
            hint="give the host a name, and this as its address in hosts.toml",
        )
    given: dict[str, Any] = {}
    if match["user"] is not None:
        if not _USER.fullmatch(match["user"]):
            raise SpecError(f"bad user in {quoted(word)}", hint="write user@host")
        given["user"] = match["user"]
    if match["port"]:
        given["port"] = int(match["port"])
        if not 0 < given["port"] < 65536:
            raise SpecError(f"bad port in {quoted(word)}", hint="ports are 1 to 65535")
    return name, given


def check_python(text: str) -> str:
    """Return the path or name of a Python there that every shell reads alike; SpecError."""
    if text and not _PYTHON.fullmatch(text):
        raise SpecError(
            f"bad path of a Python: {quoted(text)}", hint="letters, digits and ./+-_~ only"
        )
    return text


def expand_ranges(word: str) -> Iterator[str]:
    """Yield `node01` ... `node12` for `node[01-12]`, as Slurm does; raises SpecError."""
    match = re.search(r"\[([\d,-]*)\]", word, re.ASCII)
    if not match:
        if re.search(r"\[[^:\]]*\]|\[[^\]]*$", word):
            raise SpecError(f"bad range in {quoted(word)}", hint="write node[01-12] or node[1,3-5]")
        yield word
        return
    numbers = list(_numbers(match[1], word))
    rests = list(expand_ranges(word[match.end() :]))
    for number in numbers:
        for rest in rests:
            yield word[: match.start()] + number + rest


def _numbers(text: str, word: str) -> Iterable[str]:
    found: list[str] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        first, last = (match[1], match[2] or match[1]) if match else ("1", "0")
        if not 0 <= int(last) - int(first) < MAX_HOSTS:
            raise SpecError(f"bad range in {quoted(word)}", hint="write node[01-12] or node[1,3-5]")
        found += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return found
