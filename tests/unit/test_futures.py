"""The lean Future against the standard library's own helpers; no server, a home that obeys."""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import threading
from typing import Any

import pytest

from qsub_py.futures import Future, fail, settle


class Home:
    """Says yes to everything, or what it is told."""

    def __init__(self) -> None:
        self.can_withdraw = True
        self.asked = 0

    def locate(self, future: Future[Any]) -> tuple[int, int]:
        return 12, 3

    def withdraw(self, future: Future[Any]) -> bool:
        self.asked += 1
        return self.can_withdraw

    def is_running(self, future: Future[Any]) -> bool:
        return True

    def tail(self, future: Future[Any]) -> bytes:
        return b"caf\xc3\xa9\n\xff"


@pytest.fixture
def future() -> Future[Any]:
    return Future(Home())


def test_a_new_future_waits(future: Future[Any]) -> None:
    assert not future.done() and not future.cancelled() and future.running()
    assert future.id == "12_3" and future.logs() == "café\n\ufffd"
    assert "pending" in repr(future)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(0)


@pytest.mark.parametrize("is_awaited", [False, True])
def test_settled_futures_have_their_values(is_awaited: bool) -> None:
    futures = [Future[Any](Home()) for _ in range(3)]
    called: list[Any] = []
    if is_awaited:
        for one in futures:
            one.add_done_callback(called.append)
    settle((one, number) for number, one in enumerate(futures))
    assert [one.result(0) for one in futures] == [0, 1, 2]
    assert called == (futures if is_awaited else [])
    assert all(one.done() and not one.running() and one.exception() is None for one in futures)
    assert concurrent.futures.wait(futures, 0).not_done == set()
    assert set(concurrent.futures.as_completed(futures, 0)) == set(futures)
    late: list[Any] = []
    futures[0].add_done_callback(late.append)
    assert late == [futures[0]]


def test_a_failed_future_raises(future: Future[Any]) -> None:
    fail(future, ValueError("bad"))
    with pytest.raises(ValueError, match="bad"):
        future.result(0)
    settle([(future, 1)])
    assert isinstance(future.exception(), ValueError)


def test_cancel_asks_once_and_tells_those_who_wait(future: Future[Any]) -> None:
    called: list[Any] = []
    future.add_done_callback(called.append)
    assert future.cancel() and future.cancel()
    assert future.cancelled() and future.done() and called == [future]
    assert future._home.asked == 1  # type: ignore[attr-defined]
    assert concurrent.futures.wait([future], 0).done == {future}
    settle([(future, 1)])
    fail(future, ValueError())
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(0)


def test_what_has_ended_is_not_cancelled(future: Future[Any]) -> None:
    future._home.can_withdraw = False  # type: ignore[attr-defined]
    assert not future.cancel() and not future.done()
    settle([(future, 5)])
    assert not future.cancel() and future.result() == 5


def test_a_cancelled_outcome_cancels(future: Future[Any]) -> None:
    fail(future, concurrent.futures.CancelledError())
    assert future.cancelled()


def test_many_threads_wait_and_none_is_forgotten() -> None:
    futures = [Future[int](Home()) for _ in range(500)]
    results: list[int] = []

    def reader(mine: list[Future[int]]) -> None:
        results.append(sum(one.result(30) for one in mine))

    threads = [threading.Thread(target=reader, args=(futures[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for start in range(0, 500, 50):
        settle((one, 1) for one in futures[start : start + 50])
    for thread in threads:
        thread.join(30)
    assert results == [125] * 4


def test_asyncio_can_wait_for_one(future: Future[Any]) -> None:
    async def main() -> Any:
        threading.Timer(0.01, settle, [[(future, "done")]]).start()
        return await asyncio.wrap_future(future)

    assert asyncio.run(main()) == "done"


def test_a_future_cannot_be_pickled(future: Future[Any]) -> None:
    with pytest.raises(TypeError, match="return its result"):
        pickle.dumps(future)
