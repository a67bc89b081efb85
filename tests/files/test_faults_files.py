"""kill -9 while files are on their way: each task ends once, with its files, and nothing stays."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import pytest

from env import Env, alive, wait_until
from qsub_py.model import State

MB = 2**20


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory that the test submits from."""
    path = tmp_path / "submit"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


@pytest.fixture
def node(cluster_env: Env, here: Path) -> Env:
    """Return a system with one node of two cpus."""
    return cluster_env


def fill(path: Path, size: int) -> str:
    """Write random bytes; return their SHA-256."""
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for _ in range(size // MB):
            data = os.urandom(MB)
            digest.update(data)
            file.write(data)
    return digest.hexdigest()


def cache(env: Env, pattern: str) -> list[Path]:
    return list((env.node_dirs["n1"] / "cache").glob(pattern))


def is_fetching(env: Env) -> bool:
    """Whether the agent is in the middle of a large archive."""
    return any(part.stat().st_size > MB for part in cache(env, "*.part") if part.exists())


def attempt(env: Env, job: int) -> str:
    return env.run("qlog", job).stdout


def blobs(env: Env) -> list[bytes]:
    store = env.store()
    try:
        keys: list[bytes] = store.link.command("KEYS", store.keys.prefix + "blob:*")
        return keys
    finally:
        store.close()


def test_agent_killed_while_it_fetches(node: Env, here: Path) -> None:
    digest = fill(here / "big", 150 * MB)
    line = "echo $QSUB_ATTEMPT; sha256sum big"
    job = node.qsub("--ship", "big", "--wrap", line)
    wait_until(lambda: is_fetching(node), what="a part of it is here")
    pid = node.kill("agent")
    wait_until(lambda: not alive(pid))
    assert node.wait_job(job).state is State.COMPLETED
    assert attempt(node, job).split()[:2] == ["1", digest]
    assert cache(node, "*.part") == []


def test_keeper_killed_while_the_agent_fetches(node: Env, here: Path) -> None:
    digest = fill(here / "big", 100 * MB)
    job = node.qsub("--ship", "big", "--wrap", "echo $QSUB_ATTEMPT; sha256sum big")
    wait_until(lambda: is_fetching(node), what="a part of it is here")
    node.kill("keeper")
    assert node.wait_job(job).state is State.COMPLETED
    assert attempt(node, job).split()[:2] == ["1", digest]


def test_server_killed_while_the_agent_fetches(node: Env, here: Path) -> None:
    digest = fill(here / "big", 100 * MB)
    job = node.qsub("--ship", "big", "--wrap", "echo $QSUB_ATTEMPT; sha256sum big")
    wait_until(lambda: is_fetching(node), what="a part of it is here")
    node.kill("server")
    assert node.wait_job(job, timeout_s=90).state is State.COMPLETED
    assert attempt(node, job).split()[:2] == ["1", digest]


def test_keeper_killed_while_it_unpacks(node: Env, here: Path) -> None:
    (here / "many").mkdir()
    for number in range(5000):
        (here / "many" / str(number)).write_text(str(number))
    job = node.qsub("--ship", "many", "--wrap", "echo $QSUB_ATTEMPT; ls many | wc -l")
    scratch = node.node_dirs["n1"] / "scratch"
    wait_until(lambda: any(scratch.glob("*/many/1*")), what="it is being unpacked")
    node.kill("keeper")
    assert node.wait_job(job).state is State.COMPLETED
    number, count = attempt(node, job).split()
    assert (number in "12", count) == (True, "5000")


def test_cancel_while_it_is_fetched(node: Env, here: Path) -> None:
    fill(here / "big", 150 * MB)
    job = node.qsub("--ship", "big", "-a", "1-2", "--wrap", "true")
    wait_until(lambda: is_fetching(node), what="a part of it is here")
    node.run("qcancel", "--wait", f"{job}_1")
    node.run("qcancel", "--wait", job)
    info = node.wait_job(job)
    assert info.counts[State.CANCELLED] >= 1
    other = node.qsub("--wrap", "echo fine")
    assert node.wait_job(other).state is State.COMPLETED


def test_many_megabytes_do_not_stall_renewals(
    env: Env, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With leases of 6 s a node that did not renew for that long would lose its work."""
    monkeypatch.setenv("QSUB_CLUSTER", "test-files")
    store = env.store()
    store.link.command("SET", store.keys.prefix + "test_lease", 6000)
    env.start_node("n1", cpus=2)
    beside = env.qsub("--wrap", "echo $QSUB_ATTEMPT; sleep 4; echo end")
    env.wait_state(beside, State.RUNNING)
    digest = fill(here / "big", 200 * MB)
    job = env.qsub("--ship", "big", "--fetch", "back", "--wrap", "sha256sum big; mv big back")
    renewals: set[float] = set()
    [node] = store.nodes()

    def is_over() -> bool:
        renewals.add(float(store.link.command("ZSCORE", store.keys.nodes, node.uid) or -1))
        return store.job(job).has_ended

    wait_until(is_over, timeout_s=90)
    store.close()
    assert -1 not in renewals, "its lease lapsed"
    assert attempt(env, job).split()[0] == digest
    assert env.run("qlog", beside).stdout == "1\nend\n"
    log = (env.node_dirs["n1"] / "agent.log").read_text()
    assert "joining again" not in log
    assert "no longer ours" not in log
    assert "more than job.fetch_limit" in log
    env.run("qfetch", job, "-o", "got")
    assert hashlib.sha256((here / "got" / "back").read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("role", ["agent", "server", "both"])
def test_killed_while_files_are_brought(node: Env, here: Path, role: str) -> None:
    os.environ["QSUB_JOB_FETCH_LIMIT"] = "500M"
    try:
        line = "echo $QSUB_ATTEMPT; head -c 90000000 /dev/urandom > r; sha256sum r"
        job = node.qsub("--ship", ".", "--fetch", "r", "--wrap", line)
    finally:
        del os.environ["QSUB_JOB_FETCH_LIMIT"]
    wait_until(lambda: blobs(node), what="a part of it is there")
    killed = [node.kill(one) for one in ("agent", "server") if role in (one, "both")]
    wait_until(lambda: not any(map(alive, killed)))
    assert node.wait_job(job, timeout_s=90).state is State.COMPLETED
    number, digest = attempt(node, job).split()[:2]
    assert number == "1"
    node.run("qfetch", job)
    assert hashlib.sha256((here / "r").read_bytes()).hexdigest() == digest
    store = node.store()
    kept = {b"blob:" + name for name in store.link.command(
        "SMEMBERS", f"{store.keys.prefix}blobs:{job}")}  # fmt: skip
    for key in blobs(node):
        life = int(store.link.command("TTL", key))
        assert (life == -1) == any(key.endswith(name) for name in kept), "the rest goes by itself"
    out = node.node_dirs["n1"] / "out"
    wait_until(lambda: not list(out.glob("*.files")), what="the node's copy is gone")


def test_keeper_killed_while_it_collects(node: Env, here: Path) -> None:
    line = "echo $QSUB_ATTEMPT > n; i=0; while [ $i -lt 4000 ]; do : > f$i; i=$((i+1)); done"
    job = node.qsub("--ship", ".", "--fetch", "*", "--wrap", line)
    out = node.node_dirs["n1"] / "out"
    wait_until(lambda: list(out.glob("*.files*")), what="collecting began")
    node.kill("keeper")
    assert node.wait_job(job).state is State.COMPLETED
    node.run("qfetch", job, "-o", "got")
    assert (here / "got" / "n").read_text().strip() in ("1", "2")
    assert len(list((here / "got").iterdir())) == 4001


def test_a_task_stopped_with_its_node_brings_nothing_twice(node: Env, here: Path) -> None:
    """The agent stands still while the keeper ends the task; it goes on where it was."""
    job = node.qsub("--ship", ".", "--fetch", "r", "--wrap", "sleep 1; echo $QSUB_ATTEMPT > r")
    node.wait_state(job, State.RUNNING)
    pid = node.kill("agent", sig=signal.SIGSTOP)
    out = node.node_dirs["n1"] / "out"
    wait_until(lambda: list(out.glob("*.files")), what="its files are packed")
    os.kill(pid, signal.SIGCONT)
    assert node.wait_job(job).state is State.COMPLETED
    node.run("qfetch", job)
    assert (here / "r").read_text() == "1\n"
