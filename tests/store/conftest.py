"""A cluster for each test, whose keys are audited when the test is over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qsub_py import server
from qsub_py.server import Endpoint
from store.audit import problems
from store.driver import Cluster


@pytest.fixture
def bare(valkey: Endpoint) -> Iterator[Cluster]:
    """Return an empty cluster; its keys may be left in disorder."""
    made = Cluster(valkey.url, valkey.password)
    yield made
    made.close()


@pytest.fixture
def cluster(bare: Cluster) -> Iterator[Cluster]:
    """Return an empty cluster; at the end its keys must make sense."""
    yield bare
    assert problems(bare) == []


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Cluster]:
    """Return a cluster on a server of the test's own, whose settings it may change."""
    endpoint = server.ensure(tmp_path / "server", maxmemory_bytes=2**30)
    made = Cluster(endpoint.url, endpoint.password)
    yield made
    assert problems(made) == []
    made.close()
    server.stop(tmp_path / "server")
