"""Ports forwarded from the host to here, and sockets opened over there."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko
import pytest
from paramiko.packet import Packetizer

from env import wait_until
from qsub_py import ssh
from qsub_py.errors import ForwardRefused, HostUnreachable
from sshd import Home, Sshd, free_port

Open = Callable[..., ssh.Connection]
MEGABYTE = 2**20


class Echo:
    """A server on a unix socket that sends back what it gets, and ends when its client does."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(256)
        self.open = 0
        threading.Thread(target=self._run, daemon=True).start()

    def dial(self) -> socket.socket:
        """Connect to it."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.path)
        return sock

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(
                    target=self._serve, args=(self._listener.accept()[0],), daemon=True
                ).start()

    def _serve(self, sock: socket.socket) -> None:
        self.open += 1
        with sock, contextlib.suppress(OSError):
            while data := sock.recv(65536):
                sock.sendall(data)
        self.open -= 1

    def close(self) -> None:
        """End it."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[Echo]:
    """Return an echo server."""
    made = Echo(tmp_path / "echo")
    yield made
    made.close()


def client(port: int) -> socket.socket:
    """Connect to a forwarded port, as a program on the host would."""
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def read_all(sock: socket.socket) -> bytes:
    """Return what comes until the end."""
    return b"".join(iter(lambda: sock.recv(MEGABYTE), b""))


def converse(port: int, data: bytes) -> bytes:
    """Send data to a forwarded port, end, and return the answer."""
    with client(port) as sock:
        writer = threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(1)))
        writer.start()
        answer = read_all(sock)
        writer.join()
        return answer


def test_a_port_there_leads_here(host: Sshd, opened: Open, echo: Echo) -> None:
    port = opened().forward_back(echo.dial)
    assert converse(port, b"hello") == b"hello"  # each side's end is told to the other
    wait_until(lambda: echo.open == 0)


def test_two_ports_lead_to_two_places(host: Sshd, opened: Open, echo: Echo, tmp_path: Path) -> None:
    other, connection = Echo(tmp_path / "other"), opened()
    ports = connection.forward_back(echo.dial), connection.forward_back(other.dial)
    with client(ports[1]) as sock:
        sock.sendall(b"x")
        assert sock.recv(9) == b"x"
        assert (echo.open, other.open) == (0, 1)
    other.close()


def test_megabytes_through_a_port(host: Sshd, opened: Open, echo: Echo) -> None:
    port, data = opened().forward_back(echo.dial), os.urandom(24 * MEGABYTE)
    assert converse(port, data) == data


def test_a_slow_reader_there_stops_nobody_else(host: Sshd, opened: Open, echo: Echo) -> None:
    port = opened().forward_back(echo.dial)
    with client(port) as slow:
        slow.settimeout(0.5)
        with pytest.raises(TimeoutError):
            slow.sendall(bytes(64 * MEGABYTE))
        assert converse(port, b"quick") == b"quick"


def test_two_hundred_connections_leave_nothing(host: Sshd, opened: Open, echo: Echo) -> None:
    connection = opened()
    port = connection.forward_back(echo.dial)
    assert converse(port, b"first") == b"first"
    wait_until(lambda: echo.open == 0)
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(client(port)) for _ in range(200)]
        for number, sock in enumerate(clients):
            sock.sendall(b"%d" % number)
        assert [sock.recv(9) for sock in clients] == [b"%d" % n for n in range(200)]
        assert echo.open == 200
        wait_until(lambda: threading.active_count() <= threads + 200, what="dials end")
    wait_until(lambda: echo.open == 0)
    wait_until(lambda: threading.active_count() <= threads, what="threads end")
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= files, what="descriptors are closed")
    assert not connection._pump._links


def test_a_side_that_is_gone_ends_the_other(host: Sshd, opened: Open, tmp_path: Path) -> None:
    pairs: list[socket.socket] = []

    def dial() -> socket.socket:
        ours, theirs = socket.socketpair()
        pairs.append(theirs)
        return ours

    port = opened().forward_back(dial)
    with client(port) as sock:
        wait_until(lambda: pairs)
        pairs[0].sendall(b"bye")
        pairs[0].close()
        assert read_all(sock) == b"bye"


def test_a_failing_dial_closes_the_connection(host: Sshd, opened: Open, tmp_path: Path) -> None:
    def dial() -> socket.socket:
        raise ConnectionRefusedError

    port = opened().forward_back(dial)
    with client(port) as sock:
        assert read_all(sock) == b""


def test_a_lost_connection_ends_its_ports(host: Sshd, opened: Open, echo: Echo) -> None:
    connection = opened()
    port = connection.forward_back(echo.dial)
    with client(port) as sock:
        sock.sendall(b"x")
        assert sock.recv(9) == b"x"
        connection.close()
        assert read_all(sock) == b""
    wait_until(lambda: echo.open == 0)
    wait_until(lambda: not any(t.name.startswith("ssh-") for t in threading.enumerate()))


def test_keys_are_exchanged_anew_under_load(
    host: Sshd, opened: Open, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections come and go while keys are exchanged every few packets."""
    monkeypatch.setattr(Packetizer, "REKEY_BYTES", 2 * MEGABYTE)
    exchanges: list[bool] = []
    activate = paramiko.Transport._activate_inbound
    monkeypatch.setattr(
        paramiko.Transport, "_activate_inbound", lambda t: exchanges.append(True) or activate(t)
    )
    connection = opened()
    port, data, found = connection.forward_back(echo.dial), os.urandom(4 * MEGABYTE), []

    def work() -> None:
        for _ in range(3):
            found.append(converse(port, data) == data)
            found.append(converse(port, b"small") == b"small")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert found == [True] * 24
    assert connection.is_alive() and len(exchanges) > 10


def test_forbidden_forwarding_says_so(
    home: Home, host: Sshd, start_sshd: Callable[..., Sshd], opened: Open, echo: Echo
) -> None:
    server = start_sshd(options=["AllowTcpForwarding no"])
    server.authorize(home.ssh / "id_ed25519")
    home.host("strict", server)
    home.know(server.known_line())
    connection = opened("strict")
    with pytest.raises(ForwardRefused, match="sshd does not forward ports") as caught:
        connection.forward_back(echo.dial)
    assert "AllowTcpForwarding" in caught.value.hint
    with pytest.raises(ForwardRefused, match=f"does not connect to 127.0.0.1:{host.port}"):
        connection.open_tcp("127.0.0.1", host.port)
    assert connection.run("echo on").stdout == b"on\n"


def test_a_socket_opened_over_there(host: Sshd, opened: Open) -> None:
    connection = opened()
    with connection.open_tcp("127.0.0.1", host.port) as sock:
        sock.settimeout(30)
        assert sock.recv(8) == b"SSH-2.0-"
    with pytest.raises(HostUnreachable, match=r"127.0.0.1:\d+ cannot be reached from box"):
        connection.open_tcp("127.0.0.1", free_port())
