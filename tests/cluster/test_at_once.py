"""Commands that meet on one host: two starts, two names of it, a stop in between, Ctrl-C."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor

from lab import Lab


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
