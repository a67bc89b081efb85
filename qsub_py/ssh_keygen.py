"""A key pair of the cluster's own, for hosts that must reach the server's host without us.

Part of `ssh`. The public half is restricted to one forwarded port, so it opens nothing else.
"""

from __future__ import annotations


def make_key(comment: str) -> tuple[str, str]:
    """Return (private key, public key line) of a new Ed25519 pair, in OpenSSH's formats."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return private.decode(), f"{public.decode()} {comment}"


def restricted(public: str, port: int) -> str:
    """Return the authorized_keys line that lets a key forward to 127.0.0.1:port and no more."""
    limits = f'restrict,port-forwarding,permitopen="127.0.0.1:{port}",command="/bin/false"'
    return f"{limits} {public}"


def public_line(private: str, comment: str) -> str:
    """Return the public key line that belongs to a private key of `make_key`."""
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_ssh_private_key,
    )

    key = load_ssh_private_key(private.encode(), None).public_key()
    return f"{key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()} {comment}"
