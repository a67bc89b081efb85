"""Schedules while agents die: each time is fired once, whoever does it."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import closing
from pathlib import Path

from env import Env, alive, wait_until
from qsub_py.store_schedules import ScheduleInfo, Schedules

NODES = ("n1", "n2", "n3")


def schedule(env: Env, number: int) -> ScheduleInfo:
    with closing(env.store()) as store:
        found = Schedules(store).get(number)
    assert found is not None
    return found


def agent(env: Env, name: str) -> int:
    """Return the pid of a node's agent once there is one again."""
    return int(wait_until(
        lambda: alive(env.pid("agent", name)) and env.pid("agent", name), timeout_s=90,
        what=f"the agent of {name} is back",
    ))  # fmt: skip


def test_each_time_once_while_agents_are_killed(env: Env, tmp_path: Path) -> None:
    for name in NODES:
        env.start_node(name, cpus=2)
    ledger, chance = tmp_path / "ledger", random.Random(4)
    line = f"echo $QSUB_DUE_AT >> {ledger}"
    words = ["--every", "1s", "--overlap", "allow", "--wrap", line]
    number = int(env.run("qsub", *words).stdout)
    one = schedule(env, number)
    # The very first time may be missed as well.
    first = one.next_ms / 1000 - one.fired - one.missed
    # A keeper starts an agent that dies often later and later: not many times each.
    for name, other in zip((*NODES, *NODES[:2]), ("n2", "n3", "n1", "n2", "n3"), strict=True):
        # Somewhere between the looks of all three.
        time.sleep(chance.random())
        killed, stopped = agent(env, name), agent(env, other)
        os.kill(stopped, signal.SIGSTOP)
        os.kill(killed, signal.SIGKILL)
        time.sleep(2 * chance.random())
        os.kill(stopped, signal.SIGCONT)
    fired = schedule(env, number).fired
    wait_until(lambda: schedule(env, number).fired >= fired + 2, what="it goes on")
    env.run("qcancel", number)
    one = schedule(env, number)
    wait_until(lambda: len(ledger.read_text().split()) >= one.fired, what="all of them have run")
    with closing(env.store()) as store:
        wait_until(lambda: all(job.has_ended for job in store.jobs(ended=True)))
        due = [at for _, at in Schedules(store).firings(number)]
    ran = sorted(map(float, ledger.read_text().split()))
    assert len(set(ran)) == len(ran) == one.fired, "a time was fired twice"
    assert sorted(due) == ran
    steps = round(ran[-1] - first) + 1
    assert one.fired + one.missed == steps, "a time was neither fired nor missed"
