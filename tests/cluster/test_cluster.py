"""Three hosts with nothing shared and nothing installed, after one command."""

from __future__ import annotations

import sys
from collections import Counter

import pytest

from lab import Lab
from lab_cluster import Cluster, same_python
from waiting import wait_until

#: Commands that wait for the work of three nodes on two processors.
pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def cluster(lab3: Lab) -> Cluster:
    """Return a batch system with a node on each host."""
    made = Cluster(lab3)
    made.start()
    return made


def test_start_says_what_is_there(lab3: Lab) -> None:
    said = Cluster(lab3).start("h1", "h2", "h3").splitlines()
    assert [line.split()[:4] for line in sorted(said)] == [
        ["node", name, "is", "up:"] for name in lab3.hosts
    ]


def test_nodes_are_listed(cluster: Cluster) -> None:
    nodes = cluster.nodes()
    assert sorted(nodes) == ["h1", "h2", "h3"]
    assert {node["state"] for node in nodes.values()} == {"up"}


def test_a_second_start_changes_nothing(cluster: Cluster) -> None:
    before = {name: cluster.lab[name].processes("ann") for name in cluster.lab.hosts}
    said = cluster.start()
    assert said.count("runs already") == 3
    agents = {p.pid for p in before["h1"] if "sshd" not in p.argv}
    assert agents <= {p.pid for p in cluster.lab["h1"].processes("ann")}


def test_array_of_commands(cluster: Cluster) -> None:
    script = "echo start $QSUB_JOB_ID $QSUB_TASK_ID $QSUB_ATTEMPT 0 >> ~/ledger; sleep 0.05"
    job = cluster.qsub("-a", "1-300", "--wrap", script)
    cluster.wait_completed(job)
    lines = cluster.ledger()
    assert sorted(line.task for line in lines) == list(range(1, 301))
    assert {line.attempt for line in lines} == {1}
    assert len({line.host for line in lines}) == 3


def test_calls_with_a_module_of_the_users_own(cluster: Cluster) -> None:
    same_python(cluster.lab)
    work = cluster.head.home / "work"
    (work / "mine.py").write_text(
        "import socket\nimport deeper\n\n"
        "def f(x):\n    return deeper.square(x), socket.gethostname()\n"
    )
    (work / "deeper.py").write_text("def square(x):\n    return x * x\n")
    (work / "main.py").write_text(
        "import qsub_py, mine\n"
        "for square, host in qsub_py.map(mine.f, range(3000)):\n    print(square, host)\n"
    )
    # Not a directory that any host has: calls need none.
    said = cluster.head.run(["python", work / "main.py"], cwd=str(work)).stdout.split()
    assert [int(word) for word in said[::2]] == [n * n for n in range(3000)]
    assert set(said[1::2]) <= {"h1", "h2", "h3"}


def test_exit_codes_and_output_come_back(cluster: Cluster) -> None:
    done = cluster.run("qsub", "-D", "/tmp", "-f", "-w", "h2", "--wrap",
                       "hostname; pwd; id -un; exit 7", check=False)  # fmt: skip
    assert done.returncode == 7
    assert done.stdout.split() == ["h2", "/tmp", "ann"]


def test_log_of_a_running_task(cluster: Cluster) -> None:
    job = cluster.qsub("-a", "1-3", "--wrap", 'echo "on $QSUB_NODE"; while [ ! -e /tmp/go ]; do '
                       "sleep 0.1; done; echo done")  # fmt: skip
    follow = cluster.head.start([sys.executable, "-m", "qsub_py", "qlog", "-f", f"{job}_2"])
    assert follow.stdout
    assert follow.stdout.readline().startswith("on h")
    for host in cluster.lab.hosts.values():
        host.run("touch /tmp/go")
    assert follow.stdout.read() == "done\n"
    assert follow.wait(30) == 0
    follow.communicate()
    cluster.wait_completed(job)
    cluster.lab["h1"].run("rm /tmp/go")


def test_log_of_a_node_that_is_gone(cluster: Cluster) -> None:
    job = cluster.qsub("-w", "h3", "--wrap", "echo last words")
    cluster.wait_completed(job)
    cluster.run("qnode", "stop", "h3")
    cluster.lab["h3"].kill()
    assert cluster.run("qlog", job).stdout == "last words\n"


def test_drain_and_resume(cluster: Cluster) -> None:
    job = cluster.submit_ledger(60, beats=3)
    cluster.wait_ledger(lambda lines: len({line.host for line in lines}) == 3, what="all work")
    cluster.run("qnode", "drain", "h1", "--reason", "new disk")
    cluster.wait_completed(job)
    cluster.check_ledger(job, most_attempts=1)
    hosts = Counter(line.host for line in cluster.ledger() if line.what == "start")
    assert hosts["h1"] < min(hosts["h2"], hosts["h3"])
    node = cluster.nodes()["h1"]
    assert (node["state"], node["reason"]) == ("draining", "new disk")
    waiting = cluster.qsub("-w", "h1", "--wrap", "true")
    cluster.run("qnode", "resume", "h1")
    cluster.wait_completed(waiting)


def test_stop_leaves_nothing(cluster: Cluster) -> None:
    job = cluster.submit_ledger(9, beats=3)
    cluster.wait_ledger(lambda lines: len({line.host for line in lines}) == 3, what="all work")
    cluster.stop()
    running = {line.task for line in cluster.ledger() if line.what == "start"}
    ended = {line.task for line in cluster.ledger() if line.what == "end"}
    assert running == ended, "stop waits for what runs"
    assert cluster.job(job)["tasks"]["completed"] == len(ended)
    wait_until(lambda: not any(h.processes("ann") for h in cluster.lab.hosts.values()),
               what="the sessions of ssh end too")  # fmt: skip


def test_stop_now_gives_work_back(cluster: Cluster) -> None:
    job = cluster.submit_ledger(9, beats=10)
    cluster.wait_ledger(lambda lines: len({line.host for line in lines}) == 3, what="all work")
    cluster.stop("--now")
    told = cluster.job(job)["tasks"]
    assert told["running"] == 0
    assert told["pending"] + told["completed"] == 9
    cluster.start()
    cluster.wait_completed(job)
    cluster.check_ledger(job)
