"""A host whose server is elsewhere: commands and nodes use a loopback port, and follow it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from env import Env, wait_until
from qsub_py.errors import StoreMismatch, StoreUnavailable
from qsub_py.model import State
from qsub_py.store_link import Link, shown
from tunnel.host import Host
from tunnel.relay import Relay


def test_the_port_answers_with_the_password_only(relay: Relay, password: str) -> None:
    url = f"redis://127.0.0.1:{relay.port}?owner=me"
    assert Link(url, password=password).command("PING") == b"PONG"
    with pytest.raises(StoreMismatch, match="refused us"):
        Link(url).command("PING")


def test_commands_on_a_host(env: Env, host: Host, relay: Relay, password: str) -> None:
    host.join(relay.port, password)
    job = env.qsub("true")
    assert host.run("qstat", "--noheader").stdout.split()[0] == str(job)
    assert int(host.run("qsub", "--wrap", "exit 4").stdout) > job
    assert not (host.state / "server").exists()
    code = "import sys, qsub_py; qsub_py.Job(1).info(); sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=host.environ).returncode == 0


def test_a_lost_way_is_told(host: Host, relay: Relay, password: str) -> None:
    host.join(relay.port, password)
    relay.cut()
    done = host.run("qstat", check=False)
    assert done.returncode == 69
    assert "by the tunnel from head" in done.stderr and "`qnode ensure` on head" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (host.state / "server").exists()
    done = host.run("qnode", "server", "stop", check=False)
    assert done.returncode == 78 and "not ours" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_the_password_is_not_told_to_a_stranger() -> None:
    code = (
        "import os, socket; os.setuid(12345); s = socket.create_server(('127.0.0.1', 0));"
        "print(s.getsockname()[1], flush=True); c = s.accept()[0]; print(c.recv(99), flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        port = int(other.stdout.readline())
        try:
            with pytest.raises(StoreUnavailable, match="not ours"):
                Link(f"redis://127.0.0.1:{port}?owner=me", password="s3cret").command("PING")
            assert other.stdout.readline() == "b''\n"
        finally:
            other.kill()


def test_addresses_are_shown_without_what_is_for_programs() -> None:
    assert shown("redis://:pw@127.0.0.1:1?owner=me#by%20x") == "redis://:***@127.0.0.1:1"
    assert shown("rediss://h:1/0?ssl_ca_certs=%2Fx") == "rediss://h:1/0"


def test_a_link_that_is_aimed_elsewhere(relay: Relay, password: str) -> None:
    link = Link(f"redis://127.0.0.1:{relay.port}", password=password)
    link.open()
    first = link.fileno()
    assert not link.retarget(link.url, password)
    assert link.fileno() == first
    relay.cut()
    assert link.retarget(f"redis://127.0.0.1:{relay.listen()}", password)
    assert link.command("PING") == b"PONG" and link.run_id


def test_a_node_follows_the_port(env: Env, host: Host, relay: Relay, password: str) -> None:
    """Work goes on while the way is gone, and is reported over the new one, once."""
    host.join(relay.port, password)
    host.run("qnode", "start", "--name", "h1", "--cpus", "1", check=True)
    ledger, go = host.home / "ledger", host.home / "go"
    line = f"echo $QSUB_TASK_ID.$QSUB_ATTEMPT >> {ledger}; until [ -e {go} ]; do sleep 0.02; done"
    job = env.qsub("-a", "1-3", "-D", host.home, "--wrap", line)
    wait_until(ledger.exists, what="the first task runs")
    relay.cut()
    wait_until(lambda: "no answer" in host.agent_log(), what="the agent notices")
    go.touch()
    host.join(relay.listen())
    assert env.wait_job(job).state is State.COMPLETED
    assert sorted(ledger.read_text().split()) == ["1.1", "2.1", "3.1"]
    assert f"server is at redis://127.0.0.1:{relay.port}" in host.agent_log()


def test_a_mute_port_holds_no_node(env: Env, host: Host, relay: Relay, password: str) -> None:
    """sshd accepts for a dead connection: the agent lives, and follows when there is another."""
    host.join(relay.port, password)
    host.run("qnode", "start", "--name", "h1", "--cpus", "1", check=True)
    [agent_pid] = (host.state / "nodes/default.h1").glob("agent.pid")
    before = agent_pid.read_text()
    relay.is_mute = True
    count = lambda: host.agent_log().count("no answer")  # noqa: E731
    wait_until(lambda: count() >= 1, what="the agent notices")
    log = host.state / "nodes/default.h1/keeper.log"
    other = Relay(relay._path)
    host.join(other.port)
    env.wait_job(env.qsub("-D", "/", "true"))
    assert agent_pid.read_text() == before
    assert "starting another" not in Path(log).read_text()
    other.cut()


def test_a_client_that_waits_follows_the_port(
    env: Env, host: Host, relay: Relay, password: str
) -> None:
    host.join(relay.port, password)
    env.start_node("n1", cpus=1)
    go = host.home / "go"
    job = env.qsub("--wrap", f"until [ -e {go} ]; do sleep 0.02; done; exit 7")
    words = [sys.executable, "-m", "qsub_py", "qwait", str(job)]
    with subprocess.Popen(words, env=host.environ) as waiting:
        wait_until(lambda: len(relay._open) >= 4, what="qwait is connected")
        relay.cut()
        host.join(relay.listen())
        go.touch()
        assert waiting.wait(60) == 7


def test_a_command_waits_for_a_way_that_comes_back(
    env: Env, host: Host, relay: Relay, password: str
) -> None:
    host.join(relay.port, password)
    relay.cut()
    words = [sys.executable, "-m", "qsub_py", "qsub", "true"]
    with subprocess.Popen(words, env=host.environ, stdout=subprocess.PIPE) as waiting:
        host.join(relay.listen())
        assert waiting.wait(60) == 0
