"""paramiko's Transport, with what it lacks for connections that stay open for weeks.

Part of `ssh`. Added: answers of global requests matched to their questions (paramiko has one
place for all), questions to a silent server, the reason the server gave for hanging up, no
wait without an end at closing, no timer that outlives a failed key exchange, and replies
that fall into a key exchange are sent after it instead of blocking the only thread that
could finish it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from typing import Any

import paramiko
from paramiko.common import cMSG_GLOBAL_REQUEST
from paramiko.message import Message

from qsub_py.ssh_wire import Wire

#: Seconds for the thread of a closed connection to end; it is only waited for to be tidy.
JOIN_S = 2.0
#: What goes fastest here first: with AES-GCM there is no separate hash to compute in Python.
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")

# Without a handler Python prints paramiko's warnings and tracebacks to standard error.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class _Question:
    """A global request that waits for its answer."""

    def __init__(self) -> None:
        self.answered = threading.Event()
        self.answer: Any = None


class Transport(paramiko.Transport):  # type: ignore[misc]
    """An SSH session over a Wire."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self.wire, self.name = wire, "ssh-transport"
        #: What the server said when it hung up.
        self.goodbye = ""
        self._questions: deque[_Question] = deque()
        self._asking = threading.Lock()
        self._late: list[Any] = []
        wire.ask = self._ask_alive
        options = self.get_security_options()
        ours = [name for name in CIPHERS if name in options.ciphers]
        options.ciphers = (*ours, *(name for name in options.ciphers if name not in ours))

    def prefer_keys(self, key_types: list[str]) -> None:
        """Ask the server for a host key of these types first: those that are known of it."""
        options = self.get_security_options()
        known = [name for kind in key_types for name in _algorithms(kind)]
        first = [name for name in known if name in options.key_types]
        options.key_types = (*first, *(name for name in options.key_types if name not in first))

    def run(self) -> None:
        """Run the session; leave no timer behind, for Python's exit would wait for it."""
        try:
            super().run()
        finally:
            self.packetizer.complete_handshake()
            self._end()

    def _end(self) -> None:
        """Tell whoever waits, also when paramiko's own thread has failed unforeseen."""
        self.active = False
        self.wire.close()
        for channel in list(self._channels.values()):
            channel._unlink()
        if self.completion_event is not None:
            self.completion_event.set()
        with self._asking:
            left = [*self._questions]
            self._questions.clear()
        for question in left:
            question.answered.set()

    def stop_thread(self) -> None:
        """End the session's thread, without waiting for ever."""
        self.active = False
        self.packetizer.close()
        if self is not threading.current_thread() and self.is_alive():
            self.join(JOIN_S)

    # -- questions to the server -----------------------------------------------------------

    def global_request(self, kind: str, data: Any = None, wait: bool = True) -> Any:
        """Ask the server; return its answer, None for a refusal or a lost connection."""
        if not wait:
            return super().global_request(kind, data, wait=False)
        question = _Question()
        with self._asking:  # answers come in the order of the questions
            self._questions.append(question)
            self._send_user_message(_request(kind, data))
        while self.is_active() and not question.answered.wait(1):
            pass
        return question.answer

    def _ask_alive(self) -> bool:
        """Ask the server for any answer, from the session's own thread: never wait."""
        if not self.clear_to_send.is_set() or not self._asking.acquire(blocking=False):
            return False
        try:
            self._questions.append(_Question())
            self._send_message(_request("keepalive@openssh.com", None))
        finally:
            self._asking.release()
        return True

    def _parse_request_success(self, m: Any) -> None:
        self._answer(m)

    def _parse_request_failure(self, m: Any) -> None:
        self._answer(None)

    def _answer(self, message: Any) -> None:
        with contextlib.suppress(IndexError):
            question = self._questions.popleft()
            question.answer = message
            question.answered.set()

    # -- what paramiko does otherwise ------------------------------------------------------

    def _parse_disconnect(self, m: Any) -> None:
        m.get_int()
        self.goodbye = m.get_text()

    def _send_user_message(self, data: Any) -> None:
        if threading.current_thread() is self and not self.clear_to_send.is_set():
            self._late.append(data)
        else:
            super()._send_user_message(data)

    def _parse_newkeys(self, m: Any) -> None:
        super()._parse_newkeys(m)
        late, self._late = self._late, []
        for message in late:
            super()._send_user_message(message)


def _request(kind: str, data: Any) -> Any:
    message = Message()
    message.add_byte(cMSG_GLOBAL_REQUEST)
    message.add_string(kind)
    message.add_boolean(True)
    if data is not None:
        message.add(*data)
    return message


def _algorithms(key_type: str) -> tuple[str, ...]:
    """Return how a host may sign with a key of this type."""
    if key_type == "ssh-rsa":
        return ("rsa-sha2-512", "rsa-sha2-256", "ssh-rsa")
    return (key_type,)
