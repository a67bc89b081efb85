"""A cluster for each test, whose keys are audited when the test is over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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
