"""Whether all keys of a cluster make sense together: what must be true after every script.

Everything is counted again from the state bytes and the batches of the nodes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from store.driver import Cluster

_PD, _R, _CG, _CA, _WT = 0, 1, 2, 5, 11


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
    owner: str
    #: "ansys:2,matlab:1".
    licenses: str

    @classmethod
    def read(cls, node: str, slot: str, text: str) -> _Held:
        part = [*text.split("|"), "", "", "", "", ""]
        return cls(node, slot, part[0], int(part[1]), int(part[2]), int(part[3]), int(part[6]),
                   int(part[7]), [g for g in part[8].split(",") if g], int(part[9]),
                   part[10], part[12], part[14])  # fmt: skip

    def positions(self) -> list[int]:
        """The positions it may speak of."""
        return [self.first + i for i in range(self.count) if not self.mask or self.mask[i] == "1"]


def _codes(row: dict[str, str], data: bytes) -> bytes:
    """Return the state code of each task, as what is known of the whole job makes it."""
    cursor, fate = int(row["cursor"]), int(row["fate"])
    given_up = {_PD: fate, _R: _CG, _WT: fate} if fate else {}
    shown = bytes(given_up.get(byte // 16, byte // 16) for byte in range(256))
    codes = bytearray(data.translate(shown))
    for part in filter(None, row.get("cx", "").split(",")):
        first, last = map(int, part.split("-"))
        first = max(first, cursor)
        codes[first : last + 1] = bytes([_CA]) * max(0, last + 1 - first)
    return bytes(codes)


class Audit:
    """One look at all keys."""

    def __init__(self, cluster: Cluster) -> None:
        self.hashes: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, Any] = {}
        for name, value in cluster.dump().items():
            # The name of a lane may have a slash.
            in_lane = name.startswith("lane:")
            head, _, field = name.rpartition("/") if in_lane else name.partition("/")
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
        return found + self._lanes() + self._limits()

    def _job(self, job: str) -> list[str]:
        row, found = self.hashes[f"j:{job}"], []
        n, cursor = int(row["n"]), int(row["cursor"])
        data = self.keys.get(f"st:{job}", b"").ljust(n, b"\0")
        if any(data[cursor:]):
            found.append(f"job {job} has states past its cursor {cursor}")
        # A batch that is taken back may reach further than a job that was rolled back.
        data = data[:n]
        codes = _codes(row, data)
        counts = Counter(codes)
        for code in range(1, 10):
            if counts[code] != int(row.get(f"c{code}", 0)):
                found.append(f"job {job}: c{code} is {row.get(f'c{code}')}, counted {counts[code]}")
        found += self._waits(row, job, codes)
        found += self._held_once(job, data, codes)
        found += self._again(job, codes[:cursor])
        return found + self._retries(job, row, codes) + self._places(job, row, counts)

    def _retries(self, job: str, row: dict[str, str], codes: bytes) -> list[str]:
        """Whether what waits for its next attempt, or in a class of its own, is counted."""
        waits = self.hashes.get(f"later:{job}", {})
        grown = [
            int(p) for p, text in self.hashes.get(f"rt:{job}", {}).items()
            if text.split(":")[2] != "0" and codes[int(p)] == _PD and p not in waits
        ]  # fmt: skip
        wrong = [p for p in waits if codes[int(p)] != _PD]
        found = [f"tasks {wrong} of job {job} wait for a retry but are not pending"] * bool(wrong)
        for name, count in (("later", len(waits)), ("grown", len(grown))):
            if int(row.get(name, 0)) != count:
                found.append(f"job {job}: {name} is {row.get(name)}, counted {count}")
        due = [int(row.get(name, 0)) for name in ("begin", "expire") if row.get(name, "0") != "0"]
        due = [*due, *map(int, waits.values())] if row["fate"] == "0" else []
        said = self.hashes.get("due", {}).get(job, 0)
        if int(said) != min(due, default=0):
            found.append(f"job {job} is due at {said}, should be at {min(due, default=0)}")
        return found

    def _waits(self, row: dict[str, str], job: str, codes: bytes) -> list[str]:
        """Whether as many wait for others as are marked, or not yet reached in such an array."""
        if row["fate"] != "0":
            return []
        marked = codes.count(_WT)
        if row.get("gate") == "2":
            marked += codes[int(row["cursor"]) :].count(_PD)
        said = int(row.get("wait", 0))
        return [] if said == marked else [f"job {job}: wait is {said}, marked {marked}"]

    def _places(self, job: str, row: dict[str, str], counts: Counter[int]) -> list[str]:
        """Whether it is among the active, the ended, and in its lane, as it should."""
        running = counts[_R] + counts[_CG]
        waiting = counts[_PD] + counts[_WT]
        is_over = row["open"] == "0" and not waiting + running
        may_start = (
            row["held"] == "0" == row.get("susp", "0") and row["fate"] == "0"
            and row["begin"] == "0" and int(row.get("dep", 0)) == 0
            and (row["limit"] == "0" or running < int(row["limit"]))
        )  # fmt: skip
        grown = int(row.get("grown", 0))
        elsewhere = int(row.get("later", 0)) + grown + int(row.get("wait", 0))
        is_ready = may_start and waiting > elsewhere
        wanted = {"active": not is_over, "ended": is_over, f"lane:{row['lane']}": is_ready}
        for number in filter(None, row.get("classes", "").split(",")):
            lane, member = row[f"lane:{number}"], f"{job}:{number}"
            has = bool(self.keys.get(f"again:{job}:{number}"))
            if (member in self.hashes.get(f"lane:{lane}", {})) != (may_start and grown > 0 and has):
                found_in = self.hashes.get(f"lane:{lane}", {})
                return [f"class {member} is wrong in {lane}: {found_in}, grown {grown}, list {has}"]
        found = [
            f"job {job} should {'' if is_in else 'not '}be in {name}"
            for name, is_in in wanted.items()
            if (job in self.hashes.get(name, {})) != is_in
        ]
        if is_over != (row["ended"] != "0"):
            found.append(f"job {job}: over {is_over}, ended {row['ended']}")
        return found

    def _held_once(self, job: str, data: bytes, codes: bytes) -> list[str]:
        found, holders = [], Counter[int]()
        mine = [b for b in self.held if b.job == job]
        for batch in mine:
            nibble = min(batch.attempt, 15)
            own = [
                p for p in batch.positions()
                if data[p] // 16 in (_R, _CG) and data[p] % 16 == nibble
            ]  # fmt: skip
            holders.update(own)
            if len(own) != batch.left or not own:
                found.append(f"slot {batch.slot} of {batch.node} has {own}, left {batch.left}")
        running = {p for p, code in enumerate(codes) if code in (_R, _CG)}
        for position in sorted(running ^ holders.keys()):
            found.append(f"task {job}_{position} is {codes[position]}: held {holders[position]}")
        found += [f"task {job}_{p} is held {k} times" for p, k in holders.items() if k > 1]
        on, known = Counter(b.node for b in mine), self.hashes.get(f"on:{job}", {})
        if {node: int(k) for node, k in known.items()} != on:
            found.append(f"on:{job} is {known}, counted {dict(on)}")
        return found

    def _again(self, job: str, codes: bytes) -> list[str]:
        known = bytearray(len(codes))
        waits = self.hashes.get(f"later:{job}", {})
        numbers = self.hashes[f"j:{job}"].get("classes", "").split(",")
        for number in ["0", *filter(None, numbers)]:
            name = f"again:{job}" if number == "0" else f"again:{job}:{number}"
            for entry in self.keys.get(name, []):
                first, count = map(int, entry.split(":"))
                for position in range(first, first + count):
                    known[position] |= self._class_of(job, position) == number
        for position in waits:
            known[int(position)] = 1
        lost = [p for p, code in enumerate(codes) if code == _PD and not known[p]]
        return [f"tasks {lost} of job {job} wait, but nobody will find them"] if lost else []

    def _class_of(self, job: str, position: int) -> str:
        text: str = self.hashes.get(f"rt:{job}", {}).get(str(position), "0:0:0")
        return text.split(":")[2]

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
        # One that was taken back may be held twice.
        devices += {g for b in mine for g in b.gpus}
        if sorted(map(int, devices)) != list(range(int(row["gpus"]))):
            found.append(f"GPUs of {uid}: {row['gpus_free']} free, booked {[b.gpus for b in mine]}")
        return found

    def _lanes(self) -> list[str]:
        heads = {
            head[5:]: min(jobs.values())
            for head, jobs in self.hashes.items()
            if head.startswith("lane:")
        }
        lanes = self.hashes.get("lanes", {})
        return [] if heads == lanes else [f"lanes are {lanes}, should be {heads}"]

    def _limits(self) -> list[str]:
        """Whether what the batches hold of the cluster is what is booked."""
        used = Counter[str]()
        for batch in self.held:
            for word in filter(None, batch.licenses.split(",")):
                name, _, count = word.rpartition(":")
                used[name] += int(count)
        booked = {name: int(n) for name, n in self.hashes.get("lic_used", {}).items()}
        found = [f"licences booked {booked}, held {dict(used)}"] if booked != used else []
        cpus = Counter[str]()
        for batch in self.held:
            cpus[batch.owner] += batch.cpus
        for head, row in self.hashes.items():
            if head.startswith("own:") and int(row["cpus"]) != cpus[head[4:]]:
                found.append(f"{head} has {row['cpus']} cpus, counted {cpus[head[4:]]}")
        return found


def problems(cluster: Cluster) -> list[str]:
    """Return what is wrong with the keys of a cluster."""
    return Audit(cluster).problems()
