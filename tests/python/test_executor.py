"""Executor as the standard library's own tests want it (test_concurrent_futures)."""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import threading
import time
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    CancelledError,
    as_completed,
    wait,
)
from pathlib import Path
from typing import Any

import pytest

import qsub_py
from env import Env, wait_until
from qsub_py import Executor, Job
from qsub_py.errors import PayloadError, SpecError


def capture(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    return args, kwargs


class Own(Exception):
    """An exception class of the user's own."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def hold(path: str) -> str:
    """Run until the file `path` appears."""
    Path(path + ".begun").touch()
    while not os.path.exists(path):
        time.sleep(0.01)
    return path


def begun(gate: Path) -> bool:
    return Path(f"{gate}.begun").exists()


# -- submit and results ----------------------------------------------------------------------


def test_it_is_an_executor(executor: Executor) -> None:
    assert isinstance(executor, concurrent.futures.Executor)
    future = executor.submit(pow, 2, 8)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(30) == 256
    assert future.done() and not future.cancelled() and not future.running()


def test_every_keyword_goes_to_the_function(executor: Executor) -> None:
    future = executor.submit(capture, 1, self=2, fn=3, cpus=4, timeout=5)
    assert future.result(30) == ((1,), {"self": 2, "fn": 3, "cpus": 4, "timeout": 5})


def test_submit_wants_a_function() -> None:
    executor = Executor()
    with pytest.raises(TypeError):
        executor.submit()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        executor.submit(arg=1)  # type: ignore[call-arg]
    executor.shutdown()


def test_futures_have_ids_in_the_order_of_submission(executor: Executor) -> None:
    futures = [executor.submit(abs, -n) for n in range(300)]
    ids = [future.id for future in futures]
    job = ids[0].partition("_")[0]
    assert ids == [f"{job}_{n}" for n in range(300)]
    assert [future.result(30) for future in futures] == list(range(300))


def test_a_mutable_argument_travels_as_it_was(executor: Executor) -> None:
    items = [1]
    future = executor.submit(len, items)
    items.append(2)
    assert future.result(30) == 1


def test_an_exception_keeps_its_type_and_shows_the_remote_traceback(executor: Executor) -> None:
    def broken() -> None:
        raise KeyError("missing")  # some comment

    future = executor.submit(broken)
    with pytest.raises(KeyError, match="missing") as caught:
        future.result(30)
    assert "raise KeyError" in str(caught.value.__cause__)
    assert isinstance(future.exception(), KeyError)


def test_an_exception_of_the_users_own_comes_back_as_itself(executor: Executor) -> None:
    def broken() -> None:
        raise Own(7)

    failure = executor.submit(broken).exception(30)
    assert isinstance(failure, Own) and failure.code == 7


@pytest.mark.parametrize("made", [lambda: SystemExit(3), lambda: KeyboardInterrupt()])
def test_exits_are_failures_of_the_call_alone(executor: Executor, made: Any) -> None:
    def leave() -> None:
        raise made()

    assert isinstance(executor.submit(leave).exception(30), type(made()))
    assert executor.submit(abs, -1).result(30) == 1


def test_result_and_exception_time_out(executor: Executor, tmp_path: Path) -> None:
    future = executor.submit(hold, str(tmp_path / "gate"))
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(timeout=0.1)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.exception(timeout=0)
    assert not future.done()
    (tmp_path / "gate").touch()
    assert future.result(30) == str(tmp_path / "gate")


def test_callbacks_are_called_once_with_the_future(executor: Executor, tmp_path: Path) -> None:
    called: list[Any] = []
    done = threading.Event()
    future = executor.submit(hold, str(tmp_path / "gate"))
    future.add_done_callback(called.append)
    future.add_done_callback(lambda f: 1 / 0)  # logged, not raised
    future.add_done_callback(lambda f: done.set())
    (tmp_path / "gate").touch()
    assert done.wait(30)
    future.add_done_callback(called.append)
    assert called == [future, future]


# -- map -------------------------------------------------------------------------------------


def test_map_gives_values_in_order(executor: Executor) -> None:
    assert list(executor.map(pow, range(10), range(10))) == [n**n for n in range(10)]
    assert list(executor.map(pow, range(7), itertools.repeat(2), chunksize=3)) == [
        n**2 for n in range(7)
    ]
    assert list(executor.map(abs, [])) == []
    assert list(executor.map(abs, (n for n in range(600)))) == list(range(600))


def test_map_raises_a_failure_in_its_place_and_goes_on(executor: Executor) -> None:
    values = executor.map(divmod, [1, 1, 1], [2, 0, 5])
    assert next(values) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        next(values)
    assert next(values) == (0, 1)
    with pytest.raises(StopIteration):
        next(values)


def test_map_times_out(executor: Executor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    values = executor.map(lambda wait_for: hold(wait_for) if wait_for else 0, ["", str(gate)],
                          timeout=2)  # fmt: skip
    assert next(values) == 0
    with pytest.raises(concurrent.futures.TimeoutError):
        next(values)
    gate.touch()


def test_map_refuses_a_chunksize_below_one(executor: Executor) -> None:
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(abs, [1], chunksize=0)


def test_map_passes_on_what_the_input_raises(executor: Executor) -> None:
    def numbers() -> Any:
        yield 1
        raise LookupError("no more")

    with pytest.raises(LookupError):
        executor.map(abs, numbers())


def test_map_knows_its_job(executor: Executor) -> None:
    values = executor.map(abs, range(-5, 0))
    assert list(values) == [5, 4, 3, 2, 1]
    assert list(Job(values.job).results()) == [5, 4, 3, 2, 1]
    assert len(Job(values.job)) == 5


# -- cancel ----------------------------------------------------------------------------------


def test_a_waiting_call_is_cancelled(tmp_path: Path) -> None:
    with Executor(limit=1) as executor:
        first = executor.submit(hold, str(tmp_path / "gate"))
        second = executor.submit(hold, str(tmp_path / "other"))
        wait_until(lambda: begun(tmp_path / "gate"))
        assert second.cancel() and second.cancelled() and second.done()
        assert second.cancel()
        with pytest.raises(CancelledError):
            second.result()
        with pytest.raises(CancelledError):
            second.exception()
        (tmp_path / "gate").touch()
        assert first.result(30)
        assert not first.cancel()
    assert not begun(tmp_path / "other")


def test_a_running_call_is_ended(executor: Executor, tmp_path: Path, cluster: Env) -> None:
    future = executor.submit(hold, str(tmp_path / "gate"))
    wait_until(lambda: begun(tmp_path / "gate"))
    wait_until(future.running)
    job = int(future.id.partition("_")[0])
    assert future.cancel() and future.cancelled() and not future.running()
    executor.shutdown()
    (outcome,) = Job(job).outcomes()
    assert outcome.state.name == "CANCELLED"


def test_a_cancel_from_elsewhere_is_seen(executor: Executor, tmp_path: Path) -> None:
    futures = [executor.submit(hold, f"{tmp_path}/gate{n}") for n in range(4)]
    wait_until(lambda: begun(tmp_path / "gate0"))
    Job(futures[0].id.partition("_")[0]).cancel()
    for future in futures:
        with pytest.raises(CancelledError):
            future.result(30)
        assert future.cancelled()


def test_calls_after_a_cancel_of_the_job_go_to_a_new_one(executor: Executor) -> None:
    first = executor.submit(abs, -1)
    Job(first.id.partition("_")[0]).cancel()
    second = executor.submit(abs, -2)
    assert second.result(30) == 2
    assert second.id.partition("_")[0] != first.id.partition("_")[0]


# -- wait and as_completed -------------------------------------------------------------------


def test_wait_first_completed(executor: Executor, tmp_path: Path) -> None:
    slow = executor.submit(hold, str(tmp_path / "gate"))
    fast = executor.submit(pow, 21, 2)
    done, waiting = wait([slow, fast], timeout=30, return_when=FIRST_COMPLETED)
    assert done == {fast} and waiting == {slow}
    (tmp_path / "gate").touch()
    assert wait([slow, fast], 30, return_when=ALL_COMPLETED).not_done == set()


def test_wait_first_exception(executor: Executor, tmp_path: Path) -> None:
    slow = executor.submit(hold, str(tmp_path / "gate"))
    bad = executor.submit(divmod, 1, 0)
    done, waiting = wait([slow, bad], timeout=30, return_when=FIRST_EXCEPTION)
    assert bad in done and waiting == {slow}
    (tmp_path / "gate").touch()


def test_wait_times_out(executor: Executor, tmp_path: Path) -> None:
    slow, fast = executor.submit(hold, str(tmp_path / "gate")), executor.submit(abs, -6)
    fast.result(30)
    done, waiting = wait([slow, fast], timeout=0.2)
    assert done == {fast} and waiting == {slow}
    (tmp_path / "gate").touch()


def test_as_completed_gives_each_future_once(executor: Executor) -> None:
    futures = [executor.submit(abs, n) for n in range(500)]
    assert {f.result() for f in as_completed(futures, timeout=30)} == set(range(500))
    again = list(as_completed([futures[0]] * 3, timeout=30))
    assert again == [futures[0]]


def test_as_completed_times_out(executor: Executor, tmp_path: Path) -> None:
    slow = executor.submit(hold, str(tmp_path / "gate"))
    with pytest.raises(concurrent.futures.TimeoutError):
        list(as_completed([slow], timeout=0))
    (tmp_path / "gate").touch()
    assert list(as_completed([slow], timeout=30)) == [slow]


def test_waiting_sees_a_cancel(executor: Executor, tmp_path: Path) -> None:
    slow = executor.submit(hold, str(tmp_path / "gate"))
    threading.Timer(0.2, slow.cancel).start()
    assert list(as_completed([slow], timeout=30)) == [slow]
    assert slow.cancelled()


# -- shutdown --------------------------------------------------------------------------------


def test_after_shutdown_nothing_is_taken() -> None:
    executor = Executor()
    executor.shutdown()
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(pow, 2, 5)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.map(abs, [1])


def test_leaving_the_block_waits_for_all() -> None:
    with Executor() as executor:
        futures = [executor.submit(pow, n, 2) for n in range(50)]
    assert all(future.done() for future in futures)
    assert [future.result() for future in futures] == [n**2 for n in range(50)]
    assert Job(futures[0].id.partition("_")[0]).info().has_ended


def test_shutdown_without_waiting_lets_calls_end(tmp_path: Path) -> None:
    executor = Executor()
    future = executor.submit(hold, str(tmp_path / "gate"))
    executor.shutdown(wait=False)
    assert not future.done()
    (tmp_path / "gate").touch()
    assert future.result(30) == str(tmp_path / "gate")


def test_shutdown_can_cancel(tmp_path: Path) -> None:
    executor = Executor(limit=1)
    futures = [executor.submit(hold, f"{tmp_path}/gate{n}") for n in range(50)]
    wait_until(lambda: begun(tmp_path / "gate0"))
    executor.shutdown(cancel_futures=True)
    assert all(future.cancelled() for future in futures)


def test_an_exception_in_the_block_does_not_wait_and_says_the_id(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(LookupError), Executor() as executor:
        future = executor.submit(hold, str(tmp_path / "gate"))
        raise LookupError
    assert not future.done()
    assert f"qsub_py.Job({future.id.partition('_')[0]}).results()" in caplog.text
    (tmp_path / "gate").touch()
    assert future.result(30)


# -- options and refusals --------------------------------------------------------------------


def test_resources_reach_the_job() -> None:
    with Executor(cpus=2, mem="1G", time="10m", name="sized", priority=3) as executor:
        future = executor.submit(os.getenv, "QSUB_CPUS")
        assert future.result(30) == "2"
    info = Job(future.id.partition("_")[0]).info()
    assert (info.cpus, info.mem_bytes, info.time_s) == (2, 2**30, 600)
    assert (info.name, info.priority) == ("sized", 3)


@pytest.mark.parametrize(
    "options",
    [{"cpus": 0}, {"cpus": "two"}, {"mem": "4X"}, {"time": -1}, {"time": "soon"}, {"gpus": 1.5},
     {"queue": "bad name"}],
)  # fmt: skip
def test_bad_options_are_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        Executor(**options)


def test_what_cannot_travel_is_refused_by_submit(executor: Executor) -> None:
    with pytest.raises(PayloadError, match=r"argument 1 of type _thread\.lock"):
        executor.submit(print, threading.Lock())
    with pytest.raises(PayloadError, match=r"closure variable lock"):
        lock = threading.Lock()
        executor.submit(lambda: lock.acquire())
    assert executor.submit(abs, -1).result(30) == 1


def test_a_time_limit_is_a_timeout_error() -> None:
    with Executor(time=1) as executor:
        failure = executor.submit(time.sleep, 60).exception(30)
    assert isinstance(failure, qsub_py.TaskTimeout) and isinstance(failure, TimeoutError)


def test_a_dead_process_is_a_broken_executor(executor: Executor) -> None:
    failure = executor.submit(os._exit, 3).exception(60)
    assert isinstance(failure, qsub_py.NodeLost)
    assert isinstance(failure, concurrent.futures.BrokenExecutor)
    assert executor.submit(abs, -1).result(30) == 1
