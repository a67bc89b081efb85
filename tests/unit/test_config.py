"""Settings, directories, cluster keys: what is read, what is refused, and with which cure."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qsub_py import config, config_keys, config_paths, config_toml
from qsub_py.config import Config
from qsub_py.errors import ConfigError, SpecError

EXAMPLE = Path(__file__).parents[2] / "conf" / "qsub.toml"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(("QSUB_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def write(text: str, mode: int = 0o644) -> Path:
    path = config.config_dir() / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def refusal(text: str, mode: int = 0o644) -> tuple[str, str]:
    """Return (message without the path, hint) of the refusal of a file."""
    path = write(text, mode)
    with pytest.raises(ConfigError) as caught:
        config.load()
    assert str(path) in str(caught.value)
    return str(caught.value).replace(str(path), "FILE"), caught.value.hint


def test_no_file_means_defaults() -> None:
    assert config.load({}) == Config()


def test_the_example_shows_every_key_with_its_default() -> None:
    assert config.load_file(EXAMPLE) == Config()
    shown = config_toml._parse_toml(EXAMPLE.read_text(), EXAMPLE)
    for keys, _ in config._leaves(Config()):
        table = shown
        for key in keys[:-1]:
            table = table[key]
        assert keys[-1] in table, keys
        line = config_toml._line_of(EXAMPLE.read_text(), keys)
        above = EXAMPLE.read_text().splitlines()[line - 2]
        assert above.startswith("#"), f"{keys} has no comment"


def test_the_file_overrides_defaults_and_variables_the_file() -> None:
    write('cluster = "lab"\n[job]\ncpus = 2\nqueue = "gpu"\n[node]\nfeatures = ["a", "b"]\n')
    got = config.load({"QSUB_JOB_QUEUE": "long", "QSUB_NODE_QUEUES": "x, y", "QSUB_NODE_CPUS": "3"})
    assert (got.cluster, got.job.cpus, got.job.queue) == ("lab", 2, "long")
    assert (got.node.features, got.node.queues, got.node.cpus) == (("a", "b"), ("x", "y"), 3)


def test_variables_of_a_job_are_no_settings() -> None:
    inside = {"QSUB_JOB_ID": "12", "QSUB_CPUS": "4", "QSUB_NODE": "n1", "QSUB_JOB_NAME": "x"}
    assert config.load(inside) == Config()


def test_an_empty_variable_says_nothing() -> None:
    assert config.load({"QSUB_CLUSTER": ""}) == Config()


@pytest.mark.parametrize(
    ("text", "where"),
    [("a = \n", "FILE:1:5: "), ('x = 1\ny = "open\n', "FILE:2:"), ("[job\n", "FILE:1:")],
)
def test_not_toml(text: str, where: str) -> None:
    assert where in refusal(text)[0]


def test_not_utf8() -> None:
    path = write("")
    path.write_bytes(b'a = 1\nb = "\xff"\n')
    with pytest.raises(ConfigError, match=r":2:6: not UTF-8"):
        config.load()


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("\nclutser = 'x'", "FILE:2: unknown key 'clutser'", "did you mean cluster?"),
        ("[job]\ncpu = 1", "FILE:2: unknown key 'job.cpu'", "did you mean cpus?"),
        ("[sever]\nbinary = 'x'", "FILE:1: unknown key 'sever'", "did you mean server?"),
        ("job.que = 'x'", "FILE:1: unknown key 'job.que'", "did you mean queue?"),
        ("zzz = 1", "FILE:1: unknown key 'zzz'", "known: cluster, url"),
        ("'\\u001b[2J' = 1", "unknown key", "known"),
    ],
)
def test_unknown_key(text: str, message: str, hint: str) -> None:
    got, cure = refusal(text)
    assert message in got
    assert "\x1b" not in got
    assert cure.startswith(hint)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[job]\n\ncpus = '2'", "FILE:3: job.cpus must be a whole number, not"),
        ("[job]\ncpus = true", "FILE:2: job.cpus must be a whole number"),
        ("[job]\ncpus = 0", "FILE:2: job.cpus: 0 is not between 1 and"),
        ("cluster = 3", "FILE:1: cluster must be text in quotes"),
        ("cluster = 'a b'", "FILE:1: cluster: bad name 'a b'"),
        ("job = 3", "FILE:1: job must be a table"),
        ("[cluster]\nx = 1", "FILE:1: cluster must be text"),
        ("node.queues = 'main'", "FILE:1: node.queues must be a list of texts"),
        ("node.queues = [1]", "FILE:1: node.queues must be a list of texts"),
        ("node.queues = ['a b']", "FILE:1: node.queues: bad name"),
        ("retention = '3 weeks'", "FILE:1: retention: bad time"),
        ("[server]\nappendfsync = 'never'", "FILE:2: server.appendfsync: 'never' is not one of"),
        ("[server]\nmaxmemory = '0%'", "FILE:2: server.maxmemory: bad size"),
        ("[server]\nmaxmemory = '1K'", "less than 16M"),
        ("[job]\nmem = '4Q'", "FILE:2: job.mem: bad size '4Q'"),
        ("[job]\noutput = '%q'", "FILE:2: job.output: unknown '%q'"),
        ("url = 'http://x'", "FILE:1: url: 'http://x' must begin with redis://"),
    ],
)
def test_wrong_value(text: str, message: str) -> None:
    assert message in refusal(text)[0]


def test_wrong_value_in_a_variable() -> None:
    with pytest.raises(ConfigError, match=r"^QSUB_JOB_CPUS: job.cpus must be a whole number"):
        config.load({"QSUB_JOB_CPUS": "two"})
    with pytest.raises(ConfigError, match=r"^QSUB_URL: url: 'ftp://u:\*\*\*@h' must begin"):
        config.load({"QSUB_URL": "ftp://u:secret@h"})


def test_a_file_others_can_change_is_refused() -> None:
    assert refusal("", 0o666)[1].startswith("chmod o-w ")


def test_a_readable_file_with_a_password_is_refused() -> None:
    text = "url = 'redis://:secret@h:6379'"
    message, hint = refusal(text, 0o644)
    assert "secret" not in message
    assert hint.startswith("chmod 600 ")
    write(text, 0o600)
    assert config.load({}).url == "redis://:secret@h:6379"


def test_the_file_is_a_directory() -> None:
    (config.config_dir() / "config.toml").mkdir(parents=True)
    with pytest.raises(ConfigError, match="Is a directory"):
        config.load()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("redis://:pw@h:6379", "redis://:***@h:6379"),
        ("rediss://u:p/w@x@h/1", "rediss://u:***@h/1"),
        ("unix:///run/a:b/r.sock?db=1", "unix:///run/a:b/r.sock?db=1"),
        ("unix://:pw@/r.sock", "unix://:***@/r.sock"),
        ("unix:///r.sock?password=pw&db=1", "unix:///r.sock?password=***&db=1"),
    ],
)
def test_redact(url: str, shown: str) -> None:
    assert config.redact(url) == shown
    assert config.has_password(url) == ("***" in shown)


def test_values_in_units() -> None:
    assert Config().retention_s == 30 * 86400
    assert config.load({"QSUB_RETENTION": "7"}).retention_s == 7 * 86400
    assert config.load({"QSUB_SERVER_MAXMEMORY": "1G"}).server.maxmemory_bytes == 2**30
    quarter = Config().server.maxmemory_bytes
    assert 0 < quarter <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


def test_directories(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = config.host_name()
    assert config.config_dir() == home / ".config/qsub_py"
    assert Config().state_path() == home / ".local/state/qsub_py" / host
    assert stat.S_IMODE((home / ".local/state/qsub_py" / host).stat().st_mode) == 0o700
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "c"))
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute")
    assert config.config_dir() == home / "c/qsub_py"
    assert Config().state_path() == home / ".local/state/qsub_py" / host
    assert Config(state_dir=str(home / "s")).server_path() == home / "s/server"


def test_without_home_the_password_database_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    assert config_paths.home_dir() == Path(pwd.getpwuid(os.getuid()).pw_dir)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    with pytest.raises(ConfigError, match="HOME is not set") as caught:
        config.config_dir()
    assert caught.value.hint.startswith("export HOME=")


def test_a_state_directory_that_cannot_be_made(home: Path) -> None:
    (home / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot create .*Not a directory") as caught:
        Config(state_dir=str(home / "file/state")).state_path()
    assert "QSUB_STATE_DIR" in caught.value.hint


def test_key_is_made_once_and_private() -> None:
    key_id, key = config.load_key("lab", create=True)
    path = config_keys.key_path("lab")
    assert len(key) == 32
    assert key_id == config.key_id_of(key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert config.load_key("lab", create=True) == config.load_key("lab") == (key_id, key)
    assert [item.name for item in path.parent.iterdir()] == ["lab.key"]
    assert config.load_key("other", create=True)[1] != key


def test_processes_that_create_the_key_at_once_agree() -> None:
    code = "from qsub_py import config; print(config.load_key('lab', create=True)[1].hex())"
    run = lambda _: subprocess.check_output([sys.executable, "-c", code])  # noqa: E731
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(run, range(8)))
    assert len(keys) == 1


def test_key_refusals() -> None:
    with pytest.raises(ConfigError, match="no key for cluster lab"):
        config.load_key("lab")
    config.load_key("lab", create=True)
    path = config_keys.key_path("lab")
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="other users can read") as caught:
        config.load_key("lab")
    assert caught.value.hint == f"chmod 600 {path}"
    path.chmod(0o600)
    path.write_text("0123456789abcdef 00ff\n")
    with pytest.raises(ConfigError, match="is damaged"):
        config.load_key("lab")
    with pytest.raises(SpecError, match="bad cluster name"):
        config.load_key("../x")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_of_another_user_is_refused() -> None:
    config.load_key("lab", create=True)
    os.chown(config_keys.key_path("lab"), 12345, -1)
    with pytest.raises(ConfigError, match="belongs to another user"):
        config.load_key("lab")


def test_retired_keys_still_verify() -> None:
    old_id, old = config.load_key("lab", create=True)
    path = config_keys.key_path("lab")
    new = bytes(range(32))
    path.write_text(f"{config.key_id_of(new)} {new.hex()}\n" + path.read_text())
    assert config.load_key("lab") == (config.key_id_of(new), new)
    assert config.load_keys("lab") == {config.key_id_of(new): new, old_id: old}


def key_file(*keys: bytes) -> str:
    return "".join(f"{config.key_id_of(key)} {key.hex()}\n" for key in keys)


def test_keys_of_a_head_are_installed_and_follow_a_rotation(home: Path) -> None:
    old, new, other = bytes(range(32)), bytes(32), bytes([7]) * 32
    config.install_keys("lab", key_file(old))
    config.install_keys("lab", key_file(old))
    assert config.load_keys("lab") == {config.key_id_of(old): old}
    config.install_keys("lab", key_file(new, old))
    assert config.load_key("lab")[1] == new
    assert config.key_text("lab") == key_file(new, old)
    assert stat.S_IMODE(config_keys.key_path("lab").stat().st_mode) == 0o600
    with pytest.raises(ConfigError, match="of another cluster that is also called lab"):
        config.install_keys("lab", key_file(other))
    with pytest.raises(ConfigError, match="damaged"):
        config.install_keys("lab", "x")
    assert config.load_key("lab")[1] == new


def test_one_host_serves_a_cluster(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.claim_serving("lab", home / "s")
    config.claim_serving("lab", home / "s")
    config.claim_serving("other", home / "s")
    monkeypatch.setattr(config_paths, "host_name", lambda: "login2")
    with pytest.raises(ConfigError, match="cluster lab is served by") as caught:
        config.claim_serving("lab", home / "s")
    record = config.config_dir() / "serving/lab.json"
    assert "QSUB_URL" in caught.value.hint
    assert str(record) in caught.value.hint
    record.unlink()
    config.claim_serving("lab", home / "s")


def test_a_second_directory_on_one_host_is_refused_while_the_first_is_there(home: Path) -> None:
    (home / "s").mkdir()
    config.claim_serving("lab", home / "s")
    with pytest.raises(ConfigError, match="served by"):
        config.claim_serving("lab", home / "t")
    (home / "s").rmdir()
    config.claim_serving("lab", home / "t")
    config.claim_serving("lab", home / "t")


def test_a_damaged_record_is_told(home: Path) -> None:
    config.claim_serving("lab", home / "s")
    (config.config_dir() / "serving/lab.json").write_text("{")
    with pytest.raises(ConfigError, match="is damaged"):
        config.claim_serving("lab", home / "s")
