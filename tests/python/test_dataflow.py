"""Futures as arguments: results flow from call to call on the cluster."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import qsub_py
from env import Env
from qsub_py import CancelledError, DependencyFailed, Executor, Job
from qsub_py.failures import RemoteTraceback


@pytest.fixture
def other(cluster: Env) -> Iterator[Executor]:
    """Return another Executor; its calls are cancelled at the end."""
    made = Executor(name="other")
    yield made
    made.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Pair:
    left: Any
    right: Any


def add(*values: int) -> int:
    return sum(values)


def total(values: Any) -> int:
    return sum(values)


def refuse(value: object) -> None:
    raise ValueError(f"no {value}")


def show(value: Any, **more: Any) -> str:
    return repr((value, more))


def wait_for(path: str, value: int = 0) -> int:
    import time

    while not os.path.exists(path):
        time.sleep(0.01)
    return value


def is_one(values: Any) -> bool:
    return values[0] is values[1]


def test_one_argument(executor: Executor) -> None:
    first = executor.submit(add, 1, 2)
    second = executor.submit(add, first, 10)
    assert second.result(60) == 13
    assert executor.submit(add, first, second).result(60) == 16, "they have ended"


def test_anywhere_in_the_arguments(executor: Executor) -> None:
    one, two = executor.submit(add, 1), executor.submit(add, 2)
    assert executor.submit(total, [one, two, 3]).result(60) == 6
    assert executor.submit(total, (one, two)).result(60) == 3
    nested = executor.submit(show, {"a": [one, {"b": (two,)}]}, key=two)
    assert nested.result(60) == "({'a': [1, {'b': (2,)}]}, {'key': 2})"
    pair = executor.submit(show, Pair(one, [Pair(two, None)]))
    assert pair.result(60).endswith("left=1, right=[Pair(left=2, right=None)]), {})")


def test_twice_the_same_is_one_object(executor: Executor) -> None:
    made = executor.submit(list, (1, 2))
    assert executor.submit(is_one, [made, made]).result(60) is True


def test_between_executors(executor: Executor, other: Executor) -> None:
    value = executor.submit(add, 1)
    for _ in range(5):
        value = other.submit(add, executor.submit(add, value, 1), 1)
    assert value.result(60) == 11


def test_between_functions_in_one_burst(executor: Executor) -> None:
    """Each call needs one of another job that is not sent yet."""
    value: Any = 0
    for _ in range(20):
        value = executor.submit(total, [executor.submit(add, value, 1), 1])
    assert value.result(60) == 40


def test_module_level_and_map(cluster: Env) -> None:
    first = qsub_py.submit(add, 1, 2)
    assert qsub_py.submit(add, first, first, cpus=1).result(60) == 6
    assert list(qsub_py.map(add, [first, 5, first], [1, first, 2])) == [4, 8, 5]


def test_chain(executor: Executor) -> None:
    value: Any = 0
    for _ in range(200):
        value = executor.submit(add, value, 1)
    assert value.result(120) == 200


def test_chord_of_a_thousand(executor: Executor) -> None:
    parts = [executor.submit(add, number, 1) for number in range(1000)]
    assert executor.submit(total, parts).result(120) == 500_500
    assert executor.submit(total, parts[::-3]).result(120) == sum(range(1, 1001)[::-3])


def test_stages(cluster: Env, executor: Executor) -> None:
    values: list[Any] = list(range(500))
    for _ in range(6):
        values = [executor.submit(add, value, 1) for value in values]
    assert [value.result(120) for value in values] == list(range(6, 506))
    job = int(values[0].id.partition("_")[0])
    with contextlib.closing(cluster.store()) as store:
        records = store.link.command("ZCARD", f"{store.keys.prefix}uses:{job}")
    assert records < 300, "a key for a stage's chunk, not for each call"


def test_tree(executor: Executor) -> None:
    values: list[Any] = list(range(64))
    while len(values) > 1:
        values = [
            executor.submit(add, a, b) for a, b in zip(values[::2], values[1::2], strict=True)
        ]
    assert values[0].result(60) == sum(range(64))


def test_large_results(executor: Executor) -> None:
    large = executor.submit(bytes, 3_000_000)
    assert [executor.submit(len, large).result(60) for _ in range(2)] == [3_000_000] * 2
    some = [executor.submit(bytes, 60_000) for _ in range(10)]
    assert executor.submit(len, executor.submit(b"".join, some)).result(60) == 600_000


# -- failures ----------------------------------------------------------------------------------


def test_first_cause(executor: Executor, other: Executor) -> None:
    bad = executor.submit(refuse, "way")
    deep = bad
    for ex in (executor, other, executor):
        deep = ex.submit(add, deep, 1)
    with pytest.raises(DependencyFailed, match=r"whose result it needs, ended FAILED") as caught:
        deep.result(60)
    cause = caught.value.__cause__
    assert isinstance(cause, ValueError)
    assert str(cause) == "no way"
    assert isinstance(cause.__cause__, RemoteTraceback)
    assert "in refuse" in str(cause.__cause__)
    late = executor.submit(add, bad)
    assert isinstance(late.exception(60), DependencyFailed)
    assert isinstance(late.exception().__cause__, ValueError)


def test_first_cause_of_a_later_program(executor: Executor) -> None:
    job = executor.map(add, [executor.submit(refuse, 1), 5], [1, 1]).job
    first, second = Job(job).results(60)
    assert isinstance(first, DependencyFailed)
    assert repr(first.__cause__) == "ValueError('no 1')"
    assert second == 6
    with pytest.raises(DependencyFailed):
        Job(job).result(0)


def test_cancelled_input(executor: Executor, tmp_path: Path) -> None:
    running = executor.submit(wait_for, str(tmp_path / "never"))
    waiting = executor.submit(add, running)
    deep = executor.submit(add, waiting)
    assert running.cancel()
    for future in (waiting, deep):
        assert isinstance(future.exception(60), DependencyFailed)
        assert isinstance(future.exception().__cause__, CancelledError)


def test_cancel_of_one_that_waits(executor: Executor, tmp_path: Path) -> None:
    running = executor.submit(wait_for, str(tmp_path / "go"), 7)
    waiting, more = executor.submit(add, running), executor.submit(add, running, 1)
    deep = executor.submit(add, waiting)
    assert waiting.id
    assert waiting.cancel()
    assert isinstance(deep.exception(60), DependencyFailed)
    (tmp_path / "go").touch()
    assert (running.result(60), more.result(60)) == (7, 8)


def test_input_that_was_never_sent(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    send = executor._sender._send
    monkeypatch.setattr(executor._sender, "_send", lambda batch: (release.wait(30), send(batch)))
    first = executor.submit(add, 1)
    second = executor.submit(add, first)
    assert first.cancel()
    release.set()
    assert isinstance(second.exception(60), DependencyFailed)
    assert isinstance(second.exception().__cause__, CancelledError)


# -- what is refused ---------------------------------------------------------------------------


def test_future_of_another_kind(executor: Executor) -> None:
    foreign: concurrent.futures.Future[int] = concurrent.futures.Future()
    for argument in (foreign, [foreign], {"a": (foreign,)}, Pair(1, foreign)):
        with pytest.raises(TypeError, match="not of qsub_py cannot be an argument"):
            executor.submit(total, argument)


def test_future_as_a_result_is_refused(executor: Executor) -> None:
    import pickle

    future = executor.submit(add, 1)
    with pytest.raises(TypeError, match="cannot be a result"):
        pickle.dumps(future)


# -- the client may leave ----------------------------------------------------------------------


def test_the_client_leaves(cluster: Env, tmp_path: Path) -> None:
    script = """
import json, os, sys
import qsub_py

def slow(path, x):
    import os, time
    while not os.path.exists(path):
        time.sleep(0.01)
    return x + 1

def double(x):
    return 2 * x

ex = qsub_py.Executor()
last = ex.submit(double, ex.submit(double, ex.submit(slow, sys.argv[1], 1)))
print(json.dumps(last.id), flush=True)
ex.shutdown(wait=False)
"""
    path = tmp_path / "leaves.py"
    path.write_text(script)
    go = tmp_path / "go"
    done = subprocess.run(
        [sys.executable, str(path), str(go)], capture_output=True, text=True, timeout=60, check=True
    )
    job, _, position = json.loads(done.stdout).partition("_")
    assert not Job(job).info().has_ended
    go.touch()
    assert Job(job).result(int(position), timeout=60) == 8


# -- forged ------------------------------------------------------------------------------------


def test_swapped_result_is_not_taken(
    cluster: Env, executor: Executor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Who can write to the server cannot put another result in the place of an input."""
    caplog.set_level(logging.ERROR)
    good = executor.submit(add, 1)
    other_job = executor.submit(total, [5])
    assert (good.result(60), other_job.result(60)) == (1, 5)
    gate = executor.submit(wait_for, str(tmp_path / "go"))
    waiting = executor.submit(add, good, gate)
    mine, theirs = (int(f.id.partition("_")[0]) for f in (good, other_job))
    with contextlib.closing(cluster.store()) as store:
        [entry] = [found for found in store.results(theirs, 0) if not found.is_notice]
        number = store.results(mine, 0)[-1].number + 1
        store.link.command(
            "XADD", store.keys.results(mine), f"{number}-0", "f", entry.first, "c", entry.codes,
            "d", entry.data, "s", entry.signature,
        )  # fmt: skip
        store.link.command("HSET", store.keys.job(mine), "rseq", number)
        store.link.command("SETRANGE", store.keys.result_index(mine), 0, number.to_bytes(4, "big"))
    (tmp_path / "go").touch()
    failure = waiting.exception(60)
    assert "signature" in str(failure) or "signed" in str(failure)


def test_node_fetches_from_another_node(cluster: Env, executor: Executor) -> None:
    cluster.start_node("n2", cpus=2)
    try:
        parts = [executor.submit(add, number) for number in range(200)]
        more = [executor.submit(add, part, 1) for part in parts]
        assert executor.submit(total, more).result(60) == sum(range(200)) + 200
    finally:
        cluster.run("qnode", "stop", "n2")
