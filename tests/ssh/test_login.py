"""Getting in: keys, agents, certificates, passphrases, passwords; and what is said on failure."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from env import wait_until
from qsub_py import ssh
from qsub_py.errors import AuthenticationFailed
from sshd import Agent, Home, Sshd, make_key

Open = Callable[..., ssh.Connection]
Start = Callable[..., Sshd]


@dataclass
class Person:
    """Somebody at a terminal: what he answers, and what he was asked."""

    passphrases: list[str | None] = field(default_factory=list)
    answers: list[str | None] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def passphrase(self, path: str) -> str | None:
        """Answer for a key file."""
        self.asked.append(path)
        return self.passphrases.pop(0) if self.passphrases else None

    def answer(self, host: str, prompt: str, echo: bool) -> str | None:
        """Answer a server."""
        self.asked.append(f"{host}|{prompt}|{echo}")
        return self.answers.pop(0) if self.answers else None


@pytest.fixture
def server(home: Home, start_sshd: Start) -> Sshd:
    """Return a known server that lets nobody in yet."""
    started = start_sshd()
    home.host("box", started)
    home.know(started.known_line())
    return started


def works(connection: ssh.Connection) -> bool:
    """Whether commands run."""
    return connection.run("echo in").stdout == b"in\n"


# -- keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
@pytest.mark.parametrize("passphrase", ["", "sesame"])
@pytest.mark.parametrize("form", ["", "PEM"])
def test_a_key_file_of_any_kind(
    server: Sshd, home: Home, opened: Open, kind: str, passphrase: str, form: str
) -> None:
    server.authorize(home.key(f"id_{kind}", kind=kind, passphrase=passphrase, form=form))
    assert works(opened(asker=Person([passphrase])))


def test_the_public_half_is_read_from_an_old_file_without_pub(
    server: Sshd, home: Home, opened: Open
) -> None:
    key = server.authorize(home.key("id_rsa", kind="rsa", passphrase="sesame", form="PEM"))
    key.with_name("id_rsa.pub").unlink()
    assert works(opened(asker=Person(["sesame"])))


def test_a_passphrase_is_asked_for_once(server: Sshd, home: Home, opened: Open) -> None:
    key = server.authorize(home.key(passphrase="sesame"))
    home.key("id_rsa", kind="rsa", passphrase="other")  # not welcome there: not asked for
    person, secrets = Person(["wrong", "sesame"]), ssh.Secrets()
    assert works(opened(asker=person, secrets=secrets))
    assert works(opened(asker=person, secrets=secrets))
    assert works(opened(secrets=ssh.Secrets.from_json(secrets.to_json())))
    assert person.asked == [str(key)] * 2
    assert "sesame" not in repr(secrets)


def test_many_threads_ask_once(server: Sshd, home: Home, opened: Open) -> None:
    server.authorize(home.key(passphrase="sesame"))
    person, secrets, found = Person(["sesame"]), ssh.Secrets(), []

    def work() -> None:
        found.append(works(opened(asker=person, secrets=secrets)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [True] * 8
    assert len(person.asked) == 1


def test_who_types_longer_than_the_server_waits_gets_in(
    home: Home, start_sshd: Start, opened: Open
) -> None:
    """The server hangs up meanwhile; the answer is good for the next connection."""
    server = start_sshd(options=["LoginGraceTime 5"])
    home.host("box", server)
    home.know(server.known_line())
    server.authorize(home.key(passphrase="sesame"))

    class Slow(Person):
        def passphrase(self, path: str) -> str | None:
            wait_until(lambda: not server.sessions(), what="the server hangs up")
            return super().passphrase(path)

    person = Slow(["sesame"])
    assert works(opened(asker=person))
    assert len(person.asked) == 1


@pytest.mark.parametrize("asker", [None, Person()])
def test_a_locked_key_says_what_to_do(
    server: Sshd, home: Home, opened: Open, asker: Person | None
) -> None:
    key = server.authorize(home.key(passphrase="sesame"))
    with pytest.raises(AuthenticationFailed, match="has a passphrase") as caught:
        opened(asker=asker)
    assert caught.value.hint == f"give the key to an agent first: ssh-add {key}"


def test_a_wrong_passphrase_is_asked_for_three_times(
    server: Sshd, home: Home, opened: Open
) -> None:
    server.authorize(home.key(passphrase="sesame"))
    person = Person(["wrong"] * 5)
    with pytest.raises(AuthenticationFailed, match="has a passphrase"):
        opened(asker=person)
    assert len(person.asked) == 3


def test_batch_mode_asks_nothing(server: Sshd, home: Home, opened: Open) -> None:
    home.config.write_text("BatchMode yes\n" + home.config.read_text())
    server.authorize(home.key(passphrase="sesame"))
    person = Person(["sesame"])
    with pytest.raises(AuthenticationFailed):
        opened(asker=person)
    assert person.asked == []


def test_an_unreadable_key_is_told_and_passed_by(server: Sshd, home: Home, opened: Open) -> None:
    server.authorize(home.key())
    bad = home.ssh / "id_rsa"
    bad.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n")
    assert works(opened())
    server.authorized.write_text("")
    with pytest.raises(AuthenticationFailed, match=f"{bad} cannot be read"):
        opened()


def test_a_failure_names_what_was_tried(server: Sshd, home: Home, opened: Open) -> None:
    key = home.key()
    home.config.write_text(home.config.read_text() + f"  IdentityFile {home.ssh}/missing\n")
    home.config.write_text(home.config.read_text() + f"  IdentityFile {key}\n")
    with pytest.raises(AuthenticationFailed) as caught:
        opened()
    assert str(caught.value) == (
        f"box (127.0.0.1): {server.user} is not let in; tried {key} "
        f"(there is no {home.ssh}/missing); the server takes publickey"
    )
    assert caught.value.hint.startswith("bring a key there: ssh-copy-id box")
    assert caught.value.exit_code == 77


def test_no_key_at_all_says_so(server: Sshd, home: Home, opened: Open) -> None:
    with pytest.raises(AuthenticationFailed, match="there was no key to offer") as caught:
        opened()
    assert "ssh-keygen" in caught.value.hint


# -- the agent -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_a_key_in_the_agent(
    server: Sshd, home: Home, agent: Agent, opened: Open, tmp_path: Path, kind: str
) -> None:
    key = server.authorize(make_key(tmp_path / "key", kind=kind))
    agent.add(key)
    assert works(opened())


def test_an_agent_by_configuration(
    server: Sshd, home: Home, agent: Agent, opened: Open, tmp_path: Path, monkeypatch
) -> None:
    agent.add(server.authorize(make_key(tmp_path / "key")))
    monkeypatch.delenv("SSH_AUTH_SOCK")
    config = home.config.read_text()
    home.config.write_text(f"{config}  IdentityAgent {agent.socket}\n")
    assert works(opened())
    monkeypatch.setenv("SSH_AUTH_SOCK", agent.socket)
    home.config.write_text(f"{config}  IdentityAgent none\n")
    with pytest.raises(AuthenticationFailed):
        opened()


def test_an_agent_that_is_gone_is_told(server: Sshd, opened: Open, monkeypatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nonexistent/agent")
    with pytest.raises(AuthenticationFailed, match="agent at /nonexistent/agent does not answer"):
        opened()


def test_too_many_keys_are_explained(
    server: Sshd, home: Home, agent: Agent, opened: Open, tmp_path: Path
) -> None:
    agent.add(*(make_key(tmp_path / f"key{number}") for number in range(8)))
    right = server.authorize(home.key("right"))
    with pytest.raises(AuthenticationFailed, match="too many authentication failures") as caught:
        opened()
    assert "after 6 keys (agent key key0, " in str(caught.value)
    assert "Host box, IdentityFile ~/.ssh/KEY, IdentitiesOnly yes" in caught.value.hint
    home.config.write_text(
        f"{home.config.read_text()}  IdentityFile {right}\n  IdentitiesOnly yes\n"
    )
    assert works(opened())


def test_the_configured_key_is_the_agents_first(
    server: Sshd, home: Home, agent: Agent, opened: Open, tmp_path: Path
) -> None:
    """A public key file is enough to name the key that the agent should show."""
    keys = [make_key(tmp_path / f"key{number}") for number in range(8)]
    agent.add(*keys)
    server.authorize(keys[7])
    home.config.write_text(f"{home.config.read_text()}  IdentityFile {keys[7]}.pub\n")
    assert works(opened())


# -- certificates ----------------------------------------------------------------------------


def certify(authority: Path, key: Path) -> None:
    """Sign a user's key."""
    public = f"{key}.pub"
    argv = ["ssh-keygen", "-q", "-s", str(authority), "-I", "test", "-n", "anybody,root", public]
    subprocess.run(argv, check=True, capture_output=True)


@pytest.fixture
def certifying(home: Home, start_sshd: Start, tmp_path: Path) -> Path:
    """Return the authority that a known server trusts."""
    authority = make_key(tmp_path / "authority")
    names = tmp_path / "principals"
    names.write_text("anybody\n")
    started = start_sshd(
        options=[f"TrustedUserCAKeys {authority}.pub", f"AuthorizedPrincipalsFile {names}"]
    )
    home.host("box", started)
    home.know(started.known_line())
    return authority


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_a_certificate_beside_its_key(
    certifying: Path, home: Home, opened: Open, kind: str
) -> None:
    key = home.key(f"id_{kind}", kind=kind)
    with pytest.raises(AuthenticationFailed):
        opened()
    certify(certifying, key)
    assert works(opened())


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_a_certificate_in_the_agent(
    certifying: Path, home: Home, agent: Agent, opened: Open, tmp_path: Path, kind: str
) -> None:
    key = make_key(tmp_path / "key", kind=kind)
    certify(certifying, key)
    agent.add(key)
    assert works(opened())


# -- passwords -------------------------------------------------------------------------------


def hashed(password: str) -> str:
    """Return a password as shadow(5) has it."""
    argv = ["openssl", "passwd", "-6", password]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def can_fake_passwords() -> bool:
    """Whether a server can have a shadow file of its own here (root, in a mount namespace)."""
    if os.getuid() or not shutil.which("unshare") or not shutil.which("openssl"):
        return False
    return not subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode


with_passwords = pytest.mark.skipif(
    not can_fake_passwords(), reason="needs root, unshare and openssl for a shadow file of its own"
)


def start_with_password(
    start_sshd: Start, home: Home, tmp_path: Path, *options: str, pam: bool = False
) -> Sshd:
    """Start a known server whose user has the password "sesame"."""
    shadow, rules = tmp_path / "shadow", tmp_path / "pam"
    shadow.write_text(f"root:{hashed('sesame')}:19000:0:99999:7:::\n")
    rules.write_text(
        "auth required pam_unix.so\naccount required pam_permit.so\n"
        "session required pam_permit.so\n"
    )
    over = {shadow: "/etc/shadow", **({rules: "/etc/pam.d/sshd"} if pam else {})}
    mounts = [f"mount --bind {file} {place} && " for file, place in over.items()]
    script = f'{"".join(mounts)} exec "$@"'
    under = ["unshare", "--mount", "sh", "-c", script, "sh"]
    started = start_sshd(options=options, under=under)
    home.host("box", started)
    home.know(started.known_line())
    return started


@pytest.fixture(params=["password", "keyboard-interactive"])
def asking(request, start_sshd: Start, home: Home, tmp_path: Path) -> Sshd:
    """Return a server that asks for the password, in either way."""
    if request.param == "password":
        return start_with_password(start_sshd, home, tmp_path, "PasswordAuthentication yes")
    options = ["UsePAM yes", "KbdInteractiveAuthentication yes"]
    return start_with_password(start_sshd, home, tmp_path, *options, pam=True)


@with_passwords
def test_a_password_is_asked_for_and_kept(asking: Sshd, opened: Open) -> None:
    person, secrets = Person(answers=["wrong", "sesame"]), ssh.Secrets()
    assert works(opened(asker=person, secrets=secrets))
    assert works(opened(secrets=ssh.Secrets.from_json(secrets.to_json())))
    assert len(person.asked) == 2
    assert person.asked[0].startswith("box (127.0.0.1)|")
    assert person.asked[0].endswith("Password: |False")


@with_passwords
def test_a_password_is_not_asked_for_without_a_terminal(asking: Sshd, opened: Open) -> None:
    with pytest.raises(AuthenticationFailed, match="no key to offer; the server takes publickey,"):
        opened()


@with_passwords
def test_a_wrong_password_is_told(asking: Sshd, opened: Open) -> None:
    person = Person(answers=["wrong"] * 9)
    with pytest.raises(AuthenticationFailed, match=r"tried (password|keyboard-interactive);"):
        opened(asker=person)
    assert len(person.asked) == 3
    with pytest.raises(AuthenticationFailed):  # who gives up is not asked again
        opened(asker=(quiet := Person()))
    assert len(quiet.asked) == 1


@with_passwords
def test_a_password_is_reached_past_many_keys(
    asking: Sshd, agent: Agent, opened: Open, tmp_path: Path
) -> None:
    agent.add(*(make_key(tmp_path / f"key{number}") for number in range(8)))
    assert works(opened(asker=Person(answers=["sesame"])))


@with_passwords
def test_a_key_and_a_password_in_a_row(
    start_sshd: Start, home: Home, tmp_path: Path, opened: Open
) -> None:
    server = start_with_password(
        start_sshd,
        home,
        tmp_path,
        *("PasswordAuthentication yes", "AuthenticationMethods publickey,password"),
    )
    server.authorize(home.key())
    assert works(opened(asker=Person(answers=["sesame"])))
    with pytest.raises(AuthenticationFailed, match="the server takes password"):
        opened()
