"""The ways from a host to the server: a server that hosts reach themselves."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab
from lab_host import Host
from qsub_py.server_start import find_program
from waiting import wait_until

PORT = 6390


@pytest.fixture
def own_server(lab3: Lab) -> Iterator[str]:
    """Return the URL of a server of the user's own, which listens in the lab's network."""
    password = secrets.token_hex(16)
    conf = lab3.head.home / "valkey.conf"
    conf.touch(mode=0o600)
    conf.write_text(
        f"bind 0.0.0.0\nport {PORT}\nrequirepass {password}\nappendonly yes\n"
        f"maxmemory-policy noeviction\ndir {lab3.head.home}\n"
    )
    with (lab3.head.home / "valkey.log").open("w") as log:
        server = lab3.head.start([find_program(), conf], stdout=log, stderr=log)
    text = Path(log.name)
    wait_until(lambda: "Ready to accept" in text.read_text(), what="the server is ready")
    yield f"redis://:{password}@head:{PORT}"
    server.kill()
    server.wait()


def test_hosts_reach_a_server_of_the_users_own(lab3: Lab, own_server: str) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return lab3.head.ours(*words, env={"QSUB_URL": own_server}, timeout=90)

    said = run("qnode", "start", "h1", "h2").stdout
    assert said.count("(direct)") == 2
    job = run("qsub", "-a", "1-20", "-D", "/", "hostname").stdout.strip()
    run("qwait", job)
    nodes = {task["node"] for task in json.loads(run("qstat", "-t", "--json", job).stdout)}
    assert nodes == {"h1", "h2"}
    assert not [p for p in lab3.head.processes() if "tunnel" in p.argv]
    record = lab3["h1"].home / ".local/state/qsub_py/h1/upstream/default.json"
    password = own_server.split(":")[2].split("@")[0]
    assert password not in record.read_text()
    assert json.loads(record.read_text())["url"] == f"redis://head:{PORT}"
    assert run("qnode", "stop", "--all").stdout.count("has stopped") == 2


def test_commands_work_on_a_host_and_in_a_job(lab3: Lab) -> None:
    lab3.head.ours("qnode", "start", "h1", "h2", timeout=90)
    inner = "qsub -D / -J inner --wrap 'echo from $QSUB_NODE' > /dev/null && qstat -a --noheader"
    job = lab3.head.qsub("-W", "-D", "/", "-w", "h1", "--wrap", inner)
    assert "inner" in lab3.head.ours("qlog", job).stdout
    (child,) = (
        one["id"] for one in json.loads(lab3.head.ours("qstat", "-a", "--json").stdout)
        if one["name"] == "inner"
    )  # fmt: skip
    assert lab3.head.ours("qwait", child).returncode == 0
    assert lab3.head.ours("qlog", child).stdout.startswith("from h")
    folder = "/home/ann/.local/state/qsub_py/h2/nodes/default.h2/bin"
    assert "inner" in lab3["h2"].run([f"{folder}/qstat", "-a", "--all-users"]).stdout


def test_calls_on_a_host_submit_calls(lab3: Lab) -> None:
    lab3.head.ours("qnode", "start", "h1", timeout=90)
    (lab3.head.home / "nested.py").write_text(
        "import qsub_py\n"
        "def child(x):\n    return x * x\n"
        "def parent(n):\n    return sum(qsub_py.map(child, range(n)))\n"
        "if __name__ == '__main__':\n    print(qsub_py.submit(parent, 5).result(60))\n"
    )
    done = lab3.head.run([sys.executable, "nested.py"])
    assert done.stdout == "30\n", done


def test_what_no_host_has_is_told(lab3: Lab) -> None:
    lab3.head.ours("qnode", "start", "h1", timeout=90)
    code = "import qsub_py, numpy; qsub_py.submit(numpy.sum, [1, 2]).result(60)"
    done = lab3.head.run([sys.executable, "-c", code], check=False)
    assert "RemoteError: no node can start it; h1: no module numpy" in done.stderr


# -- the server on another host --------------------------------------------------------------


def no_server_programs(lab: Lab) -> None:
    """Hosts have neither valkey nor redis, whatever the machine has."""
    for host in lab.hosts.values():
        for path in ("/usr/bin/valkey-server", "/usr/bin/redis-server"):
            if host.run(["test", "-e", path], check=False).returncode == 0:
                host.hide(path)


def test_the_server_on_a_host_that_stays_up(lab3: Lab) -> None:
    no_server_programs(lab3)
    head = lab3.head
    said = head.ours("qnode", "start", "--server-on", "h1", "h1", "h2", timeout=120).stdout
    assert said.splitlines()[0] == "the server is on h1"
    assert "(local)" in said and "(ssh)" in said
    job = head.qsub("-a", "1-20", "-D", "/", "--wrap", "sleep 0.2; echo done >> ~/done")
    # The head is shut like a laptop: nobody else notices.
    head.cut()
    head.kill_processes("root")

    def lines() -> int:
        files = (lab3[name].home / "done" for name in ("h1", "h2"))
        return sum(len(path.read_text().split()) for path in files if path.exists())

    wait_until(lambda: lines() == 20, what="all tasks ran without the head")
    head.heal()
    assert head.ours("qwait", job, timeout=90).returncode == 0
    nodes = {task["node"] for task in json.loads(head.ours("qstat", "-t", "--json", job).stdout)}
    assert nodes == {"h1", "h2"}
    assert head.ours("qnode", "stop", "--all").stdout.count("has stopped") == 2
    wait_until(lambda: not ours(lab3["h2"]), what="h2 is clean")


def ours(host: Host) -> list[str]:
    return [p.argv for p in host.processes() if "qsub_py" in p.argv]


def test_a_server_elsewhere_is_stopped_and_started_from_here(lab3: Lab) -> None:
    head = lab3.head
    head.ours("qnode", "start", "--server-on", "h1", "h2", timeout=120)
    job = head.qsub("-D", "/", "hostname")
    head.ours("qwait", job)
    assert head.ours("qnode", "server", "stop").stdout == "the server on h1 has stopped\n"
    gone = head.ours("qstat", "-a", check=False)
    assert gone.returncode == 69 and gone.stderr.count("\n") == 1
    assert head.ours("qnode", "ensure").stdout == "the server runs on h1\n"
    assert head.ours("qlog", job).stdout == "h2\n"
    other = head.ours("qnode", "start", "--server-on", "h3", check=False)
    assert other.returncode == 1 and "the server is on h1 already" in other.stderr


def test_a_server_with_jobs_does_not_move(lab3: Lab) -> None:
    head = lab3.head
    head.qsub("-D", "/", "hostname")
    done = head.ours("qnode", "start", "--server-on", "h1", check=False)
    assert done.returncode == 1
    assert "the server of this host has 1 job that has not ended" in done.stderr
    assert "hostname" in head.ours("qstat").stdout
