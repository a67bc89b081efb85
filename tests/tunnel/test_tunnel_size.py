"""Many hosts, and many losses: nothing piles up in the worker."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from env import Env, wait_until
from qsub_py import tunnel
from qsub_py.ssh import Secrets
from tunnel.host import Host
from tunnel.sshd import Sshd
from tunnel.test_tunnel import add, answers, pid_of, status

HOSTS = 50
LOSSES = 100


def sizes(pid: int) -> tuple[int, int]:
    """Return how many descriptors and threads a process has."""
    process = Path(f"/proc/{pid}")
    return len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))


@pytest.mark.timeout(600)
def test_a_hundred_losses_leave_nothing(
    tunnels: Env, host: Host, sshd: Sshd, password: str
) -> None:
    add(tunnels, host, sshd)
    worker, supervisor = pid_of("worker", tunnels), pid_of("supervisor", tunnels)
    before = (0, 0)
    for number in range(LOSSES):
        lost = status(tunnels).lost
        sshd.cut()
        wait_until(lambda lost=lost: status(tunnels).lost > lost, what="the loss is seen")
        tunnel.ensure(tunnels.config)  # it need not wait for its back-off
        tunnel.await_up(tunnels.config, ["h1"])
        if number == LOSSES // 10:
            assert answers(host)
            before = sizes(worker)
    assert pid_of("worker", tunnels) == worker
    assert pid_of("supervisor", tunnels) == supervisor
    assert answers(host)

    most = (before[0] + 2, before[1] + 2)
    wait_until(
        lambda: all(one <= limit for one, limit in zip(sizes(worker), most, strict=True)),
        what=f"the worker has no more than {most}",
    )


@pytest.mark.timeout(300)
def test_fifty_hosts(tunnels: Env, host: Host, sshd: Sshd, password: str) -> None:
    names = [f"h{number}" for number in range(HOSTS)]
    for name in names:
        route = replace(sshd.route(), alias=name)
        tunnel.add(tunnels.config, name, route, Secrets(), ["/bin/cat"])
    found = tunnel.await_up(tunnels.config, names, timeout_s=60)
    assert {one.state for one in found.values()} == {"up"}
    assert len({one.port for one in found.values()}) == HOSTS
    os.kill(pid_of("worker", tunnels), 9)
    wait_until(lambda: pid_of("worker", tunnels), what="there is another worker")
    wait_until(
        lambda: {one.state for one in tunnel.status(tunnels.config).values()} == {"up"},
        timeout_s=60,
        what="all are back",
    )
