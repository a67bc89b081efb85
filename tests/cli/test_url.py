"""A server of the user's own, over TCP: used, and refused in one line when it cannot serve."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from env import Env, wait_until
from qsub_py.server_start import find_program
from qsub_py.store_link import Link

PASSWORD = "s3cret-word"


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """Return the URL of a server with a password on a loopback port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    conf = tmp_path / "server.conf"
    conf.write_text(
        f"bind 127.0.0.1\nport {port}\nrequirepass {PASSWORD}\nsave ''\ndir {tmp_path}\n"
    )
    process = subprocess.Popen([find_program(), conf], stdout=subprocess.DEVNULL)
    address = f"redis://:{PASSWORD}@127.0.0.1:{port}/0"

    def answers() -> bool:
        with contextlib.suppress(Exception):
            return bool(Link(address).command("PING"))
        return False

    wait_until(answers, what="the server answers")
    yield address
    process.kill()
    process.wait()


def refused(env: Env, *words: str) -> str:
    """Run a command that must fail in one line; return the line."""
    done = env.run("qstat", *words, check=False)
    assert done.returncode in (69, 78)
    assert PASSWORD not in done.stdout + done.stderr
    [line] = done.stderr.splitlines()
    return line


def test_a_job_over_tcp(env: Env, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSUB_URL", url)
    env.start_node("n1", cpus=1)
    done = env.run("qsub", "-W", "--wrap", "echo over tcp; exit 3", check=False)
    assert done.returncode == 3
    assert env.run("qlog", "last").stdout == "over tcp\n"
    for name in ("agent", "keeper"):
        words = Path(f"/proc/{env.pid(name)}/cmdline").read_bytes()
        assert PASSWORD.encode() not in words


def test_wrong_password(env: Env, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSUB_URL", url.replace(PASSWORD, "wrong"))
    assert "refused us" in refused(env)


def test_nobody_there(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSUB_URL", f"redis://:{PASSWORD}@127.0.0.1:1/0")
    line = refused(env)
    assert "no answer" in line and "127.0.0.1:1" in line


def test_eviction(env: Env, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSUB_URL", url)
    Link(url).command("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    line = refused(env)
    assert "volatile-lru" in line and "maxmemory-policy noeviction" in line


def test_replica(env: Env, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSUB_URL", url)
    Link(url).command("REPLICAOF", "127.0.0.1", 1)
    assert "replica" in refused(env)


def test_commands_do_without_redis_py_on_a_socket(env: Env) -> None:
    code = "import sys, qsub_py.client; sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ)).returncode == 0
