"""Who is on the other side: known, unknown, changed and revoked host keys."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from qsub_py import ssh, ssh_known
from qsub_py.errors import HostKeyChanged, HostKeyUnknown, SshError
from sshd import Home, Sshd, make_key

Open = Callable[..., ssh.Connection]
Start = Callable[..., Sshd]


@pytest.fixture
def stranger(home: Home, start_sshd: Start) -> Sshd:
    """Return a server that would let the user in, but is not known."""
    server = start_sshd()
    home.host("box", server)
    server.authorize(home.key())
    return server


def works(connection: ssh.Connection) -> bool:
    """Whether commands run."""
    return connection.run("echo in").stdout == b"in\n"


def test_an_unknown_host_is_refused_before_anything_is_said(
    stranger: Sshd, home: Home, opened: Open
) -> None:
    with pytest.raises(HostKeyUnknown) as caught:
        opened()
    error = caught.value
    assert str(error) == (
        f"box (127.0.0.1): its host key is not known: ssh-ed25519 {stranger.fingerprint()}"
    )
    assert "--accept-new" in error.hint and f"ssh -p {stranger.port} box" in error.hint
    assert (error.hostname, error.port) == ("127.0.0.1", stranger.port)
    assert (error.key_type, error.fingerprint) == ("ssh-ed25519", stranger.fingerprint())
    assert error.key_line + "\n" == stranger.known_line()
    assert error.may_ask and error.can_be_kept
    assert "userauth" not in stranger.log.read_text()
    assert not home.known_hosts.exists()


def test_trusting_is_once_and_for_ssh_too(stranger: Sshd, home: Home, opened: Open) -> None:
    with pytest.raises(HostKeyUnknown) as caught:
        opened()
    home.known_hosts.write_text("# mine, without a last newline")
    ssh.trust([caught.value, caught.value])
    assert home.known_hosts.read_text().splitlines()[1:] == [caught.value.key_line]
    assert works(opened())
    argv = ["ssh", "-F", str(home.config), "-o", f"UserKnownHostsFile={home.known_hosts}"]
    argv += ["-i", str(home.ssh / "id_ed25519"), "-o", "BatchMode=yes", "box", "echo in"]
    assert subprocess.run(argv, check=True, capture_output=True).stdout == b"in\n"


def test_trust_makes_what_is_missing(stranger: Sshd, home: Home, opened: Open) -> None:
    text = home.config.read_text()
    home.config.write_text(f"{text}  UserKnownHostsFile {home.path}/new/dir/known\n")
    with pytest.raises(HostKeyUnknown) as caught:
        opened()
    ssh.trust([caught.value])
    known = home.path / "new/dir/known"
    assert oct(known.stat().st_mode & 0o777) == "0o600"
    assert oct(known.parent.stat().st_mode & 0o777) == "0o700"
    assert works(opened())


def test_many_threads_trust_at_once(home: Home) -> None:
    unknown = [
        HostKeyUnknown(hostname=f"h{n}", key_line=f"h{n} ssh-ed25519 AAAA") for n in range(40)
    ]
    threads = [threading.Thread(target=ssh.trust, args=([one],)) for one in unknown * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = home.known_hosts.read_text().splitlines()
    assert sorted(lines) == sorted(one.key_line for one in unknown)


def test_accept_new_takes_new_keys_only(
    stranger: Sshd, home: Home, opened: Open, start_sshd: Start
) -> None:
    assert works(opened(accept_new=True))
    assert home.known_hosts.read_text() == stranger.known_line()
    assert works(opened())
    stranger.stop()
    other = start_sshd(port=stranger.port)
    with pytest.raises(HostKeyChanged) as caught:
        opened(accept_new=True)
    assert f"shows ssh-ed25519 {other.fingerprint()}" in str(caught.value)
    assert f"{home.known_hosts}:1 has ssh-ed25519 {stranger.fingerprint()}" in str(caught.value)
    cure = f"ssh-keygen -R '[127.0.0.1]:{other.port}' -f {home.known_hosts}"
    assert caught.value.hint.endswith(cure)
    assert caught.value.exit_code == 77
    subprocess.run(cure, shell=True, check=True, capture_output=True)
    with pytest.raises(HostKeyUnknown):
        opened()


@pytest.mark.parametrize(("line", "accepted"), [("accept-new", True), ("no", False)])
def test_the_configuration_may_accept_new_keys(
    stranger: Sshd, home: Home, opened: Open, line: str, accepted: bool
) -> None:
    home.config.write_text(f"{home.config.read_text()}  StrictHostKeyChecking {line}\n")
    if accepted:
        assert works(opened())
    else:  # no check at all is not to be had here
        with pytest.raises(HostKeyUnknown):
            opened()


def test_a_strict_configuration_forbids_asking(stranger: Sshd, home: Home, opened: Open) -> None:
    home.config.write_text(f"{home.config.read_text()}  StrictHostKeyChecking yes\n")
    with pytest.raises(HostKeyUnknown) as caught:
        opened()
    assert not caught.value.may_ask
    assert works(opened(accept_new=True))  # the command line wins


def test_a_host_that_is_not_to_be_remembered(stranger: Sshd, home: Home, opened: Open) -> None:
    home.config.write_text(f"{home.config.read_text()}  UserKnownHostsFile /dev/null\n")
    with pytest.raises(HostKeyUnknown) as caught:
        opened()
    assert not caught.value.can_be_kept
    with pytest.raises(SshError, match="cannot be kept in /dev/null"):
        ssh.trust([caught.value])
    assert works(opened(accept_new=True))


def test_a_revoked_key_is_never_accepted(stranger: Sshd, home: Home, opened: Open) -> None:
    home.know(stranger.known_line(), f"@revoked * {stranger.known_line().split(' ', 1)[1]}")
    for accept_new in (False, True):
        with pytest.raises(HostKeyChanged, match=rf"is revoked \({home.known_hosts}:2\)"):
            opened(accept_new=accept_new)


def test_certified_hosts_are_not_supported_and_said_so(
    stranger: Sshd, home: Home, opened: Open, tmp_path: Path
) -> None:
    authority = make_key(tmp_path / "authority")
    public = authority.with_name("authority.pub").read_text()
    home.know(f"@cert-authority *,[127.0.0.1]:* {public}")
    with pytest.raises(HostKeyUnknown, match=r"known_hosts:1 \(@cert-authority\) is not supported"):
        opened()
    # The authority's key is not taken for the host's own.
    home.known_hosts.write_text(f"@cert-authority * {stranger.known_line().split(' ', 1)[1]}")
    with pytest.raises(HostKeyUnknown):
        opened()


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
def test_the_known_key_is_asked_for(home: Home, start_sshd: Start, opened: Open, kind: str) -> None:
    """A server with several keys shows the one that is known."""
    server = start_sshd(host_keys=["ed25519", "ecdsa", "rsa"])
    home.host("box", server)
    server.authorize(home.key())
    home.know(server.known_line(kind))
    assert works(opened())


def test_another_type_of_key_is_a_change(
    stranger: Sshd, home: Home, opened: Open, tmp_path: Path
) -> None:
    """Else whoever is in between would only have to show a key of a new type."""
    words = make_key(tmp_path / "old", kind="rsa").with_name("old.pub").read_text()
    home.know(f"[127.0.0.1]:{stranger.port} {words}")
    with pytest.raises(HostKeyChanged, match=r"known_hosts:1 has ssh-rsa SHA256:"):
        opened(accept_new=True)


@pytest.mark.parametrize(
    "names",
    [
        "[127.0.0.1]:{port}",
        "other,[127.0.0.1]:{port}",
        "[127.*]:{port}",
        "[127.0.0.?]:*",
        "127.0.0.1",  # as OpenSSH: known without its port
    ],
)
def test_names_of_a_known_host(stranger: Sshd, home: Home, opened: Open, names: str) -> None:
    home.know(stranger.known_line(name=names.format(port=stranger.port)))
    assert works(opened())


def test_a_name_may_be_excepted(stranger: Sshd, home: Home, opened: Open) -> None:
    home.know(stranger.known_line(name=f"!*:{stranger.port},[127.*"))
    with pytest.raises(HostKeyUnknown):
        opened()


def test_hashed_names(stranger: Sshd, home: Home, opened: Open) -> None:
    home.know(stranger.known_line())
    argv = ["ssh-keygen", "-H", "-f", str(home.known_hosts)]
    subprocess.run(argv, check=True, capture_output=True)
    assert home.known_hosts.read_text().startswith("|1|")
    assert works(opened())


def test_names_are_hashed_where_wanted(stranger: Sshd, home: Home, opened: Open) -> None:
    home.config.write_text(f"{home.config.read_text()}  HashKnownHosts yes\n")
    assert works(opened(accept_new=True))
    assert home.known_hosts.read_text().startswith("|1|")
    assert works(opened())
    name, file = f"[127.0.0.1]:{stranger.port}", str(home.known_hosts)
    subprocess.run(["ssh-keygen", "-F", name, "-f", file], check=True, capture_output=True)


def test_an_alias_for_the_key(stranger: Sshd, home: Home, opened: Open) -> None:
    home.config.write_text(f"{home.config.read_text()}  HostKeyAlias the-box\n")
    home.know(stranger.known_line())
    with pytest.raises(HostKeyUnknown):
        opened()
    home.known_hosts.write_text(stranger.known_line(name="the-box"))
    assert works(opened())


def test_lines_that_make_no_sense_are_left_out(stranger: Sshd, home: Home, opened: Open) -> None:
    home.know("# note\n", "\n", "a b\n", "|1|x ssh-rsa %%\n", "|1|a|b| ssh-rsa AAAA\n")
    home.know(stranger.known_line())
    assert works(opened())
    os.truncate(home.known_hosts, 0)
    assert list(ssh_known.entries([str(home.known_hosts), "/nonexistent"])) == []
