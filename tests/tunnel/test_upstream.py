"""The record that says where the server of another host is: what it holds and what is refused."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from qsub_py import config, upstream
from qsub_py.config import Config
from qsub_py.errors import ConfigError
from qsub_py.reach import endpoint
from tunnel.host import Host

SECRET = "s3cret-word"


def write(**changes: str | None) -> upstream.Upstream:
    told = {"url": "redis://127.0.0.1:4001", "way": "tunnel", "server": "head"} | changes
    return upstream.write(config.load(), **told)


def test_what_was_written_is_read() -> None:
    assert upstream.read(config.load()) is None
    found = write(password=SECRET)
    assert found == upstream.read(config.load())
    assert (found.url, found.way, found.server, found.password, found.ca) == (
        "redis://127.0.0.1:4001", "tunnel", "head", SECRET, "",
    )  # fmt: skip
    assert SECRET not in repr(found)
    url, password = endpoint(config.load())
    assert url.startswith("redis://127.0.0.1:4001?owner=me#") and password == SECRET


def test_files_are_private_and_the_password_is_apart() -> None:
    write(url=f"redis://user:{SECRET}@h:6379/0", way="direct", ca="PEM")
    folder = config.load().upstream_path().parent
    for path in [folder, *folder.iterdir()]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    assert SECRET not in config.load().upstream_path().read_text()
    found = upstream.read(config.load())
    assert found and found.url == "redis://user@h:6379/0" and found.password == SECRET
    assert Path(found.ca).read_text() == "PEM"
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".password", ".pem"]


def test_a_new_port_keeps_the_password_and_an_empty_one_removes_it() -> None:
    write(password=SECRET)
    assert write(url="redis://127.0.0.1:4002").password == SECRET
    assert write(password="").password == ""


def test_remove() -> None:
    write(password=SECRET)
    assert upstream.remove(config.load())
    assert upstream.read(config.load()) is None
    assert not upstream.remove(config.load())
    assert list(config.load().upstream_path().parent.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "bare", "password"),
    [
        ("redis://h:6379/0", "redis://h:6379/0", ""),
        ("redis://:pw@h:6379", "redis://h:6379", "pw"),
        ("rediss://u:p%40w@h/1?db=2", "rediss://u@h/1?db=2", "p@w"),
        ("redis://[::1]:1/0", "redis://[::1]:1/0", ""),
        ("unix:///run/r.sock?db=1&password=pw", "unix:///run/r.sock?db=1", "pw"),
        ("unix://:pw@/run/r.sock", "unix:///run/r.sock", "pw"),
    ],
)
def test_the_password_is_taken_out_of_an_url(url: str, bare: str, password: str) -> None:
    assert upstream.split_password(url) == (bare, password)


def test_a_record_that_others_can_read_is_refused() -> None:
    write(password=SECRET)
    for path in list(config.load().upstream_path().parent.iterdir()):
        path.chmod(0o640)
        with pytest.raises(ConfigError, match="other users can read") as caught:
            endpoint(config.load())
        assert caught.value.hint == f"chmod 600 {path}"
        path.chmod(0o600)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"url": "http://x", "way": "tunnel"}'])
def test_a_damaged_record_is_told_and_starts_no_server(text: str) -> None:
    write()
    config.load().upstream_path().write_text(text)
    with pytest.raises(ConfigError, match="is damaged") as caught:
        endpoint(config.load())
    assert "qnode ensure" in caught.value.hint
    assert not config.load().server_path().exists()


def test_a_link_to_elsewhere_is_refused(tmp_path: Path) -> None:
    write()
    path = config.load().upstream_path()
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="is damaged"):
        endpoint(config.load())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_record_of_another_user_is_refused() -> None:
    write()
    os.chown(config.load().upstream_path(), 12345, -1)
    with pytest.raises(ConfigError, match="belongs to another user"):
        endpoint(config.load())


def test_the_head_takes_no_record_of_itself() -> None:
    tunnels = config.load().tunnel_path()
    tunnels.mkdir(parents=True)
    (tunnels / "hosts.json").write_text("{}")
    with pytest.raises(ConfigError, match="head of cluster default itself"):
        write()
    assert upstream.read(config.load()) is None


def test_the_configured_server_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    write()
    monkeypatch.setenv("QSUB_URL", "redis://h:1/0")
    assert endpoint(config.load()) == ("redis://h:1/0", "")


def test_ca_is_for_tls(tmp_path: Path) -> None:
    pem = tmp_path / "a b.pem"
    pem.write_text("PEM")
    url, _ = endpoint(Config(url="rediss://h:1/0", ca=str(pem)))
    assert url.startswith("rediss://h:1/0?ssl_ca_certs=%2F")
    with pytest.raises(ConfigError, match="has no TLS"):
        endpoint(Config(url="redis://:pw@h:1/0", ca=str(pem)))
    with pytest.raises(ConfigError, match="cannot read ca"):
        endpoint(Config(url="rediss://h:1/0", ca="missing.pem"))


def test_the_program_rewrites_the_record(host: Host) -> None:
    assert host.join(4001, SECRET).returncode == 0
    done = host.join(4002)
    assert json.loads(done.stdout)["url"] == "redis://127.0.0.1:4002"
    assert host.record()["url"] == "redis://127.0.0.1:4002"
    assert (host.state / "upstream/default.password").read_text() == SECRET
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "message", [{}, {"port": "x"}, {"port": 1, "way": "ftp"}, {"port": 1, "cluster": "../x"}, []]
)
def test_the_program_refuses_what_makes_no_sense(host: Host, message: dict[str, str]) -> None:
    host.join(4001, SECRET)
    before = host.record()
    done = host.tell(message)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert host.record() == before
