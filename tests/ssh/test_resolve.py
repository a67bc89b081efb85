"""From an alias to a route, by ssh -G and without it."""

from __future__ import annotations

import getpass
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qsub_py import ssh
from qsub_py.errors import SshError
from qsub_py.ssh_route import Route
from sshd import Home


@pytest.fixture(params=["openssh", "paramiko"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Resolve with the ssh command, and as if there were none."""
    if request.param == "paramiko":
        monkeypatch.setenv("PATH", "/nonexistent")
    elif not shutil.which("ssh"):
        pytest.skip("needs ssh")
    return str(request.param)


def test_what_nothing_says_is_as_openssh_has_it(either: str, home: Home) -> None:
    route = ssh.resolve("somewhere")
    assert (route.hostname, route.port, route.user) == ("somewhere", 22, getpass.getuser())
    assert str(home.ssh / "id_ed25519") in route.identity_files
    assert route.known_hosts[0] == str(home.known_hosts)
    assert "/etc/ssh/ssh_known_hosts" in route.known_hosts
    assert (route.strict, route.jumps, route.proxy_command) == ("ask", (), "")
    assert not route.identities_only and route.may_ask and not route.note


def test_the_configuration_is_read(either: str, home: Home) -> None:
    home.config.write_text(
        "Host short\n  HostName long.example.org\n  User me\n  Port 2222\n"
        "  IdentityFile ~/.ssh/id_%h\n  IdentityFile /keys/%r\n  IdentitiesOnly yes\n"
        "  UserKnownHostsFile ~/.ssh/mine\n  StrictHostKeyChecking accept-new\n"
        "  HostKeyAlias other\n  ConnectTimeout 7\n  IdentityAgent none\n"
        "Host behind\n  ProxyJump you@short:22,third\n"
        "Host piped\n  HostName p.example.org\n  ProxyCommand nc -x %r %h %p %%\n"
    )
    route = ssh.resolve("short")
    assert str(route) == "short (long.example.org)"
    assert (route.user, route.port, route.connect_timeout_s) == ("me", 2222, 7.0)
    assert route.identity_files == (str(home.ssh / "id_long.example.org"), "/keys/me")
    assert route.identities_only and route.identity_agent == "none"
    assert route.known_hosts[0] == str(home.ssh / "mine")
    assert (route.strict, route.known_as) == ("accept-new", "other")
    behind = ssh.resolve("behind")
    assert [(hop.alias, hop.user, hop.port) for hop in behind.jumps] == [
        ("short", "you", 22),
        ("third", getpass.getuser(), 22),
    ]
    assert behind.jumps[0].hostname == "long.example.org"
    piped = ssh.resolve("piped")
    assert piped.proxy_command == f"nc -x {getpass.getuser()} p.example.org 22 %"


def test_what_is_given_by_hand_wins(either: str, home: Home) -> None:
    home.config.write_text("Host short\n  HostName long\n  User me\n  Port 2222\n")
    route = ssh.resolve("short", user="you", port=44, address="10.0.0.1")
    assert (route.alias, route.hostname, route.user, route.port) == ("short", "10.0.0.1", "you", 44)
    assert route.known_as == "[10.0.0.1]:44"


def test_included_files(home: Home, either: str) -> None:
    (home.ssh / "more").write_text("Host inc\n  HostName included\n")
    home.config.write_text(f"Include {home.ssh}/more\n")
    route = ssh.resolve("inc")
    if either == "openssh":
        assert (route.hostname, route.note) == ("included", "")
    else:
        assert route.hostname == "inc"
        assert f"the Include lines of {home.config} are not read" in route.note


@pytest.mark.parametrize(
    "name", ["-oProxyCommand=id", "-G", "", "a b", "a;b", "a$b", "a`b`", "a\nb", "a'b", "a/b", "ä"]
)
def test_odd_names_are_refused(home: Home, name: str) -> None:
    with pytest.raises(SshError, match="is not a host name"):
        ssh.resolve(name)


def test_odd_users_ports_and_addresses_are_refused(home: Home) -> None:
    with pytest.raises(SshError, match="is not a user name"):
        ssh.resolve("box", user="-lroot")
    with pytest.raises(SshError, match="is not a host address"):
        ssh.resolve("box", address="-x")
    with pytest.raises(SshError, match="70000 is not a port"):
        ssh.resolve("box", port=70000)
    home.config.write_text("Host trap\n  HostName a;touch${IFS}x\n")
    with pytest.raises(SshError):
        ssh.resolve("trap")


def test_jumps_in_a_circle_are_refused(either: str, home: Home) -> None:
    home.config.write_text("Host a\n  ProxyJump b\nHost b\n  ProxyJump c\nHost c\n  ProxyJump a\n")
    with pytest.raises(SshError, match="goes round in circles: a -> b -> c -> a"):
        ssh.resolve("a")


def test_a_broken_configuration_is_told(home: Home) -> None:
    home.config.write_text("Host box\n  Flavour vanilla\n")
    with pytest.raises(SshError, match=r"ssh -G failed: .*config.*line 2.*(?i:flavour)"):
        ssh.resolve("box")


def test_a_route_is_text_and_back(home: Home) -> None:
    home.config.write_text("Host a\n  ProxyJump b\n  IdentityFile ~/k\n")
    route = ssh.resolve("a")
    assert Route.from_json(route.to_json()) == route
    newer = route.to_json().replace('{"alias"', '{"flavour":1,"alias"')
    assert Route.from_json(newer) == route


def test_routes_cost_no_paramiko(home: Home) -> None:
    code = (
        "import sys; from qsub_py import ssh; ssh.resolve('box'); ssh.Secrets();"
        "assert 'paramiko' not in sys.modules"
    )
    root = Path(ssh.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
