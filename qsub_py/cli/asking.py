"""Questions to the person at the terminal: passphrases, passwords, unknown host keys."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

from qsub_py.cli.common import complain
from qsub_py.errors import HostKeyUnknown
from qsub_py.render import Board
from qsub_py.text import safe


def is_answered() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


class TerminalAsker:
    """Asks on the terminal; one question at a time is the caller's affair."""

    def __init__(self, board: Board | None = None) -> None:
        self._board = board

    def passphrase(self, path: str) -> str | None:
        """Return the passphrase of a key file; None when the person gives up."""
        with self._paused():
            return _ask(f"Passphrase of {path}: ", is_shown=False)

    def answer(self, host: str, prompt: str, echo: bool) -> str | None:
        """Return the answer to a question of a host."""
        with self._paused():
            return _ask(f"{host}: {prompt.strip()} ", is_shown=echo)

    def confirm(self, unknown: Sequence[HostKeyUnknown]) -> bool:
        """Show the fingerprints of hosts that are not known and ask once for all of them."""
        with self._paused():
            complain("The keys of these hosts are not known yet:")
            for error in unknown:
                place = error.hostname if error.port == 22 else f"{error.hostname}:{error.port}"
                complain(f"  {place}  {error.key_type}  {error.fingerprint}")
            question = "Do they belong to these hosts? Trust them from now on? (yes/no) "
            while (answer := _ask(question, is_shown=True)) is not None:
                if answer.strip().lower() in ("yes", "no"):
                    return answer.strip().lower() == "yes"
        return False

    def _paused(self) -> contextlib.AbstractContextManager[None]:
        return self._board.paused() if self._board else contextlib.nullcontext()


def _ask(question: str, *, is_shown: bool) -> str | None:
    import getpass

    try:
        if not is_shown:
            return getpass.getpass(safe(question))
        sys.stderr.write(safe(question))
        sys.stderr.flush()
        line = sys.stdin.readline()
        return line.rstrip("\n") if line else None
    except EOFError:
        return None
