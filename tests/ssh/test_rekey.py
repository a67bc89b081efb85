"""Key exchanges in the middle of things, over a line that takes its time."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from paramiko.packet import Packetizer

from qsub_py import ssh
from qsub_py.errors import SshLost
from qsub_py.ssh_transport import Transport
from sshd import Home, Sshd

Open = Callable[..., ssh.Connection]
MEGABYTE = 2**20


class Line:
    """A TCP relay on which every byte is under way for a while, as between continents."""

    def __init__(self, port: int, *, delay_s: float) -> None:
        self._to, self._delay_s = port, delay_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._socks: list[socket.socket] = [self._listener]
        self._go(self._run)

    def _go(self, target: Callable[..., None], *args: object) -> None:
        threading.Thread(target=target, args=args, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                far = socket.create_connection(("127.0.0.1", self._to))
                self._socks += [near, far]
                for one, other in ((near, far), (far, near)):
                    on_the_way: queue.Queue[tuple[float, bytes]] = queue.Queue()
                    self._go(self._read, one, on_the_way)
                    self._go(self._write, other, on_the_way)

    def _read(self, sock: socket.socket, on_the_way: queue.Queue[tuple[float, bytes]]) -> None:
        with contextlib.suppress(OSError):
            while data := sock.recv(65536):
                on_the_way.put((time.monotonic() + self._delay_s, data))
        on_the_way.put((0.0, b""))

    def _write(self, sock: socket.socket, on_the_way: queue.Queue[tuple[float, bytes]]) -> None:
        with contextlib.suppress(OSError):
            while (item := on_the_way.get())[1]:
                time.sleep(max(0.0, item[0] - time.monotonic()))
                sock.sendall(item[1])
            sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End it."""
        for sock in self._socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


@pytest.fixture
def far(host: Sshd, home: Home) -> Iterator[str]:
    """Return the alias of a host at the end of a slow line."""
    line = Line(host.port, delay_s=0.05)
    home.know(host.known_line(name="far"))
    yield home.host("far", line.port, "HostKeyAlias far")
    line.close()


def test_commands_end_while_keys_are_exchanged(
    far: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ends over there during a key exchange is answered after it, by the one thread that
    has to finish the exchange, too; paramiko alone waits for itself."""
    monkeypatch.setattr(Packetizer, "REKEY_BYTES", MEGABYTE)
    late: list[int] = []
    finish = Transport._parse_newkeys

    def count(transport: Transport, message: object) -> None:
        late.append(len(transport._late))
        finish(transport, message)

    monkeypatch.setattr(Transport, "_parse_newkeys", count)
    connection, codes = opened(far), []

    def load(stream: ssh.Stream) -> None:
        with contextlib.suppress(SshLost, BrokenPipeError):
            while True:
                stream.write(bytes(MEGABYTE))

    def work() -> None:
        for number in range(4):
            codes.append(connection.run(f"exit {number}", timeout_s=100).code)

    with connection.open("cat >/dev/null") as stream:
        threading.Thread(target=load, args=(stream,), daemon=True).start()
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(110)
    assert sorted(codes) == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert connection.is_alive()
    assert sum(late) > 0, "nothing fell into a key exchange"
