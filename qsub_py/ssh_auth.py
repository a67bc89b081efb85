"""Logging in: keys first, then questions, as ssh(1) does; and saying well why it failed.

Part of `ssh`. paramiko signs with whatever key it is given; here the server is asked first
whether it would take the key, so no passphrase is asked for in vain.
"""

from __future__ import annotations

import threading
from typing import Any

import paramiko
from paramiko.auth_handler import AuthHandler
from paramiko.common import cMSG_USERAUTH_REQUEST
from paramiko.message import Message

from qsub_py.errors import AuthenticationFailed, SshLost
from qsub_py.ssh_agent import AgentTrouble
from qsub_py.ssh_keys import Identities, Identity, Locked
from qsub_py.ssh_route import Route
from qsub_py.ssh_secrets import Asker, Secrets
from qsub_py.ssh_transport import Transport
from qsub_py.text import safe

#: Seconds for each answer of the server; PAM and name look-ups can be slow.
ANSWER_S = 30.0
#: Seconds while the user types; sshd's LoginGraceTime is 120.
TYPING_S = 180.0
#: How many keys are shown when a password could follow: sshd hangs up at the sixth failure.
KEYS_BEFORE_PASSWORD = 5
#: How often a password is asked for.
TRIES = 3
#: The message by which a server says that it would take a key (RFC 4252, 7).
PK_OK = 60


class _Offer(AuthHandler):  # type: ignore[misc]
    """One request by public key: a question without a signature, the login with one."""

    def __init__(self, transport: Transport, user: str, identity: Identity) -> None:
        super().__init__(transport)
        self.welcome = False
        self._user, self._identity = user, identity
        self._algorithm = self._finalize_pubkey_algorithm(identity.key_type)
        self._signature: Any = None

    def sign(self) -> None:
        """Make it a login; in the caller's thread, since this may ask the user or the agent."""
        blob = self._get_session_blob(self._identity, "ssh-connection", self._user, self._algorithm)
        self._signature = self._identity.sign(blob, self._algorithm)

    def send(self) -> list[str]:
        """Return what the server wants besides; raises AuthenticationException for a no."""
        answered = threading.Event()
        self.transport.auth_handler = self
        self.auth_publickey(self._user, self._identity, answered)
        wanted: list[str] = self.wait_for_response(answered)
        return wanted

    def _parse_service_accept(self, m: Any) -> None:
        request = Message()
        request.add_byte(cMSG_USERAUTH_REQUEST)
        for text in (self._user, "ssh-connection", "publickey"):
            request.add_string(text)
        request.add_boolean(self._signature is not None)
        request.add_string(self._algorithm)
        request.add_string(self._identity.blob)
        if self._signature is not None:
            request.add_string(self._signature)
        self.transport._send_message(request)

    def _accept(self, m: Any) -> None:
        self.welcome = True
        self.auth_event.set()

    @property
    def _client_handler_table(self) -> dict[int, Any]:
        return {**super()._client_handler_table, PK_OK: self._accept}


def login(transport: Transport, route: Route, secrets: Secrets, asker: Asker | None) -> None:
    """Authenticate; raises AuthenticationFailed with what was tried, SshLost."""
    attempt = Login(transport, route, secrets, asker if route.may_ask else None)
    try:
        attempt.run()
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise attempt.failure(error) from None


class Login:
    """One attempt to get in."""

    def __init__(
        self, transport: Transport, route: Route, secrets: Secrets, asker: Asker | None
    ) -> None:
        self._transport, self._route = transport, route
        self._secrets, self._asker = secrets, asker
        self._identities = Identities(route, secrets, asker)
        #: What the server takes at this point.
        self._methods: list[str] = []
        self._tried: list[str] = []
        self._locked: list[str] = []
        self._left = 0
        transport.auth_timeout = ANSWER_S

    def run(self) -> None:
        """Try everything in turn; a server may want several in a row."""
        self._offer_nothing()
        ways = {
            "publickey": self._offer_keys,
            "keyboard-interactive": self._answer_questions,
            "password": self._tell_password,
        }
        while not self._transport.is_authenticated():
            before = list(self._methods)
            way = next((name for name in ways if name in self._methods), None)
            if way is None:
                raise self.failure()
            ways[way]()
            if self._methods == before:  # neither in nor a step further
                del ways[way]

    def _offer_nothing(self) -> None:
        """Learn what the server takes; a few hosts let everybody in."""
        try:
            self._methods = self._transport.auth_none(self._route.user)
        except paramiko.BadAuthenticationType as error:
            self._methods = list(error.allowed_types)

    # -- keys ------------------------------------------------------------------------------

    def _offer_keys(self) -> None:
        found = self._identities.all()
        other = {"password", "keyboard-interactive"} & {*self._methods}
        most = KEYS_BEFORE_PASSWORD if other and self._can_ask() else len(found)
        self._left = len(found[most:])
        for identity in found[:most]:
            self._tried.append(identity.label)
            if self._is_welcome(identity) and self._sign(identity):
                return

    def _can_ask(self) -> bool:
        return bool(self._asker) or self._secrets.password(self._route.account) is not None

    def _is_welcome(self, identity: Identity) -> bool:
        offer = _Offer(self._transport, self._route.user, identity)
        try:
            offer.send()
        except paramiko.AuthenticationException:
            if not self._transport.is_active():
                raise
        return offer.welcome

    def _sign(self, identity: Identity) -> bool:
        """Log in by a key; False when it cannot sign, or the server does not take it."""
        offer = _Offer(self._transport, self._route.user, identity)
        try:
            offer.sign()
        except Locked:
            self._tried[-1] += " (has a passphrase)"
            self._locked.append(identity.label)
            return False
        except (AgentTrouble, OSError, ValueError, paramiko.SSHException) as error:
            self._tried[-1] += f" (cannot sign: {error})"
            return False
        try:
            self._methods = offer.send()
        except paramiko.AuthenticationException:
            if not self._transport.is_active():
                raise
            return False
        return True

    # -- questions -------------------------------------------------------------------------

    def _answer_questions(self) -> None:
        if not self._can_ask():
            return
        self._tried.append("keyboard-interactive")
        for _ in range(TRIES):
            asked = Questions(self._route, self._secrets, self._asker)
            self._transport.auth_timeout = TYPING_S  # the answers count
            try:
                self._methods = self._transport.auth_interactive(self._route.user, asked.answer)
                return
            except paramiko.BadAuthenticationType:
                return
            except paramiko.AuthenticationException:
                if not self._transport.is_active():
                    raise
                asked.was_wrong()
                if asked.gave_up or not self._asker:
                    return
            finally:
                self._transport.auth_timeout = ANSWER_S

    def _tell_password(self) -> None:
        if not self._can_ask():
            return
        self._tried.append("password")
        for _ in range(TRIES):
            asked = Questions(self._route, self._secrets, self._asker)
            word = asked.password("Password: ")
            if word is None:
                return
            try:
                self._methods = self._transport.auth_password(
                    self._route.user, word, fallback=False
                )
                return
            except paramiko.AuthenticationException:
                if not self._transport.is_active():
                    raise
                asked.was_wrong()
                if not self._asker:
                    return

    # -- what went wrong -------------------------------------------------------------------

    def failure(self, error: Exception | None = None) -> AuthenticationFailed | SshLost:
        """Return the error for the user: what was tried, what the server takes, what to do."""
        goodbye = self._transport.goodbye
        if "too many auth" in goodbye.lower():
            return self._too_many()
        if error is not None and not self._transport.is_active():
            reason = safe(goodbye) or self._transport.wire.cut or "it hung up"
            return SshLost(
                f"{self._route}: lost while logging in as {self._route.user}: {reason}",
                hint="try again; sshd's log on the host says more",
            )
        why = f": {error}" if error and str(error).startswith("Authentication timeout") else ""
        return AuthenticationFailed(
            f"{self._route}: {self._route.user} is not let in{why}; {self._what_was_tried()}; "
            f"the server takes {safe(', '.join(self._methods)) or 'nothing'}",
            hint=self._cure(),
        )

    def _what_was_tried(self) -> str:
        notes = [*self._identities.notes]
        if self._left:
            notes.append(f"{self._left} more keys not offered")
        said = (
            f"tried {safe(', '.join(self._tried))}" if self._tried else "there was no key to offer"
        )
        return f"{said} ({'; '.join(notes)})" if notes else said

    def _too_many(self) -> AuthenticationFailed:
        count = len(self._tried)
        return AuthenticationFailed(
            f"{self._route}: too many authentication failures: the server hung up after "
            f"{count} keys ({safe(', '.join(self._tried))})",
            hint=f"name the right key in ~/.ssh/config: Host {self._route.alias}, "
            "IdentityFile ~/.ssh/KEY, IdentitiesOnly yes",
        )

    def _cure(self) -> str:
        locked = [*self._locked]
        locked += [note.split()[0] for note in self._identities.notes if "passphrase" in note]
        if locked:
            return f"give the key to an agent first: ssh-add {locked[0]}"
        if self._left:
            return "name the right key: IdentityFile and IdentitiesOnly yes in ~/.ssh/config"
        if not self._tried:
            return f"make a key (ssh-keygen) and bring it there: ssh-copy-id {self._route.alias}"
        return f"bring a key there: ssh-copy-id {self._route.alias}; is the user name right?"


class Questions:
    """Answers to the questions of one round, from what is known or from the user."""

    def __init__(self, route: Route, secrets: Secrets, asker: Asker | None) -> None:
        self._route, self._secrets, self._asker = route, secrets, asker
        self._used: str | None = None
        self.gave_up = False

    def answer(self, title: str, instructions: str, prompts: list[tuple[str, bool]]) -> list[str]:
        """Return what keyboard-interactive asks for; called in paramiko's thread."""
        answers = []
        for prompt, echo in prompts:
            answers.append(self._answer("\n".join(filter(None, [instructions, prompt])), echo))
            instructions = ""
        return [text or "" for text in answers]

    def _answer(self, prompt: str, echo: bool) -> str | None:
        if not echo and "password" in prompt.lower():
            return self.password(prompt)
        text = self._secrets.ask("", lambda: None, lambda: self._put(prompt, echo))
        self.gave_up |= text is None
        return text

    def password(self, prompt: str) -> str | None:
        """Return the account's password: told before, or asked for now."""
        account = self._route.account
        self._used = self._secrets.ask(
            f"password of {account}",
            lambda: self._secrets.password(account),
            lambda: self._put(prompt, False),
        )
        self.gave_up |= self._used is None
        if self._used is not None:
            self._secrets.keep_password(account, self._used)
        return self._used

    def _put(self, prompt: str, echo: bool) -> str | None:
        return self._asker.answer(str(self._route), prompt, echo) if self._asker else None

    def was_wrong(self) -> None:
        """Forget the password that this round used."""
        if self._used is not None:
            self._secrets.forget_password(self._route.account, self._used)
