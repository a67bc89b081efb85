"""The keys that a user can show: of the agent and of files, with certificates, in order.

Part of `ssh`. An Identity knows its public half at once; its private half is read, and its
passphrase asked for, only when the server has said that it would accept the key.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import paramiko

from qsub_py import ssh_agent
from qsub_py.ssh_known import fingerprint
from qsub_py.ssh_route import Route
from qsub_py.ssh_secrets import Asker, Secrets

CERTIFICATE = "-cert-v01@openssh.com"
#: What the names of ssh_config(5)'s default files begin with; they need not exist.
DEFAULT_NAMES = "id_"
#: How often a passphrase is asked for before the key is left.
TRIES = 3
#: What reads a private key of which type.
KINDS = {
    "ssh-ed25519": paramiko.Ed25519Key,
    "ecdsa-": paramiko.ECDSAKey,
    "ssh-rsa": paramiko.RSAKey,
}
OPENSSH_MAGIC = b"openssh-key-v1\0"


class Locked(Exception):
    """The key needs a passphrase and nobody could tell it."""


@dataclass(frozen=True)
class Identity:
    """One key to show, with what signs for it."""

    label: str
    key_type: str
    blob: bytes
    #: Data and algorithm to a signature; may ask, raises Locked and others.
    sign: Callable[[bytes, str], Any]

    # What paramiko wants of a key.

    public_blob: ClassVar[None] = None

    def get_name(self) -> str:
        """Return the type of the key or certificate."""
        return self.key_type

    def asbytes(self) -> bytes:
        """Return the public key or the certificate."""
        return self.blob


class Identities:
    """The keys for one host, in the order in which OpenSSH offers them."""

    def __init__(self, route: Route, secrets: Secrets, asker: Asker | None) -> None:
        self._route, self._secrets, self._asker = route, secrets, asker
        self._agent = ssh_agent.socket_path(route.identity_agent)
        #: What could not be offered, and why, for the error text.
        self.notes: list[str] = []

    def all(self) -> list[Identity]:
        """Return certificates, agent keys that are configured, other agent keys, files."""
        files = list(self._of_files())
        wanted = {identity.blob for identity in files}
        agent = self._of_agent()
        certificates = list(self._of_certificates(files, agent))
        found = [identity for identity in agent if identity.blob in wanted]
        if not self._route.identities_only:
            found += [identity for identity in agent if identity.blob not in wanted]
        # A public key file may stand for a key that only the agent has.
        found += [identity for identity in files if self._has_private(identity)]
        unique = {identity.blob: identity for identity in reversed([*certificates, *found])}
        return list(reversed(unique.values()))

    def _has_private(self, identity: Identity) -> bool:
        return Path(identity.label).exists() and not identity.label.endswith(".pub")

    # -- the agent -------------------------------------------------------------------------

    def _of_agent(self) -> list[Identity]:
        if not self._agent:
            return []
        try:
            held = ssh_agent.keys(self._agent)
        except ssh_agent.AgentTrouble as error:
            self.notes.append(f"the agent at {self._agent} does not answer ({error})")
            return []
        return [self._agent_key(blob, comment) for blob, comment in held]

    def _agent_key(self, blob: bytes, comment: str) -> Identity:
        label = f"agent key {comment or fingerprint(blob)}"

        def sign(data: bytes, algorithm: str) -> bytes:
            return ssh_agent.sign(self._agent, blob, data, algorithm)

        return Identity(label, _type_of(blob), blob, sign)

    # -- files -----------------------------------------------------------------------------

    def _of_files(self) -> Iterator[Identity]:
        for name in self._route.identity_files:
            path = Path(name)
            try:
                identity = self._of_file(path)
            except FileNotFoundError:
                if not path.name.startswith(DEFAULT_NAMES):
                    self.notes.append(f"there is no {name}")
            except Locked:
                self.notes.append(f"{name} has a passphrase")
            except (OSError, ValueError, struct.error, paramiko.SSHException) as error:
                self.notes.append(f"{name} cannot be read ({error}; see ssh-keygen -p)")
            else:
                yield identity

    def _of_file(self, path: Path) -> Identity:
        loaded: list[Any] = []
        # The old PEM format hides the public half with the private one, and may need asking.
        blob = _public_half(path)

        def key() -> Any:
            if not loaded:
                loaded.append(self._unlock(path, _type_of(blob) if blob else ""))
            return loaded[0]

        def sign(data: bytes, algorithm: str) -> Any:
            return key().sign_ssh_data(data, algorithm)

        public = blob or key().asbytes()
        return Identity(str(path), _type_of(public), public, sign)

    def _unlock(self, path: Path, key_type: str) -> Any:
        """Read a private key; raises Locked when its passphrase cannot be had."""
        with contextlib.suppress(paramiko.PasswordRequiredException):
            return _load(path, None, key_type)
        name, what = str(path), f"passphrase of {path}"
        for _ in range(TRIES):
            text = self._secrets.ask(
                what, lambda: self._secrets.passphrase(name), lambda: self._ask(name)
            )
            if text is None:
                raise Locked
            try:
                key = _load(path, text, key_type)
            except (paramiko.SSHException, ValueError):
                self._secrets.forget_passphrase(name, text)
            else:
                return key
        raise Locked

    def _ask(self, name: str) -> str | None:
        if self._asker is None or not self._route.may_ask:
            return None
        text = self._asker.passphrase(name)
        if text is not None:
            self._secrets.keep_passphrase(name, text)
        return text

    # -- certificates ----------------------------------------------------------------------

    def _of_certificates(self, files: list[Identity], agent: list[Identity]) -> Iterator[Identity]:
        """Return what has a certificate, signed for by the key it is of."""
        signers = {identity.blob: identity for identity in [*agent, *files]}
        beside = [f"{name}-cert.pub" for name in self._route.identity_files]
        for name in (*self._route.certificate_files, *beside):
            found = _public_line(Path(name))
            if not found:
                continue
            key_type, blob = found
            signer = signers.get(_key_in(key_type, blob))
            if signer and key_type.endswith(CERTIFICATE):
                yield Identity(name, key_type, blob, signer.sign)


def _type_of(blob: bytes) -> str:
    (size,) = struct.unpack_from(">I", blob)
    return blob[4 : 4 + size].decode("ascii", "replace")


def _public_half(path: Path) -> bytes | None:
    """Return the public key of a file, None when only its private half tells it."""
    text = path.read_bytes()
    found = _openssh_public(text)
    if found or path.suffix == ".pub":
        return found or (_public_line(path) or ("", None))[1]
    line = _public_line(path.with_name(f"{path.name}.pub"))
    return line[1] if line else None


def _openssh_public(text: bytes) -> bytes | None:
    """Return the public half of OpenSSH's own format, which stands there in the clear."""
    body = text.partition(b"-----BEGIN OPENSSH PRIVATE KEY-----")[2]
    data = base64.b64decode(body.partition(b"-----END")[0]) if body else b""
    if not data.startswith(OPENSSH_MAGIC):
        return None
    fields = ssh_agent._strings(data[len(OPENSSH_MAGIC) :])
    rest = data[len(OPENSSH_MAGIC) + sum(4 + len(next(fields)) for _ in range(3)) + 4 :]
    return next(ssh_agent._strings(rest))


def _public_line(path: Path) -> tuple[str, bytes] | None:
    """Return type and bytes of a .pub file, None where there is none that makes sense."""
    try:
        words = path.read_text(errors="replace").split()
        return words[0], base64.b64decode(words[1])
    except (OSError, IndexError, binascii.Error):
        return None


def _key_in(key_type: str, blob: bytes) -> bytes:
    """Return the public key that a certificate is of (PROTOCOL.certkeys)."""
    plain = key_type.removesuffix(CERTIFICATE)
    fields = list(_first(blob, 5))
    count = {"ssh-ed25519": 1, "ssh-rsa": 2}.get(plain, 2)
    parts = [plain.encode(), *fields[2 : 2 + count]]  # after the type and a nonce
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def _first(blob: bytes, count: int) -> Iterator[bytes]:
    strings = ssh_agent._strings(blob)
    for _ in range(count):
        found = next(strings, None)
        if found is not None:
            yield found


def _load(path: Path, passphrase: str | None, key_type: str = "") -> Any:
    """Read a private key, of any kind where its type is not known.

    Raises PasswordRequiredException without a passphrase where one is needed.
    """
    failed: Exception = paramiko.SSHException("not a private key")
    kinds = [kind for prefix, kind in KINDS.items() if key_type.startswith(prefix)]
    for kind in kinds or KINDS.values():  # each try works out the passphrase's key, slowly
        try:
            return kind.from_private_key_file(str(path), passphrase)
        except paramiko.PasswordRequiredException:
            raise
        except (paramiko.SSHException, ValueError) as error:
            failed = error
    raise failed
