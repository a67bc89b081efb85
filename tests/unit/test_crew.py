"""Work on many hosts at once: results in order, questions in one thread, what Ctrl-C does."""

from __future__ import annotations

import threading

import pytest

from qsub_py.crew import Crew, Relay


class Person:
    """Answers each question with where it was asked, or presses Ctrl-C."""

    def __init__(self, *, gives_up: bool = False) -> None:
        self.gives_up = gives_up

    def passphrase(self, path: str) -> str | None:
        if self.gives_up:
            raise KeyboardInterrupt
        return f"{path} {threading.current_thread() is threading.main_thread()}"

    def answer(self, host: str, prompt: str, echo: bool) -> str | None:
        return self.passphrase(host)


def ignore(item: object, result: object) -> None:
    pass


def test_results_come_in_order_and_questions_in_the_waiting_thread() -> None:
    relay = Relay(Person())
    crew = Crew(relay.passphrase, [str(n) for n in range(20)], at_once=4)
    assert crew.run(ignore, relay=relay) == [f"{n} True" for n in range(20)]
    assert Crew(str, [], at_once=4).run(ignore) == []


def test_giving_up_at_a_question_ends_it_for_all() -> None:
    relay = Relay(Person(gives_up=True))
    crew = Crew(relay.passphrase, ["a", "b", "c"], at_once=2)
    with pytest.raises(KeyboardInterrupt):
        crew.run(ignore, relay=relay)
    assert relay.passphrase("d") is None


def test_what_has_begun_is_finished_after_ctrl_c() -> None:
    begun, may_end = threading.Barrier(3), threading.Event()
    ended: list[int] = []
    told: list[int] = []

    def action(number: int) -> int:
        if number:  # two are at work when the first has ended
            begun.wait(30)
            may_end.wait(30)
        return number

    def done(number: int, result: int) -> None:
        ended.append(result)
        if number == 0:
            begun.wait(30)
            raise KeyboardInterrupt

    def finishing(count: int) -> None:
        told.append(count)
        may_end.set()

    with pytest.raises(KeyboardInterrupt):
        Crew(action, [0, 1, 2, 3, 4], at_once=2).run(done, finishing=finishing)
    assert sorted(ended) == [0, 1, 2] and told == [2]
