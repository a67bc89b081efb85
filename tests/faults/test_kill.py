"""kill -9 of agent, keeper, server and a runner, in the middle: nothing lost, nothing doubled.

Each attempt writes a line with its task and attempt at its start and end. A task may run
again only when its keeper or runner died under it; each attempt runs at most once.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

import qsub_py
from env import Env, alive, wait_until
from qsub_py.model import State

ROLES = ["agent", "keeper", "server"]
#: Whose death may make a task run again.
DEADLY = {"keeper", "runner"}


def lines(ledger: Path) -> list[str]:
    return ledger.read_text().splitlines() if ledger.exists() else []


def check_ledger(ledger: Path, tasks: int, *, reruns_allowed: bool) -> None:
    starts = Counter(line for line in lines(ledger) if line.startswith("start"))
    ends = Counter(line for line in lines(ledger) if line.startswith("end"))
    assert max(starts.values()) == 1, "an attempt ran twice"
    assert max(ends.values()) == 1
    per_task = Counter(line.split()[1] for line in starts)
    assert len(per_task) == tasks
    if not reruns_allowed:
        assert max(per_task.values()) == 1, "a task ran again without need"
        assert len(ends) == tasks


@pytest.mark.parametrize("role", ROLES)
def test_array_survives(cluster_env: Env, role: str, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    script = (
        f'echo "start $QSUB_TASK_ID $QSUB_ATTEMPT" >> {ledger}; sleep 0.05; '
        f'echo "end $QSUB_TASK_ID $QSUB_ATTEMPT" >> {ledger}'
    )
    job = cluster_env.qsub("-a", "1-200", "--wrap", script)
    wait_until(lambda: len(lines(ledger)) > 100, what="half of it ran")
    pid = cluster_env.kill(role)
    wait_until(lambda: not alive(pid))
    info = cluster_env.wait_job(job, timeout_s=90)
    assert info.counts[State.COMPLETED] == 200
    check_ledger(ledger, 200, reruns_allowed=role in DEADLY)


def test_commands_outlive_the_agent(cluster_env: Env, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    job = cluster_env.qsub("--wrap", f"echo $$ > {pid_file}; sleep 3; exit 7")
    wait_until(lambda: pid_file.exists() and pid_file.read_text().strip())
    running = int(pid_file.read_text())
    killed = cluster_env.kill("agent")
    wait_until(lambda: not alive(killed))
    assert alive(running)
    info = cluster_env.wait_job(job)
    assert (info.state, info.exit_code) == (State.FAILED, 7)


def record(ledger: str, number: int) -> int:
    attempt = os.environ["QSUB_ATTEMPT"]
    handle = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(handle, f"start {number} {attempt}\n".encode())
    os.write(handle, f"end {number} {attempt}\n".encode())
    os.close(handle)
    return number * number


def runner_pid(env: Env) -> int:
    keeper = env.pid("keeper")
    children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    return int(children[0])


@pytest.mark.parametrize("role", [*ROLES, "runner"])
def test_map_survives(cluster_env: Env, role: str, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    count = 10_000
    with qsub_py.Executor() as executor:
        results = executor.map(record, [str(ledger)] * count, range(count))
        got = [next(results) for _ in range(count // 4)]
        pid = runner_pid(cluster_env) if role == "runner" else cluster_env.pid(role)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        got += list(results)
    assert got == [n * n for n in range(count)]
    check_ledger(ledger, count, reruns_allowed=role in DEADLY)
