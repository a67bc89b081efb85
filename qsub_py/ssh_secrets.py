"""Passphrases and passwords: asked once, by one prompt at a time, and kept in memory only.

Part of `ssh`. Many hosts are connected to at the same time; whoever needs a passphrase waits
for the prompt that is open, and then looks whether somebody else has asked for it meanwhile.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Protocol


class Asker(Protocol):
    """Whoever can ask the user; None means there is nobody to ask, or they gave up."""

    def passphrase(self, path: str) -> str | None:
        """Return the passphrase of a key file."""

    def answer(self, host: str, prompt: str, echo: bool) -> str | None:
        """Return the answer to a server's question (a password, a one-time code)."""


class Secrets:
    """What was asked so far; safe to use from many threads."""

    def __init__(self) -> None:
        self._passphrases: dict[str, str] = {}
        self._passwords: dict[str, str] = {}
        self._given_up: set[str] = set()
        #: Held while a question is open: one prompt at a time.
        self._prompt = threading.Lock()

    def __repr__(self) -> str:
        """Show nothing of it."""
        return "Secrets(...)"

    def passphrase(self, path: str) -> str | None:
        """Return the passphrase of a key file, None when it is not known."""
        return self._passphrases.get(path)

    def password(self, account: str) -> str | None:
        """Return the password of "user@host", None when it is not known."""
        return self._passwords.get(account)

    def keep_passphrase(self, path: str, text: str) -> None:
        """Remember the passphrase of a key file."""
        self._passphrases[path] = text

    def forget_passphrase(self, path: str, text: str) -> None:
        """Forget a passphrase that was wrong, unless somebody has put another one there."""
        if self._passphrases.get(path) == text:
            self._passphrases.pop(path, None)

    def keep_password(self, account: str, text: str) -> None:
        """Remember the password of "user@host"."""
        self._passwords[account] = text

    def forget_password(self, account: str, text: str) -> None:
        """Forget a password that was wrong, unless another one is there by now."""
        if self._passwords.get(account) == text:
            self._passwords.pop(account, None)

    def to_json(self) -> str:
        """Return all of it as text, for a pipe to a process of our own and nothing else."""
        return json.dumps({"passphrases": self._passphrases, "passwords": self._passwords})

    @classmethod
    def from_json(cls, text: str) -> Secrets:
        """Read what `to_json` wrote."""
        made, given = cls(), json.loads(text or "{}")
        made._passphrases.update(given.get("passphrases", {}))
        made._passwords.update(given.get("passwords", {}))
        return made

    def ask(
        self, what: str, known: Callable[[], str | None], question: Callable[[], str | None]
    ) -> str | None:
        """Return what is `known`, else what the `question` brings; one question at a time.

        A question that the user left without an answer is not put again: None.
        """
        with self._prompt:
            found = known()
            if found is not None or what in self._given_up:
                return found
            answer = question()
            if answer is None and what:
                self._given_up.add(what)
            return answer

    def update(self, other: Secrets) -> None:
        """Take over what another one knows."""
        self._passphrases.update(other._passphrases)
        self._passwords.update(other._passwords)
