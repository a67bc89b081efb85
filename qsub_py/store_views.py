"""Reading the store: jobs, tasks, nodes, results, and how the server is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from qsub_py.errors import JobNotFound
from qsub_py.model import JobInfo, JobSpec, NodeInfo, State, TaskInfo
from qsub_py.store_deps import StoreDeps
from qsub_py.store_files import StoreFiles
from qsub_py.store_link import Argument
from qsub_py.store_rows import (
    COUNTS,
    SHOWN,
    STATE_OF_BYTE,
    ResultEntry,
    StoreHealth,
    decoded,
    entry,
    job_info,
    node_info,
    pairs,
    read_ranges,
    twos,
)

_SX = SHOWN.index("sx")


class StoreViews(StoreFiles, StoreDeps):
    """Reads; nothing here changes a thing."""

    # -- looking ---------------------------------------------------------------------------

    def job(self, job: int) -> JobInfo:
        """Return one job; JobNotFound."""
        found = self._jobs([job])
        if found:
            return found[0]
        if self.link.command("EXISTS", f"{self.keys.prefix}s:{job}"):
            raise JobNotFound(f"{job} is a schedule, no job; `qstat --periodic {job}` shows it")
        raise JobNotFound(f"there is no job {job}")

    def jobs(
        self, *, active: bool = True, ended: bool = False, limit: int = 10_000
    ) -> list[JobInfo]:
        """Return the newest jobs, oldest first."""
        ids: list[int] = []
        if active:
            ids += map(
                int, self.link.command("ZREVRANGE", self.keys.prefix + "active", 0, limit - 1)
            )
        if ended:
            ids += map(
                int, self.link.command("ZREVRANGE", self.keys.prefix + "ended", 0, limit - 1)
            )
        chosen = sorted(set(ids))[-limit:]
        return [
            info for at in range(0, len(chosen), 256) for info in self._jobs(chosen[at : at + 256])
        ]

    def some_jobs(self, ids: Sequence[int]) -> list[JobInfo]:
        """Return those of these jobs that are there."""
        return self._jobs(ids) if ids else []

    def _node_names(self) -> dict[str, str]:
        names = pairs(self.link.command("HGETALL", self.keys.prefix + "names"))
        return {decoded(uid): decoded(name) for name, uid in names.items()}

    def _jobs(self, ids: Sequence[int]) -> list[JobInfo]:
        prefix = self.keys.prefix
        ask: list[tuple[Argument, ...]] = [("HGETALL", prefix + "names")]
        for job in ids:
            ask.append(("HMGET", self.keys.job(job), *SHOWN, *COUNTS.values()))
            ask.append(("HKEYS", f"{prefix}on:{job}"))
            ask.append(("HGETALL", f"{prefix}unfit:{job}"))
        replies = self.link.pipeline(ask)
        names = {decoded(uid): decoded(name) for name, uid in pairs(replies[0]).items()}
        rows = zip(ids, replies[1::3], replies[2::3], replies[3::3], strict=True)
        ranges = {job: row[_SX] for job, row in zip(ids, replies[1::3], strict=True)}
        stopped = self._stopped(ranges)
        return [
            job_info(job, row, on, pairs(unfit), names, stopped.get(job, 0))
            for job, row, on, unfit in rows
            if row[0] is not None
        ]

    def _stopped(self, ranges: Mapping[int, bytes | None]) -> dict[int, int]:
        """Return how many tasks of ranges that were suspended still run, by job."""
        asked = [(job, *part) for job, text in ranges.items() if text
                 for part in read_ranges(decoded(text))]  # fmt: skip
        if not asked:
            return {}
        found: dict[int, int] = {}
        texts = self.link.pipeline(
            [("GETRANGE", self.keys.states(job), first, last) for job, first, last in asked]
        )
        for (job, _, _), text in zip(asked, texts, strict=True):
            runs = sum(byte // 16 == State.RUNNING.code for byte in text)
            found[job] = found.get(job, 0) + runs
        return found

    def states(self, job: int, first: int, count: int) -> list[tuple[State, int]]:
        """Return (state, attempt up to 15) of `count` tasks from position `first`; JobNotFound."""
        out: list[tuple[State, int]] = []
        while count > 0:
            part = self._call("states", job, first, min(count, 65536))
            if part is None:
                raise JobNotFound(f"there is no job {job}")
            out += [STATE_OF_BYTE[byte] for byte in part]
            first, count = first + len(part), count - len(part)
        return out

    def running(self, job: int, spec: JobSpec) -> list[TaskInfo]:
        """Return the tasks of a job that run now, with their nodes; attempts as counted."""
        prefix = self.keys.prefix
        holders = [decoded(uid) for uid in self.link.command("HKEYS", f"{prefix}on:{job}")]
        if not holders:
            return []
        names = self._node_names()
        found: list[TaskInfo] = []
        for uid, slots in zip(
            holders,
            self.link.pipeline([("HVALS", f"{prefix}slots:{uid}") for uid in holders]),
            strict=True,
        ):
            for text in slots:
                part = decoded(text).split("|")
                if int(part[0]) == job:
                    found += self._batch_tasks(job, spec, part, names.get(uid, uid))
        return sorted(found, key=lambda task: task.position)

    def _batch_tasks(self, job: int, spec: JobSpec, part: list[str], node: str) -> list[TaskInfo]:
        first, count, attempt, start = int(part[1]), int(part[2]), int(part[3]), int(part[5])
        tasks = []
        for offset, (state, _) in enumerate(self.states(job, first, count)):
            if state in (State.RUNNING, State.COMPLETING):
                at = first + offset
                index = spec.index(at)
                tasks.append(TaskInfo(job, at, index, state, attempt, node, start / 1000))
        return tasks

    def tail(self, job: int, position: int) -> bytes:
        """Return the last bytes of a task's output, kept at its end; b"" when none."""
        found: bytes | None = self.link.command("HGET", self.keys.tails(job), position)
        return found or b""

    def tail_bytes(self, job: int) -> int:
        """Return how much is kept of the outputs of a job's tasks; below 8 MB it is all tails."""
        return int(self.link.command("HGET", self.keys.job(job), "tails") or 0)

    def nodes(self, *, gone: bool = False) -> list[NodeInfo]:
        """Return the live nodes (and with `gone` the lost and stopped ones), by name."""
        prefix = self.keys.prefix
        leases = dict(twos(self.link.command("ZRANGE", self.keys.nodes, 0, -1, "WITHSCORES")))
        uids = [decoded(uid) for uid in leases]
        if gone:
            uids += [
                u
                for u in map(decoded, self.link.command("SMEMBERS", prefix + "known"))
                if u.encode() not in leases
            ]
        ask: list[tuple[Argument, ...]] = [("HGET", self.keys.meta, "served")]
        for uid in uids:
            ask += [("HGETALL", f"{prefix}node:{uid}"), ("HVALS", f"{prefix}slots:{uid}")]
        replies = self.link.pipeline(ask)
        served = float(replies[0] or 0)
        found = []
        for i, uid in enumerate(uids):
            lease = leases.get(uid.encode())
            left = (float(lease) - served) / 1000 if lease is not None else 0.0
            found.append(node_info(uid, pairs(replies[1 + 2 * i]), replies[2 + 2 * i], left))
        return sorted(found, key=lambda node: node.name)

    def health(self) -> StoreHealth:
        """Return what is unusual about the server now."""
        rec, mass, info = self.link.pipeline(
            [
                ("SCARD", self.keys.prefix + "rec"),
                ("HEXISTS", self.keys.meta, "mass_since"),
                ("INFO", "memory"),
            ]
        )
        text = info.decode()
        used = re.search(r"used_memory:(\d+)", text)
        most = re.search(r"maxmemory:(\d+)", text)
        return StoreHealth(
            bool(rec), bool(mass), int(used[1]) if used else 0, int(most[1]) if most else 0
        )

    # -- results ---------------------------------------------------------------------------

    def results(self, job: int, after: int, *, limit: int = 64) -> list[ResultEntry]:
        """Return the entries after number `after`, in order; store_wait.py waits for them."""
        stream = self.keys.results(job)
        found = self.link.command("XRANGE", stream, f"{after + 1}-0", "+", "COUNT", limit)
        return [entry(row) for row in found]

    def results_of(self, job: int, positions: Sequence[int]) -> list[ResultEntry]:
        """Return the entries that hold the results of these positions, each once."""
        key = self.keys.result_index(job)
        cells = self.link.pipeline([("GETRANGE", key, 4 * p, 4 * p + 3) for p in positions])
        numbers = sorted({int.from_bytes(cell, "big") for cell in cells if cell} - {0})
        stream = self.keys.results(job)
        found = self.link.pipeline([("XRANGE", stream, f"{n}-0", f"{n}-0") for n in numbers])
        return [entry(reply[0]) for reply in found if reply]

    def follow(
        self, name: str, after: str, *, block_s: float
    ) -> list[tuple[str, dict[bytes, bytes]]]:
        """Return new pieces (id, fields) of a live log that a node writes to `log:<name>`."""
        return self.follow_many({name: after}, block_s=block_s).get(name, [])

    def follow_many(
        self, logs: Mapping[str, str], *, block_s: float
    ) -> dict[str, list[tuple[str, dict[bytes, bytes]]]]:
        """Return new pieces of live logs, given as name -> id of the last piece that was read."""
        names = {self.keys.log(name): name for name in logs}
        self.link.pipeline([("SET", f"{key}:wanted", 1, "PX", 10_000) for key in names])
        reply = self.link.command(
            "XREAD", "COUNT", 64, "BLOCK", max(1, int(block_s * 1000)), "STREAMS", *names,
            *logs.values(), timeout_s=block_s + self.link.timeout_s,
        )  # fmt: skip
        found = {}
        trims: list[tuple[Argument, ...]] = []
        for key, pieces in reply or []:
            found[names[decoded(key)]] = [(decoded(i), pairs(fields)) for i, fields in pieces]
            # What was read makes room for the node to go on.
            ms, _, number = decoded(pieces[-1][0]).partition("-")
            trims.append(("XTRIM", key, "MINID", f"{ms}-{int(number) + 1}"))
        self.link.pipeline(trims)
        return found
