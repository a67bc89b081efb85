"""known_hosts files: who is known by which key, and adding to them."""

from __future__ import annotations

from collections.abc import Iterable

from qsub_py.errors import HostKeyUnknown


def trust(unknown: Iterable[HostKeyUnknown]) -> None:
    """Add the keys to the files they are missing in."""
    raise NotImplementedError
