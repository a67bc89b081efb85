"""A node with gpus: a fake nvidia-smi on PATH reads what the test writes."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.test_agent import pid_from, submit
from env import Env, alive, wait_until
from qsub_py.model import NodeInfo, State
from qsub_py.node import local

TABLE = "0, GPU-a, NVIDIA RTX A6000, 49140\n1, GPU-b, NVIDIA RTX A6000, 49140\n"


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder whose `apps` the fake nvidia-smi shows; `hang` makes it hang."""
    folder = tmp_path / "smi"
    folder.mkdir()
    (folder / "table").write_text(TABLE)
    (folder / "apps").touch()
    script = folder / "nvidia-smi"
    script.write_text(
        f'#!/bin/sh\ncase "$1" in --query-gpu*) exec cat {folder}/table;; -L) exit 0;; esac\n'
        f"[ -e {folder}/hang ] && exec sleep 600\nexec cat {folder}/apps\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return folder


@pytest.fixture
def outsider() -> Iterator[int]:
    """Return the pid of a process that is not of the queue."""
    process = subprocess.Popen(["sleep", "600"])
    yield process.pid
    process.kill()
    process.wait()


def say(smi: Path, *users: tuple[int, str]) -> None:
    """Let nvidia-smi say that these processes compute."""
    new = smi / "apps.new"
    new.write_text("".join(f"{pid}, {uuid}, 512\n" for pid, uuid in users))
    new.rename(smi / "apps")


def start(env: Env, *, avoids: bool) -> None:
    started = local.start(env.config, name="n1", cpus=4, mem_bytes=2**32, avoid_busy_gpus=avoids)
    env.node_dirs["n1"] = started.node_dir
    assert started.gpus == 2


def await_node(env: Env, condition: Callable[[NodeInfo], object]) -> NodeInfo:
    store = env.store()
    try:
        return wait_until(lambda: next(filter(condition, store.nodes()), None))
    finally:
        store.close()


def test_each_gpu_has_one_task(env: Env, smi: Path, tmp_path: Path) -> None:
    start(env, avoids=False)
    node = await_node(env, lambda node: True)
    assert node.features[-1] == "rtxa6000" and os.uname().machine in node.features
    script = (
        f"echo $CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER >> {tmp_path}/seen\n"
        f"mkdir {tmp_path}/gpu$CUDA_VISIBLE_DEVICES || exit 1; sleep 0.1\n"
        f"rmdir {tmp_path}/gpu$CUDA_VISIBLE_DEVICES\n"
    )
    job = submit(env, script, tasks=8, gpus=1)
    assert env.wait_job(job).state is State.COMPLETED
    lines = (tmp_path / "seen").read_text().splitlines()
    assert len(lines) == 8 and set(lines) == {"0 PCI_BUS_ID", "1 PCI_BUS_ID"}
    none = submit(env, f'echo "[$CUDA_VISIBLE_DEVICES]" > {tmp_path}/none')
    env.wait_job(none)
    assert (tmp_path / "none").read_text() == "[]\n"


def test_gpus_that_others_use_are_avoided(
    env: Env, smi: Path, outsider: int, tmp_path: Path
) -> None:
    say(smi, (outsider, "GPU-a"))
    start(env, avoids=True)
    await_node(env, lambda node: node.gpus_busy == (0,))
    assert "gpu 0 is used outside of the queue" in env.run("qnode", "list").stdout
    script = f"echo $CUDA_VISIBLE_DEVICES > {tmp_path}/used; echo $$ > {tmp_path}/pid; sleep 600"
    first = submit(env, script, gpus=1)
    pid = pid_from(tmp_path / "pid")
    assert (tmp_path / "used").read_text() == "1\n"
    second = submit(env, "true", gpus=1)
    why = env.run("qstat", "--why", second).stdout
    assert "GpuBusyOutside" in why and "n1  gpu 0 is used outside of the queue" in why
    say(smi, (pid, "GPU-b"))  # a task's own process is no outsider
    await_node(env, lambda node: node.gpus_busy == ())
    assert env.wait_job(second).state is State.COMPLETED
    say(smi, (pid, "GPU-b"), (outsider, "GPU-b"))
    await_node(env, lambda node: node.gpus_busy == (1,))
    os.kill(pid, signal.SIGTERM)
    env.wait_job(first)


def test_a_driver_that_hangs_stops_no_node(env: Env, smi: Path) -> None:
    (smi / "hang").touch()
    start(env, avoids=True)
    node = await_node(env, lambda node: True)
    assert node.gpus_busy == (0, 1)
    agent = env.pid("agent")
    assert env.wait_job(submit(env, "true", tasks=20)).state is State.COMPLETED
    waits = submit(env, "true", gpus=1)
    await_node(env, lambda node: node.gpus_why)
    assert "nvidia-smi does not answer" in env.run("qnode", "list").stdout
    assert "nvidia-smi does not answer" in env.run("qstat", "--why", waits).stdout
    assert alive(agent) and env.pid("agent") == agent
