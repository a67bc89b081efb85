"""Hosts for the tests of tunnels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from env import Env
from qsub_py import server, tunnel
from qsub_py.errors import NodeError
from tunnel.host import Host
from tunnel.relay import Relay
from tunnel.sshd import Sshd, find


@pytest.fixture
def password(env: Env) -> str:
    """Return the password of the head's server, which runs."""
    env.store().close()
    return (env.config.server_path() / "password").read_text().strip()


@pytest.fixture
def relay(env: Env, password: str) -> Iterator[Relay]:
    """Return a loopback port that leads to the head's server."""
    made = Relay(server.status(env.config.server_path()).socket)
    yield made
    made.cut()


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    """Return a real sshd on a loopback port."""
    if not find():
        pytest.skip("no sshd here: apt install openssh-server")
    made = Sshd(tmp_path / "sshd")
    yield made
    made.stop()


@pytest.fixture
def tunnels(env: Env) -> Iterator[Env]:
    """Return the head; its tunnels end with the test."""
    yield env
    with contextlib.suppress(NodeError):
        tunnel.stop(env.config)


@pytest.fixture
def host(env: Env, tmp_path: Path) -> Iterator[Host]:
    """Return another host of the head's cluster; it has not joined."""
    made = Host(tmp_path / "h1", env)
    yield made
    made.close()
