"""What this machine has: cpus, memory, identity, interpreter. Its gpus are in gpus.py."""

from __future__ import annotations

import os
import platform
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path

from qsub_py.node import cgroups


def cpus() -> int:
    """Return how many cpus this process may use: its affinity, and its control group's quota."""
    here = len(os.sched_getaffinity(0))
    return min(here, cgroups.whole_cpus() or here)


def mem_bytes() -> int:
    """Return the memory jobs may share: all of it, or the least limit of our control groups."""
    here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(here, cgroups.mem_limit() or here)


def load() -> float:
    """Return the load average of the last minute."""
    return os.getloadavg()[0]


def boot_id() -> str:
    """Return the kernel's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def machine_id() -> str:
    """Return what tells this machine from others that share its home directory."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            return Path(path).read_text().strip() or f"{uuid.getnode():x}"
        except OSError:
            continue
    return f"{uuid.getnode():x}"


def python_minor() -> str:
    """Return the minor version of this interpreter, "3.11"."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def features(pythons: Iterable[str], gpu_words: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the words that describe this machine: "x86_64", "python3.11", "rtx3090"."""
    words = [platform.machine().lower(), *(f"python{minor}" for minor in pythons), *gpu_words]
    return tuple(dict.fromkeys(word for word in words if word))
