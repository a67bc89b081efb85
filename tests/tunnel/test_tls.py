"""The direct way: a server with TLS and a user of its own, set up as conf/redis-tls.conf says."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from env import Env, wait_until
from qsub_py.errors import StoreError, StoreUnavailable
from qsub_py.store_link import Link
from qsub_py.upstream import with_ca
from tunnel.host import Host
from tunnel.relay import Relay

EXAMPLE = Path(__file__).parents[2] / "conf" / "redis-tls.conf"
PASSWORD = "0123456789abcdef0123456789abcdef"
ADMIN = "user admin on >admin ~* &* +@all\n"


def _program() -> str:
    """Return a redis-server with TLS; CI installs one, elsewhere the test is skipped."""
    if not shutil.which("redis-server") and os.environ.get("CI") == "true" and not os.geteuid():
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            for words in (["update", "-q"], ["install", "-qy", "redis-server"]):
                subprocess.run(["apt-get", *words], env=environ, timeout=300)
    for name in ("redis-server", "valkey-server"):
        if (found := shutil.which(name)) and "tls" in _libraries(found):
            return found
    pytest.skip("no redis-server with TLS here: apt install redis-server")


def _libraries(program: str) -> str:
    done = subprocess.run(["ldd", program], capture_output=True, text=True)
    return "tls" if "libssl" in done.stdout else ""


@dataclass(frozen=True, slots=True)
class TlsServer:
    """A server set up by the example's own words."""

    dir: Path
    port: int

    def url(self, name: str = "localhost", scheme: str = "rediss", password: str = PASSWORD) -> str:
        """Return its URL."""
        return f"{scheme}://qsub:{password}@{name}:{self.port}/0"

    @property
    def ca(self) -> str:
        """Return the path of the authority's certificate."""
        return str(self.dir / "ca.pem")

    def link(self) -> Link:
        """Return a connection as the cluster's user."""
        return Link(with_ca(self.url(), self.ca))


def _make_certificates(folder: Path, text: str) -> None:
    """Run the commands that the example shows."""
    shown = re.sub(r"\\\n#\s*", "", text)
    commands = [line[1:].strip() for line in shown.splitlines() if re.match(r"#\s+openssl", line)]
    assert len(commands) == 2
    for command in commands:
        command = command.replace("NAME", "localhost").replace("rsa:3072", "rsa:2048")
        subprocess.run(command, shell=True, cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    """Return a server with TLS, as the example makes one."""
    program, folder = _program(), tmp_path_factory.mktemp("tls")
    text = EXAMPLE.read_text()
    _make_certificates(folder, text)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    changes = {"6380": str(port), "/etc/qsub": str(folder), "/var/lib/qsub": str(folder)}
    for old, new in {**changes, "bind *": "bind 127.0.0.1", ">PASSWORD": f">{PASSWORD}"}.items():
        text = text.replace(old, new)
    (folder / "redis.conf").write_text(text + ADMIN)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, folder / "redis.conf"], stdout=log)
    made = TlsServer(folder, port)

    def answers() -> bool:
        with contextlib.suppress(StoreError):
            return bool(made.link().command("PING"))
        return False

    wait_until(answers, what="the server answers")
    yield made
    process.kill()
    process.wait()


@pytest.fixture
def configured(tls: TlsServer, monkeypatch: pytest.MonkeyPatch) -> TlsServer:
    """Return the server, which is that of the configuration; it is empty."""
    Link(with_ca(tls.url().replace(f"qsub:{PASSWORD}", "admin:admin"), tls.ca)).command("FLUSHALL")
    monkeypatch.setenv("QSUB_URL", tls.url())
    monkeypatch.setenv("QSUB_CA", tls.ca)
    return tls


def test_a_job(env: Env, configured: TlsServer) -> None:
    env.start_node("n1", cpus=2)
    assert env.run("qsub", "-W", "--wrap", "echo tls; exit 3", check=False).returncode == 3
    assert env.run("qlog", "last").stdout == "tls\n"
    job = env.qsub("-a", "1-20", "--wrap", "sleep 60")
    env.run("qhold", job)
    env.run("qrls", job)
    env.run("qcancel", job, "--wait")
    env.run("qnode", "drain", "n1", "--reason", "x")
    env.run("qnode", "resume", "n1")
    assert env.run("qnode", "server", "status").stdout
    assert env.run("qnode", "stop", "--now").stdout


def test_calls_and_large_things(env: Env, configured: TlsServer) -> None:
    import qsub_py

    env.start_node("n1", cpus=1)
    data = os.urandom(300_000)
    assert qsub_py.submit(lambda given: given[::-1], data).result(60) == data[::-1]
    assert list(qsub_py.map(lambda x: x * x, range(300))) == [x * x for x in range(300)]


def test_a_host_by_its_record(env: Env, host: Host, tls: TlsServer) -> None:
    """What the head sends to a host: the password apart, the authority's text."""
    told = {"way": "direct", "url": tls.url(), "ca": Path(tls.ca).read_text()}
    assert host.tell(told).returncode == 0
    assert PASSWORD not in str(host.record())
    job = int(host.run("qsub", "true", check=True).stdout)
    assert host.run("qstat", "--noheader", check=True).stdout.split()[0] == str(job)
    host.run("qnode", "start", "--name", "h1", "--cpus", "1", check=True)
    assert host.run("qwait", str(job)).returncode == 0
    assert not (host.state / "server").exists()


@pytest.mark.parametrize(
    "words",
    [
        "FLUSHALL", "FLUSHDB", "KEYS *", "CONFIG GET *", "CONFIG SET maxmemory 1", "SCRIPT FLUSH",
        "CLIENT LIST", "ACL LIST", "ACL SETUSER qsub +@all", "SCAN 0", "RANDOMKEY",
        "SAVE", "SHUTDOWN NOSAVE", "REPLICAOF no one", "MONITOR", "SWAPDB 0 1", "MODULE LIST",
        "SET other 1", "GET other", "PUBLISH other x", "FUNCTION LIST", "SORT other",
        "RENAME {qsub:default}:1:meta other", "COPY {qsub:default}:1:meta other",
        "MIGRATE h 1 {qsub:x} 0 10", "SLOWLOG GET", "LATENCY DOCTOR", "SCRIPT LOAD x",
    ],
)  # fmt: skip
def test_everything_else_is_refused(tls: TlsServer, words: str) -> None:
    with pytest.raises(StoreError, match="NOPERM"):
        tls.link().command(*words.split())


def test_a_script_may_do_no_more(tls: TlsServer) -> None:
    for body in ("return redis.call('SET', 'other', 1)", "return redis.call('FLUSHALL')"):
        with pytest.raises(StoreError, match=r"can't|NOPERM|ACL"):
            tls.link().command("EVAL", body, 0)


def test_the_default_user_is_off(tls: TlsServer) -> None:
    url = with_ca(f"rediss://localhost:{tls.port}/0", tls.ca)
    with pytest.raises(StoreError, match="refused us"):
        Link(url).command("PING")


@pytest.mark.parametrize(
    ("name", "scheme", "ca", "message", "cure"),
    [
        ("127.0.0.1", "rediss", True, "certificate", "QSUB_CA"),
        ("localhost", "rediss", False, "certificate", "QSUB_CA"),
        ("localhost", "redis", False, "no answer", "qnode server status"),
    ],
)
def test_what_is_wrong_is_named(
    env: Env, tls: TlsServer, monkeypatch: pytest.MonkeyPatch,
    name: str, scheme: str, ca: bool, message: str, cure: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("QSUB_URL", tls.url(name, scheme))
    if ca:
        monkeypatch.setenv("QSUB_CA", tls.ca)
    done = env.run("qstat", check=False)
    [line] = done.stderr.splitlines()
    assert done.returncode == 69 and PASSWORD not in line
    assert message in line and cure in line


def test_tls_to_a_plain_port(tls: TlsServer, relay: Relay) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        Link(with_ca(f"rediss://localhost:{relay.port}/0", tls.ca)).command("PING")
    assert "redis://" in caught.value.hint
