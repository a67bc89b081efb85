"""Fixtures of the node's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keeper_driver import Keeper


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    """Return a running keeper whose agent we are, its fence far away."""
    keeper = Keeper(tmp_path / "node")
    try:
        yield keeper.start().connect()
    finally:
        keeper.stop()
