"""The server dies and comes back while a program submits and waits: nothing lost, nothing twice."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from env import Env, wait_until
from qsub_py import Executor, Job
from qsub_py import client as clients
from qsub_py.client import Client
from qsub_py.errors import StoreUnavailable
from qsub_py.store import Store


@pytest.fixture
def client(cluster_env: Env) -> Client:
    """Return a client of a batch system of this test's own."""
    return Client.connect()


@pytest.fixture
def cluster() -> None:
    """Keep the shared batch system of the other modules out of this one."""


def note(n: int, folder: str) -> int:
    """Leave a trace of each run."""
    with open(os.path.join(folder, str(n)), "a") as file:
        file.write("x")
    time.sleep(0.002)
    return n


def ran_once(folder: Path, count: int) -> bool:
    return [(folder / str(n)).read_text() for n in range(count)] == ["x"] * count


def test_futures_outlive_the_server(client: Client, cluster_env: Env, tmp_path: Path) -> None:
    with Executor(client=client) as executor:
        futures = [executor.submit(note, n, str(tmp_path)) for n in range(200)]
        wait_until(lambda: futures[20].done())
        cluster_env.kill("server")
        futures += [executor.submit(note, n, str(tmp_path)) for n in range(200, 400)]
        assert [future.result(60) for future in futures] == list(range(400))
    assert ran_once(tmp_path, 400)


def test_map_outlives_the_server(client: Client, cluster_env: Env, tmp_path: Path) -> None:
    executor = Executor(client=client)
    values = executor.map(note, range(600), [str(tmp_path)] * 600)
    assert next(values) == 0
    cluster_env.kill("server")
    assert list(values) == list(range(1, 600))
    assert ran_once(tmp_path, 600)
    assert list(Job(values.job, client=client).results()) == list(range(600))


def test_a_submission_whose_reply_was_lost_is_one_job(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, lost = Store.submit, []

    def losing(self: Store, sub: object) -> tuple[int, bool]:
        reply = submit(self, sub)  # type: ignore[arg-type]
        if not lost:
            lost.append(reply)
            raise StoreUnavailable("the reply was lost")
        return reply

    monkeypatch.setattr(Store, "submit", losing)
    executor = Executor(client=client)
    values = executor.map(abs, [-1, -2])
    assert list(values) == [1, 2]
    assert values.job == lost[0][0]
    assert [info.id for info in client.store.jobs(ended=True)] == [values.job]


def test_an_append_whose_reply_was_lost_adds_once(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, count = Store.append_many, [0]

    def losing(self: Store, *args: object) -> None:
        append(self, *args)  # type: ignore[arg-type]
        count[0] += 1
        if count[0] % 2:
            raise StoreUnavailable("the reply was lost")

    monkeypatch.setattr(Store, "append_many", losing)
    with Executor(client=client) as executor:
        futures = [executor.submit(abs, -n) for n in range(1000)]
        assert [future.result(30) for future in futures] == list(range(1000))
        job = Job(futures[0].id.partition("_")[0], client=client)
        assert len(job) == 1000
    assert list(executor_map(client)) == list(range(700))


def executor_map(client: Client) -> object:
    return Executor(client=client).map(abs, range(700))


def test_a_key_makes_one_job(client: Client) -> None:
    from qsub_py.callspec import call_spec, read_resources
    from qsub_py.payload import pack_function

    packed = pack_function(abs)
    spec = call_spec(read_resources(client.config), packed, "builtins:abs")
    calls = [((-n,), {}) for n in range(600)]
    jobs = {client.submit(spec, function=packed, calls=calls, key="once") for _ in range(3)}
    assert len(jobs) == 1
    assert list(Job(jobs.pop(), client=client).results()) == list(range(600))
    assert client.submit(spec, function=packed, calls=calls, key="twice") not in jobs


def test_forged_results_are_not_read(client: Client, cluster_env: Env) -> None:
    from qsub_py.errors import SignatureError

    job = Job(Executor(client=client).map(abs, [-1]).job, client=client)
    assert job.wait(30)
    key = client.store.keys.results(job.id)
    client.store.link.command("DEL", key)
    client.store.link.command("XADD", key, "1-0", "f", 0, "c", b"\x03", "d", b"R\0\0", "s", b"no")
    with pytest.raises(SignatureError):
        list(job.results())
    with pytest.raises(SignatureError):
        list(job.outcomes())


def test_waiting_for_a_job_outlives_the_server(client: Client, cluster_env: Env) -> None:
    job = Job(Executor(client=client).map(time.sleep, [1.5]).job, client=client)
    seen: list[object] = []
    threading.Timer(0.3, cluster_env.kill, ["server"]).start()
    info = client.wait(job.id, poll=seen.append)
    assert info.has_ended and client.exit_code(info) == 0 and len(seen) >= 2


def test_the_shared_client_is_one_for_the_process(cluster_env: Env) -> None:
    clients._forget_after_fork()
    assert clients.shared() is clients.shared()
    clients._forget_after_fork()
