"""The life of nodes on hosts: upgraded under load, revived, looked into, given up."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import qsub_py
from lab import Lab
from lab_cluster import Cluster
from waiting import wait_until

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def cluster(lab3: Lab) -> Cluster:
    """Return a batch system with nodes on two hosts, whose leases are short."""
    made = Cluster(lab3, lease_s=6)
    made.start("h1", "h2")
    return made


def newer_copy(lab: Lab) -> Path:
    """Return where a copy of the package lies on the head that says it is version 9.9.9."""
    home = lab.head.home / "newer"
    shutil.copytree(Path(qsub_py.__file__).parent, home / "qsub_py")
    init = home / "qsub_py/__init__.py"
    old = f'__version__ = "{qsub_py.__version__}"'
    assert old in init.read_text()
    init.write_text(init.read_text().replace(old, '__version__ = "9.9.9"'))
    return home


def test_an_upgrade_under_load_touches_no_task(cluster: Cluster) -> None:
    job = cluster.submit_ledger(24, beats=10)
    cluster.wait_ledger(lambda lines: len({line.host for line in lines}) == 2, what="both work")
    newer = newer_copy(cluster.lab)
    path = os.pathsep.join(filter(None, (str(newer), os.environ.get("PYTHONPATH"))))
    said = cluster.run("qnode", "restart", "h1", "h2", env={"PYTHONPATH": path}, timeout=120).stdout
    assert said.count("is up with the new version") == 2
    versions = {name: node["version"] for name, node in cluster.nodes().items()}
    assert versions == {"h1": "9.9.9", "h2": "9.9.9"}
    cluster.wait_completed(job)
    cluster.check_ledger(job, most_attempts=1)

    def bundles() -> list[str]:
        cache = cluster.lab["h1"].home / ".cache/qsub_py"
        return [path.name for path in cache.iterdir() if len(path.name) == 16]

    # The keeper of before is replaced once it is idle; the next start cleans up after it.
    cluster.run("qnode", "start", "h1", env={"PYTHONPATH": path}, timeout=120)
    wait_until(lambda: bundles(), what="a bundle is there")


def test_ensure_brings_back_what_a_reboot_ended(cluster: Cluster) -> None:
    job = cluster.submit_ledger(8, beats=5)
    cluster.wait_ledger(lambda lines: any(line.host == "h1" for line in lines), what="h1 works")
    cluster.lab["h1"].reboot()
    wait_until(lambda: cluster.nodes()["h1"]["state"] != "up", what="h1 is missed")
    assert "node h1 is up" in cluster.run("qnode", "ensure", timeout=120).stdout
    cluster.wait_completed(job)
    cluster.check_ledger(job, most_attempts=2)
    assert cluster.run("qnode", "ensure").stdout == ""


def test_a_stopped_node_stays_away(cluster: Cluster) -> None:
    cluster.run("qnode", "stop", "h2")
    assert cluster.run("qnode", "ensure").stdout == ""
    assert cluster.nodes()["h2"]["state"] == "down"
    cluster.start("h2")
    assert cluster.nodes()["h2"]["state"] == "up"


def test_stop_waits_for_what_runs(cluster: Cluster) -> None:
    job = cluster.qsub("-w", "h1", "--wrap", "sleep 3; echo done > ~/done")
    wait_until(lambda: cluster.job(job)["state"] == "RUNNING", what="it runs")
    assert cluster.run("qnode", "stop", "h1").stdout == "node h1 has stopped\n"
    assert (cluster.lab["h1"].home / "done").exists()
    assert cluster.job(job)["state"] == "COMPLETED"


def test_a_dead_host_is_given_up(cluster: Cluster) -> None:
    cluster.lab["h2"].kill()
    wait_until(lambda: cluster.nodes()["h2"]["state"] == "lost", what="h2 is lost")
    done = cluster.run("qnode", "stop", "h2", check=False, timeout=120)
    assert done.returncode == 1
    assert "h2 is left alone from now on" in done.stderr
    assert cluster.run("qnode", "ensure").stdout == ""


def test_a_node_that_the_server_does_not_hear_is_ended_by_ssh(cluster: Cluster) -> None:
    host = cluster.lab["h2"]
    # Its way to the server is gone, though sshd answers.
    host.sshd("AllowTcpForwarding no")
    for process in host.processes():
        if process.argv.startswith("sshd: ann"):
            host.run(f"kill -KILL {process.pid}", user="root", check=False)
    wait_until(lambda: cluster.nodes()["h2"]["state"] == "lost", what="h2 is lost")
    assert cluster.run("qnode", "stop", "h2").stdout == "node h2 has been ended\n"
    wait_until(lambda: not [p for p in host.processes() if "-m qsub_py" in p.argv], what="clean")


def test_logs_and_doctor(cluster: Cluster) -> None:
    said = cluster.run("qnode", "logs", "-n", "1", "h1").stdout.splitlines()
    assert said[0].startswith("==> h1 agent: /home/ann/") and len(said) == 2
    checks = json.loads(cluster.run("qnode", "doctor", "--json", "h1").stdout)
    assert {check["verdict"] for check in checks} <= {"ok", "warn"}
    (server,) = (check for check in checks if check["name"] == "server")
    assert "tunnel" in server["detail"]
    other = cluster.run("qnode", "doctor", "h9", check=False)
    assert other.returncode == 1 and other.stderr.startswith("qnode: no node h9 was started")


def test_a_log_that_is_followed(cluster: Cluster) -> None:
    path = cluster.head.home / "log"
    with path.open("w") as file:
        follower = cluster.head.start(
            [sys.executable, "-m", "qsub_py", "qnode", "logs", "-f", "-n", "1", "h1"],
            stdout=file,
            stderr=subprocess.PIPE,
        )
        wait_until(lambda: "joined" in path.read_text(), what="the log is shown")
        before = path.read_text()
        cluster.run("qnode", "restart", "h1", timeout=120)
        wait_until(lambda: path.read_text() != before, what="what is added is shown, too")
        follower.terminate()
        follower.wait()


def test_one_wrong_name_or_dead_host_does_not_spoil_the_rest(lab3: Lab) -> None:
    def qnode(*words: str) -> tuple[int, str, str]:
        done = lab3.head.ours("qnode", *words, check=False)
        return done.returncode, done.stdout, done.stderr

    assert qnode("start", "h1", "h2")[0] == 0
    before = lab3["h1"].processes()
    for words in (["restart", "h1", "typo"], ["ensure", "--install", "h1", "typo"]):
        code, out, err = qnode(*words)
        assert (code, out) == (1, "") and "no node typo" in err and err.count("\n") == 1
    assert lab3["h1"].processes() == before
    assert qnode("stop", "h1")[0] == 0
    lab3["h1"].stop_sshd()
    code, out, err = qnode("ensure", "--uninstall", "h1", "h2")
    assert code == 75 and out == "h2: nothing was installed\n" and err.startswith("qnode: h1: ")
    # It was stopped, and nobody asks it again.
    assert qnode("stop", "--all") == (0, "node h2 has stopped\n", "")


def test_two_clusters_share_a_host(lab3: Lab) -> None:
    other = {"env": {"QSUB_CLUSTER": "other"}}
    host, head = lab3["h1"], lab3.head
    head.ours("qnode", "start", "h1")
    head.ours("qnode", "start", "h1", **other)
    head.ours("qnode", "stop", "h1")
    assert "default" not in host.run("ls ~/.local/state/qsub_py/h1/upstream").stdout
    # Ended over SSH, since the server does not know it: the namesake is left alone.
    head.ours("qnode", "stop", "h1")
    (node,) = json.loads(head.ours("qnode", "list", "--json", **other).stdout)
    assert node["state"] == "up"
    assert head.ours("qsub", "-W", "-D", "/", "true", **other).returncode == 0
