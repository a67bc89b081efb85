"""What the keeper is told of a job's files: what to unpack, where, and what to collect."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from qsub_py.archive import check_path
from qsub_py.errors import SpecError
from qsub_py.globs import check_glob
from qsub_py.model import JobSpec


def is_private(spec: JobSpec) -> bool:
    """Whether the tasks of a job run in private directories on this node."""
    return bool(spec.ship) or (spec.is_cwd_optional and not os.path.isdir(spec.cwd))


def cache_path(node_dir: Path, sha: str) -> Path:
    """Return where a shipped archive is kept."""
    if len(sha) != 64 or not sha.isalnum():
        raise SpecError(f"{sha!r} is no SHA-256")
    return node_dir / "cache" / sha


def common_files(spec: JobSpec, node_dir: Path) -> dict[str, Any]:
    """Return what the keeper is told beside all else; raises ArchiveError, SpecError."""
    common: dict[str, Any] = {}
    if spec.fetch:
        common["fetch"] = [check_glob(pattern) for pattern in spec.fetch]
    if is_private(spec):
        ships = [
            [ship.name if ship.name == "." else check_path(ship.name),
             str(cache_path(node_dir, ship.sha))]
            for ship in spec.ship
        ]  # fmt: skip
        common["private"] = {"ships": ships, "submit_dir": spec.cwd}
        # Warm runners start here; each call goes to a directory in it.
        common["cwd"] = str(node_dir / "scratch")
    return common


def moved(spec: JobSpec, path: str) -> str:
    """Return a path below the submit directory relative to it: it is in the private directory."""
    top = spec.cwd.rstrip("/")
    if path == top:
        return "."
    return path[len(top) + 1 :] if path.startswith(top + "/") else path


def split_outputs(files: dict[str, str]) -> dict[str, Any]:
    """Return the outputs ("out", "err") of a task in a private directory.

    A relative one is a file of the node's own that also shows in the directory: so it can be
    fetched, and qlog reads it when the directory is gone. One above it does not show.
    """
    links = {kind: os.path.normpath(path) for kind, path in files.items() if path[0] != "/"}
    found: dict[str, Any] = {kind: path for kind, path in files.items() if path[0] == "/"}
    return {**found, "links": links} if links else found
