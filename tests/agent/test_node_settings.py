"""What a node was started with, and what becomes of other options while it runs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from agent.test_agent import pid_from, submit
from env import Env, alive, wait_until
from qsub_py.errors import NodeError, SpecError
from qsub_py.model import NodeInfo, State
from qsub_py.node import local
from qsub_py.node.gpus import Gpu
from qsub_py.node.settings import NodeSettings


def node(env: Env, name: str = "n1") -> NodeInfo:
    store = env.store()
    try:
        return next(found for found in store.nodes() if found.name == name)
    finally:
        store.close()


def test_settings_of_other_versions_are_read(tmp_path: Path) -> None:
    old = {"uid": "u", "name": "n", "cpus": 2, "mem_bytes": 3, "gpus": 1, "cluster": "c",
           "url": "", "features": ["a"], "queues": ["q"]}  # fmt: skip
    (tmp_path / "node.json").write_text(json.dumps(old | {"of_the_future": [1]}))
    loaded = NodeSettings.load(tmp_path)
    assert (loaded.features, loaded.queues, loaded.way) == (("a",), ("q",), "local")
    assert loaded.pythons == {} and loaded.device(0) == "0"
    for text in ("[]", "{}", "{", '{"devices": 3}'):
        (tmp_path / "node.json").write_text(text)
        with pytest.raises((ValueError, TypeError)):
            NodeSettings.load(tmp_path)


def test_settings_come_back_as_they_were(tmp_path: Path) -> None:
    gpu = Gpu("MIG-1", "MIG-1", "NVIDIA A100", 2**30, "GPU-1")
    settings = NodeSettings(
        "u", "n", 2, 3, 1, "c", alias="h", way="tunnel", env="/e", avoid_busy_gpus=True,
        pythons={"3.11": "/p"}, devices=(gpu,),
    )  # fmt: skip
    settings.save(tmp_path)
    assert NodeSettings.load(tmp_path) == settings
    assert (tmp_path / "node.json").stat().st_mode & 0o777 == 0o600
    assert [settings.device(n) for n in (0, 1)] == ["MIG-1", "1"]


def test_start_again_leaves_a_node_alone(cluster_env: Env) -> None:
    agent = cluster_env.pid("agent")
    again = cluster_env.start_node("n1", cpus=2)
    assert (again.was_running, again.was_restarted, again.changed) == (True, False, ())
    plain = local.start(cluster_env.config, name="n1")
    assert (plain.cpus, plain.mem_bytes, plain.was_restarted) == (2, 2**32, False)
    assert cluster_env.pid("agent") == agent


def test_other_options_are_applied_under_load(cluster_env: Env, tmp_path: Path) -> None:
    agent, keeper = cluster_env.pid("agent"), cluster_env.pid("keeper")
    job = submit(cluster_env, f"echo $$ > {tmp_path}/pid; while [ ! -e {tmp_path}/go ]; do "
                 "sleep 0.05; done")  # fmt: skip
    pid = pid_from(tmp_path / "pid")
    changed = local.start(
        cluster_env.config, name="n1", cpus=4, gpus=2, features=("fast",), queues=("main", "big")
    )
    assert changed.was_running and changed.was_restarted
    assert changed.changed == ("cpus", "gpus", "features", "queues")
    found = node(cluster_env)
    assert (found.cpus, found.cpus_free, found.gpus) == (4, 3, 2)
    assert found.features[0] == "fast" and found.queues == ("main", "big")
    assert alive(pid) and not alive(agent)
    assert cluster_env.pid("keeper") == keeper and cluster_env.pid("agent") != agent
    (tmp_path / "go").touch()
    assert cluster_env.wait_job(job).state is State.COMPLETED


def test_fewer_cpus_than_are_in_use(cluster_env: Env, tmp_path: Path) -> None:
    script = f"touch {tmp_path}/$QSUB_TASK_ID; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"
    job = submit(cluster_env, script, tasks=3)
    wait_until(lambda: (tmp_path / "0").exists() and (tmp_path / "1").exists())
    local.start(cluster_env.config, name="n1", cpus=1)
    assert (node(cluster_env).cpus_free, node(cluster_env).running) == (-1, 2)
    (tmp_path / "go").touch()
    assert cluster_env.wait_job(job).state is State.COMPLETED
    wait_until(lambda: node(cluster_env).cpus_free == 1)


def test_an_agent_that_cannot_start_leaves_the_old_one(
    cluster_env: Env, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = cluster_env.pid("agent")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(NodeError, match="ended at once"):
        local.start(cluster_env.config, name="n1", cpus=1)
    monkeypatch.undo()
    assert alive(agent) and cluster_env.pid("agent") == agent
    assert NodeSettings.load(cluster_env.node_dirs["n1"]).cpus == 2


def test_a_node_stays_with_its_server(cluster_env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSUB_URL", "redis://u:secret@127.0.0.1:1")
    with pytest.raises(NodeError, match="runs already, for the embedded server"):
        local.start(cluster_env.config, name="n1")


def test_ensure_starts_what_is_dead_and_was_not_stopped(cluster_env: Env) -> None:
    cluster_env.start_node("n2")
    cluster_env.run("qnode", "stop", "n2")
    for role in ("keeper", "agent"):
        pid = cluster_env.kill(role)
        wait_until(lambda pid=pid: not alive(pid))
    assert local.ensure(cluster_env.config) == ["n1"]
    assert local.ensure(cluster_env.config) == []
    assert node(cluster_env).cpus == 2
    cluster_env.start_node("n2")
    assert not (cluster_env.node_dirs["n2"] / "stopped").exists()


def test_environment_that_is_not_there(env: Env) -> None:
    with pytest.raises(SpecError, match="no such directory"):
        local.start(env.config, name="n1", env="/no/such/env")
    with pytest.raises(SpecError, match="no conda environment"):
        local.start(env.config, name="n1", env="conda:nothing")
    assert not os.path.exists(env.config.state_path() / "nodes")
