"""When the server may move to another host."""

from __future__ import annotations

from pathlib import Path

import pytest

from qsub_py import far_server, upstream
from qsub_py.config import Config
from qsub_py.errors import NodeError
from qsub_py.hosts import Host


def test_only_the_head_moves_the_server(tmp_path: Path) -> None:
    config = Config(state_dir=str(tmp_path / "state"))
    upstream.write(config, url="redis://127.0.0.1:1", way="tunnel", server="head")
    with pytest.raises(NodeError, match="belongs to the cluster of head"):
        far_server.check(config, Host("h1"))
