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
    """Return three nodes of two cpus whose leases are short."""
    made = Cluster(lab3, lease_s=4)
    made.start("--cpus", "2", *lab3.hosts)
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
    return [job["state"] for job in cluster.listed("qstat", "-a", *jobs)]


def check_tree(cluster: Cluster) -> None:
    """What waited for something that failed is given up, and revived when that is mended."""
    fails = SAY + "say start; beat 1; say end; test $QSUB_TASK_ID != 3 || test -e ~/mended\n"
    (cluster.head.home / "work/fails").write_text(fails)
    tree = [cluster.qsub("-x", "h1", "-a", "1-3", "fails")]
    for host in ("h2", "h3", "h2"):
        tree.append(cluster.qsub("--after", tree[-1], "-w", host, "true"))
    on_failure = cluster.qsub("-d", f"afternotok:{tree[0]}", "-w", "h3", "true")
    cluster.wait_completed(on_failure)
    wait_until(lambda: states(cluster, *tree) == ["FAILED", *["DEP_FAILED"] * 3], what="it fails")
    drawn = cluster.run("qstat", "--tree", "-a", tree[0]).stdout.splitlines()
    assert sum(" DEP_FAILED (DependencyNeverSatisfied" in line for line in drawn) == 3
    for name in ("h2", "h3"):
        (cluster.lab[name].home / "mended").touch()
    cluster.run("qrerun", "--tree", tree[0])
    cluster.run("qwait", tree[-1])
    assert states(cluster, *tree, on_failure) == ["COMPLETED"] * 5
    cluster.check_ledger(tree[0])
    assert [task["attempt"] for task in cluster.tasks(tree[0])] == [1, 1, 2]


def test_arrays_wait_for_arrays(cluster: Cluster) -> None:
    """Task by task and as a whole, while a host is lost."""
    array = ("-a", "1-4")
    first = cluster.qsub(*array, "-x", "h3", "script", 8)
    each = cluster.qsub(*array, "-d", f"aftercorr:{first}", "-w", "h[2-3]", "script", 2)
    whole = cluster.qsub("--after", first, "-w", "h3", "script", 1)
    cluster.wait_ledger(lambda lines: any(line.host == "h1" for line in lines), what="h1 works")
    cluster.lab["h1"].kill()
    check_tree(cluster)
    cluster.run("qwait", first, each, whole)
    for job in (first, each):
        cluster.check_ledger(job)
    before, after = times(cluster, first), times(cluster, each)
    assert all(before[task][1] <= after[task][0] for task in before)
    [began] = [line.uptime for line in cluster.ledger(whole) if line.what == "start"]
    assert max(end for _, end in before.values()) <= began
