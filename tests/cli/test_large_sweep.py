"""A sweep of a million points costs the server what one of ten does: in commands and in memory."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

import pytest

from env import Env
from qsub_py.model import State
from qsub_py.store import Store

TEN = ("--sweep", "a=1:2", "--sweep", "b=1:5")
MILLION = ("--sweep", "a=1:1000", "--sweep", "b=1:1000")


def spent(store: Store) -> int:
    """Count the commands that the server has done, those of scripts among them."""
    text = store.link.command("INFO", "commandstats").decode()
    kinds = re.findall(r"cmdstat_([a-z|_-]+):calls=(\d+)", text)
    return sum(int(calls) for name, calls in kinds if name not in ("info", "ping"))


def memory(store: Store, job: int) -> int:
    """Add up what the keys of a job take."""
    keys = [key for key in store.link.command("KEYS", f"*:{job}") if b"blob" not in key]
    return sum(int(store.link.command("MEMORY", "USAGE", key)) for key in keys)


def costs(env: Env, store: Store, points: tuple[str, ...], more: str) -> dict[str, int]:
    """Return what each step of a sweep's life costs before it runs."""
    found = {}
    job = 0

    def measured(what: str, step: Callable[[], object]) -> None:
        nonlocal found
        before = spent(store)
        step()
        found[what] = spent(store) - before

    def submit() -> None:
        nonlocal job
        job = env.qsub(*points, "true", "--", "{a}", "{b}")

    measured("submit", submit)
    found["bytes"] = memory(store, job)
    measured("qstat", lambda: env.run("qstat", job))
    measured("extend", lambda: env.run("qsub", "--extend", job, "--sweep", more))
    found["bytes extended"] = memory(store, job)
    assert store.job(job).counts[State.PENDING] > (1_000_000 if points is MILLION else 10)
    measured("cancel", lambda: env.run("qcancel", job))
    found["bytes cancelled"] = memory(store, job)
    assert store.job(job).has_ended
    return found


@pytest.mark.timeout(120)
def test_a_million_points_cost_what_ten_do(env: Env) -> None:
    with contextlib.closing(env.store()) as store:
        costs(env, store, TEN, "a=3:4")  # the server learns the scripts
        few = costs(env, store, TEN, "a=3:4")
        many = costs(env, store, MILLION, "a=1001:2000")
    for what, cost in few.items():
        # Numbers of more digits take a few bytes more; who syncs the server's file asks it, too.
        assert many[what] <= cost + (128 if "bytes" in what else 8), (what, few, many)
