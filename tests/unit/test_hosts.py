from __future__ import annotations

from pathlib import Path

import pytest

from qsub_py.config_hosts import load_hosts
from qsub_py.errors import ConfigError, SpecError
from qsub_py.hosts import Host, HostBook, HostOptions

EXAMPLE = Path(__file__).parents[2] / "conf" / "hosts.toml"


def names(*words: str, book: HostBook | None = None) -> list[str]:
    return [host.name for host in (book or HostBook()).find(words)]


def test_ranges_are_slurms() -> None:
    assert names("node[01-03]", "x[9-11,15]y") == [
        "node01", "node02", "node03", "x9y", "x10y", "x11y", "x15y",
    ]  # fmt: skip
    assert names("r[1-2]n[1-2]") == ["r1n1", "r1n2", "r2n1", "r2n2"]


def test_user_and_port() -> None:
    (host,) = HostBook().find(["ann@lab.example.org:2222"])
    assert (host.name, host.options.user, host.options.port) == ("lab.example.org", "ann", 2222)
    (six,) = HostBook().find(["ann@[fe80::1]:22"])
    assert (six.name, six.options.port) == ("fe80::1", 22)


def test_a_host_counts_once() -> None:
    assert names("a", "b", "a") == ["a", "b"]
    with pytest.raises(SpecError, match="a is given twice"):
        HostBook().find(["ann@a", "bob@a"])


@pytest.mark.parametrize(
    "word",
    ["", "-oProxyCommand=x", "a b", "a;b", "h:0", "h:99999", "node[1-", "node[3-1]", "node[x]",
     "node[]", "-x@h", "a\x1b[0m", "h[1-99999]", "user@", "h:", "::1",
     "[fe80::1%eth0]"],
)  # fmt: skip
def test_bad_words_are_refused(word: str) -> None:
    with pytest.raises(SpecError) as caught:
        HostBook().find([word])
    assert "\x1b" not in str(caught.value)


def test_groups_and_options(tmp_path: Path) -> None:
    path = tmp_path / "hosts.toml"
    path.write_text("""
[defaults]
python = "python3.12"
[hosts."gpu[1-2]"]
address = "10.0.0.5"
gpus = 2
features = ["a100"]
[groups]
gpu = ["gpu1", "gpu2"]
all = ["@gpu", "ws[1-2]"]
""")
    book = load_hosts(path)
    assert names("@all", book=book) == ["gpu1", "gpu2", "ws1", "ws2"]
    gpu1, ws1 = book.find(["gpu1", "ann@ws1"])
    assert (gpu1.options.gpus, gpu1.options.python) == (2, "python3.12")
    assert (ws1.options.gpus, ws1.options.python, ws1.options.user) == (-1, "python3.12", "ann")
    assert [host.name for host in book.all()] == ["gpu1", "gpu2", "ws1", "ws2"]
    assert Host.from_json(gpu1.to_json()) == gpu1
    with pytest.raises(SpecError, match="no group is called '@cpu'"):
        book.find(["@cpu"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[host.a]\n", "'host' is none of its tables"),
        ("[hosts.a]\ncpu = 3\n", ":2: unknown key 'hosts.a.cpu'"),
        ("[hosts.a]\ncpus = 'x'\n", ":2: hosts.a.cpus must be a whole number"),
        ("[hosts.a]\nmem = '4Q'\n", ":1: "),
        ("[hosts.a]\npython = 'a;b'\n", ":1: bad path of a Python"),
        ("[hosts.'ann@a']\n", ":1: ann@a is more than a name"),
        ("[hosts.a]\nport = 70000\n", ":1: port is not between"),
        ("[hosts.a]\n[hosts.'a']\n", "2:"),
        ("[hosts.'a[1-2]']\n[hosts.a2]\n", "a2 is listed twice"),
        ("[groups]\ng = 'a'\n", ":2: groups.g must be a list of texts"),
        ("[groups]\ng = ['@g']\n", "contains itself"),
        ("[", ":1:"),
    ],
)
def test_a_bad_file_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "hosts.toml"
    path.write_text(text)
    with pytest.raises((ConfigError, SpecError)) as caught:
        load_hosts(path).all()
    assert message in str(caught.value)


def test_no_file_means_no_groups() -> None:
    assert load_hosts() == HostBook(source="")
    with pytest.raises(ConfigError, match="does not exist"):
        load_hosts(Path("/nonexistent.toml"))


def test_the_example_shows_every_key_with_its_default() -> None:
    book = load_hosts(EXAMPLE)
    assert book.defaults == HostOptions()
    text = EXAMPLE.read_text()
    for name in HostOptions.__dataclass_fields__:
        assert f"\n{name} = " in text, name
    assert [host.name for host in book.find(["@lab"])] == ["ws1", "ws2", "ws3", "gpu1"]
