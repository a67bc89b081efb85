"""The NVIDIA gpus of this machine, as nvidia-smi tells them; else the device files.

Numbers are nvidia-smi's, which are CUDA's only under CUDA_DEVICE_ORDER=PCI_BUS_ID (CUDA C++
programming guide, environment variables); a slice of a gpu (MIG) is named by its UUID.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from qsub_py.node import probe

_ANSWER_S = 10.0
_QUERY = ("nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits")
_LIST = ("nvidia-smi", "-L")
_PROCESSES = (
    "nvidia-smi", "--query-compute-apps=pid,gpu_uuid,used_memory", "--format=csv,noheader,nounits",
)  # fmt: skip
#: Words of a name that say who made it, not what it is.
_MAKERS = frozenset({"nvidia", "geforce", "tesla", "quadro", "graphics"})


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device that can be given to a task."""

    #: As CUDA_VISIBLE_DEVICES calls it: an index, or the UUID of a slice.
    device: str
    #: "" when only its device file was found.
    uuid: str = ""
    name: str = ""
    mem_bytes: int = 0
    #: UUID of the gpu that it is a slice of, else its own.
    whole: str = ""

    def words(self) -> tuple[str, ...]:
        """Return what a user calls its model: ("rtx3090",), ("a100-sxm4-40gb", "a100")."""
        parts = [part for part in self.name.lower().split() if part not in _MAKERS]
        name = re.sub(r"[^\w.+-]", "", "".join(parts))
        return tuple(dict.fromkeys(word for word in (name, name.partition("-")[0]) if word))


def find(environ: Mapping[str, str] = os.environ) -> tuple[Gpu, ...]:
    """Return the gpus that jobs may have: all, or those of our own CUDA_VISIBLE_DEVICES."""
    devices, listing = probe.ask([_QUERY, _LIST], timeout_s=_ANSWER_S, env=_bare(environ))
    found = parse(devices, listing or "") if devices is not None else _device_files()
    allowed = environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(found) if allowed is None else tuple(_chosen(found, allowed))


def processes_argv() -> Sequence[str]:
    """Return the command whose output `users` reads."""
    return _PROCESSES


def parse(devices: str, listing: str) -> list[Gpu]:
    """Read what nvidia-smi said: the table of gpus, and the list with slices."""
    slices = _slices(listing)
    found: list[Gpu] = []
    for line in devices.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != 4 or not cells[0].isdigit():
            continue  # "No devices were found", a warning
        index, uuid, name, mem = cells
        size = int(mem) << 20 if mem.isdigit() else 0
        parts = slices.get(uuid, [])
        found += [Gpu(mig, mig, f"{name}-{kind}", _slice_bytes(kind), uuid) for kind, mig in parts]
        if not parts:
            found.append(Gpu(index, uuid, name, size, uuid))
    return found


def _slices(listing: str) -> dict[str, list[tuple[str, str]]]:
    """Return gpu UUID -> (profile, UUID) of its slices, from `nvidia-smi -L`."""
    found: dict[str, list[tuple[str, str]]] = {}
    parent = ""
    for line in listing.splitlines():
        if match := re.match(r"GPU \d+: .*\(UUID: ([^)]+)\)", line):
            parent = match[1]
        elif match := re.match(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: ([^)]+)\)", line):
            found.setdefault(parent, []).append((match[1], match[2]))
    return found


def _slice_bytes(profile: str) -> int:
    """Return the memory of a profile such as "3g.20gb"."""
    match = re.search(r"\.(\d+)gb", profile)
    return int(match[1]) << 30 if match else 0


def users(answer: str) -> list[tuple[int, str]] | None:
    """Read (pid, gpu UUID) of the processes that compute on gpus; None when it is a complaint."""
    found = []
    for line in filter(None, map(str.strip, answer.splitlines())):
        pid, _, rest = line.partition(",")
        uuid = rest.partition(",")[0].strip()
        if not uuid.startswith(("GPU-", "MIG-")):
            return None
        found.append((int(pid) if pid.isdigit() else 0, uuid))  # "[Not Found]"
    return found


def _device_files() -> list[Gpu]:
    try:
        names = os.listdir("/dev")
    except OSError:
        return []
    numbers = sorted(int(name[6:]) for name in names if re.fullmatch(r"nvidia\d+", name))
    return [Gpu(str(number)) for number in numbers]


def _chosen(found: Sequence[Gpu], allowed: str) -> Iterator[Gpu]:
    """Yield the gpus that a CUDA_VISIBLE_DEVICES names; like CUDA, up to the first wrong word."""
    for word in allowed.split(","):
        word = word.strip()
        named = [
            gpu for gpu in found
            if gpu.device == word or (word[:4] in ("GPU-", "MIG-") and gpu.uuid.startswith(word))
        ]  # fmt: skip
        if len(named) != 1:
            return
        yield named[0]


def _bare(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for nvidia-smi, which speaks of all gpus."""
    return {name: text for name, text in environ.items() if name != "CUDA_VISIBLE_DEVICES"}
