"""Signatures with the cluster's key: who can write to the server but lacks it cannot run code.

A signature is 40 bytes: the key's id (8 hex digits) and an HMAC-SHA256 over the length-prefixed
kind, key id and parts, so no two different requests have the same bytes. Pure; no files here.
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass

from qsub_py.errors import SignatureError

_ID_BYTES = 8
SIGNATURE_BYTES = _ID_BYTES + 32


@dataclass(frozen=True, slots=True)
class Key:
    """One secret of the cluster; `id` is 8 hex digits and no secret."""

    id: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Key({self.id})"

    @classmethod
    def new(cls) -> Key:
        """Make a random key of 256 bits."""
        return cls(os.urandom(4).hex(), os.urandom(32))


@dataclass(frozen=True, slots=True)
class Keyring:
    """The key that signs, and retired ones that still verify."""

    current: Key
    retired: tuple[Key, ...] = ()

    @classmethod
    def of(cls, secrets_by_id: dict[str, bytes]) -> Keyring:
        """Make a ring of `config.load_keys`: the first key signs, all verify."""
        keys = [Key(key_id[:_ID_BYTES], secret) for key_id, secret in secrets_by_id.items()]
        return cls(keys[0], tuple(keys[1:]))

    def find(self, key_id: str) -> Key | None:
        """Return the key with this id, or None."""
        return next((key for key in (self.current, *self.retired) if key.id == key_id), None)


def sign(key: Key, kind: str, *parts: str | bytes) -> bytes:
    """Return the signature (40 bytes) of `parts` as a thing of this kind ("spec", "args", ...)."""
    key_id = key.id.encode()
    return key_id + hmac.digest(key.secret, _joined(kind, key_id, *parts), "sha256")


def verify(ring: Keyring, signature: bytes, kind: str, *parts: str | bytes) -> None:
    """Check a signature in constant time; raises SignatureError when it is not ours."""
    key_id = signature[:_ID_BYTES].decode("ascii", "replace")
    key = ring.find(key_id)
    if key is None:
        raise SignatureError(
            f"the {kind} from the server is signed with a key this host does not have"
            + (f" ({key_id})" if key_id.isalnum() else ""),
            hint="copy the cluster's key file here; `qnode start` does so for nodes",
        )
    if not hmac.compare_digest(sign(key, kind, *parts), signature):
        raise SignatureError(f"the {kind} from the server was changed: its signature is wrong")


def _joined(*parts: str | bytes) -> bytes:
    encoded = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"".join([piece for part in encoded for piece in (b"%d:" % len(part), part)])
