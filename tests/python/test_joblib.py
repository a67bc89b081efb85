"""The joblib backend: scikit-learn's n_jobs on the cluster, with nothing different but where."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import qsub_py
from env import Env, wait_until
from qsub_py.errors import SpecError
from qsub_py.model import JobInfo, State

joblib = pytest.importorskip("joblib")
numpy = pytest.importorskip("numpy")


@pytest.fixture(autouse=True)
def registered() -> None:
    qsub_py.register_joblib()


class Own(Exception):
    """An exception class of the user's own."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def parallel(**options: Any) -> Any:
    return joblib.Parallel(**{"n_jobs": 2, "backend": "qsub", **options})


def jobs(env: Env) -> list[JobInfo]:
    with contextlib.closing(env.store()) as store:
        return sorted(store.jobs(ended=True), key=lambda job: job.id)


def last(env: Env, since: int) -> JobInfo:
    """Return the one job that is newer than `since`."""
    (job,) = [job for job in jobs(env) if job.id > since]
    return job


def newest(env: Env) -> int:
    return max((job.id for job in jobs(env)), default=0)


def where() -> int:
    return os.getpid()


def square(x: int) -> int:
    return x * x


def hold(path: str, begun: str = "") -> str:
    """Run until the file `path` appears."""
    Path(begun or path + ".begun").write_text(str(os.getpid()))
    while not os.path.exists(path):
        time.sleep(0.01)
    return path


# -- results ---------------------------------------------------------------------------------


def test_values_come_in_order_from_elsewhere() -> None:
    with joblib.parallel_config("qsub"):
        assert joblib.Parallel()(joblib.delayed(square)(n) for n in range(50)) == [
            n * n for n in range(50)
        ]
        assert os.getpid() not in joblib.Parallel()(joblib.delayed(where)() for _ in range(4))


def test_a_call_is_one_job_with_the_name_of_its_function(cluster: Env) -> None:
    before = newest(cluster)
    parallel(batch_size=5, pre_dispatch="all")(joblib.delayed(square)(n) for n in range(20))
    job = last(cluster, before)
    assert (job.name, job.total) == ("square", 4)
    assert cluster.wait_job(job.id).state is State.COMPLETED


def test_nothing_to_do() -> None:
    assert parallel()([]) == []


def test_short_calls_are_bundled(cluster: Env) -> None:
    before = newest(cluster)
    assert len(parallel()(joblib.delayed(square)(n) for n in range(2000))) == 2000
    assert last(cluster, before).total < 1000


@pytest.mark.parametrize("kind", ["generator", "generator_unordered"])
def test_a_generator_gives_what_is_there(kind: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    calls = [joblib.delayed(square)(3), joblib.delayed(hold)(str(gate))]
    results = parallel(return_as=kind)(iter(calls))
    assert next(results) == 9
    gate.touch()
    assert list(results) == [str(gate)]


def test_a_generator_that_is_dropped_cancels_the_rest(cluster: Env, tmp_path: Path) -> None:
    before = newest(cluster)
    calls = [joblib.delayed(square)(3), joblib.delayed(hold)(str(tmp_path / "never"))]
    results = parallel(return_as="generator")(iter(calls))
    assert next(results) == 9
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del results
    assert cluster.wait_job(last(cluster, before).id).counts[State.CANCELLED] == 1


def test_two_generators_at_once_do_not_mix(cluster: Env) -> None:
    with joblib.parallel_config("qsub", n_jobs=2):
        make = joblib.Parallel(return_as="generator", batch_size=1, pre_dispatch=2)
        one = make(joblib.delayed(square)(n) for n in range(10))
        other = joblib.Parallel(return_as="generator", batch_size=1, pre_dispatch=2)(
            joblib.delayed(pow)(n, 3) for n in range(10)
        )
        pairs = list(zip(one, other, strict=True))
    assert pairs == [(n**2, n**3) for n in range(10)]


def test_the_same_parallel_again() -> None:
    with parallel() as pool:
        for k in range(3):
            assert pool(joblib.delayed(pow)(n, k) for n in range(5)) == [n**k for n in range(5)]


# -- failures --------------------------------------------------------------------------------


def fail(n: int) -> int:
    if n == 3:
        raise Own(n)
    return n


def test_exceptions_keep_their_type_and_end_the_rest(cluster: Env) -> None:
    before = newest(cluster)
    with pytest.raises(Own) as caught:
        parallel(batch_size=1)(joblib.delayed(fail)(n) for n in range(1000))
    assert caught.value.code == 3 and "in fail" in str(caught.value.__cause__)
    job = cluster.wait_job(last(cluster, before).id)
    assert job.total < 1000 and job.counts[State.FAILED] == 1


def test_a_failure_cancels_what_runs(cluster: Env, tmp_path: Path) -> None:
    before = newest(cluster)
    calls = [joblib.delayed(hold)(str(tmp_path / "never")), joblib.delayed(fail)(3)]
    with pytest.raises(Own):
        parallel(batch_size=1)(calls)
    assert cluster.wait_job(last(cluster, before).id).counts[State.CANCELLED] == 1


def test_the_backend_works_on_after_a_failure() -> None:
    with parallel(batch_size=1) as pool:
        with pytest.raises(Own):
            pool(joblib.delayed(fail)(n) for n in range(5))
        assert pool(joblib.delayed(square)(n) for n in range(5)) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("at", [0, 40])
def test_what_cannot_be_pickled_is_told(at: int) -> None:
    """The first batches are sent by this thread, later ones by that which brings results."""
    calls = (joblib.delayed(repr)(threading.Lock() if n == at else n) for n in range(60))
    with pytest.raises(qsub_py.QsubError, match="lock"):
        parallel(batch_size=1)(calls)


def test_a_failing_generator_of_calls_ends_it() -> None:
    def calls() -> Iterator[Any]:
        yield from (joblib.delayed(square)(n) for n in range(30))
        raise Own(7)

    with pytest.raises(Own):
        parallel(batch_size=1)(calls())


def test_timeout(cluster: Env, tmp_path: Path) -> None:
    before = newest(cluster)
    with pytest.raises(multiprocessing.TimeoutError):  # joblib's
        parallel(timeout=0.2)([joblib.delayed(hold)(str(tmp_path / "never"))])
    assert cluster.wait_job(last(cluster, before).id).state is State.CANCELLED


def test_cancelled_by_somebody(cluster: Env, tmp_path: Path) -> None:
    before, gate = newest(cluster), tmp_path / "never"

    def cancel() -> None:
        wait_until(Path(f"{gate}.begun").exists, what="it runs")
        cluster.run("qcancel", last(cluster, before).id)

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(qsub_py.CancelledError):
        parallel()([joblib.delayed(hold)(str(gate))])
    thread.join()


def test_ctrl_c_cancels(cluster: Env, tmp_path: Path) -> None:
    before, gate = newest(cluster), tmp_path / "never"
    program = (
        "import joblib, qsub_py, os, time\n"
        "qsub_py.register_joblib()\n"
        "def hold(path):\n"
        "    open(path + '.begun', 'w').close()\n"
        "    while not os.path.exists(path): time.sleep(0.01)\n"
        f"joblib.Parallel(2, 'qsub')(joblib.delayed(hold)({str(gate)!r}) for _ in range(9))\n"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(qsub_py.__file__).parents[1])},
    )  # fmt: skip
    wait_until(Path(f"{gate}.begun").exists, what="it runs")
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=30)
    assert running.returncode and said.splitlines()[-1] == "KeyboardInterrupt"
    assert cluster.wait_job(last(cluster, before).id).state is State.CANCELLED


def test_a_killed_runner_costs_nothing_but_time(tmp_path: Path) -> None:
    gate, begun = tmp_path / "gate", tmp_path / "begun"

    def kill() -> None:
        pid = int(wait_until(lambda: begun.exists() and begun.read_text(), what="it runs"))
        begun.unlink()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: begun.exists() and begun.read_text(), what="it runs again")
        gate.touch()

    thread = threading.Thread(target=kill)
    thread.start()
    calls = [joblib.delayed(hold)(str(gate), str(begun)), *[joblib.delayed(str)(1)] * 9]
    assert parallel(batch_size=1)(calls) == [str(gate), *["1"] * 9]
    thread.join()


# -- large arguments -------------------------------------------------------------------------


def total(x: Any, n: int, *, more: Any = None) -> float:
    found = float(x.sum()) + n + (0 if more is None else float(more[n % 2]))
    x[:] = 0  # its own copy
    return found


def test_large_arguments_travel_once(cluster: Env) -> None:
    random = numpy.random.default_rng(1)
    data, more = random.random(100_000), random.random(50_000)
    before, used = newest(cluster), _used_bytes(cluster)
    calls = (joblib.delayed(total)(data, n, more=more) for n in range(40))
    found = parallel(batch_size=1)(calls)
    assert found == [float(data.sum()) + n + float(more[n % 2]) for n in range(40)]
    assert last(cluster, before).total == 40
    assert _used_bytes(cluster) - used < 6e6, "by value they are 48 MB"


def _used_bytes(env: Env) -> int:
    with contextlib.closing(env.store()) as store:
        text = store.link.command("INFO", "memory").decode()
    return int(text.partition("used_memory_dataset:")[2].split()[0])


# -- options ---------------------------------------------------------------------------------


def limits() -> tuple[str, str, str]:
    return tuple(os.environ[name] for name in ("QSUB_CPUS", "OMP_NUM_THREADS", "X"))  # type: ignore[return-value]


def test_resources_are_keywords_of_parallel_config(cluster: Env) -> None:
    before = newest(cluster)
    options = {"cpus": 2, "mem": "100M", "env": {"X": "y"}, "priority": 7}
    with joblib.parallel_config("qsub", n_jobs=3, inner_max_num_threads=1, **options):
        assert joblib.Parallel()([joblib.delayed(limits)()] * 2) == [("2", "1", "y")] * 2
    job = last(cluster, before)
    assert (job.cpus, job.mem_bytes, job.priority, job.limit) == (2, 100 * 2**20, 7, 3)


def read(name: str) -> str:
    return Path(name).read_text()


def test_files_are_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data.txt").write_text("hello")
    monkeypatch.chdir(tmp_path)
    with joblib.parallel_config("qsub", ship="data.txt"):
        assert joblib.Parallel()([joblib.delayed(read)("data.txt")]) == ["hello"]


def test_bad_options_are_refused_at_once() -> None:
    with pytest.raises(TypeError, match="no option 'memory'"):
        joblib.parallel_config("qsub", memory="4G")
    with pytest.raises(SpecError, match="mem"):
        joblib.parallel_config("qsub", mem="much")


def test_effective_n_jobs_counts_the_slots_of_the_cluster() -> None:
    with joblib.parallel_config("qsub"):
        assert joblib.effective_n_jobs(-1) == joblib.effective_n_jobs(None) == 2
        assert joblib.effective_n_jobs(7) == 7
    with joblib.parallel_config("qsub", mem="1G"):
        assert joblib.effective_n_jobs(-1) == 2
    with pytest.raises(ValueError, match="n_jobs == 0"):
        parallel(n_jobs=0)([])


def test_one_worker_runs_here() -> None:
    assert parallel(n_jobs=1)([joblib.delayed(where)()]) == [os.getpid()]


def test_a_single_slot_is_still_on_the_cluster() -> None:
    with joblib.parallel_config("qsub", cpus=2):
        assert os.getpid() not in joblib.Parallel(n_jobs=-1)([joblib.delayed(where)()])


# -- nested ----------------------------------------------------------------------------------


def inner(n_jobs: int | None) -> tuple[str, int, bool]:
    import joblib

    pool = joblib.Parallel(n_jobs=n_jobs)
    pids = pool(joblib.delayed(os.getpid)() for _ in range(4))
    kind = type(joblib.parallel.get_active_backend()[0]).__name__
    return kind, joblib.effective_n_jobs(n_jobs), set(pids) == {os.getpid()}


def test_nested_calls_are_sequential_on_one_cpu() -> None:
    found = parallel()([joblib.delayed(inner)(2), joblib.delayed(inner)(-1)])
    assert found == [("SequentialBackend", 1, True)] * 2


def test_nested_calls_are_threads_on_several_cpus() -> None:
    with joblib.parallel_config("qsub", cpus=2):
        found = joblib.Parallel()([joblib.delayed(inner)(None), joblib.delayed(inner)(-1)])
    assert found == [("ThreadingBackend", 2, True)] * 2


# -- without joblib --------------------------------------------------------------------------


def test_without_joblib_there_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "joblib.py").write_text("raise ImportError('No module named joblib')")
    program = "import qsub_py; from qsub_py import *; qsub_py.register_joblib()"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(qsub_py.__file__).parents[1]}"},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: register_joblib() needs joblib")
    assert done.stderr.endswith("run: pip install 'qsub_py[joblib]'\n")


# -- scikit-learn ----------------------------------------------------------------------------


def test_a_grid_search_gives_what_it_gives_serially(cluster: Env) -> None:
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    images, labels = load_digits(return_X_y=True)
    images, labels = images[:500], labels[:500]
    grid = {"C": [0.1, 1.0, 10.0], "gamma": [1e-4, 1e-3]}
    before = newest(cluster)
    with joblib.parallel_config("qsub"):
        ours = GridSearchCV(SVC(), grid, cv=3, return_train_score=True).fit(images, labels)
    assert last(cluster, before).name == "_fit_and_score"
    serial = GridSearchCV(SVC(), grid, cv=3, return_train_score=True).fit(images, labels)
    assert ours.best_params_ == serial.best_params_
    assert numpy.array_equal(ours.predict(images), serial.predict(images))
    for name, values in serial.cv_results_.items():
        if "time" not in name:
            assert list(ours.cv_results_[name]) == list(values), name
