"""What the whole cluster counts, on hosts that die: schedules, licences, caps, rates, retries."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from lab import Lab
from lab_cluster import SAY, Cluster, Line, ran_again
from lab_host import Host
from waiting import wait_until

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def cluster(lab3: Lab) -> Cluster:
    """Return three nodes whose leases are short."""
    made = Cluster(lab3, lease_s=4)
    made.start()
    return made


def most_at_once(lines: list[Line]) -> int:
    """Return how many attempts ran at the same time, by what they wrote themselves."""
    spans: dict[tuple[int, int, int], list[float]] = {}
    for line in lines:
        spans.setdefault((line.job, line.task, line.attempt), []).append(line.uptime)
    return max(
        sum(other[0] <= span[0] <= other[-1] for other in spans.values()) for span in spans.values()
    )


# -- again and again ---------------------------------------------------------------------------


def schedule(cluster: Cluster, number: int) -> dict[str, Any]:
    found = cluster.listed("qstat", "--periodic", "-a")
    return next(row for row in found if row["id"] == number)


def fired(cluster: Cluster, name: str) -> dict[float, set[int]]:
    """Return which jobs ran for each due time, by what they wrote on their hosts."""
    found: dict[float, set[int]] = {}
    for host in cluster.lab.hosts.values():
        path = host.home / name
        for line in path.read_text().splitlines() if path.exists() else []:
            due, job = line.split()
            found.setdefault(float(due), set()).add(int(job))
    return found


def submit_periodic(cluster: Cluster, name: str, *words: str) -> int:
    line = f"echo $QSUB_DUE_AT $QSUB_JOB_ID >> ~/{name}"
    return cluster.qsub("--every", "1s", "--overlap", "allow", *words, "--wrap", line)


def more_fired(cluster: Cluster, number: int, count: int = 2) -> None:
    before = schedule(cluster, number)["fired"]
    wait_until(lambda: schedule(cluster, number)["fired"] >= before + count, what="it goes on")


def test_each_due_time_once(cluster: Cluster) -> None:
    number = submit_periodic(cluster, "due")
    # Whoever fires next: each agent dies, h2 for good, and for a moment nobody hears the server.
    for host in ("h1", "h3", "h2", "h1"):
        more_fired(cluster, number, 1)
        cluster.kill_part(host, "agent")
    cluster.lab["h2"].kill()
    more_fired(cluster, number, 1)
    cluster.head.cut()
    cluster.wait_time(2.5)
    cluster.head.heal()
    more_fired(cluster, number)
    cluster.run("qcancel", number)
    one = schedule(cluster, number)
    wait_until(lambda: len(fired(cluster, "due")) == one["fired"], what="all have run")
    due = fired(cluster, "due")
    assert {len(jobs) for jobs in due.values()} == {1}, "a time was fired twice"
    assert one["fired"] + one["missed"] == round(max(due) - min(due)) + 1
    assert {at % 1 for at in due} == {min(due) % 1}


def test_what_nobody_was_there_for(cluster: Cluster) -> None:
    """A hundred due times pass while all nodes are down; the clock of the cluster says so."""
    numbers = {name: submit_periodic(cluster, name, "--catch-up", name) for name in ("one", "none")}
    for number in numbers.values():
        more_fired(cluster, number, 1)
