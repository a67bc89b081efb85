"""What travels, module-level submit and map, processes that fork or end, calls that submit."""

from __future__ import annotations

import concurrent.futures
import functools
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

import qsub_py
from env import Env, wait_until
from qsub_py import Executor, Job
from qsub_py import client as clients
from qsub_py.callspec import call_spec, read_resources
from qsub_py.errors import JobNotFound, PayloadError, SpecError
from qsub_py.payload import pack_function


def takes_time(x: int, time: int = 0) -> int:
    return x + time


def takes_all(**kwargs: Any) -> dict[str, Any]:
    return kwargs


def script(text: str, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the user's, as a file."""
    (cwd / "prog.py").write_text(textwrap.dedent(text))
    root = str(Path(qsub_py.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "prog.py", *words], cwd=cwd, env={**os.environ, "PYTHONPATH": root},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


# -- what travels ----------------------------------------------------------------------------


def test_large_arguments_and_results(executor: Executor) -> None:
    data = os.urandom(3_000_000)
    assert executor.submit(lambda d: d[::-1], data).result(60) == data[::-1]


def test_numpy_arrays(executor: Executor) -> None:
    np = pytest.importorskip("numpy")
    array = np.arange(100_000, dtype=float)
    assert executor.submit(np.sum, array).result(30) == array.sum()
    back = executor.submit(lambda a: a * 2, array).result(30)
    assert (back == array * 2).all()


def test_functions_as_arguments_and_results(executor: Executor) -> None:
    adder = executor.submit(lambda n: lambda x: x + n, 5).result(30)
    assert adder(2) == 7
    assert executor.submit(lambda f, x: f(x), lambda x: x**2, 9).result(30) == 81


def test_more_functions_than_jobs(executor: Executor) -> None:
    futures = [executor.submit(lambda n=n: n) for n in range(40)]
    assert [future.result(30) for future in futures] == list(range(40))
    assert len({future.id.partition("_")[0] for future in futures}) == 17


def test_a_changed_object_is_sent_anew(executor: Executor) -> None:
    class Counter:
        def __init__(self) -> None:
            self.n = 1

        def get(self) -> int:
            return self.n

    counter = Counter()
    assert executor.submit(counter.get).result(30) == 1
    counter.n = 2
    assert executor.submit(counter.get).result(30) == 2


def test_a_changed_global_is_sent_anew(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qsub_py.executor._FRESH_S", 0.0)
    monkeypatch.setattr("qsub_py.executor._FRESH_PACKS", 0)
    space: dict[str, Any] = {"FACTOR": 2, "__name__": "__main__"}
    exec("def work(x): return x * FACTOR", space)
    assert executor.submit(space["work"], 10).result(30) == 20
    first = executor.submit(space["work"], 10).id
    space["FACTOR"] = 3
    again = executor.submit(space["work"], 10)
    assert again.result(30) == 30
    assert again.id.partition("_")[0] != first.partition("_")[0]


def test_an_unpicklable_result_is_named(executor: Executor) -> None:
    def make() -> Any:
        import threading

        return {"lock": threading.Lock()}

    failure = executor.submit(make).exception(30)
    assert failure is not None and "lock" in str(failure)


def test_printed_output_is_readable(executor: Executor) -> None:
    future = executor.submit(print, "hello from the node")
    future.result(30)
    assert "hello from the node" in future.logs()


def test_a_program_of_modules_travels(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("class P:\n    x = 5\n\ndef f(n):\n    return P.x * n\n")
    done = script(
        """
        import helper, qsub_py
        class Mine(Exception): pass
        def work(n):
            import helper as again
            if n == 3: raise Mine(n)
            return helper.f(n) + again.P.x
        if __name__ == "__main__":
            with qsub_py.Executor() as ex:
                print([ex.submit(work, n).result(30) for n in range(3)])
                try:
                    ex.submit(work, 3).result(30)
                except Mine as error:
                    print("Mine", error)
        """,
        tmp_path,
    )
    assert done.stdout == "[5, 10, 15]\nMine 3\n", done.stderr


# -- module level ----------------------------------------------------------------------------


def test_submit_and_map() -> None:
    assert qsub_py.submit(pow, 2, 10).result(30) == 1024
    assert qsub_py.submit(takes_time, 1, cpus=2).result(30) == 1
    values = qsub_py.map(pow, range(5), [2] * 5, cpus=1, name="squares")
    assert list(values) == [0, 1, 4, 9, 16]
    assert Job(values.job).info().name == "squares"


def test_one_job_for_each_function_and_options() -> None:
    def jobs(*futures: Any) -> list[str]:
        return [future.id.partition("_")[0] for future in futures]

    first, second = jobs(qsub_py.submit(abs, -1), qsub_py.submit(abs, -2))
    assert first == second
    assert jobs(qsub_py.submit(abs, -1, priority=1))[0] != first


def test_names_that_could_be_either_are_refused() -> None:
    for function in (takes_time, takes_all):
        with pytest.raises(TypeError, match=r"Executor\(time=.*functools.partial"):
            qsub_py.submit(function, time=5)
    assert qsub_py.submit(functools.partial(takes_time, time=5), 1).result(30) == 6
    assert qsub_py.submit(takes_all, other=1).result(30) == {"other": 1}


def test_unknown_options_are_refused() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'memory'"):
        qsub_py.map(abs, [1], memory="1G")
    with pytest.raises(SpecError):
        qsub_py.map(abs, [1], mem="many")


# -- Job -------------------------------------------------------------------------------------


def test_results_come_back_by_id_from_another_process(tmp_path: Path) -> None:
    first = script("import qsub_py; print(qsub_py.map(divmod, [7, 1, 9], [2, 0, 4]).job)", tmp_path)
    job = first.stdout.strip()
    again = script(f"import qsub_py; print(list(qsub_py.Job({job}).results()))", tmp_path)
    assert again.stdout.startswith("[(3, 1), ZeroDivisionError("), first.stderr + again.stderr
    assert again.stdout.endswith("), (2, 1)]\n")


def test_a_job_tells_how_its_tasks_ended() -> None:
    values = qsub_py.map(divmod, [1, 1], [1, 0])
    job = Job(str(values.job))
    assert job.wait(30)
    good, bad = job.outcomes()
    assert (good.state.name, bad.state.name) == ("COMPLETED", "FAILED")
    assert good.node == "n1" and good.ended_at >= good.started_at > 0
    assert job.state.name == "FAILED" and len(job) == 2
    assert job.result(0) == (1, 0)
    with pytest.raises(ZeroDivisionError):
        job.result(1)
    with pytest.raises(IndexError):
        job.result(2)
    assert [o.position for o in job.outcomes([1])] == [1]


def test_waiting_for_a_job_times_out_and_a_cancelled_one_ends() -> None:
    import time

    values = qsub_py.map(time.sleep, [600, 600, 600])
    job = Job(values.job)
    assert not job.wait(0.1)
    with pytest.raises(concurrent.futures.TimeoutError):
        list(job.results(timeout=0.1))
    job.cancel()
    assert job.wait(30)
    assert [type(result).__name__ for result in job.results()] == ["CancelledError"] * 3


def test_a_job_becomes_a_frame() -> None:
    pytest.importorskip("pandas")
    job = Job(qsub_py.map(divmod, [7, 1], [2, 0]).job)
    assert job.wait(30)
    frame = job.to_frame()
    assert list(frame.state) == ["COMPLETED", "FAILED"]
    assert frame.value[0] == (3, 1) and "ZeroDivisionError" in frame.error[1]


def test_a_job_that_no_node_can_run_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with Executor(cpus=3) as executor:
        future = executor.submit(abs, -1)
        wait_until(lambda: "needs 3 cpus, the largest node has 2" in caplog.text)
        assert future.cancel()
    values = qsub_py.map(abs, [-1], gpus=1)
    assert f"job {values.job} waits: needs 1 gpus, no node has any" in caplog.text
    Job(values.job).cancel()


def test_a_bad_argument_leaves_nothing_half_done() -> None:
    with pytest.raises(PayloadError):
        qsub_py.map(print, [*range(3000), threading.Lock()], name="halfway")
    jobs = [info for info in clients.shared().store.jobs(ended=True) if info.name == "halfway"]
    assert all(Job(info.id).wait(30) for info in jobs)
    assert {Job(info.id).state.name for info in jobs} <= {"CANCELLED"}


def test_cancelled_tasks_far_behind_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qsub_py.results._STATES_AT_ONCE", 64)
    client, packed = clients.shared(), pack_function(abs)
    spec = call_spec(read_resources(client.config), packed, "builtins:abs")
    calls = [((-n,), {}) for n in range(300)]
    job = Job(client.submit(spec, function=packed, calls=calls, is_held=True))
    client.store.cancel(job.id, [(10, 20), (200, 299)], by="a test")
    job.release()
    results = list(job.results(timeout=60))
    gone = [n for n, result in enumerate(results) if isinstance(result, CancelledError)]
    assert gone == [*range(10, 21), *range(200, 300)]
    assert all(result == n for n, result in enumerate(results) if n not in gone)


def test_an_unknown_job_is_said() -> None:
    with pytest.raises(JobNotFound, match="there is no job 999999"):
        Job(999999)
    with pytest.raises(SpecError):
        Job("12_3")


def test_a_held_job_waits() -> None:
    with Executor() as executor:
        job = Job(executor.submit(abs, -1).id.partition("_")[0])
        assert job.hold()
        future = executor.submit(abs, -5)
        assert future.id.startswith(f"{job.id}_")
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(0.3)
        assert job.release()
        assert future.result(30) == 5


# -- processes -------------------------------------------------------------------------------


def test_a_forked_child_may_submit(executor: Executor) -> None:
    assert executor.submit(abs, -1).result(30) == 1
    assert qsub_py.submit(abs, -1).result(30) == 1
    pid = os.fork()
    if pid == 0:
        good = executor.submit(abs, -2).result(30) == 2 and qsub_py.submit(abs, -3).result(30) == 3
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert executor.submit(abs, -4).result(30) == 4


def test_a_program_that_ends_leaves_its_calls_running(tmp_path: Path, cluster: Env) -> None:
    done = script(
        """
        import qsub_py, time
        def work(n):
            time.sleep(0.2)
            return n
        futures = [qsub_py.submit(work, n) for n in range(4)]
        print(futures[-1].id)
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    job = Job(done.stdout.partition("_")[0])
    assert job.wait(30) and list(job.results()) == [0, 1, 2, 3]
    assert not job.info().is_open


def test_a_call_may_submit_calls(tmp_path: Path) -> None:
    root = str(Path(qsub_py.__file__).parents[1])

    def outer(n: int) -> int:
        import sys

        sys.path.insert(0, root)
        import qsub_py

        return qsub_py.submit(pow, n, 2).result(30)

    assert qsub_py.submit(outer, 7).result(60) == 49


def test_importing_is_cheap() -> None:
    code = (
        "import sys, qsub_py; heavy = {'redis', 'click', 'rich', 'cloudpickle', 'paramiko',"
        "'concurrent.futures', 'json', 'dataclasses'} & set(sys.modules); assert not heavy, heavy;"
        "assert 'submit' in dir(qsub_py) and qsub_py.QsubError"
    )
    subprocess.run([sys.executable, "-S", "-c", code], check=True,
                   env={"PYTHONPATH": str(Path(qsub_py.__file__).parents[1])})  # fmt: skip


def test_terms_of_calls(cluster_env: Env) -> None:
    """Licences, rates and features are options of a call like any other."""
    with pytest.raises(SpecError, match="constraint"):
        Executor(constraint="!gpu")
    with pytest.raises(SpecError, match="licence"):
        list(qsub_py.map(abs, [1], licenses="nothing"))
    with pytest.raises(SpecError, match="licence"):
        qsub_py.submit(abs, -1, licenses="nothing").result()
    cluster_env.run("qnode", "limits", "license:seat=1")
    assert list(qsub_py.map(abs, [-1, -2], licenses=["seat:1"], rate="100/s")) == [1, 2]
