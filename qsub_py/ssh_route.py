"""How to reach one host by SSH: a plain value without secrets, and names that are no trap.

Part of `ssh`. What the user's OpenSSH configuration says goes in (`ssh_resolve`); whoever
opens a connection, and the tunnel's files, take it from here.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Any

from qsub_py.errors import SshError

#: Seconds for TCP, and again for the server's greeting with the key exchange, unless the
#: configuration has a ConnectTimeout.
CONNECT_TIMEOUT_S = 15.0
#: What may stand in the name of a host or user. OpenSSH refuses shell characters, white space
#: and a leading "-", which a ProxyCommand or an option parser would misread; so does this.
HOST = re.compile(r"[A-Za-z0-9_:.%+~=][A-Za-z0-9_:.%+~=-]*\Z")
USER = re.compile(r"[A-Za-z0-9_.+\\@-]+\Z")


@dataclass(frozen=True, slots=True)
class Route:
    """How to reach one host, as the OpenSSH configuration resolves it."""

    alias: str
    hostname: str
    user: str
    port: int = 22
    #: In the order in which they are offered; files that need not exist.
    identity_files: tuple[str, ...] = ()
    certificate_files: tuple[str, ...] = ()
    identities_only: bool = False
    #: A socket, "" for SSH_AUTH_SOCK, "none".
    identity_agent: str = ""
    #: The user's files, then the machine's. New keys go into the first.
    known_hosts: tuple[str, ...] = ()
    host_key_alias: str = ""
    hash_known_hosts: bool = False
    #: Expanded, ready for a shell; "" when there is none.
    proxy_command: str = ""
    #: The hosts on the way, nearest first. Their own `jumps` are empty.
    jumps: tuple[Route, ...] = ()
    #: "yes", "ask" or "accept-new" ("no" is taken as "ask").
    strict: str = "ask"
    #: False where the configuration says BatchMode yes: nothing is asked.
    may_ask: bool = True
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    #: What the user should know of how this was resolved, "" for nothing.
    note: str = ""

    def __str__(self) -> str:
        """Return the alias, with the address it stands for where that is another."""
        return self.alias if self.hostname == self.alias else f"{self.alias} ({self.hostname})"

    @property
    def known_as(self) -> str:
        """Return the name that known_hosts files have for the host."""
        if self.host_key_alias:
            return self.host_key_alias.lower()
        name = self.hostname.lower()
        return name if self.port == 22 else f"[{name}]:{self.port}"

    @property
    def account(self) -> str:
        """Return what a password belongs to."""
        return f"{self.user}@{self.known_as}"

    def alone(self, *, with_proxy: bool = True) -> Route:
        """Return the route without the hosts on the way."""
        command = self.proxy_command if with_proxy else ""
        return dataclasses.replace(self, jumps=(), proxy_command=command)

    def to_json(self) -> str:
        """Return the route as text."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Route:
        """Read what `to_json` wrote; unknown fields (of a newer version) are left out."""
        return cls._of(json.loads(text))

    @classmethod
    def _of(cls, fields: dict[str, Any]) -> Route:
        known = {field.name for field in dataclasses.fields(cls)}
        given = {name: _frozen(value) for name, value in fields.items() if name in known}
        given["jumps"] = tuple(cls._of(jump) for jump in fields.get("jumps", ()))
        return cls(**given)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def check_host(name: str, *, what: str = "host name") -> str:
    """Return a host's name or alias; raises SshError for what could be taken as an option."""
    if not HOST.match(name) or len(name) > 255:
        raise SshError(
            f"{name!r} is not a {what}",
            hint="letters, digits, dots, dashes and underscores, no dash in front",
        )
    return name


def check_user(name: str) -> str:
    """Return a user's name ("" for the configured one); raises SshError for an odd one."""
    if name and (not USER.match(name) or name.startswith("-")):
        raise SshError(f"{name!r} is not a user name", hint="write user@host")
    return name
