"""What this machine has: cpus, memory, gpus, interpreter."""

from __future__ import annotations

import os
import re
import sys
import uuid
from pathlib import Path


def cpus() -> int:
    """Return how many cpus this process may use."""
    return len(os.sched_getaffinity(0))


def mem_bytes() -> int:
    """Return the memory jobs may share: all of it, or the limit of our cgroup."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            sizes.append(int(text))
    return min(sizes)


def gpus() -> int:
    """Return how many NVIDIA devices there are."""
    try:
        return sum(bool(re.fullmatch(r"nvidia\d+", name)) for name in os.listdir("/dev"))
    except OSError:
        return 0


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
