"""What `doctor` looks at on this host: directories, disks, sessions, sshd, limits.

Each function yields (verdict, detail, cure).
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from qsub_py.config import Config
from qsub_py.node.findings import BAD, OK, WARN, Finding
from qsub_py.units import format_size

_LEAST_BYTES, _FEW_BYTES = 100 << 20, 1 << 30
_ETC = Path("/etc")
_RUN = Path("/run")


def home() -> Iterator[Finding]:
    """Whether the home directory can be written to."""
    path = os.path.expanduser("~")
    if complaint := _not_writable(path):
        cure = "set XDG_STATE_HOME, XDG_CONFIG_HOME and XDG_CACHE_HOME to directories elsewhere"
        yield BAD, f"cannot write to {path}: {complaint}", cure
    else:
        yield OK, path, ""


def _not_writable(path: str) -> str:
    try:
        with tempfile.NamedTemporaryFile(dir=path) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _cache_dir() -> str:
    found = os.environ.get("XDG_CACHE_HOME", "")
    return found if os.path.isabs(found) else os.path.expanduser("~/.cache")


def cache() -> Iterator[Finding]:
    """Whether programs can be started from the cache directory."""
    folder = _existing(_cache_dir())
    try:
        with tempfile.TemporaryDirectory(dir=folder) as inside:
            script = Path(inside) / "try"
            script.write_text("#!/bin/sh\nexit 0\n")
            script.chmod(0o700)
            subprocess.run([script], check=True, timeout=20)
    except PermissionError:
        cure = "set XDG_CACHE_HOME to a directory on another file system"
        yield WARN, f"{folder} starts no programs (noexec): jobs have no qsub, qstat there", cure
    except (OSError, subprocess.SubprocessError) as error:
        yield BAD, f"{folder}: {error}", "set XDG_CACHE_HOME to a directory you can write to"
    else:
        yield OK, f"{folder} starts programs", ""


def _existing(path: str) -> str:
    """Return a directory, or the nearest above it that is there."""
    while not os.path.isdir(path) and path not in ("/", ""):
        path = os.path.dirname(path)
    return path or "/"


def disks(config: Config) -> Iterator[Finding]:
    """Room where state, cache and temporary files are kept; what kind of disk the state has."""
    places = {
        "state": str(config.state_path()),
        "cache": _cache_dir(),
        "tmp": tempfile.gettempdir(),
    }
    for what, path in places.items():
        there = _existing(path)
        free = shutil.disk_usage(there).free
        verdict = BAD if free < _LEAST_BYTES else WARN if free < _FEW_BYTES else OK
        cure = f"delete something below {there}" if verdict is not OK else ""
        yield verdict, f"{what} {path}: {format_size(free)} free", cure
        status = os.statvfs(there)
        if status.f_files and not status.f_favail:
            yield BAD, f"{what} {path}: no inodes left", f"delete files below {there}"
    kind = _file_system(places["state"])
    if kind in ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "lustre", "gpfs", "beegfs"):
        cure = "set QSUB_STATE_DIR to a directory of this host's own"
        yield WARN, f"state {places['state']} is on {kind}: locks and logs are slow there", cure


def _file_system(path: str) -> str:
    best, kind = "", ""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mounts").read_text(errors="replace").splitlines():
            _, point, found, *_ = line.split(" ")
            if f"{path}/".startswith(f"{point.rstrip('/')}/") and len(point) >= len(best):
                best, kind = point, found
    return kind


def logout() -> Iterator[Finding]:
    """Whether what runs survives the end of the session that started it."""
    if not (_RUN / "systemd/system").is_dir():
        yield OK, "no systemd: nothing ends our processes at logout", ""
        return
    kills = _setting(_ETC / "systemd/logind.conf", "KillUserProcesses", "no")
    lingers = (Path("/var/lib/systemd/linger") / _user()).exists()
    if kills.lower() not in ("yes", "true", "1", "on"):
        yield OK, "processes go on after logout", ""
    elif lingers:
        yield OK, "processes go on after logout (lingering is on)", ""
    else:
        yield (
            BAD,
            "logind ends all processes at logout (KillUserProcesses=yes)",
            ("loginctl enable-linger, and start the node by `qnode ensure --install`"),
        )


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _setting(path: Path, name: str, default: str) -> str:
    """Return a setting of a systemd file and its drop-ins; the last one counts."""
    found = default
    for file in (path, *sorted((path.parent / f"{path.name}.d").glob("*.conf"))):
        with contextlib.suppress(OSError):
            for match in re.finditer(rf"(?m)^\s*{name}\s*=\s*(\S+)", file.read_text()):
                found = match[1]
    return found


def sshd(config: Config) -> Iterator[Finding]:
    """Whether this host's sshd lets the head forward a port, where that is the way."""
    text = _sshd_text()
    if not text:
        yield OK, "its configuration cannot be read from here", ""
        return
    # The first value counts (sshd_config(5)); what a Match block says is not known.
    words = dict(reversed([(key.lower(), value.lower()) for key, value in text]))
    forbids = words.get("disableforwarding", "no") == "yes"
    tcp = words.get("allowtcpforwarding", "yes")
    if forbids or tcp in ("no", "local"):
        which = "DisableForwarding yes" if forbids else f"AllowTcpForwarding {tcp}"
        verdict = BAD if config.upstream_path().exists() else WARN
        yield (
            verdict,
            f"sshd of this host forwards no ports to us ({which})",
            ("ask for `AllowTcpForwarding remote`, or use a server that hosts reach (--server-on)"),
        )
        return
    listen = words.get("permitlisten", "any")
    verdict = OK if listen == "any" else WARN
    detail = "forwards ports" if verdict is OK else f"forwards only PermitListen {listen}"
    yield verdict, detail, "" if verdict is OK else "ask for `PermitListen 127.0.0.1:*`"


def _sshd_text() -> list[tuple[str, str]]:
    found = []
    files = [*sorted((_ETC / "ssh/sshd_config.d").glob("*.conf")), _ETC / "ssh/sshd_config"]
    for file in files:
        with contextlib.suppress(OSError):
            for line in file.read_text(errors="replace").splitlines():
                if re.match(r"\s*Match\b", line, re.IGNORECASE):
                    break
                if match := re.match(r"\s*(\w+)[\s=]+(\S+)", line):
                    found.append((match[1], match[2]))
    return found


def shm() -> Iterator[Finding]:
    """Room for shared memory, which numpy, torch and joblib pass arrays by."""
    if complaint := _not_writable("/dev/shm"):
        yield WARN, f"/dev/shm cannot be used: {complaint}", "libraries that share memory will fail"
        return
    size = shutil.disk_usage("/dev/shm")
    few = size.total < 256 << 20
    detail = f"/dev/shm: {format_size(size.free)} of {format_size(size.total)} free"
    cure = "in a container: give it more (docker run --shm-size=2g)" if few else ""
    yield (WARN if few else OK), detail, cure


def limits() -> Iterator[Finding]:
    """How many processes and files this user may have."""
    for what, number, least in (
        ("processes (ulimit -u)", resource.RLIMIT_NPROC, 512),
        ("open files (ulimit -n)", resource.RLIMIT_NOFILE, 256),
    ):
        soft, hard = resource.getrlimit(number)
        if soft == resource.RLIM_INFINITY or soft >= least:
            shown = "no limit" if soft == resource.RLIM_INFINITY else str(soft)
            yield OK, f"{what}: {shown}", ""
        else:
            more = (
                "the host's administrator (limits.conf)" if hard <= soft else "your shell's start"
            )
            yield WARN, f"{what}: only {soft}", f"raise it to {least} or more in {more}"
