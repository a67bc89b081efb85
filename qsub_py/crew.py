"""Something done for many hosts at once: on threads that also ask, one question at a time.

Questions are put by the thread that waits for them all (a command's main thread), where Ctrl-C
arrives: so it ends a prompt, with the terminal put right, and not only what waits behind it.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Generic, TypeVar

from qsub_py.ssh import Asker

T = TypeVar("T")
R = TypeVar("R")


class Relay:
    """An `Asker` for threads: what they ask is asked where `Crew.run` waits."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._questions: queue.SimpleQueue[Callable[[], None]] | None = None

    def passphrase(self, path: str) -> str | None:
        """Return the passphrase of a key file; None when the person gives up."""
        return self._ask(partial(self._asker.passphrase, path))

    def answer(self, host: str, prompt: str, echo: bool) -> str | None:
        """Return the answer to a question of a host; None when the person gives up."""
        return self._ask(partial(self._asker.answer, host, prompt, echo))

    def lead_to(self, questions: queue.SimpleQueue[Callable[[], None]] | None) -> None:
        """Put questions there from now on; None: nobody is there to answer."""
        self._questions = questions

    def _ask(self, question: Callable[[], str | None]) -> str | None:
        questions, reply = self._questions, Future[str | None]()
        if questions is None:
            return None

        def put() -> None:
            try:
                reply.set_result(question())
            except BaseException:
                reply.set_result(None)
                raise

        questions.put(put)
        return reply.result()


class Crew(Generic[T, R]):
    """Threads that do `action` for each of `items`, at most `at_once` at a time."""

    def __init__(self, action: Callable[[T], R], items: Sequence[T], *, at_once: int) -> None:
        self._action = action
        self._items = items
        self._at_once = at_once
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._left = deque(range(len(items)))
        self._results: dict[int, R] = {}

    def run(
        self,
        done: Callable[[T, R], None],
        *,
        relay: Relay | None = None,
        finishing: Callable[[int], None] | None = None,
    ) -> list[R]:
        """Return the results in their order; `done` hears of each at once, in this thread.

        After Ctrl-C nothing more is begun. With `finishing`, which is told how many, those that
        are at work are waited for, until a second one. Then KeyboardInterrupt is raised.
        """
        if relay:
            relay.lead_to(self._events)
        for _ in range(min(self._at_once, len(self._items))):
            # Daemons: a second Ctrl-C ends the command whatever they wait for.
            threading.Thread(target=self._work, args=(done,), name="host", daemon=True).start()
        try:
            self._wait(len(self._items))
        except BaseException:
            if relay:
                relay.lead_to(None)
            with self._lock:
                begun = len(self._items) - len(self._left)
                self._left.clear()
            if finishing and begun > len(self._results):
                finishing(begun - len(self._results))
                self._wait(begun)
            raise
        return [self._results[number] for number in range(len(self._items))]

    def _wait(self, count: int) -> None:
        while len(self._results) < count:
            self._events.get()()

    def _take(self) -> int | None:
        with self._lock:
            return self._left.popleft() if self._left else None

    def _work(self, done: Callable[[T, R], None]) -> None:
        while (number := self._take()) is not None:
            result = self._action(self._items[number])
            self._events.put(partial(self._note, number, result, done))

    def _note(self, number: int, result: R, done: Callable[[T, R], None]) -> None:
        self._results[number] = result
        done(self._items[number], result)
