"""A keeper that a test drives as an agent would."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keeper_driver import Keeper


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    """Return a keeper with an open fence."""
    node_dir = tmp_path / "node"
    (node_dir / "scratch").mkdir(parents=True)
    made = Keeper(node_dir)
    try:
        yield made.start().connect()
    finally:
        made.stop()
