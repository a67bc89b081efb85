"""Fixtures of the tests of SSH: real servers, a real agent, a home of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sshd as sshd_module
from qsub_py import ssh
from sshd import Agent, Home, Sshd


@pytest.fixture
def home(isolated_env: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Return the test's home; no agent is in sight."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return Home(isolated_env)


@pytest.fixture
def start_sshd(tmp_path: Path) -> Iterator[Callable[..., Sshd]]:
    """Return what starts one more server (see Sshd)."""
    if sshd_module.MISSING:
        pytest.skip(sshd_module.MISSING)
    servers: list[Sshd] = []

    def start(**options: Any) -> Sshd:
        servers.append(Sshd(tmp_path / f"sshd{len(servers)}", **options))
        return servers[-1].start()

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def host(home: Home, start_sshd: Callable[..., Sshd]) -> Sshd:
    """Return a server that is known as "box" and lets the test's user in."""
    server = start_sshd()
    home.host("box", server)
    home.know(server.known_line())
    server.authorize(home.key())
    return server


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    """Return an agent that SSH_AUTH_SOCK names."""
    if sshd_module.MISSING:
        pytest.skip(sshd_module.MISSING)
    started = Agent(tmp_path)
    monkeypatch.setenv("SSH_AUTH_SOCK", started.socket)
    yield started
    started.stop()


@pytest.fixture
def opened() -> Iterator[Callable[..., ssh.Connection]]:
    """Return what connects to an alias; all is closed when the test is over."""
    connections: list[ssh.Connection] = []

    def connect(alias: str = "box", **options: Any) -> ssh.Connection:
        options.setdefault("secrets", ssh.Secrets())
        connections.append(ssh.connect(ssh.resolve(alias), **options))
        return connections[-1]

    yield connect
    for connection in connections:
        connection.close()
