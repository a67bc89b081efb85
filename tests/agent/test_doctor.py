"""What doctor finds on a host, and that it starts and changes nothing."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agent.test_agent import submit
from env import Env, wait_until
from qsub_py import config as configuration
from qsub_py import server
from qsub_py.config import Config
from qsub_py.node import doctor, doctor_host, doctor_server
from qsub_py.node.doctor import BAD, OK, WARN
from qsub_py.node.findings import Finding


def found(config: Config, name: str) -> list[Finding]:
    return [(c.verdict, c.detail, c.cure) for c in doctor.checks(config) if c.name == name]


def test_a_host_where_nothing_is_yet(env: Env) -> None:
    checks = doctor.checks(env.config)
    assert not [check for check in checks if check.verdict == BAD]
    names = list(dict.fromkeys(check.name for check in checks))
    assert names == ["version", "node", "python", "home", "cache", "disk", "key", "server",
                     "logout", "sshd", "cpus", "gpus", "shm", "limits"]  # fmt: skip
    assert found(env.config, "server")[0][0] == WARN
    assert all(check.cure for check in checks if check.verdict != OK)
    assert server.status(env.config.server_path()).state == "stopped"
    assert not configuration.config_dir().exists()


def test_a_host_with_a_node(cluster_env: Env) -> None:
    cluster_env.wait_job(submit(cluster_env, "true"))
    done = cluster_env.run("qnode", "doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert checks["node"]["detail"] == "n1 runs; agent and keeper answer"
    assert checks["server"]["detail"].startswith("the embedded server of this host: answers in")
    assert checks["key"]["detail"].endswith("which signed the newest job")
    assert checks["clock"]["verdict"] == OK
    assert "bad" not in cluster_env.run("qnode", "doctor").stdout


def test_a_dead_node_and_one_that_was_stopped(cluster_env: Env) -> None:
    for role in ("keeper", "agent"):
        cluster_env.kill(role)
    wait_until(lambda: found(cluster_env.config, "node")[0][0] == BAD)
    done = cluster_env.run("qnode", "doctor", check=False)
    assert done.returncode == 1
    assert "-> qnode ensure" in done.stdout
    cluster_env.run("qnode", "ensure")
    cluster_env.run("qnode", "stop", "n1")
    wait_until(lambda: found(cluster_env.config, "node") == [(OK, "n1 was stopped", "")])


def test_another_key_than_the_cluster_has(cluster_env: Env) -> None:
    cluster_env.wait_job(submit(cluster_env, "true"))
    path = configuration.config_dir() / "keys" / "default.key"
    path.unlink()
    configuration.load_key("default", create=True)
    [(verdict, detail, cure)] = doctor_server.key(cluster_env.config)
    assert verdict == BAD and "the newest job is signed with key" in detail and cure


def test_a_server_of_the_users_own(env: Env, valkey: server.Endpoint) -> None:
    url = valkey.url.replace("unix://", f"unix://:{valkey.password}@")
    config = replace(env.config, url=url)
    lines = list(doctor_server.server(config))
    assert lines[0][0] == OK and lines[0][1].startswith("direct, unix://")
    assert valkey.password not in str(lines)
    facts = {"maxmemory_policy": "volatile-lru", "aof_enabled": "0", "role": "slave"}
    assert [line[0] for line in doctor_server._policy(facts)] == [BAD, WARN, BAD]
    [full] = doctor_server._memory({"used_memory": "90", "maxmemory": "100"})
    assert full[0] == WARN and "90 % full" in full[1]


def test_a_server_that_is_not_there(env: Env) -> None:
    config = replace(env.config, url="redis://:secret@127.0.0.1:1")
    [(verdict, detail, cure)] = doctor_server.server(config)
    assert verdict == BAD and "127.0.0.1:1" in detail and "secret" not in detail and cure
    assert list(doctor_server.clock(config)) == []


@pytest.mark.parametrize(
    ("text", "lingers", "verdict"),
    [("", False, OK), ("KillUserProcesses=yes", False, BAD), ("#KillUserProcesses=yes", False, OK)],
)
def test_logout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, lingers: bool, verdict: str
) -> None:
    monkeypatch.setattr(doctor_host, "_ETC", tmp_path)
    monkeypatch.setattr(doctor_host, "_RUN", tmp_path)
    assert next(iter(doctor_host.logout()))[0] == OK
    (tmp_path / "systemd/system").mkdir(parents=True)
    (tmp_path / "systemd/logind.conf.d").mkdir()
    (tmp_path / "systemd/logind.conf").write_text("[Login]\nKillUserProcesses=no\n")
    (tmp_path / "systemd/logind.conf.d/x.conf").write_text(f"[Login]\n{text}\n")
    assert next(iter(doctor_host.logout()))[0] == verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Port 22\n", OK),
        ("AllowTcpForwarding no\nAllowTcpForwarding yes\n", WARN),
        ("allowtcpforwarding local\n", WARN),
        ("DisableForwarding yes\n", WARN),
        ("PermitListen none\n", WARN),
        ("Match User x\n  AllowTcpForwarding no\n", OK),
    ],
)
def test_sshd(
    env: Env, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, verdict: str
) -> None:
    monkeypatch.setattr(doctor_host, "_ETC", tmp_path)
    (tmp_path / "ssh").mkdir()
    (tmp_path / "ssh/sshd_config").write_text(text)
    [(said, _, cure)] = doctor_host.sshd(env.config)
    assert (said, bool(cure)) == (verdict, verdict != OK)


def test_limits() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        files = list(doctor_host.limits())[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert files[:2] == (WARN, "open files (ulimit -n): only 200")


def mounted(env: Env, command: str) -> dict[str, str]:
    """Run doctor with other mounts; return the verdict of each check that is not ok."""
    package = str(Path(sys.modules["qsub_py"].__file__ or "").parents[1])
    run = f"{command} && exec {sys.executable} -m qsub_py qnode doctor --json"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", run], capture_output=True, text=True, timeout=60, cwd="/",
        env={**os.environ, "PYTHONPATH": package},
    )  # fmt: skip
    assert done.stdout, done.stderr
    checks = json.loads(done.stdout)
    return {check["name"]: check["verdict"] for check in checks if check["verdict"] != OK}


@pytest.mark.skipif(
    not shutil.which("unshare") or os.geteuid() != 0, reason="needs root and util-linux's unshare"
)
def test_other_file_systems(env: Env) -> None:
    cache = env.home / ".cache"
    cache.mkdir()
    assert mounted(env, f"mount -t tmpfs -o noexec,size=2g none {cache}")["cache"] == WARN
    assert mounted(env, f"mount -t tmpfs -o size=1m none {cache}")["disk"] == BAD
    assert mounted(env, f"mount -t tmpfs -o ro none {env.home}/.cache")["cache"] == BAD
    broken = mounted(env, f"mount -t tmpfs -o ro none {env.home}")
    assert (broken["home"], broken["cache"], broken["disk"]) == (BAD, BAD, BAD)
