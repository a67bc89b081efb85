"""What waits for what, across hosts that share no disk: calls that pass results on, arrays."""

from __future__ import annotations

import sys

import pytest

from lab import Lab
from lab_cluster import SAY, Cluster, same_python
from waiting import wait_until

pytestmark = pytest.mark.timeout(240)

#: Submits three stages, says the ids of the jobs and stays until it is killed.
CLIENT = """
import socket, time
from qsub_py import Executor

def wait_for(name):
    import os, time
    open(os.path.expanduser(f"~/{name}-waits"), "w").close()
    while not os.path.exists(os.path.expanduser(f"~/{name}")):
        time.sleep(0.05)

def begin(number):
    wait_for("first")
    return {number: [socket.gethostname()]}

def go_on(done, more):
    wait_for("second")
    return {number + more: [*hosts, socket.gethostname()] for number, hosts in done.items()}

def gather(parts):
    return sorted((number, *hosts) for part in parts for number, hosts in part.items())

first, second, last = Executor(nodelist="h1"), Executor(exclude="h1"), Executor(nodelist="h3")
begun = [first.submit(begin, number) for number in range(20)]
parts = [second.submit(go_on, done, more=100) for done in begun]
end = last.submit(gather, parts)
print(*(future.id.partition("_")[0] for future in (begun[0], parts[0], end)), flush=True)
time.sleep(600)
"""
#: Another program, later.
READER = """
import sys
from qsub_py import Job
for row in next(Job(int(sys.argv[1])).results(60)):
    print(*row)
"""


@pytest.fixture
def cluster(lab3: Lab) -> Cluster:
    """Return three nodes whose leases are short."""
    made = Cluster(lab3, lease_s=4)
    made.start()
    return made



def wait_there(cluster: Cluster, host: str, name: str) -> None:
    wait_until(lambda: (cluster.lab[host].home / name).exists(), what=f"{name} on {host}")


def submit_and_die(cluster: Cluster) -> list[int]:
    """Return the jobs of the three stages, whose client was killed."""
    (cluster.head.home / "work/stages.py").write_text(CLIENT)
    client = cluster.head.start([sys.executable, cluster.head.home / "work/stages.py"])
    assert client.stdout
    jobs = [int(word) for word in client.stdout.readline().split()]
    # The one that it is itself may be that of nsenter.
    for process in cluster.head.processes():
        if process.argv.endswith("stages.py"):
            cluster.head.run(f"kill -KILL {process.pid}", check=False)
    client.communicate()
    return jobs


def test_results_go_from_host_to_host_without_the_client(cluster: Cluster) -> None:
    same_python(cluster.lab)
    first, second, last = submit_and_die(cluster)
    wait_there(cluster, "h1", "first-waits")
    (cluster.lab["h1"].home / "first").touch()
    wait_until(lambda: cluster.job(first)["tasks"]["completed"] == 20, what="stage 1 is done")
    # The host that made the results goes, and one of those that use them, while they do.
    cluster.run("qnode", "stop", "h1")
    cluster.lab["h1"].kill()
    wait_until(lambda: cluster.job(second)["tasks"]["running"] >= 4, what="h2 and h3 are full")
    cluster.lab["h2"].kill()
    (cluster.lab["h3"].home / "second").touch()
    said = cluster.head.run([sys.executable, "-c", READER, last], timeout=90).stdout.splitlines()
    assert said == [f"{number} h1 h3" for number in range(100, 120)]


def times(cluster: Cluster, job: int) -> dict[int, tuple[float, float]]:
    """Return when each task of a job first started, and when it wrote its last line."""
    found: dict[int, tuple[float, float]] = {}
    for line in cluster.ledger(job):
        found[line.task] = (found.get(line.task, (line.uptime, 0.0))[0], line.uptime)
    return found


def states(cluster: Cluster, *jobs: int) -> list[str]:
    return [cluster.job(job)["state"] for job in jobs]


def test_arrays_wait_for_arrays(cluster: Cluster) -> None:
    """Task by task and as a whole, while a host is lost; what failed is mended and revived."""
    fails = SAY + "say start; beat 2; say end; test $QSUB_TASK_ID != 3 || test -e ~/mended\n"
    (cluster.head.home / "work/fails").write_text(fails)
    array = ("-a", "1-6")
    first = cluster.qsub(*array, "-x", "h3", "script", 10)
    each = cluster.qsub(*array, "-d", f"aftercorr:{first}", "-w", "h[2-3]", "script", 5)
    whole = cluster.qsub(*array, "--after", first, "-w", "h3", "script", 1)
    bad = cluster.qsub(*array, "--after", each, "fails")
    tree = [bad]
    for host in ("h2", "h3", "h2"):
        tree.append(cluster.qsub("--after", tree[-1], "-w", host, "true"))
    on_failure = cluster.qsub("-d", f"afternotok:{bad}", "script", 1)
    cluster.wait_ledger(lambda lines: any(line.host == "h1" for line in lines), what="h1 works")
    cluster.lab["h1"].kill()

    for job in (first, each, whole, on_failure):
        cluster.wait_completed(job)
        cluster.check_ledger(job)
    before, after = times(cluster, first), times(cluster, each)
    assert all(before[task][1] <= after[task][0] for task in before)
    assert max(end for _, end in before.values()) <= min(
        start for start, _ in times(cluster, whole).values())  # fmt: skip
    assert states(cluster, *tree) == ["FAILED", *["DEP_FAILED"] * 3]
    drawn = cluster.run("qstat", "--tree", "-a", bad).stdout.splitlines()
    assert sum(" DEP_FAILED (DependencyNeverSatisfied" in line for line in drawn) == 3
    for name in ("h2", "h3"):
        (cluster.lab[name].home / "mended").touch()
    cluster.run("qrerun", "--tree", bad)
    cluster.wait_completed(tree[-1])
    assert states(cluster, *tree, on_failure) == ["COMPLETED"] * 5
    cluster.check_ledger(bad)
    again = {task["index"] for task in cluster.tasks(bad) if task["attempt"] > 1}
    assert again == {3}
