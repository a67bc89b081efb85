"""Tunnels by a real supervisor and worker through a real sshd, and what happens when each dies."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from env import Env, alive, wait_until
from qsub_py import tunnel
from qsub_py.errors import StoreMismatch
from qsub_py.model import State
from qsub_py.ssh import Secrets
from qsub_py.store_link import Link
from qsub_py.tunnel import TunnelStatus
from qsub_py.upstream import Upstream
from tunnel.host import Host
from tunnel.sshd import Sshd


def status(env: Env) -> TunnelStatus:
    return tunnel.status(env.config)["h1"]


def add(env: Env, host: Host, sshd: Sshd) -> TunnelStatus:
    tunnel.add(env.config, "h1", sshd.route(), Secrets(), host.argv())
    return tunnel.await_up(env.config, ["h1"])["h1"]


def answers(host: Host) -> bool:
    """Whether the port in the host's record leads to the server."""
    url = host.record().get("url", "")
    password = (host.state / "upstream/default.password").read_text()
    link = Link(Upstream(url, "tunnel", "head").link_url(), password=password)
    try:
        return bool(link.command("PING") == b"PONG")
    except Exception:
        return False
    finally:
        link.close()


def is_back(env: Env, host: Host, former: str) -> Callable[[], bool]:
    return lambda: host.record()["url"] != former and status(env).state == "up" and answers(host)


def pid_of(part: str, env: Env) -> int:
    """Return the pid of the "supervisor" or "worker" of this test's head."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            mine = os.fsencode(env.config.state_path())
            if f"qsub_py.tunnel_{part}".encode() in words and mine in words:
                return int(entry.name)
    return 0


def kill(part: str, env: Env, number: int = 9) -> int:
    pid = pid_of(part, env)
    os.kill(pid, number)
    wait_until(lambda: not alive(pid), what=f"the {part} ends")
    return pid


def test_the_port_leads_to_the_server(tunnels: Env, host: Host, sshd: Sshd, password: str) -> None:
    up = add(tunnels, host, sshd)
    assert (up.state, up.error) == ("up", "")
    assert host.record() == {
        "url": f"redis://127.0.0.1:{up.port}", "way": "tunnel", "server": os.uname().nodename,
        "ca": "",
    }  # fmt: skip
    assert answers(host)
    with pytest.raises(StoreMismatch, match="refused us"):
        Link(host.record()["url"]).command("PING")
    job = tunnels.qsub("true")
    assert host.run("qstat", "--noheader").stdout.split()[0] == str(job)
    wait_until(lambda: status(tunnels).sent > 0 and status(tunnels).received > 0, what="numbers")


def test_nothing_is_left_open_to_others(
    tunnels: Env, host: Host, sshd: Sshd, password: str
) -> None:
    add(tunnels, host, sshd)
    folder = tunnels.config.tunnel_path()
    for path in [folder, *folder.iterdir()]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        if path.is_file():
            assert password not in path.read_text()
    for part in ("supervisor", "worker"):
        pid = pid_of(part, tunnels)
        assert password.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert os.getsid(pid) != os.getsid(0)


def test_there_is_one_supervisor(tunnels: Env) -> None:
    first = tunnel.ensure(tunnels.config)
    for _ in range(5):
        tunnel.start(tunnels.config)
    assert tunnel.ensure(tunnels.config) == first
    os.kill(first, 1)  # the terminal hangs up
    assert tunnel.ensure(tunnels.config) == first


def test_a_killed_worker_is_back_with_another_port(
    tunnels: Env, host: Host, sshd: Sshd, password: str
) -> None:
    add(tunnels, host, sshd)
    for _ in range(3):
        former = host.record()["url"]
        kill("worker", tunnels)
        wait_until(is_back(tunnels, host, former), what="the tunnel is back")


def test_a_killed_supervisor_is_revived_by_any_command(
    tunnels: Env, host: Host, sshd: Sshd, password: str
) -> None:
    add(tunnels, host, sshd)
    worker, former = pid_of("worker", tunnels), host.record()["url"]
    kill("supervisor", tunnels)
    wait_until(lambda: not alive(worker), what="the worker ends by itself")
    assert "qnode ensure" in status(tunnels).error
    tunnels.run("qstat")
    wait_until(is_back(tunnels, host, former), what="the tunnel is back")


def test_sigterm_ends_both(tunnels: Env, host: Host, sshd: Sshd, password: str) -> None:
    add(tunnels, host, sshd)
    worker = pid_of("worker", tunnels)
    kill("supervisor", tunnels, 15)
    wait_until(lambda: not alive(worker), what="the worker ends")
    assert tunnel.status(tunnels.config)["h1"].state == "down"


def test_a_killed_sshd(tunnels: Env, host: Host, sshd: Sshd, password: str) -> None:
    add(tunnels, host, sshd)
    former = host.record()["url"]
    sshd.stop()
    wait_until(lambda: status(tunnels).state == "down", what="the loss is seen")
    assert status(tunnels).lost == 1
    wait_until(lambda: "refuses" in status(tunnels).error, what="the trouble is told")
    sshd.start()
    wait_until(is_back(tunnels, host, former), what="the tunnel is back")


def test_sshd_forbids_to_forward(tunnels: Env, host: Host, sshd: Sshd, password: str) -> None:
    sshd.stop()
    sshd.set("AllowTcpForwarding no")
    sshd.start()
    found = add(tunnels, host, sshd)
    assert found.state == "refused"
    assert "AllowTcpForwarding" in found.error and len(found.error.splitlines()) == 1
    sshd.stop()
    sshd.set("")
    sshd.start()
    tunnel.ensure(tunnels.config)  # does not wait for the slow retry
    assert tunnel.await_up(tunnels.config, ["h1"])["h1"].state == "up"


def test_a_login_that_fails(tunnels: Env, host: Host, sshd: Sshd, password: str) -> None:
    (sshd.dir / "authorized_keys").rename(sshd.dir / "away")
    found = add(tunnels, host, sshd)
    assert found.state == "down" and "run `qnode ensure`" in found.error
    (sshd.dir / "away").rename(sshd.dir / "authorized_keys")
    tunnel.ensure(tunnels.config)
    assert tunnel.await_up(tunnels.config, ["h1"])["h1"].state == "up"


def test_a_passphrase_is_kept_in_memory(
    tunnels: Env, host: Host, sshd: Sshd, password: str
) -> None:
    key, word = sshd.dir / "user_key", "open sesame"
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", word, "-f", key], check=True)
    secrets = Secrets()
    secrets.keep_passphrase(str(key), word)
    tunnel.add(tunnels.config, "h1", sshd.route(), secrets, host.argv())
    assert tunnel.await_up(tunnels.config, ["h1"])["h1"].state == "up"
    former = host.record()["url"]
    kill("worker", tunnels)
    wait_until(is_back(tunnels, host, former), what="the tunnel is back")
    for part in ("supervisor", "worker"):
        process = Path(f"/proc/{pid_of(part, tunnels)}")
        assert word.encode() not in (process / "cmdline").read_bytes()
        assert word.encode() not in (process / "environ").read_bytes()
    written = [path for path in tunnels.config.state_path().rglob("*") if path.is_file()]
    assert not [path for path in written if word.encode() in path.read_bytes()]
    kill("supervisor", tunnels)
    tunnels.run("qstat")
    wait_until(lambda: "run `qnode ensure`" in status(tunnels).error, what="the trouble is told")
    tunnel.add(tunnels.config, "h1", sshd.route(), secrets, host.argv())
    assert tunnel.await_up(tunnels.config, ["h1"])["h1"].state == "up"


def test_a_host_that_does_not_take_the_port(
    tunnels: Env, host: Host, sshd: Sshd, password: str
) -> None:
    tunnel.add(tunnels.config, "h1", sshd.route(), Secrets(), ["sh", "-c", "echo oh no >&2; false"])
    found = tunnel.await_up(tunnels.config, ["h1"])["h1"]
    assert found.state == "down" and "did not join: oh no" in found.error


def test_remove(tunnels: Env, host: Host, sshd: Sshd, password: str) -> None:
    add(tunnels, host, sshd)
    tunnel.remove(tunnels.config, "h1")
    assert tunnel.status(tunnels.config) == {}
    wait_until(lambda: not answers(host), what="the port is gone")
    wait_until(lambda: not sshd.sessions(), what="the session is gone")
    assert not (tunnels.config.tunnel_path() / "hosts.json").exists()


def test_the_server_starts_on_demand(tunnels: Env, host: Host, sshd: Sshd, password: str) -> None:
    add(tunnels, host, sshd)
    pid = tunnels.kill("server")
    wait_until(lambda: not alive(pid), what="the server ends")
    assert answers(host)
    assert tunnels.pid("server") != pid


def test_a_long_state_directory(
    tunnels: Env, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QSUB_STATE_DIR", str(tmp_path / ("long" * 20)))
    host = Host(tmp_path / "h1", tunnels)
    assert add(tunnels, host, sshd).state == "up"
    tunnel.stop(tunnels.config)
    tunnels.run("qnode", "server", "stop")


def test_a_deleted_state_directory_ends_it(tunnels: Env) -> None:
    pid = tunnel.ensure(tunnels.config)
    (tunnels.config.tunnel_path() / "tunnel.lock").unlink()
    wait_until(lambda: not alive(pid), what="the supervisor ends")


def test_a_silent_client_holds_nobody(tunnels: Env) -> None:
    tunnel.ensure(tunnels.config)
    with socket.socket(socket.AF_UNIX) as one, tunnel._place(tunnels.config).address() as address:
        one.connect(address)
        one.sendall(b'{"op": ')
        assert tunnel.status(tunnels.config) == {}
        assert one.recv(1) == b""  # cut after a while


def test_work_goes_on_while_the_tunnel_is_cut(
    tunnels: Env, host: Host, sshd: Sshd, password: str
) -> None:
    """Each task runs once and is told once, however often the way breaks."""
    add(tunnels, host, sshd)
    host.run("qnode", "start", "--name", "h1", "--cpus", "2", check=True)
    ledger = host.home / "ledger"
    line = f"echo $QSUB_TASK_ID.$QSUB_ATTEMPT >> {ledger}; sleep 0.05"
    job = tunnels.qsub("-a", "1-60", "-D", host.home, "--wrap", line)
    lines = lambda: len(ledger.read_text().split()) if ledger.exists() else 0  # noqa: E731
    for number, fault in enumerate((sshd.cut, lambda: kill("worker", tunnels), sshd.cut)):
        wait_until(lambda number=number: lines() > 5 * number, what="tasks run")
        former = host.record()["url"]
        fault()
        wait_until(is_back(tunnels, host, former), what="the tunnel is back")
    info = tunnels.wait_job(job)
    assert info.state is State.COMPLETED
    assert sorted(ledger.read_text().split()) == sorted(f"{n}.1" for n in range(1, 61))


def test_many_threads_make_one_supervisor(tunnels: Env) -> None:
    with ThreadPoolExecutor(16) as pool:
        pids = set(pool.map(lambda _: tunnel.ensure(tunnels.config), range(16)))
    assert len(pids) == 1
    assert (tunnels.config.tunnel_path() / "tunnel.log").read_text().count("supervisor") == 1
