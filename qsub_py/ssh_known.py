"""known_hosts files: who is known by which key, and adding to them.

Part of `ssh`, after sshd(8), SSH_KNOWN_HOSTS FILE FORMAT: hashed names, wildcards, several
files, @revoked. paramiko's own reader knows neither wildcards nor markers and would take a
revoked key for a known one. Certificates of hosts (@cert-authority) are not supported.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import fnmatch
import hashlib
import hmac
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from qsub_py.errors import HostKeyChanged, HostKeyUnknown, SshError
from qsub_py.ssh_route import Route


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a known_hosts file."""

    file: str
    line: int
    #: "", "@revoked" or "@cert-authority".
    marker: str
    names: str
    key_type: str
    blob: bytes

    @property
    def where(self) -> str:
        """Return file and line."""
        return f"{self.file}:{self.line}"

    def is_for(self, name: str) -> bool:
        """Whether the line speaks of this host."""
        if self.names.startswith("|1|"):
            return _is_hash_of(self.names, name)
        patterns = self.names.lower().split(",")
        if any(one.startswith("!") and _matches(one[1:], name) for one in patterns):
            return False
        return any(_matches(one, name) for one in patterns)


def _matches(pattern: str, name: str) -> bool:
    # Brackets stand for themselves, as in [host]:2222.
    return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))


def _is_hash_of(hashed: str, name: str) -> bool:
    try:
        _, _, salt, digest = hashed.split("|")
        made = hmac.digest(base64.b64decode(salt), name.encode(), "sha1")
        return hmac.compare_digest(made, base64.b64decode(digest))
    except (ValueError, binascii.Error):
        return False


def _hash_of(name: str) -> str:
    salt = os.urandom(20)
    digest = hmac.digest(salt, name.encode(), "sha1")
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def entries(files: Iterable[str]) -> Iterator[Entry]:
    """Return the lines of the files; what is missing or makes no sense is left out."""
    for file in files:
        with contextlib.suppress(OSError):
            for number, line in enumerate(Path(file).read_bytes().splitlines(), 1):
                found = _entry(file, number, line.decode("utf-8", "replace").split())
                if found:
                    yield found


def _entry(file: str, line: int, words: list[str]) -> Entry | None:
    marker = words.pop(0) if words and words[0].startswith("@") else ""
    if len(words) < 3 or words[0].startswith("#"):
        return None
    try:
        return Entry(file, line, marker, words[0], words[1], base64.b64decode(words[2]))
    except binascii.Error:
        return None


def fingerprint(blob: bytes) -> str:
    """Return a key's fingerprint as OpenSSH prints it."""
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"


class KnownHosts:
    """What the files of a route say about its host."""

    def __init__(self, route: Route) -> None:
        self._route = route
        found = list(entries(route.known_hosts))
        #: Of the host by its full name, [host]:port where the port is another than 22.
        self._own = [entry for entry in found if entry.is_for(route.known_as)]
        #: OpenSSH accepts a key that is known for the host without the port, too.
        bare = "" if route.host_key_alias or route.port == 22 else route.hostname.lower()
        self._bare = [entry for entry in found if bare and entry.is_for(bare)]

    def key_types(self) -> list[str]:
        """Return the types of the host's known keys: what is to be asked for first."""
        entries = [*self._own, *self._bare]
        return list(dict.fromkeys(entry.key_type for entry in entries if not entry.marker))

    def check(self, key_type: str, blob: bytes) -> None:
        """Return for a known key; raises HostKeyChanged and HostKeyUnknown."""
        for entry in [*self._own, *self._bare]:
            if entry.marker == "@revoked" and entry.blob == blob:
                raise self._revoked(entry, key_type, blob)
        plain = [entry for entry in self._own if not entry.marker]
        if any(entry.blob == blob for entry in plain):
            return
        if plain:
            same = [entry for entry in plain if entry.key_type == key_type]
            raise self._changed((same or plain)[0], key_type, blob)
        if any(entry.blob == blob for entry in self._bare if not entry.marker):
            return
        raise self._unknown(key_type, blob)

    def _revoked(self, entry: Entry, key_type: str, blob: bytes) -> HostKeyChanged:
        return HostKeyChanged(
            f"{self._route}: its {key_type} key {fingerprint(blob)} is revoked ({entry.where})",
            hint="do not go on; ask who runs the host for its new key",
        )

    def _changed(self, entry: Entry, key_type: str, blob: bytes) -> HostKeyChanged:
        name = self._route.known_as
        here = f"{key_type} {fingerprint(blob)}"
        return HostKeyChanged(
            f"{self._route}: the host key has changed: it shows {here}, but {entry.where} has "
            f"{entry.key_type} {fingerprint(entry.blob)}; somebody may be in between",
            hint="if the host was installed anew and you have checked that fingerprint: "
            f"ssh-keygen -R '{name}' -f {entry.file}",
        )

    def _unknown(self, key_type: str, blob: bytes) -> HostKeyUnknown:
        route, print_of = self._route, fingerprint(blob)
        why, names = "is not known", route.known_as
        authority = next((one for one in self._own if one.marker == "@cert-authority"), None)
        if authority:
            why = f"is not known by itself; {authority.where} (@cert-authority) is not supported"
        if route.hash_known_hosts:
            names = _hash_of(names)
        return HostKeyUnknown(
            f"{route}: its host key {why}: {key_type} {print_of}",
            hint="compare the fingerprint, then accept it with --accept-new, "
            f"or connect once by hand: ssh {_by_hand(route)}",
            hostname=route.hostname,
            port=route.port,
            key_type=key_type,
            fingerprint=print_of,
            key_line=f"{names} {key_type} {base64.b64encode(blob).decode()}",
            file=route.known_hosts[0] if route.known_hosts else "",
            may_ask=route.strict != "yes",
        )


def _by_hand(route: Route) -> str:
    """Return the arguments of ssh for this host, as far as the alias does not imply them."""
    return route.alias if route.port == 22 else f"-p {route.port} {route.alias}"


def trust(unknown: Iterable[HostKeyUnknown]) -> None:
    """Add the keys to the user's known_hosts; raises SshError when that cannot be written."""
    for one in unknown:
        _append(Path(one.file or Path.home() / ".ssh/known_hosts"), one)


def _append(path: Path, one: HostKeyUnknown) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise SshError(
                f"{one.hostname}: its key cannot be kept in {path}",
                hint="set UserKnownHostsFile to a file for this host in ~/.ssh/config",
            )
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # against ourselves: many hosts at the same time
            _append_line(fd, one.key_line)
        finally:
            os.close(fd)
    except OSError as error:
        raise SshError(
            f"{one.hostname}: cannot write {path}: {error.strerror}", hint="see its permissions"
        ) from None


def _append_line(fd: int, line: str) -> None:
    """Add the line in one write; after a last line that has no end, as an editor leaves it."""
    with open(os.dup(fd), "rb") as file:
        file.seek(0)
        there = file.read()
    if line.encode() in there.splitlines():
        return
    glue = "\n" if there and not there.endswith(b"\n") else ""
    os.write(fd, f"{glue}{line}\n".encode())
