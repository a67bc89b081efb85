"""Commands and streams on a real server."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from env import wait_until
from qsub_py import ssh, ssh_wire
from qsub_py.errors import SshError, SshLost
from sshd import Sshd

Open = Callable[..., ssh.Connection]
MEGABYTE = 2**20


def test_runs_a_command(host: Sshd, opened: Open) -> None:
    done = opened().run("cat; echo oops >&2; exit 3", b"hello")
    assert (done.code, done.stdout, done.stderr) == (3, b"hello", b"oops\n")


def test_a_command_that_reads_nothing_is_no_trouble(host: Sshd, opened: Open) -> None:
    assert opened().run("exit 5", b"x" * 8 * MEGABYTE).code == 5


def test_a_signal_is_no_exit_code(host: Sshd, opened: Open) -> None:
    assert opened().run("kill -9 $$").code == -1


def test_a_command_that_does_not_end_is_left(host: Sshd, opened: Open) -> None:
    connection = opened()
    with pytest.raises(SshError, match=r"did not end within 0.2 s"):
        connection.run("sleep 100", timeout_s=0.2)
    assert connection.run("echo on").stdout == b"on\n"


def test_megabytes_both_ways_while_nobody_reads(host: Sshd, opened: Open) -> None:
    """The command's outputs and its input are full at the same time; nothing waits for ever."""
    data = os.urandom(MEGABYTE) * 24
    with opened().open("tee /dev/stderr") as stream:
        stream.write(data)
        stream.close_stdin()
        read = b"".join(iter(lambda: stream.read(MEGABYTE, 30), b""))
        assert hashlib.sha256(read).digest() == hashlib.sha256(data).digest()
        assert stream.exit_code(30) == 0
        assert stream.stderr() == data[-64 * 1024 :]


def test_a_slow_reader_holds_the_command_back(host: Sshd, opened: Open) -> None:
    with opened().open("head -c 40000000 /dev/zero; echo end >&2") as stream:
        wait_until(lambda: len(stream._out) >= 8 * MEGABYTE)
        assert stream.stderr() == b""
        assert sum(map(len, iter(lambda: stream.read(MEGABYTE, 30), b""))) == 40_000_000
        assert stream.stderr() == b"end\n"


def test_reads_what_there_is(host: Sshd, opened: Open) -> None:
    with opened().open("printf ab; cat; printf cd") as stream:
        assert stream.read(1, 10) + stream.read(99, 10) == b"ab"
        with pytest.raises(TimeoutError):
            stream.read(1, 0.05)
        with pytest.raises(TimeoutError):
            stream.exit_code(0.05)
        stream.close_stdin()
        assert stream.read(99, 10) == b"cd"
        assert stream.read(99, 10) == b""
        assert stream.exit_code(10) == 0
        with pytest.raises(BrokenPipeError):
            stream.write(b"x" * MEGABYTE, timeout_s=10)


def test_a_closed_stream_ends_its_reader_and_its_command(host: Sshd, opened: Open) -> None:
    stream = opened().open("echo $$; exec cat")
    pid = int(stream.read(99, 10))
    reader = threading.Thread(target=stream.read)
    reader.start()
    stream.close()
    reader.join(10)
    assert not reader.is_alive()
    wait_until(lambda: pid not in host.sessions(), what="the command ends")


def test_many_threads_share_a_connection(host: Sshd, opened: Open) -> None:
    connection, found = opened(), []

    def work(number: int) -> None:
        for turn in range(5):
            text = f"{number} {turn}".encode()
            found.append(connection.run("cat", text).stdout == text)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [True] * 40


def test_sessions_over_the_limit_are_refused_clearly(
    start_sshd: Callable[..., Sshd], host: Sshd, home, opened: Open
) -> None:
    server = start_sshd(options=["MaxSessions 2"])
    server.authorize(home.ssh / "id_ed25519")
    home.host("small", server)
    home.know(server.known_line())
    connection = opened("small")
    with connection.open("cat"), connection.open("cat"):
        with pytest.raises(SshError, match="opens no more sessions") as caught:
            connection.open("cat")
        assert "MaxSessions" in caught.value.hint

    def has_room() -> bool:  # once the first ones have ended over there
        with contextlib.suppress(SshError):
            return connection.run("echo on").stdout == b"on\n"
        return False

    wait_until(has_room)


def test_an_account_without_a_shell_says_so(host: Sshd, home, opened: Open) -> None:
    host.authorized.write_text("")
    host.authorize(home.ssh / "id_ed25519", limits='command="/bin/echo no shell for you"')
    assert opened().run("true").stdout == b"no shell for you\n"


# -- losing it -------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take silence for death after a second."""
    monkeypatch.setattr(ssh_wire, "READ_S", 0.1)
    monkeypatch.setattr(ssh_wire, "QUIET_S", 0.3)
    monkeypatch.setattr(ssh_wire, "ANSWER_S", 0.7)


@pytest.fixture
def streaming(host: Sshd, opened: Open) -> Iterator[tuple[ssh.Connection, ssh.Stream]]:
    """Return a connection with a command that waits for input."""
    connection = opened()
    with connection.open("echo here; exec cat") as stream:
        assert stream.read(99, 10) == b"here\n"
        yield connection, stream


def test_a_killed_server_is_noticed_by_all(host: Sshd, streaming) -> None:
    connection, stream = streaming
    assert connection.is_alive() and not connection.wait_dead(0.01)
    host.signal_sessions(signal.SIGKILL)
    assert connection.wait_dead(20)
    assert not connection.is_alive()
    for use in (
        stream.read,
        lambda: stream.write(b"x"),
        stream.exit_code,
        lambda: connection.run("true"),
        lambda: connection.forward_back(lambda: None),
        lambda: connection.open_tcp("127.0.0.1", 1),
    ):
        with pytest.raises(SshLost, match=r"box \(127.0.0.1\): the connection is lost"):
            use()


def test_a_silent_peer_is_taken_for_dead(impatient, host: Sshd, streaming) -> None:
    connection, stream = streaming
    host.signal_sessions(signal.SIGSTOP)
    with pytest.raises(SshLost, match="no sign of life"):
        stream.read(1, 60)
    assert connection.wait_dead(20)


def test_a_silent_peer_is_noticed_by_who_writes(impatient, host: Sshd, streaming) -> None:
    connection, stream = streaming
    host.signal_sessions(signal.SIGSTOP)
    with pytest.raises(SshLost):
        stream.write(b"x" * 64 * MEGABYTE)
    assert connection.wait_dead(20)


def test_quiet_is_not_dead(impatient, host: Sshd, streaming) -> None:
    """Whoever has nothing to say answers when asked."""
    connection, stream = streaming
    asked: list[bool] = []
    ask = connection._transport.wire.ask
    connection._transport.wire.ask = lambda: asked.append(True) or ask()
    wait_until(lambda: len(asked) >= 5, what="it is asked again and again")
    assert connection.is_alive()
    stream.write(b"still there")
    assert stream.read(99, 10) == b"still there"


def test_closing_waits_for_nobody(host: Sshd, opened: Open) -> None:
    connection = opened()
    stream = connection.open("cat")
    host.signal_sessions(signal.SIGSTOP)

    def write() -> None:
        with contextlib.suppress(SshLost):
            stream.write(b"x" * 64 * MEGABYTE)

    writer = threading.Thread(target=write)
    writer.start()
    closer = threading.Thread(target=connection.close)
    closer.start()
    for thread in (closer, writer):
        thread.join(20)
        assert not thread.is_alive()
    with pytest.raises(SshLost, match="closed here"):
        connection.run("true")


def test_connections_leave_nothing_behind(host: Sshd, opened: Open) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    opened().close()
    wait_until(lambda: not any(t.name.startswith("ssh-") for t in threading.enumerate()))
    files, threads = open_files(), threading.active_count()
    for _ in range(10):
        with opened() as connection:
            connection.run("true")
    wait_until(lambda: open_files() <= files, what="descriptors are closed")
    wait_until(lambda: threading.active_count() <= threads, what="threads end")
