"""What the lab needs of Linux: mounts, namespaces, who a process is. Standard library only."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000

MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "ppc64le": 203, "riscv64": 41}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Leave the namespaces that `flags` (CLONE_NEW*) name, for new ones."""
    _check(_libc.unshare(flags), "unshare")


def mount(
    source: str | Path, target: str | Path, *, kind: str = "", flags: int = 0, data: str = ""
) -> None:
    """mount(2)."""
    done = _libc.mount(
        os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags),
        data.encode(),
    )  # fmt: skip
    _check(done, f"mount {source} on {target}")


def bind(source: str | Path, target: str | Path, *, readonly: bool = False) -> None:
    """Show `source` at `target` as well, without what is mounted below it."""
    mount(source, target, flags=MS_BIND)
    if readonly:
        mount("none", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def tmpfs(target: str | Path, *, mode: str = "0755") -> None:
    """Mount an empty file system in memory."""
    mount("tmpfs", target, kind="tmpfs", data=f"mode={mode}")


def enter_root(root: Path) -> None:
    """Make `root` (a mount point) the root of this mount namespace; the old one is gone from it."""
    os.chdir(root)
    number = _SYS_PIVOT_ROOT[os.uname().machine]
    _check(_libc.syscall(number, b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")


def started(pid: int) -> int:
    """Return when a process began (clock ticks since boot), so that a reused pid is told
    apart; 0 when there is none."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
    except (OSError, ValueError):
        return 0


def runs(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False
