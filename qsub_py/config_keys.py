"""The cluster key: 32 random bytes that sign what runs, in a file only its owner can read.

Part of `config`. A key file has one key a line, `KEYID HEX`; the first signs, the others are
retired and only verify. The key never leaves this module but as bytes.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from qsub_py.config_paths import config_dir, create_once, private_dir
from qsub_py.errors import ConfigError
from qsub_py.text import check_name

KEY_BYTES = 32


def key_path(cluster: str) -> Path:
    """Return the file that holds the keys of `cluster`; raises SpecError for a bad name."""
    return config_dir() / "keys" / f"{check_name(cluster, what='cluster name')}.key"


def key_id_of(key: bytes) -> str:
    """Return the public name of a key: 16 hex digits of its SHA-256."""
    return hashlib.sha256(key).hexdigest()[:16]


def load_key(cluster: str, *, create: bool = False) -> tuple[str, bytes]:
    """Return (key id, 32 bytes) of the key that signs; with `create` make one if there is none.

    Processes that create it at the same time end with the same key. Raises ConfigError.
    """
    path = key_path(cluster)
    if create and not path.exists():
        _create(path)
    return next(iter(_read(path, cluster).items()))


def load_keys(cluster: str) -> dict[str, bytes]:
    """Return every key that may verify, by id, the signing one first; raises ConfigError."""
    return _read(key_path(cluster), cluster)


def key_text(cluster: str) -> str:
    """Return the text of the key file, to be installed on another host; raises ConfigError."""
    _read(key_path(cluster), cluster)
    return key_path(cluster).read_text("ascii")


def install_keys(cluster: str, text: str) -> None:
    """Write a key file that came from the head to this host of its cluster.

    A file that shares a key with it is of the same cluster and is replaced (keys were rotated);
    raises ConfigError when another cluster's is there, or `text` is damaged.
    """
    path, new = key_path(cluster), _parse(text.encode())
    if not new:
        raise ConfigError("the keys that were sent are damaged")
    if path.exists():
        old = _read(path, cluster)
        if old == new:
            return
        if not old.keys() & new.keys():
            raise ConfigError(
                f"{path} holds the key of another cluster that is also called {cluster}",
                hint="give the cluster another name (QSUB_CLUSTER), or delete that file there",
            )
    private_dir(path.parent, cure="set XDG_CONFIG_HOME to a directory you can write to")
    draft = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        if create_once(draft, text.encode()):
            draft.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def _create(path: Path) -> None:
    key = os.urandom(KEY_BYTES)
    private_dir(path.parent, cure="set XDG_CONFIG_HOME to a directory you can write to")
    try:
        create_once(path, f"{key_id_of(key)} {key.hex()}\n".encode())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def _read(path: Path, cluster: str) -> dict[str, bytes]:
    try:
        with path.open("rb") as file:
            _check_private(path, os.fstat(file.fileno()))
            text = file.read(65536)
    except FileNotFoundError:
        raise ConfigError(
            f"no key for cluster {cluster} ({path})",
            hint="copy that file from the host where you submit, or run qnode start there",
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    keys = _parse(text)
    if not keys:
        raise ConfigError(f"{path} is damaged", hint="restore it from another host of the cluster")
    return keys


def _check_private(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise ConfigError(f"{path} belongs to another user", hint=f"chown {os.geteuid()} {path}")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise ConfigError(f"other users can read {path}", hint=f"chmod 600 {path}")


def _parse(text: bytes) -> dict[str, bytes]:
    """Return the keys by id; empty when any line is not what was written."""
    keys = {}
    for line in text.decode("ascii", "replace").splitlines():
        key_id, _, digits = line.partition(" ")
        try:
            key = bytes.fromhex(digits)
        except ValueError:
            return {}
        if len(key) != KEY_BYTES or key_id != key_id_of(key):
            return {}
        keys[key_id] = key
    return keys
