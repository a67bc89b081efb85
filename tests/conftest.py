"""What every test may use: a home of its own, one real server, a cluster name of its own."""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from env import Env
from qsub_py import server

_names = itertools.count(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Run in the background (`scripts/test &`): what we start would ignore Ctrl-C, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def isolated_env(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test an empty home directory; nothing of the developer's is read or written."""
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith(("QSUB_", "XDG_", "SLURM_", "PBS_", "SGE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.fixture(scope="session")
def valkey() -> Iterator[server.Endpoint]:
    """Return the embedded server of this test run; its tests keep apart by `prefix`."""
    with tempfile.TemporaryDirectory(prefix="qsub-tests-") as directory:
        path = Path(directory) / "server"
        yield server.ensure(path, maxmemory_bytes=2**30)
        server.stop(path)


@pytest.fixture
def prefix() -> str:
    """Return a cluster name that no other test uses."""
    return f"test{os.getpid()}.{next(_names)}"


@pytest.fixture
def env(isolated_env: Path) -> Iterator[Env]:
    """Return a batch system of the test's own: nothing runs yet."""
    made = Env(isolated_env)
    yield made
    made.close()


@pytest.fixture
def cluster_env(env: Env) -> Env:
    """Return a batch system with one node of two cpus."""
    env.start_node("n1", cpus=2)
    return env
