"""Networks that part, processes that die, hosts that restart: each task ends once, attempts of
one task never run at a time, and nothing of ours stays behind.

The clusters are called test-*, so their leases may be short.
"""

from __future__ import annotations

import random

import pytest

from lab import Lab
from lab_cluster import Cluster, ran_again
from lab_host import Host
from waiting import wait_until

pytestmark = pytest.mark.timeout(300)

LEASE_S = 8
#: Tasks of a job, and the beats (fifths of a second) of each: many short ones, or a few that
#: last longer than a lease.
SHORT = (24, 12)
LONG = (9, 60)


@pytest.fixture
def cluster(lab3: Lab) -> Cluster:
    """Return three nodes whose leases are short."""
    made = Cluster(lab3, lease_s=LEASE_S)
    made.start()
    return made


def begin(cluster: Cluster, size: tuple[int, int]) -> int:
    """Submit a job and return it once all hosts work on it."""
    job = cluster.submit_ledger(size[0], beats=size[1])
    cluster.wait_ledger(lambda lines: len({line.host for line in lines}) == 3, what="all work")
    return job


def finish(cluster: Cluster, job: int, *, most_attempts: int = 9) -> None:
    """All tasks complete, as they should; the nodes stop and leave nothing."""
    cluster.wait_completed(job, timeout_s=120)
    cluster.check_ledger(job, most_attempts=most_attempts)
    cluster.stop()


def works(cluster: Cluster, host: str) -> None:
    """The host does jobs again."""
    cluster.wait_completed(cluster.qsub("-w", host, "--wrap", "true"))


def test_cut_shorter_than_the_lease(cluster: Cluster) -> None:
    job = begin(cluster, SHORT)
    cluster.lab["h1"].cut()
    cluster.wait_beats("h2", 10)
    cluster.lab["h1"].heal()
    finish(cluster, job, most_attempts=1)


@pytest.mark.parametrize("size", [SHORT, LONG])
@pytest.mark.parametrize("way", ["both", "in", "out", "down"])
def test_cut_longer_than_the_lease(cluster: Cluster, way: str, size: tuple[int, int]) -> None:
    job = begin(cluster, size)
    cluster.lab["h1"].cut(way)
    cluster.wait_ledger(ran_again("h1"), what="h1's tasks run elsewhere")
    cluster.lab["h1"].heal()
    works(cluster, "h1")
    finish(cluster, job)


def all_go_on(cluster: Cluster) -> None:
    """Wait until each host's work has gone on from where it is now."""
    for host in cluster.lab.hosts:
        cluster.wait_beats(host, 1)


def test_head_cut_off(cluster: Cluster) -> None:
    """No node reaches the server for a while; their work goes on."""
    job = begin(cluster, SHORT)
    cluster.head.cut()
    all_go_on(cluster)
    cluster.head.heal()
    finish(cluster, job, most_attempts=1)


def test_head_cut_off_for_longer_than_the_lease(lab3: Lab) -> None:
    """Then their work pauses; it goes on where it was, and none is done twice.

    The lease is longer than the nodes need to come back one after the other.
    """
    cluster = Cluster(lab3, lease_s=20)
    cluster.start()
    job = begin(cluster, (6, 120))
    lab3.head.cut()
    wait_until(lambda: all(paused(host) for host in lab3.hosts.values()), what="all pause",
               timeout_s=60)  # fmt: skip
    lab3.head.heal()
    finish(cluster, job, most_attempts=1)


def paused(host: Host) -> bool:
    """Whether the jobs of a host are stopped, all of them."""
    states = {p.state for p in host.processes("ann") if "script" in p.argv}
    return states == {"T"}


def test_sshd_killed(cluster: Cluster) -> None:
    """With its sessions: the tunnel is gone, and comes back by itself."""
    job = begin(cluster, SHORT)
    cluster.lab["h1"].stop_sshd()
    cluster.wait_beats("h2", 10)
    cluster.lab["h1"].start_sshd()
    works(cluster, "h1")
    finish(cluster, job)


def test_sshd_dead_for_longer_than_the_lease(cluster: Cluster) -> None:
    job = begin(cluster, LONG)
    cluster.lab["h1"].stop_sshd()
    cluster.wait_ledger(ran_again("h1"), what="h1's tasks run elsewhere")
    cluster.lab["h1"].start_sshd()
    works(cluster, "h1")
    finish(cluster, job)


def tunnel_pids(cluster: Cluster, role: str) -> list[int]:
    """Processes of the tunnel on the head: of the worker or the supervisor."""
    module = {"worker": "qsub_py.tunnel_worker", "supervisor": "qsub_py.tunnel "}[role]
    return [p.pid for p in cluster.head.processes() if module in p.argv + " "]


def test_tunnel_worker_killed(cluster: Cluster) -> None:
    job = begin(cluster, SHORT)
    (worker,) = tunnel_pids(cluster, "worker")
    cluster.head.run(["kill", "-KILL", str(worker)])
    wait_until(lambda: tunnel_pids(cluster, "worker") not in ([], [worker]), what="it is back")
    for host in cluster.lab.hosts:
        works(cluster, host)
    finish(cluster, job)


def test_tunnel_supervisor_killed(cluster: Cluster) -> None:
    """All of the tunnel is dead; `qnode ensure` brings it back."""
    job = begin(cluster, SHORT)
    doomed = tunnel_pids(cluster, "supervisor") + tunnel_pids(cluster, "worker")
    cluster.head.run(["kill", "-KILL", *map(str, doomed)])
    cluster.run("qnode", "ensure")
    for host in cluster.lab.hosts:
        works(cluster, host)
    finish(cluster, job)


def test_everything_killed_on_a_host(cluster: Cluster) -> None:
    job = begin(cluster, SHORT)
    cluster.lab["h1"].kill_processes("ann")
    cluster.wait_ledger(ran_again("h1"), what="h1's tasks run elsewhere")
    cluster.run("qnode", "ensure")
    works(cluster, "h1")
    finish(cluster, job)


def test_power_cut(cluster: Cluster) -> None:
    job = begin(cluster, LONG)
    cluster.lab["h1"].kill()
    cluster.wait_ledger(ran_again("h1"), what="h1's tasks run elsewhere")
    cluster.lab["h1"].boot()
    cluster.run("qnode", "ensure")
    works(cluster, "h1")
    finish(cluster, job)


def test_reboot_is_known_at_once(lab3: Lab) -> None:
    """The new boot id tells that what ran is lost: nobody waits for a lease, here of an hour."""
    cluster = Cluster(lab3, lease_s=3600)
    cluster.start()
    job = begin(cluster, SHORT)
    lab3["h1"].reboot()
    cluster.start("h1")
    finish(cluster, job)


# -- many faults -----------------------------------------------------------------------------


def cut_for_a_moment(cluster: Cluster, host: Host) -> None:
    host.cut()
    cluster.wait_time(1)
    host.heal()


def cut_for_long(cluster: Cluster, host: Host) -> None:
    host.cut()
    cluster.wait_time(2 * LEASE_S)
    host.heal()


def restart_sshd(cluster: Cluster, host: Host) -> None:
    host.stop_sshd()
    cluster.wait_time(1)
    host.start_sshd()


def kill_tunnel(cluster: Cluster, host: Host) -> None:
    cluster.head.run(["kill", "-KILL", *map(str, tunnel_pids(cluster, "worker"))], check=False)


def kill_some(cluster: Cluster, host: Host) -> None:
    """Kill the agent and the keeper, which bring each other back, one after the other."""
    for part in ("agent", "keeper"):
        cluster.kill_part(host.name, part)
        cluster.wait_time(1)


def restart_host(cluster: Cluster, host: Host) -> None:
    host.reboot()
    cluster.run("qnode", "ensure", check=False)


FAULTS = (cut_for_a_moment, cut_for_long, restart_sshd, kill_tunnel, kill_some, restart_host)


@pytest.mark.parametrize("seed", [1, 2])
def test_one_fault_after_another(cluster: Cluster, seed: int) -> None:
    chance = random.Random(seed)
    job = begin(cluster, (60, 15))
    for _ in range(5):
        host = cluster.lab[chance.choice(["h1", "h2", "h3"])]
        chance.choice(FAULTS)(cluster, host)
        cluster.wait_time(chance.uniform(0, 3))
    cluster.run("qnode", "ensure")
    for name in cluster.lab.hosts:
        works(cluster, name)
    finish(cluster, job)
