"""One batch system with one node of two cpus for all tests of a module."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from env import Env
from qsub_py.executor import Executor


@pytest.fixture(scope="module")
def module_env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Env]:
    """Return a batch system that the module's tests share."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("QSUB_", "XDG_")):
                patch.delenv(name)
        home = tmp_path_factory.mktemp("py")
        patch.setenv("HOME", str(home))
        made = Env(home)
        made.start_node("n1", cpus=2)
        yield made
        made.close()


@pytest.fixture(autouse=True)
def cluster(module_env: Env, isolated_env: Path, monkeypatch: pytest.MonkeyPatch) -> Env:
    """Point this test at the module's batch system."""
    monkeypatch.setenv("HOME", str(module_env.home))
    return module_env


@pytest.fixture
def executor(cluster: Env) -> Iterator[Executor]:
    """Return an Executor; its calls are cancelled at the end."""
    made = Executor()
    yield made
    made.shutdown(cancel_futures=True)
