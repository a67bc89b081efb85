"""Getting to a host: what answers there, if anything, and the ways over other hosts."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from env import alive, wait_until
from qsub_py import ssh, ssh_connect
from qsub_py.errors import (
    AuthenticationFailed,
    ForwardRefused,
    HostKeyUnknown,
    HostUnreachable,
    SshError,
    SshLost,
)
from sshd import Home, Sshd, free_port

Open = Callable[..., ssh.Connection]
Start = Callable[..., Sshd]


def works(connection: ssh.Connection) -> bool:
    """Whether commands run."""
    return connection.run("echo in").stdout == b"in\n"


class Talker:
    """A TCP server that is no sshd: it says something to each client, or nothing."""

    def __init__(self, says: bytes, *, hang: bool = True) -> None:
        self._says, self._hang = says, hang
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.clients: list[socket.socket] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.clients.append(client)
                with contextlib.suppress(OSError):  # it may have left already
                    client.sendall(self._says)
                    if not self._hang:
                        client.shutdown(socket.SHUT_RDWR)
                if not self._hang:
                    client.close()

    def close(self) -> None:
        """End it."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in self.clients:
            client.close()


@pytest.fixture
def talk(home: Home) -> Iterator[Callable[..., Talker]]:
    """Return what starts a Talker that is the host "odd"."""
    talkers: list[Talker] = []

    def start(says: bytes, *, hang: bool = True) -> Talker:
        talkers.append(Talker(says, hang=hang))
        home.host("odd", talkers[-1].port, "ConnectTimeout 1")
        return talkers[-1]

    yield start
    for one in talkers:
        one.close()


# -- nobody there ----------------------------------------------------------------------------


def test_an_unknown_alias(home: Home, opened: Open) -> None:
    with pytest.raises(HostUnreachable) as caught:
        opened("no-such-host.invalid")
    assert str(caught.value) in (
        "no-such-host.invalid: the name no-such-host.invalid does not resolve",
        # without any name server
        "no-such-host.invalid: its name cannot be looked up just now: "
        "[Errno -3] Temporary failure in name resolution",
    )
    assert caught.value.exit_code == 75


def test_a_port_that_refuses(home: Home, opened: Open) -> None:
    port = free_port()
    home.host("box", port)
    with pytest.raises(HostUnreachable) as caught:
        opened()
    assert str(caught.value) == f"box (127.0.0.1): port {port} refuses the connection"
    assert caught.value.hint == "is sshd running there, and on that port?"


def test_a_port_that_swallows_connections(home: Home, opened: Open) -> None:
    """A full backlog answers nothing at all, as a firewall that drops."""
    with socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(2):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        home.host("box", full.getsockname()[1], "ConnectTimeout 1")
        with pytest.raises(HostUnreachable, match="does not answer within 1 s"):
            opened()


def test_a_port_that_is_silent(talk: Callable[..., Talker], opened: Open) -> None:
    port = talk(b"").port
    with pytest.raises(HostUnreachable) as caught:
        opened("odd")
    assert str(caught.value) == (
        f"odd (127.0.0.1): port {port} is open, but it accepts and says nothing (within 1 s)"
    )


def test_a_server_that_hangs_in_the_key_exchange(talk: Callable[..., Talker], opened: Open) -> None:
    talk(b"SSH-2.0-OpenSSH_9.2\r\n")
    with pytest.raises(HostUnreachable, match="the key exchange does not end"):
        opened("odd")


@pytest.mark.parametrize("hang", [True, False])
def test_a_server_that_is_not_ssh(talk: Callable[..., Talker], opened: Open, hang: bool) -> None:
    port = talk(b"HTTP/1.1 400 Bad\x1b[31m Request\r\n\r\n", hang=hang).port
    with pytest.raises(HostUnreachable) as caught:
        opened("odd")
    assert f"answers on port {port} is not SSH: it says" in str(caught.value)
    assert "HTTP/1.1 400 Bad" in str(caught.value) and "\x1b" not in str(caught.value)


def test_no_common_cipher(home: Home, start_sshd: Start, opened: Open) -> None:
    server = start_sshd(options=["Ciphers chacha20-poly1305@openssh.com"])
    home.host("box", server)
    with pytest.raises(HostUnreachable, match="no common way to encrypt"):
        opened()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(ssh_connect, "FIRST_PAUSE_S", 0.01)


@pytest.mark.parametrize(
    ("says", "how"),
    [
        (b"", "at once"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "during the key exchange"),
        (b"Exceeded MaxStartups\r\n", ": Exceeded MaxStartups"),
    ],
)
def test_a_server_that_hangs_up_is_tried_again(
    hasty, talk: Callable[..., Talker], opened: Open, says: bytes, how: str
) -> None:
    talker = talk(says, hang=False)
    with pytest.raises(HostUnreachable, match="hangs up on new connections") as caught:
        opened("odd")
    assert how in str(caught.value) and "MaxStartups" in caught.value.hint
    assert len(talker.clients) == ssh_connect.TRIES


def test_many_at_once_get_past_maxstartups(home: Home, start_sshd: Start, opened: Open) -> None:
    """A server that takes two newcomers at a time lets ten in, one after the other."""
    server = start_sshd(options=["MaxStartups 2:100:2"])
    home.host("box", server)
    home.know(server.known_line())
    server.authorize(home.key())
    found: list[bool] = []

    def work() -> None:
        found.append(works(opened()))

    threads = [threading.Thread(target=work) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert found == [True] * 10
    assert "MaxStartups" in server.log.read_text()


# -- jumps -----------------------------------------------------------------------------------


@pytest.fixture
def two(home: Home, start_sshd: Start) -> tuple[Sshd, Sshd]:
    """Return a gate, and a server behind it that "inner" names; both are known."""
    gate, inner = start_sshd(), start_sshd()
    key = home.key()
    for server in (gate, inner):
        home.know(server.known_line())
        server.authorize(key)
    home.host("gate", gate)
    home.host("inner", inner, "ProxyJump gate")
    return gate, inner


def test_over_a_jump_host(two: tuple[Sshd, Sshd], opened: Open) -> None:
    gate, inner = two
    connection = opened("inner")
    port = connection.run("echo $SSH_CONNECTION").stdout.split()[3]
    assert int(port) == inner.port
    assert len(gate.sessions()) > 0
    connection.close()
    wait_until(lambda: not gate.sessions() and not inner.sessions(), what="sessions end")


def test_over_a_chain_of_jump_hosts(two: tuple[Sshd, Sshd], home: Home, opened: Open) -> None:
    gate, inner = two
    home.host("far", gate.port, "ProxyJump inner")  # whose own jump is taken first
    route = ssh.resolve("far")
    assert [hop.alias for hop in route.jumps] == ["gate", "inner"]
    assert works(opened("far"))
    home.host("wide", gate.port, f"ProxyJump gate,{gate.user}@127.0.0.1:{inner.port}")
    assert works(opened("wide"))


def test_a_lost_gate_is_the_end_of_what_is_behind(two: tuple[Sshd, Sshd], opened: Open) -> None:
    gate, _ = two
    connection = opened("inner")
    with connection.open("cat") as stream:
        gate.stop()
        with pytest.raises(SshLost, match="the connection to the jump host is lost"):
            stream.read()
    assert connection.wait_dead(20)


def test_trouble_on_the_way_names_the_host_on_the_way(
    two: tuple[Sshd, Sshd], home: Home, opened: Open
) -> None:
    gate, inner = two
    home.known_hosts.write_text(inner.known_line())
    with pytest.raises(HostKeyUnknown, match=r"^gate \(127.0.0.1\)"):
        opened("inner")
    home.know(gate.known_line())
    inner.stop()
    with pytest.raises(
        HostUnreachable, match=f"127.0.0.1:{inner.port} cannot be reached from gate"
    ):
        opened("inner")
    gate.authorized.write_text("")
    with pytest.raises(AuthenticationFailed, match=r"^gate"):
        opened("inner")
    gate.stop()
    with pytest.raises(HostUnreachable, match=r"^gate .* refuses the connection"):
        opened("inner")


def test_a_gate_that_forbids_it(home: Home, start_sshd: Start, opened: Open) -> None:
    gate = start_sshd(options=["AllowTcpForwarding no"])
    home.know(gate.known_line())
    gate.authorize(home.key())
    home.host("gate", gate)
    home.host("inner", free_port(), "ProxyJump gate")
    with pytest.raises(ForwardRefused, match=r"^gate .* does not connect to 127.0.0.1"):
        opened("inner")
    wait_until(lambda: not gate.sessions(), what="the gate's session ends")


# -- proxy commands --------------------------------------------------------------------------

#: Copies between its standard streams and a port: nc for machines without one.
RELAY = (
    "import os, socket, sys, threading\n"
    "sock = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
    "def up():\n"
    "    while data := os.read(0, 65536): sock.sendall(data)\n"
    "    os._exit(0)\n"
    "threading.Thread(target=up, daemon=True).start()\n"
    "while data := sock.recv(65536): os.write(1, data)\n"
)


def test_over_a_proxy_command(host: Sshd, home: Home, opened: Open) -> None:
    script = home.path / "relay.py"
    script.write_text(RELAY)
    pids = home.path / "pids"
    command = f"sh -c 'echo $$ >>{pids}; exec python3 {script} %p'"
    home.host("proxied", host, f"ProxyCommand {command}")
    before = len(os.listdir("/proc/self/fd"))
    with opened("proxied") as connection:
        assert connection.run("cat", os.urandom(2**22)).code == 0
        pid = int(pids.read_text())
        assert alive(pid)
    wait_until(lambda: not alive(pid), what="the command ends")
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("sh -c 'echo no way today >&2; exit 1'", ": no way today"),
        ("/nonexistent/proxy", ": .*(not found|No such file)"),
        ("sleep 100", "$"),
    ],
)
def test_a_proxy_command_that_fails(home: Home, opened: Open, command: str, said: str) -> None:
    home.host("proxied", 22, f"ProxyCommand {command}", "ConnectTimeout 1")
    with pytest.raises(HostUnreachable, match=f"the ProxyCommand brings no connection{said}"):
        opened("proxied")


def test_errors_have_a_line_and_a_hint(home: Home, opened: Open) -> None:
    home.host("box", free_port())
    with pytest.raises(SshError) as caught:
        opened()
    assert "\n" not in str(caught.value) and caught.value.hint
