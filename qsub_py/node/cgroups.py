"""The limits of the control groups that this process is in, up to the root: cpus and memory.

Both versions of the kernel's interface (cgroups(7)); in a container the mount may begin below
the root, which /proc/self/mountinfo tells (proc_pid_mountinfo(5)).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

_SELF = Path("/proc/self")


def cpu_limit(proc: Path = _SELF) -> float | None:
    """Return how many cpus' worth of time our groups may use, None without a limit."""
    found = [_quota(group / "cpu.max") for group in groups(proc, "")]
    found += [_quota_v1(group) for group in groups(proc, "cpu")]
    limits = [limit for limit in found if limit]
    return min(limits) if limits else None


def whole_cpus(proc: Path = _SELF) -> int | None:
    """Return `cpu_limit` rounded up, at least 1."""
    limit = cpu_limit(proc)
    return None if limit is None else max(1, math.ceil(limit - 1e-9))


def mem_limit(proc: Path = _SELF) -> int | None:
    """Return the least memory limit of our groups in bytes, None without one."""
    names = [(group / "memory.max") for group in groups(proc, "")]
    names += [(group / "memory.limit_in_bytes") for group in groups(proc, "memory")]
    limits = [int(text) for path in names if (text := _read(path)).isdigit()]
    return min(limits) if limits else None


def _quota(path: Path) -> float | None:
    """Read cpu.max: "200000 100000", or "max 100000"."""
    quota, _, period = _read(path).partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _quota_v1(group: Path) -> float | None:
    quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
    # -1: no limit
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def groups(proc: Path, controller: str) -> Iterator[Path]:
    """Yield our group's directory and those above it; `controller` "" is version 2."""
    path = _own_path(proc, controller)
    for root, point in _mounts(proc, controller) if path else ():
        inside = path.removeprefix(root) if root != "/" and path.startswith(root) else path
        parts = [part for part in inside.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            yield point.joinpath(*parts[:depth])


def _own_path(proc: Path, controller: str) -> str:
    """Return the path of our group from /proc/self/cgroup: "4:cpu,cpuacct:/a", "0::/a"."""
    for line in _read(proc / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if controller in names.split(","):
            return path
    return ""


def _mounts(proc: Path, controller: str) -> Iterator[tuple[str, Path]]:
    """Yield (root, mount point) of a hierarchy."""
    for line in _read(proc / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(kind) < 3:
            continue
        is_v2 = not controller and kind[0] == "cgroup2"
        if is_v2 or (controller and kind[0] == "cgroup" and controller in kind[2].split(",")):
            yield fields[3], Path(fields[4].replace("\\040", " "))


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
