"""Whether all keys of a cluster make sense together: what must be true after every script.

Everything is counted again from the state bytes and the batches of the nodes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from store.driver import Cluster

_PD, _R, _CG, _CA = 0, 1, 2, 5


@dataclass
class _Held:
    """A batch as it stands in `slots:<node>`."""

    node: str
    slot: str
    job: str
    first: int
    count: int
    attempt: int
    cpus: int
    mem: int
    gpus: list[str]
    left: int
    #: "1" for each position that it has; "": all.
    mask: str

    @classmethod
    def read(cls, node: str, slot: str, text: str) -> _Held:
        part = [*text.split("|"), ""]
        return cls(node, slot, part[0], int(part[1]), int(part[2]), int(part[3]), int(part[6]),
                   int(part[7]), [g for g in part[8].split(",") if g], int(part[9]),
                   part[10])  # fmt: skip

    def positions(self) -> list[int]:
        """The positions it may speak of."""
        return [
            self.first + i for i in range(self.count) if not self.mask or self.mask[i] == "1"
        ]


class Audit:
    """One look at all keys."""

    def __init__(self, cluster: Cluster) -> None:
        self.hashes: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, Any] = {}
        for name, value in cluster.dump().items():
            head, _, field = name.partition("/")
            self.keys[name] = value
            self.hashes.setdefault(head, {})[field] = value
        self.held = [
            _Held.read(head[6:], slot, text)
            for head, row in self.hashes.items()
            if head.startswith("slots:")
            for slot, text in row.items()
        ]

    def problems(self) -> list[str]:
        """What is wrong, in words."""
        found = []
        for head in list(self.hashes):
            if head.startswith("j:"):
                found += self._job(head[2:])
            elif head.startswith("node:") and head[5:] in self.hashes.get("nodes", {}):
                found += self._node(head[5:])
        return found + self._lanes()

    def _job(self, job: str) -> list[str]:
        row, found = self.hashes[f"j:{job}"], []
        n, cursor, fate = (int(row.get(name, 0)) for name in ("n", "cursor", "fate"))
        data = self.keys.get(f"st:{job}", b"").ljust(n, b"\0")
        if any(data[cursor:]):
            found.append(f"job {job} has states past its cursor {cursor}")
        cut = [tuple(map(int, p.split("-"))) for p in row.get("cx", "").split(",") if p]
        states = [
            self._state(at, byte, cursor, fate, cut) for at, byte in enumerate(data[:n])
        ]
        counts = Counter(states)
        for code in range(1, 10):
            if counts[code] != int(row.get(f"c{code}", 0)):
                found.append(f"job {job}: c{code} is {row.get(f'c{code}')}, counted {counts[code]}")
        found += self._held_once(job, data, states)
        found += self._again(job, data, states, cursor)
        is_over = row["open"] == "0" and not counts[_PD] + counts[_R] + counts[_CG]
        if is_over != (row.get("ended", "0") != "0"):
            found.append(f"job {job}: over {is_over}, ended {row.get('ended')}")
        for name, wanted in (("active", not is_over), ("ended", is_over)):
            if (job in self.hashes.get(name, {})) != wanted:
                found.append(f"job {job} in {name}: {not wanted}")
        is_ready = (
            counts[_PD] > 0 and row["held"] == "0" and not fate and row["begin"] == "0"
            and (row["limit"] == "0" or counts[_R] + counts[_CG] < int(row["limit"]))
        )  # fmt: skip
        if (job in self.hashes.get(f"lane:{row['lane']}", {})) != is_ready:
            found.append(f"job {job} ready {is_ready}, in its lane {not is_ready}")
        return found

    def _state(
        self, at: int, byte: int, cursor: int, fate: int, cut: list[tuple[int, ...]]
    ) -> int:
        code = byte // 16
        if at >= cursor and any(a <= at <= b for a, b in cut):
            return _CA
        if fate and code < _CG:
            return fate if code == _PD else _CG
        return code

    def _held_once(self, job: str, data: bytes, states: list[int]) -> list[str]:
        found, holders = [], Counter[int]()
        on = Counter(b.node for b in self.held if b.job == job)
        for batch in (b for b in self.held if b.job == job):
            nibble = min(batch.attempt, 15)
            own = [
                p for p in batch.positions()
                if data[p] // 16 in (_R, _CG) and data[p] % 16 == nibble
            ]  # fmt: skip
            holders.update(own)
            if len(own) != batch.left or not own:
                found.append(f"slot {batch.slot} of {batch.node} has {own}, left {batch.left}")
        for position, code in enumerate(states):
            if (code in (_R, _CG)) != (holders[position] == 1) or holders[position] > 1:
                found.append(f"task {job}_{position} in state {code}: {holders[position]} holders")
        known = {node: int(k) for node, k in self.hashes.get(f"on:{job}", {}).items()}
        if known != on:
            found.append(f"on:{job} is {known}, counted {dict(on)}")
        return found

    def _again(self, job: str, data: bytes, states: list[int], cursor: int) -> list[str]:
        waits = set()
        for entry in self.keys.get(f"again:{job}", []):
            first, count = map(int, entry.split(":"))
            waits.update(range(first, first + count))
        lost = [p for p in range(cursor) if states[p] == _PD and p not in waits]
        return [f"tasks {lost} of job {job} wait, but nobody will find them"] if lost else []

    def _node(self, uid: str) -> list[str]:
        row, mine = self.hashes[f"node:{uid}"], [b for b in self.held if b.node == uid]
        found = []
        for free, total, booked in (
            ("cpus_free", "cpus", sum(b.cpus for b in mine)),
            ("mem_free", "mem", sum(b.mem for b in mine)),
        ):
            if int(float(row[free])) != int(row[total]) - booked:
                found.append(f"{free} of {uid} is {row[free]}, booked {booked} of {row[total]}")
        devices = [g for g in row["gpus_free"].split(",") if g]
        devices += [g for b in mine for g in b.gpus]
        if sorted(map(int, devices)) != list(range(int(row["gpus"]))):
            found.append(f"GPUs of {uid}: {row['gpus_free']} free, booked {[b.gpus for b in mine]}")
        for batch in mine:
            lane = self.hashes.get(f"j:{batch.job}", {}).get("lane", "0|0|0")
            if len(batch.gpus) != int(lane.split("|")[2]):
                found.append(f"slot {batch.slot} of {uid} has the GPUs {batch.gpus}, wants {lane}")
        return found

    def _lanes(self) -> list[str]:
        heads = {
            head[5:]: min(jobs.values())
            for head, jobs in self.hashes.items()
            if head.startswith("lane:")
        }
        lanes = self.hashes.get("lanes", {})
        return [] if heads == lanes else [f"lanes are {lanes}, should be {heads}"]


def problems(cluster: Cluster) -> list[str]:
    """Return what is wrong with the keys of a cluster."""
    return Audit(cluster).problems()
