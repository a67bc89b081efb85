"""A server on another host: the head and the nodes reach it by SSH, each in its own way."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from env import Env, alive, wait_until
from qsub_py import reach, serving, tunnel, tunnel_node, upstream
from qsub_py.config import Config
from qsub_py.errors import NodeError
from qsub_py.server_lock import is_locked
from qsub_py.ssh import Secrets
from qsub_py.ssh_keygen import make_key, restricted
from qsub_py.store_link import Link
from tunnel.host import Host
from tunnel.sshd import Sshd
from tunnel.test_tunnel import status


@pytest.fixture
def far(env: Env, tmp_path: Path) -> Any:
    """Return the host that serves; the head of these tests is a home of its own beside it."""
    made = Host(tmp_path / "far", env)
    env.run("qnode", "server", "stop")
    yield made
    made.run("qnode", "server", "stop")
    made.close()


@pytest.fixture
def served(tunnels: Env, far: Host, sshd: Sshd) -> Env:
    """Return the head, whose server is the one of the far host."""
    tunnel.add_pull(tunnels.config, "h1", sshd.route(), Secrets(), far.argv("qsub_py.serving"))
    found = tunnel.await_up(tunnels.config, ["h1"])["h1"]
    assert (found.state, found.error) == ("up", "")
    return tunnels


def test_a_server_with_a_port(env: Env) -> None:
    found = reach.serve(env.config)
    assert found.port == 0
    opened = reach.open_port(env.config)
    assert opened.port and opened.pid != found.pid
    assert reach.open_port(env.config) == opened
    url = f"redis://127.0.0.1:{opened.port}"
    assert Link(url, password=opened.password).command("PING") == b"PONG"
    pid = env.kill("server")
    wait_until(lambda: not alive(pid), what="the server ends")
    assert reach.serve(env.config).port == opened.port  # by whoever starts it
    assert serving.serve({}) == {"port": opened.port, "password": opened.password}


def test_the_port_of_the_configuration(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSUB_SERVER_PORT", "auto")
    first = reach.serve(env.config)
    assert first.port
    assert reach.open_port(env.config) == first


def test_the_head_works_with_the_far_server(served: Env, far: Host) -> None:
    record = upstream.read(served.config)
    assert record and (record.way, record.server) == ("ssh", "h1")
    job = served.qsub("true")
    assert far.run("qstat", "--noheader").stdout.split()[0] == str(job)
    assert served.run("qstat", "--noheader").stdout.split()[0] == str(job)


def test_the_far_server_is_started_again(served: Env, far: Host) -> None:
    job = served.qsub("true")
    far.run("qnode", "server", "stop")

    def is_back() -> bool:
        done = served.run("qstat", "--noheader", check=False)
        return done.stdout.split()[:1] == [str(job)]

    wait_until(is_back, what="the server is back")


def test_any_command_of_the_head_revives_the_tunnel(served: Env) -> None:
    tunnel.stop(served.config)
    done = served.run("qstat", check=False)
    assert done.returncode in (0, 69)
    wait_until(lambda: status(served).state == "up", what="the tunnel is back")
    served.run("qstat")


def test_remove_leaves_no_socket(served: Env) -> None:
    socket = served.config.tunnel_path() / "server.sock"
    assert socket.exists()
    tunnel.remove(served.config, "h1")
    wait_until(lambda: not socket.exists(), what="the socket is gone")
    assert upstream.read(served.config) is None


# -- nodes -----------------------------------------------------------------------------------


def enter(host: Host, sshd: Sshd, answer: dict[str, Any], private: str) -> Config:
    """Let a host reach the far server by itself; returns its configuration."""
    told = {
        "host": "127.0.0.1", "user": pwd.getpwuid(os.geteuid()).pw_name, "ssh_port": sshd.port,
        "server_port": answer["port"], "private_key": private, "server": "far",
        "host_keys": [" ".join((sshd.dir / "host_key.pub").read_text().split()[:2])],
        "password": answer["password"],
    }  # fmt: skip
    code = (
        "import json, sys; from qsub_py import config, tunnel_node as t, errors\n"
        "try: t.join(config.load(), **json.load(sys.stdin))\n"
        "except errors.NodeError as error: sys.exit(str(error))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(told), env=host.environ,
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise NodeError(done.stderr.strip())
    return Config(state_dir=str(host.state))


@pytest.fixture
def key(sshd: Sshd) -> str:
    """Return a private key that the far host knows for no more than the server's port."""
    return make_key("qsub_py default")[0]


@pytest.fixture
def joined(served: Env, far: Host, sshd: Sshd, tmp_path: Path) -> Any:
    """Return (host, its configuration) of a node's host that has its own way."""
    answer = json.loads(far.tell({}, "qsub_py.serving").stdout)
    private, public = make_key("qsub_py-default")
    with (sshd.dir / "authorized_keys").open("a") as file:
        file.write(restricted(public, answer["port"]) + "\n")
    host = Host(tmp_path / "n1", served)
    config = enter(host, sshd, answer, private)
    yield host, config
    tunnel_node.leave(config)
    host.close()


def test_a_node_by_its_own_ssh(
    served: Env, sshd: Sshd, far: Host, joined: tuple[Host, Config]
) -> None:
    """Work goes on while its way is cut, in whatever manner."""
    host, config = joined
    assert oct((config.tunnel_path() / "node_key").stat().st_mode & 0o777) == "0o600"
    host.run("qnode", "start", "--name", "n1", "--cpus", "2", check=True)
    ledger = host.home / "ledger"
    line = f"echo $QSUB_TASK_ID.$QSUB_ATTEMPT >> {ledger}; sleep 0.05"
    job = int(served.qsub("-a", "1-40", "-D", host.home, "--wrap", line))
    wait_until(ledger.exists, what="tasks run")
    sshd.cut()
    wait_until(lambda: host.run("qstat").returncode == 0, what="the way is back")
    pid = int((config.tunnel_path() / "node.pid").read_text())
    os.kill(pid, 9)
    wait_until(lambda: not alive(pid), what="the process ends")
    wait_until(lambda: host.run("qstat").returncode == 0, what="the way is back")
    wait_until(lambda: is_locked(config.tunnel_path() / "node.lock"), what="it is revived")
    assert served.run("qwait", job).returncode == 0
    assert sorted(ledger.read_text().split()) == sorted(f"{n}.1" for n in range(1, 41))


def test_the_key_opens_nothing_else(
    served: Env, sshd: Sshd, far: Host, joined: tuple[Host, Config]
) -> None:
    _, config = joined
    folder = config.tunnel_path()
    base = ["ssh", "-F", "none", "-i", str(folder / "node_key"), "-p", str(sshd.port)]
    for option in ("BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=no"):
        base += ["-o", option]
    base += ["-o", "UserKnownHostsFile=/dev/null", "-o", "ExitOnForwardFailure=yes"]
    assert subprocess.run([*base, "127.0.0.1", "echo", "in"], capture_output=True).stdout == b""
    other = [*base, "-W", f"127.0.0.1:{sshd.port}", "127.0.0.1"]
    assert b"SSH-" not in subprocess.run(other, capture_output=True, input=b"").stdout


def test_a_way_that_does_not_open_is_told(served: Env, sshd: Sshd, far: Host, key: str) -> None:
    answer = json.loads(far.tell({}, "qsub_py.serving").stdout)
    host = Host(far.home.parent / "n2", served)
    with pytest.raises(NodeError, match="no SSH to the server's host") as caught:
        enter(host, sshd, answer, key)
    assert "Permission denied" in str(caught.value)
    tunnel_node.leave(Config(state_dir=str(host.state)))


def test_authorize(isolated_env: Path) -> None:
    path = isolated_env / ".ssh" / "authorized_keys"
    tunnel_node.authorize("line one qsub_py x", "qsub_py x")
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    path.write_text("ssh-rsa AAAA me\nline one qsub_py x")
    tunnel_node.authorize("line two qsub_py x", "qsub_py x")
    tunnel_node.authorize("line two qsub_py x", "qsub_py x")
    assert path.read_text() == "ssh-rsa AAAA me\nline two qsub_py x\n"


def test_the_same_host_again(served: Env, far: Host, sshd: Sshd) -> None:
    for _ in range(3):
        tunnel.add_pull(served.config, "h1", sshd.route(), Secrets(), far.argv("qsub_py.serving"))
        assert tunnel.await_up(served.config, ["h1"])["h1"].state == "up"
        served.run("qstat")
