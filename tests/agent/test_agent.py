"""A node's agent with its keeper and a real server: rights, orders, refusals, fences."""

from __future__ import annotations

import json
import os
import secrets
import signal
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from env import Env, alive, wait_until
from qsub_py import config, server
from qsub_py.model import JobSpec, Outcome, Segments, State, Submission
from qsub_py.outcomes import unpack_outcomes
from qsub_py.signing import Key, Keyring, sign
from qsub_py.store import Store


def submit(env: Env, script: str, *, tasks: int = 1, key: Key | None = None, **fields: Any) -> int:
    """Submit a shell script and return the job's id."""
    settings = env.config
    config.load_key(settings.cluster, create=True)
    key = key or Keyring.of(config.load_keys(settings.cluster)).current
    fields = {"cwd": str(env.home), "env": {"PATH": os.environ["PATH"]}} | fields
    spec = JobSpec("command", "job", "me", script=script, segments=Segments(((0, tasks - 1, 1),)),
                   is_array=tasks > 1, **fields)  # fmt: skip
    uid, data = secrets.token_hex(8), spec.to_bytes()
    signature = sign(key, "spec", settings.cluster, uid, data)
    sub = Submission(spec, uid, secrets.token_hex(8), data, signature, tasks)
    store = env.store()
    try:
        return store.submit(sub)[0]
    finally:
        store.close()


def outcome(env: Env, job: int) -> Outcome:
    """Return the outcome of the job's first task."""
    store = env.store()
    [entry] = store.results_of(job, [0])
    store.close()
    return unpack_outcomes(entry.data)[0]


def pid_from(path: Path) -> int:
    wait_until(lambda: path.exists() and path.read_text().strip())
    return int(path.read_text())


def test_cancel_ends_every_process(cluster_env: Env, tmp_path: Path) -> None:
    child = tmp_path / "child"
    job = submit(
        cluster_env,
        f"trap '' TERM; setsid sh -c 'trap \"\" TERM; echo $$ > {child}; "
        "while :; do sleep 1; done' & while :; do sleep 1; done",
        grace_s=0.2,
    )
    pid = pid_from(child)
    store: Store = cluster_env.store()
    reply = store.cancel(job, None, by="ann")
    wait_until(lambda: not store.orders_done(reply.orders))
    info = cluster_env.wait_job(job)
    assert info.state is State.CANCELLED
    assert not alive(pid)
    assert outcome(cluster_env, job).reason == "cancelled by ann"


def test_a_late_order_does_not_end_a_rerun(cluster_env: Env, tmp_path: Path) -> None:
    """An order whose acknowledgement was lost comes again, after the task was rerun."""
    ledger = tmp_path / "ledger"
    job = submit(cluster_env, f"echo $$ >> {ledger}; exec sleep 60")
    pid_from(ledger)
    with closing(cluster_env.store()) as store:
        cluster_env.kill("agent", sig=signal.SIGSTOP)
        [(_, node, seq)] = store.cancel(job, None, by="ann").orders
        text = store.link.command("HGET", store.keys.orders(node), seq)
        cluster_env.kill("agent", sig=signal.SIGCONT)
        cluster_env.wait_job(job)
        wait_until(lambda: not store.orders_done((("n1", node, seq),)))
        store.requeue(job, [(0, 0)], {State.CANCELLED})
        wait_until(lambda: len(ledger.read_text().split()) == 2, what="it runs again")
        again = int(ledger.read_text().split()[1])
        for number, order in enumerate((text, json.dumps({"op": "nothing"})), 1000):
            store.link.command("HSET", store.keys.orders(node), number, order)
            wait_until(lambda: not store.orders_done((("n1", node, number),)))  # noqa: B023
        assert alive(again)
        assert store.job(job).state is State.RUNNING
        store.cancel(job, None, by="ann")
    assert cluster_env.wait_job(job).state is State.CANCELLED
    assert not alive(again)


def test_time_limit(cluster_env: Env) -> None:
    job = submit(cluster_env, "sleep 60", time_s=0.3)
    info = cluster_env.wait_job(job)
    assert (info.state, info.exit_code) == (State.TIMEOUT, 124)


def test_unfit_job_ends_with_the_reason(cluster_env: Env) -> None:
    job = submit(cluster_env, "true", tasks=100, cwd="/no/such/place")
    info = cluster_env.wait_job(job)
    assert info.state is State.FAILED
    assert info.counts[State.FAILED] == 100
    assert "/no/such/place" in info.unfit["n1"]
    good = submit(cluster_env, "true")
    assert cluster_env.wait_job(good).state is State.COMPLETED


def test_forged_spec_is_refused(cluster_env: Env, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    job = submit(cluster_env, f"touch {mark}", key=Key.new())
    info = cluster_env.wait_job(job)
    assert info.state is State.FAILED
    assert "signed" in info.unfit["n1"]
    assert not mark.exists()


def test_two_nodes_share_the_work(cluster_env: Env, tmp_path: Path) -> None:
    cluster_env.start_node("n2", cpus=2)
    job = submit(cluster_env, f"echo $QSUB_NODE >> {tmp_path}/nodes; sleep 0.2", tasks=12)
    cluster_env.wait_job(job)
    assert set((tmp_path / "nodes").read_text().split()) == {"n1", "n2"}


def stop_node(env: Env, *, now: bool) -> None:
    store = env.store()
    [node] = store.nodes()
    store.drain(node.uid, reason="stopped")
    store.order_node(node.uid, json.dumps({"op": "stop", "now": now}))
    store.close()


def test_stop_drains(cluster_env: Env, tmp_path: Path) -> None:
    agent, keeper = cluster_env.pid("agent"), cluster_env.pid("keeper")
    job = submit(cluster_env, f"touch {tmp_path}/up; sleep 1")
    wait_until((tmp_path / "up").exists)
    later = submit(cluster_env, "true", tasks=3, cpus=2)
    stop_node(cluster_env, now=False)
    assert cluster_env.wait_job(job).state is State.COMPLETED
    wait_until(lambda: not alive(agent) and not alive(keeper))
    store = cluster_env.store()
    assert store.nodes() == []
    assert store.job(later).counts[State.PENDING] == 3


def test_stop_now_gives_the_work_back(cluster_env: Env, tmp_path: Path) -> None:
    agent = cluster_env.pid("agent")
    pid_file = tmp_path / "pid"
    job = submit(cluster_env, f"echo $$ > {pid_file}; exec sleep 60")
    pid = pid_from(pid_file)
    stop_node(cluster_env, now=True)
    wait_until(lambda: not alive(agent) and not alive(pid))
    store = cluster_env.store()
    assert store.job(job).counts[State.PENDING] == 1


@pytest.fixture
def short_lease(env: Env, monkeypatch: pytest.MonkeyPatch) -> Env:
    """A cluster whose leases last 6 s."""
    monkeypatch.setenv("QSUB_CLUSTER", "test-lease")
    store = env.store()
    store.link.command("SET", store.keys.prefix + "test_lease", 6000)
    store.close()
    env.start_node("n1", cpus=1)
    return env


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def test_dead_node_runs_again_elsewhere(short_lease: Env, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    job = submit(
        short_lease, f"echo $QSUB_NODE $QSUB_ATTEMPT >> {ledger}; [ $QSUB_NODE = n2 ] || sleep 100"
    )
    wait_until(ledger.exists)
    for role in ("keeper", "agent"):
        short_lease.kill(role, sig=signal.SIGSTOP)
    short_lease.start_node("n2", cpus=1)
    info = short_lease.wait_job(job)
    assert info.state is State.COMPLETED
    assert ledger.read_text().split("\n")[:2] == ["n1 1", "n2 2"]
    # Back from the dead: it must end what runs elsewhere, and its report counts for nothing.
    for role in ("keeper", "agent"):
        short_lease.kill(role, sig=signal.SIGCONT)
    again = submit(short_lease, "true", tasks=4)
    assert short_lease.wait_job(again).state is State.COMPLETED
    assert short_lease.wait_job(job).counts[State.COMPLETED] == 1


def test_outage_pauses_and_goes_on(short_lease: Env, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    script = f"echo $$ > {tmp_path}/pid; for i in $(seq 18); do sleep 0.5; done; "
    script += f"echo $QSUB_ATTEMPT >> {ledger}"
    job = submit(short_lease, script)
    pid = pid_from(tmp_path / "pid")
    stopped = short_lease.kill("server", sig=signal.SIGSTOP)
    wait_until(lambda: state_of(pid) == "T", what="the job is paused")
    time.sleep(1)  # the outage goes on for a while
    os.kill(stopped, signal.SIGCONT)
    info = short_lease.wait_job(job)
    assert info.state is State.COMPLETED
    assert ledger.read_text() == "1\n"


def test_server_killed_while_nobody_asks(cluster_env: Env) -> None:
    job = submit(cluster_env, "sleep 2; exit 5")
    cluster_env.wait_state(job, State.RUNNING)
    pid = cluster_env.kill("server")
    wait_until(lambda: not alive(pid))
    wait_until(lambda: server.status(cluster_env.config.server_path()).state == "running",
               what="the agent starts the server again")  # fmt: skip
    assert cluster_env.wait_job(job).exit_code == 5
