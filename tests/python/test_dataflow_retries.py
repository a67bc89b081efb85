"""Calls that need results of calls which are tried again, or are themselves."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

import qsub_py
from env import Env


def flaky(path: str, good: int, value: int = 0) -> int:
    with open(path, "a") as file:
        file.write(f"{value}\n")
    attempt = int(os.environ["QSUB_ATTEMPT"])
    if attempt < good:
        raise ValueError(f"attempt {attempt}")
    return value + attempt


def patient(value: int) -> int:
    """Return in time only when it has forty seconds."""
    if float(os.environ["QSUB_TIME_S"]) < 40:
        time.sleep(60)
    return value + 1


def measure(value: int, data: bytes) -> int:
    return value + len(data)


def test_what_needs_it_waits_for_the_last_try(cluster_env: Env, tmp_path: Path) -> None:
    with qsub_py.Executor(retries=2, backoff=0.05) as ex:
        first = ex.submit(flaky, str(tmp_path / "a"), 3)
        second = ex.submit(flaky, str(tmp_path / "b"), 2, first)
        assert second.result(60) == 5
        assert first.result(60) == 3
    assert (tmp_path / "b").read_text().split() == ["3", "3"], "the same input each time"


def test_the_cause_is_the_last_try(cluster_env: Env, tmp_path: Path) -> None:
    with qsub_py.Executor(retries=1, backoff=0) as ex:
        deep: Any = ex.submit(flaky, str(tmp_path / "a"), 9)
        for _ in range(2):
            deep = ex.submit(flaky, str(tmp_path / "b"), 1, deep)
        with pytest.raises(qsub_py.DependencyFailed) as caught:
            deep.result(60)
    assert repr(caught.value.__cause__) == "ValueError('attempt 2')"
    assert not (tmp_path / "b").exists(), "what was given up is not tried again"


def test_a_call_that_grows_keeps_its_inputs(cluster_env: Env) -> None:
    with qsub_py.Executor(time=1, on_timeout=40, backoff=0) as slow, qsub_py.Executor() as ex:
        large = ex.submit(bytes, 300_000)
        value = slow.submit(patient, ex.submit(len, large))
        assert ex.submit(measure, value, large).result(60) == 600_001
