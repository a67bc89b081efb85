"""qsub_py as a contender: an embedded server, one node of 2 cpus, this process as client.

HOME must be a directory of its own, by which stage.py ends it all; the settings are the
defaults (append-only file, signing).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import qsub_py
from benchmarks import grid, processes
from benchmarks.commands import argv_of
from benchmarks.contender import Caller, median_ms, process_ms, rate, run, seconds
from benchmarks.recovery import Recovery
from benchmarks.work import add, pairs
from qsub_py import client as clients
from qsub_py import config as configuration
from qsub_py import server
from qsub_py.client import Client
from qsub_py.model import JobSpec, Segments
from qsub_py.store_link import script

NODE_CPUS = 2
MILLION = 1_000_000
#: The server's own log of slow commands begins here.
_SLOW_US = 200


class Ours(Caller):
    """The whole system on this host."""

    client: Client
    #: The node's uid.
    node: str

    def start(self) -> None:
        """Start server and node, and run calls until both runners are there."""
        self.config = configuration.load()
        run([*argv_of("qnode"), "start", f"--cpus={NODE_CPUS}", "--mem=4G", "--name=bench"])
        self.client = clients.shared()
        self.node = self.client.store.nodes()[0].uid
        for _ in range(3):
            self.results(self.begin(500))

    def pids(self) -> dict[str, list[int]]:
        """Return the processes by role."""
        found = {"client": [os.getpid()]}
        for role in ("agent", "keeper"):
            files = self.config.state_path().glob(f"nodes/*/{role}.pid")
            found[role] = [int(file.read_text()) for file in files]
        below = processes.children(found["keeper"][0])
        found["runner"] = [pid for pid in below if pid not in found["agent"]]
        found["server"] = [server.status(self.config.server_path()).pid]
        return found

    # -- calls -----------------------------------------------------------------------------

    def begin_all(self, calls: Sequence[Sequence[float]]) -> list[qsub_py.Future[float]]:
        """Submit calls one by one."""
        return [qsub_py.submit(add, *args) for args in calls]

    def results(self, handles: list[qsub_py.Future[float]]) -> list[float]:
        """Return all values."""
        return [future.result() for future in handles]

    def one(self, i: int) -> float:
        """Run one call."""
        return qsub_py.submit(add, i, 1).result()

    def map(self, n: int) -> dict[str, float]:
        """Time one map from its call to its last value."""
        ones = itertools.repeat(1)
        return {"map": rate(n, lambda: sum(1 for _ in qsub_py.map(add, range(n), ones)))}

    def grid(self, n: int) -> dict[str, float]:
        """Time grid searches through our backend of joblib."""
        qsub_py.register_joblib()
        return grid.grid(n, "qsub")

    # -- commands --------------------------------------------------------------------------

    def array(self, n: int) -> dict[str, float]:
        """Time arrays of ten and of a million while the node is drained, and a look at them."""
        with self._drained():
            found = self._arrays(n)
            before = self.used_bytes()
            job = self.submit_command("true", count=MILLION)
            found["array_bytes"] = self.used_bytes() - before
            self._cancel(job)
        return found | {"array_hold": self._longest_ms()}

    def _arrays(self, n: int) -> dict[str, float]:
        times: dict[str, list[float]] = {}
        for _ in range(n):
            jobs: list[int] = []
            for key, count in (("array_10", 10), ("array_1m", MILLION)):
                took = seconds(lambda: jobs.append(self.submit_command("true", count=count)))  # noqa: B023
                times.setdefault(key, []).append(took)
            times.setdefault("array_look", []).append(seconds(self.client.store.jobs))
            times.setdefault("array_cancel", []).append(seconds(lambda: self._cancel(jobs[1])))  # noqa: B023
            self._cancel(jobs[0])
        return {key: 1000 * statistics.median(values) for key, values in times.items()}

    def _longest_ms(self) -> float:
        """Return the longest command in the server while a million runs, is seen and cancelled."""
        command = self.client.store.link.command
        command("CONFIG", "SET", "slowlog-log-slower-than", _SLOW_US)
        command("SLOWLOG", "RESET")
        job = self.submit_command("true", count=MILLION)
        until = time.monotonic() + 2.0
        while time.monotonic() < until:
            self.client.store.jobs()
            time.sleep(0.05)
        self._cancel(job)
        slow = command("SLOWLOG", "GET", 1000)
        command("CONFIG", "SET", "slowlog-log-slower-than", 10_000)
        return max([_SLOW_US, *(int(entry[2]) for entry in slow)]) / 1000

    def true(self, n: int) -> dict[str, float]:
        """Time an array of /bin/true from its submission to its end."""
        took = seconds(lambda: self.client.wait(self.submit_command("/bin/true", count=n)))
        return {"true": n / took}

    def array_cli(self, n: int) -> dict[str, float]:
        """Time whole processes while a million tasks wait and two run."""
        found: dict[str, list[float]] = {}
        for _ in range(n):
            ids: list[str] = []

            def submit(words: str) -> None:
                ids.append(run([*argv_of("qsub"), "-a", words, "true"]).strip())  # noqa: B023

            for key, words in (("cli_array_10", "1-10"), ("cli_array_1m", f"1-{MILLION}")):
                found.setdefault(key, []).append(median_ms(1, lambda: submit(words)))  # noqa: B023
            found.setdefault("cli_array_qstat", []).append(process_ms(1, argv_of("qstat")))
            cancel = [*argv_of("qcancel"), ids[1]]
            found.setdefault("cli_array_cancel", []).append(process_ms(1, cancel))
        return {key: statistics.median(values) for key, values in found.items()}

    def sweep_cli(self, n: int) -> dict[str, float]:
        """Time the life of a sweep of ten and of a million points while the node is drained."""
        found: dict[str, list[float]] = {}

        def timed(key: str, *words: str) -> str:
            said: list[str] = []
            took = seconds(lambda: said.append(run([*argv_of(words[0]), *words[1:]])))
            found.setdefault(key, []).append(1000 * took)
            return said[0].strip()

        with self._drained():
            for _ in range(n):
                for key, axes, more in (("10", "2 5", "a=3:4"), ("1m", "1000 1000", "a=1001:2000")):
                    a, b = axes.split()
                    grid = ["--sweep", f"a=1:{a}", "--sweep", f"b=1:{b}"]
                    job = timed(f"sweep_{key}", "qsub", *grid, "true", "--", "{a}", "{b}")
                    timed(f"sweep_look_{key}", "qstat", job)
                    timed(f"sweep_extend_{key}", "qsub", "--extend", job, "--sweep", more)
                    timed(f"sweep_cancel_{key}", "qcancel", job)
        return {key: statistics.median(values) for key, values in found.items()}

    def cli(self, n: int) -> dict[str, float]:
        """Time whole processes of an idle system."""
        return {
            "cli_qsub": process_ms(n, [*argv_of("qsub"), "true"]),
            "cli_qstat": process_ms(n, argv_of("qstat")),
            "cli_help": process_ms(n, [*argv_of("qsub"), "--help"]),
        }

    # -- memory ----------------------------------------------------------------------------

    def memory(self, n: int) -> dict[str, float]:
        """Weigh calls that wait and that have ended, and commands that have ended."""
        before = self.used_bytes()
        with self._drained():
            futures = self.begin_all(pairs(n))
            assert futures[-1].id  # all are sent
            pending = self.used_bytes() - before
        self.results(futures)
        ended, m = self.used_bytes() - before, n // 10
        before = self.used_bytes()
        self.client.wait(self.submit_command("/bin/true", count=m))
        command = (self.used_bytes() - before) / m
        return {"bytes_pending": pending / n, "bytes_ended": ended / n, "bytes_command": command}

    def used_bytes(self) -> int:
        """Return what the server's data take."""
        time.sleep(0.3)  # until it has freed what requests needed
        return dataset_bytes(self.client.store.link.command("INFO", "memory").decode())

    # -- recovery --------------------------------------------------------------------------

    def recovery(self, n: int) -> dict[str, float]:
        """Kill a runner, a keeper and an agent."""
        return Recovery(self).measure()

    # -- profiles --------------------------------------------------------------------------

    def server_calls(self, group: str, n: int) -> str:
        """Measure a group and return what the server did meanwhile, by command and script."""
        command = self.client.store.link.command
        command("CONFIG", "RESETSTAT")
        command("CONFIG", "SET", "slowlog-max-len", 100_000, "slowlog-log-slower-than", 0)
        command("SLOWLOG", "RESET")
        getattr(self, group)(n)
        text = command("INFO", "commandstats").decode()
        scripts = scripts_in(command("SLOWLOG", "GET", 100_000))
        command("CONFIG", "SET", "slowlog-log-slower-than", 10_000)
        command("SLOWLOG", "RESET")
        stats = re.findall(r"cmdstat_(\S+):calls=(\d+),usec=(\d+)", text)
        shown = [(name, int(calls), int(us)) for name, calls, us in stats] + scripts
        shown.sort(key=lambda row: -row[2])
        return "in the server (commands within scripts count twice): " + ", ".join(
            f"{name} {calls / n:.3g} x {us / calls:.1f} us" for name, calls, us in shown[:30]
        )

    # -- what the measurements need --------------------------------------------------------

    def submit_command(self, *argv: str, count: int = 1, script: str | None = None) -> int:
        """Submit a command or a script and return the job's id."""
        spec = JobSpec(
            "command", "bench", "bench", argv=argv, script=script, cwd=str(Path.home()),
            segments=Segments(((0, count - 1, 1),)), is_array=count > 1,
        )  # fmt: skip
        return self.client.submit(spec)

    def _cancel(self, job: int) -> None:
        self.client.ask(lambda store: store.cancel(job, None, by="bench"))

    @contextlib.contextmanager
    def _drained(self) -> Iterator[None]:
        """Let the node start nothing meanwhile."""
        store: Any = self.client.store
        store.drain(self.node, reason="bench")
        try:
            processes.wait_for(lambda: not any(n.running for n in store.nodes()), timeout_s=30)
            yield
        finally:
            store.resume(self.node)


def scripts_in(slow: list[Any]) -> list[tuple[str, int, int]]:
    """Return (script, calls, microseconds) of the entries of a log of commands."""
    names = {
        script(path.stem).sha.encode(): path.stem
        for path in (Path(qsub_py.__file__).parent / "lua").glob("*.lua")
    }
    found: dict[str, tuple[int, int]] = {}
    for entry in slow:
        words = entry[3]
        if words[0].upper() == b"EVALSHA":
            name = names.get(words[1], "?") + ".lua"
            calls, us = found.get(name, (0, 0))
            found[name] = (calls + 1, us + int(entry[2]))
    return [(name, calls, us) for name, (calls, us) in found.items()]


def dataset_bytes(info: str) -> int:
    """Return used memory without the buffers of connections and of the append-only file."""
    found = {k: int(v) for k, v in re.findall(r"^(\w+):(\d+)\r?$", info, re.MULTILINE)}
    return found["used_memory"] - found["mem_clients_normal"] - found.get("mem_aof_buffer", 0)
