"""max_tasks_per_child: a process executes at most so many calls."""

from __future__ import annotations

import os
from collections import Counter

import pytest

import qsub_py
from env import Env
from qsub_py.errors import SpecError


def pid(_: int) -> int:
    return os.getpid()


@pytest.mark.parametrize("most", [1, 3])
def test_fresh_processes(cluster_env: Env, most: int) -> None:
    with qsub_py.Executor(max_tasks_per_child=most) as ex:
        assert len(set(qsub_py.map(pid, range(20)))) <= 2, "warm ones, when nothing is said"
        pids = Counter(ex.map(pid, range(10)))
        assert max(pids.values()) <= most
        pids.update(future.result() for future in [ex.submit(pid, n) for n in range(10)])
    assert max(pids.values()) <= most
    assert pids.total() == 20


def test_by_submit_and_map(cluster_env: Env) -> None:
    pids = Counter(qsub_py.map(pid, range(9), max_tasks_per_child=2))
    pids.update(qsub_py.submit(pid, n, max_tasks_per_child=2).result() for n in range(3))
    assert max(pids.values()) <= 2


@pytest.mark.parametrize("bad", [0, -1, 1.5, "3"])
def test_bad_input(env: Env, bad: object) -> None:
    with pytest.raises(SpecError, match="max_tasks_per_child must be"):
        qsub_py.Executor(max_tasks_per_child=bad)  # type: ignore[arg-type]
