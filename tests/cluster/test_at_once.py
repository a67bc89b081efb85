"""Commands that meet on one host: two starts, two names of it, a stop in between, Ctrl-C."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from lab import Lab
from waiting import wait_until

#: What lives on when a command has ended, but for the server.
_OURS = re.compile("-m qsub_py.(tunnel|node)")
#: A .bashrc that stops the login of this number until ~/go is there.
_WAITS = """\
echo login >> ~/logins
[ $(wc -l < ~/logins) -lt {number} ] || while [ ! -e ~/go ]; do sleep 0.05; done
"""


def start(lab: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    return lab.head.ours("qnode", "start", *words, check=False, timeout=90)


def up(lab: Lab) -> list[str]:
    said = lab.head.ours("qnode", "list", "--json").stdout
    return sorted(node["name"] for node in json.loads(said) if node["state"] == "up")


def test_starts_of_one_host_come_one_after_another(lab3: Lab) -> None:
    start(lab3, "h2")  # so that the server and the host's bundle are there
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda _: start(lab3, "h1"), range(3)))
    assert [(one.returncode, one.stderr) for one in done] == [(0, "")] * 3
    whats = sorted(one.stdout.partition(":")[0] for one in done)
    assert whats == ["node h1 is up", "node h1 runs already", "node h1 runs already"]
    assert up(lab3) == ["h1", "h2"]


def test_a_host_under_two_names_has_one_node(lab3: Lab) -> None:
    there = f"ann@{lab3['h1'].address}"
    both = start(lab3, "--accept-new", "h1", there)
    assert both.returncode == 1
    assert both.stdout.count("is up") == both.stderr.count("this host has a node already") == 1
    (name,) = up(lab3)
    other = there if name == "h1" else "h1"
    again = start(lab3, other)
    assert (again.returncode, again.stdout) == (1, "")
    assert f"which is called {name}" in again.stderr and again.stderr.count("\n") == 1
    # Its way still leads to the server: a new agent finds it.
    assert "is up again" in lab3.head.ours("qnode", "restart", name).stdout
    assert lab3.head.ours("qnode", "stop", name).stdout == f"node {name} has stopped\n"
    assert "is up" in start(lab3, other).stdout


def begin(lab: Lab, *, login: int) -> tuple[subprocess.Popen[str], int]:
    """Begin to start h1 and return when it waits at a login, with the command's pid there."""
    home = lab["h1"].home
    (home / ".bashrc").write_text(_WAITS.format(number=login))
    words = ["qsub_py", "qnode", "start", "h1"]
    command = lab.head.start([sys.executable, "-m", *words])
    wait_until(lambda: (home / "logins").exists()
               and (home / "logins").read_text().count("\n") >= login, what="a login")  # fmt: skip
    (pid,) = (one.pid for one in lab.head.processes() if one.argv.endswith(" ".join(words)))
    return command, pid


def test_ctrl_c_finishes_what_has_begun(lab3: Lab) -> None:
    command, pid = begin(lab3, login=1)
    lab3.head.run(["kill", "-INT", pid])
    assert command.stderr and "finishes with 1 host" in command.stderr.readline()
    (lab3["h1"].home / "go").touch()
    out, err = command.communicate(timeout=60)
    assert command.returncode == 130 and err == "" and "node h1 is up" in out
    assert up(lab3) == ["h1"]


def test_what_a_killed_start_has_left_is_stopped(lab3: Lab) -> None:
    command, pid = begin(lab3, login=2)  # the tunnel's, which tells the host its port
    lab3.head.run(["kill", "-KILL", pid])
    command.communicate(timeout=60)
    (lab3["h1"].home / "go").touch()
    assert lab3.head.ours("qnode", "stop", "h1").stdout == "node h1 has stopped\n"
    for host in (lab3.head, lab3["h1"]):
        wait_until(lambda host=host: not any(_OURS.search(one.argv) for one in host.processes()),
                   what="all has ended")  # fmt: skip
