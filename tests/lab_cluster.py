"""A batch system over the hosts of a lab, driven by its commands on the head; and a ledger.

Each attempt of `SCRIPT` writes lines into a file in the home of the host where it runs: its
start, a beat every fifth of a second, its end, each with the machine's uptime, a clock that all
hosts of a lab share. So a test can tell which attempts ran when, whatever the queue says.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import Lab
from waiting import wait_until

#: For scripts: `say WHAT` writes a line of the ledger, `beat N` writes N of them.
SAY = """\
#!/bin/sh
say() {
  read -r up rest < /proc/uptime
  echo "$1 $QSUB_JOB_ID $QSUB_TASK_ID $QSUB_ATTEMPT $up" >> ~/ledger
}
beat() { i=0; while [ $i -lt $1 ]; do sleep 0.2; say beat; i=$((i + 1)); done; }
"""
#: Beats $1 times and tells about it.
SCRIPT = SAY + "say start; beat $1; say end\n"

#: Gives the server a command about a key of the cluster: VERB KEY [WORD]...
_COMMAND = """
import sys
from qsub_py import config
from qsub_py.reach import endpoint
from qsub_py.store import Store
settings = config.load()
url, password = endpoint(settings)[:2]
store = Store.connect(url, password=password, cluster=settings.cluster)
verb, key, *words = sys.argv[1:]
print(store.link.command(verb, store.keys.prefix + key, *words))
"""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a ledger: what (start, beat, end) of which attempt, where and when."""

    host: str
    what: str
    job: int
    task: int
    attempt: int
    uptime: float


class Cluster:
    """The batch system of one head, with a lease of its own length."""

    def __init__(self, lab: Lab, *, lease_s: float = 0) -> None:
        self.lab = lab
        self.head = lab.head
        self.lease_s = lease_s
        (self.head.home / ".config/qsub_py").mkdir(parents=True)
        if lease_s:
            (self.head.home / ".config/qsub_py/config.toml").write_text('cluster = "test-lab"\n')
            (self.head.home / ".config/qsub_py").chmod(0o700)
            self.command("SET", "test_lease", round(lease_s * 1000))
        self.head.run("mkdir ~/work")
        (self.head.home / "work/script").write_text(SCRIPT)

    # -- commands --------------------------------------------------------------------------

    def run(
        self, command: str, *words: str | int | Path, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run one of our commands in the head's ~/work."""
        options.setdefault("cwd", str(self.head.home / "work"))
        return self.head.ours(command, *words, **options)

    def start(self, *words: str) -> str:
        """Start nodes on these hosts (none: on all) and return what was printed."""
        return self.run("qnode", "start", *(words or tuple(self.lab.hosts))).stdout

    def qsub(self, *words: str | int | Path, **options: Any) -> int:
        """Submit what runs in /tmp there, and return the job's id."""
        return int(self.run("qsub", "-D", "/tmp", *words, **options).stdout)

    def submit_ledger(self, tasks: int, *, beats: int, options: tuple[str, ...] = ()) -> int:
        """Submit an array whose attempts write ledgers."""
        return self.qsub("-a", f"1-{tasks}", *options, "script", beats)

    def job(self, job: int) -> dict[str, Any]:
        """What `qstat --json` says of a job."""
        return json.loads(self.run("qstat", "-a", "--json", job).stdout)[0]  # type: ignore[no-any-return]

    def nodes(self) -> dict[str, dict[str, Any]]:
        """What `qnode list --json` says, by name."""
        listed = json.loads(self.run("qnode", "list", "-a", "--json").stdout)
        return {node["name"]: node for node in listed}

    def wait(self, job: int, *, timeout_s: float = 90) -> dict[str, Any]:
        """Return what qstat says of a job when it has ended."""
        self.run("qwait", job, timeout=timeout_s, check=False)
        return self.job(job)

    def wait_completed(self, job: int, *, timeout_s: float = 90) -> None:
        """Wait until a job has ended; all of its tasks must be COMPLETED."""
        told = self.wait(job, timeout_s=timeout_s)
        counts = told["tasks"]
        assert told["state"] == "COMPLETED" and counts["completed"] == counts["total"], told

    def tasks(self, *jobs: int) -> list[dict[str, Any]]:
        """What `qstat -t --json` says of the tasks of jobs."""
        return json.loads(self.run("qstat", "-a", "-t", "--json", *jobs).stdout)  # type: ignore[no-any-return]

    def listed(self, command: str, *words: str | int) -> list[dict[str, Any]]:
        """What a command prints with --json, whatever its exit code."""
        return json.loads(self.run(command, *words, "--json", check=False).stdout)  # type: ignore[no-any-return]

    def command(self, verb: str, key: str, *words: str | int) -> str:
        """Give the server a command about a key of the cluster; returns the reply as text."""
        return self.head.run(["python", "-c", _COMMAND, verb, key, *words]).stdout.strip()

    # -- faults ----------------------------------------------------------------------------

    def kill_part(self, host: str, part: str) -> None:
        """Kill a host's "agent" or "keeper", which is brought back by the other."""
        module = {"agent": "qsub_py.node ", "keeper": "keeper"}[part]
        for process in self.lab[host].processes("ann"):
            if module in process.argv + " ":
                self.lab[host].run(f"kill -KILL {process.pid}", check=False)

    # -- the ledger ------------------------------------------------------------------------

    def ledger(self, job: int = 0) -> list[Line]:
        """All lines (of a job) of all hosts, by time; also of those that are cut off or dead."""
        lines = []
        for name, host in self.lab.hosts.items():
            path = host.home / "ledger"
            for text in path.read_text().splitlines() if path.exists() else []:
                what, *numbers, uptime = text.split()
                lines.append(Line(name, what, *map(int, numbers), float(uptime)))
        found = [line for line in lines if job in (0, line.job)]
        return sorted(found, key=lambda line: line.uptime)

    def wait_ledger(
        self, condition: Callable[[list[Line]], Any], *, what: str, timeout_s: float = 60
    ) -> None:
        """Wait until the ledger is so."""
        wait_until(lambda: condition(self.ledger()), timeout_s=timeout_s, what=what)

    def wait_time(self, seconds: float) -> None:
        """Let a fault last: wait for the clock of the hosts."""
        until = _uptime() + seconds
        wait_until(lambda: _uptime() >= until, timeout_s=seconds + 30)

    def wait_beats(self, host: str, count: int) -> None:
        """Wait until a host's attempts have gone on for `count` more beats."""
        seen = sum(line.host == host for line in self.ledger())
        self.wait_ledger(lambda lines: sum(line.host == host for line in lines) >= seen + count,
                         what=f"{host} goes on")  # fmt: skip

    def check_ledger(self, job: int, *, most_attempts: int = 9) -> None:
        """Each task of a job that wrote ledgers ended, by its last attempt, and so says the queue;
        no two of its attempts ran at a time or under one number; none has more than that."""
        attempts: dict[int, dict[int, list[Line]]] = defaultdict(lambda: defaultdict(list))
        for line in self.ledger(job):
            attempts[line.task][line.attempt].append(line)
        told = {task["index"]: task["attempt"] for task in self.tasks(job)}
        assert told == {task: max(tried) for task, tried in attempts.items()}
        for task, tried in attempts.items():
            assert len(tried) <= most_attempts, f"task {task} has {len(tried)} attempts"
            _check_task(task, [tried[number] for number in sorted(tried)])

    # -- the end ---------------------------------------------------------------------------

    def stop(self, *words: str) -> None:
        """Stop all nodes; nothing of ours is left on any host that is on."""
        self.run("qnode", "stop", "--all", *words, timeout=90)
        self.check_clean()

    def check_clean(self) -> None:
        """Wait until nothing of the user's runs on any host, but sessions of ssh that the
        head holds."""
        for host in self.lab.hosts.values():
            wait_until(
                lambda host=host: [p for p in host.processes("ann") if "sshd" not in p.argv] == [],
                what=f"nothing is left on {host.name}: {host.processes('ann')}",
            )


def ran_again(host: str) -> Callable[[list[Line]], bool]:
    """Whether all that began on a host and did not end there has begun elsewhere."""

    def all_again(lines: list[Line]) -> bool:
        begun = {line.task for line in lines if line.host == host}
        ended = {line.task for line in lines if line.what == "end"}
        elsewhere = {line.task for line in lines if line.host != host and line.attempt > 1}
        return bool(elsewhere) and begun - ended <= elsewhere

    return all_again


def same_python(lab: Lab) -> None:
    """Skip where a call of this Python cannot run on the hosts, whose python3 is another."""
    asked = "import sys; print(*sys.version_info[:2])"
    there = lab["h1"].run(["python3", "-c", asked]).stdout.split()
    if there != [str(part) for part in sys.version_info[:2]]:
        pytest.skip(f"the hosts have Python {'.'.join(there)}, this is another")


def _uptime() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])


def _check_task(task: int, tried: list[list[Line]]) -> None:
    for lines in tried:
        kinds = [line.what for line in lines]
        assert kinds.count("start") == 1, f"task {task}: an attempt ran twice: {lines}"
        assert kinds.count("end") <= 1
        assert len({line.host for line in lines}) == 1
    for before, after in itertools.pairwise(tried):
        assert before[-1].uptime <= after[0].uptime, (
            f"task {task}: attempts overlap: {before[-1]} {after[0]}"
        )
    assert tried[-1][-1].what == "end", f"task {task} did not end: {tried[-1][-1]}"
