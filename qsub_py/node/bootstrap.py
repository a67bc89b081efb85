"""Sent as text to a host on which nothing of ours is: unpacks the bundle, then serves from it.

Only the standard library, and no module of ours before the bundle is there. Speaks frames on
stdin and stdout: 4 bytes length of a JSON header, 4 bytes length of a blob, both. What a login
shell prints before is told apart by a mark; what is printed after goes to stderr.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import platform
import shutil
import socket
import sys
import tempfile
import zipfile
from typing import Any

MARK = b"\x1eqsub_py bootstrap 1\n"
#: Room that a host must have for the bundle and its first logs.
LEAST_BYTES = 20 * 2**20


class Frames:
    """Frames to and from the head."""

    def __init__(self) -> None:
        self._input = sys.stdin.buffer
        self._output = os.fdopen(os.dup(1), "wb", 0)
        os.dup2(2, 1)
        self._output.write(b"\n" + MARK)

    def receive(self) -> tuple[dict[str, Any], bytes] | None:
        """Return (header, blob), or None when the head has gone."""
        sizes = self._input.read(8)
        if len(sizes) < 8:
            return None
        head, body = int.from_bytes(sizes[:4], "big"), int.from_bytes(sizes[4:], "big")
        header, blob = self._input.read(head), self._input.read(body)
        return (json.loads(header), blob) if len(blob) == body else None

    def send(self, header: dict[str, Any], blob: bytes = b"") -> None:
        """Send a frame; OSError when the head has gone."""
        head = json.dumps(header).encode()
        sizes = len(head).to_bytes(4, "big") + len(blob).to_bytes(4, "big")
        data = memoryview(sizes + head + blob)
        while data:
            data = data[self._output.write(data) :]


def settle(base: str) -> str:
    """Choose the directories; with a `base` all of them lie there instead of in the home."""
    if base:
        base = os.path.abspath(os.path.expanduser(base))
        for name in ("cache", "config", "state"):
            os.environ[f"XDG_{name.upper()}_HOME"] = os.path.join(base, name)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(cache, "qsub_py")


def look(cache: str, wanted: str) -> dict[str, Any]:
    """Return what the head wants to know of this host."""
    facts: dict[str, Any] = {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "cache": cache,
        "have": os.path.isdir(os.path.join(cache, wanted, "qsub_py")),
    }
    try:
        os.makedirs(cache, 0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache) as file:
            file.write(b"x")
    except OSError as error:
        facts["error"] = f"cannot write to {cache}: {error.strerror}"
        facts["hint"] = (
            "make room there"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else ('give another directory: dir = "/scratch/you" in hosts.toml')
        )
        return facts
    status = os.statvfs(cache)
    if not facts["have"] and status.f_bavail * status.f_frsize < LEAST_BYTES:
        free = status.f_bavail * status.f_frsize // 2**20
        facts["error"] = f"only {free} MB are free in {cache}"
        facts["hint"] = 'make room there, or dir = "/scratch/you" in hosts.toml'
    facts["noexec"] = bool(status.f_flag & os.ST_NOEXEC)
    return facts


def unpack(cache: str, name: str, blob: bytes) -> None:
    """Unpack a bundle, whole or not at all."""
    draft = tempfile.mkdtemp(prefix=".new-", dir=cache)
    try:
        with zipfile.ZipFile(io.BytesIO(blob)) as archive:
            archive.extractall(draft)
        with open(os.path.join(draft, ".in-use"), "w"):
            pass
        try:
            os.rename(draft, os.path.join(cache, name))
        except OSError:
            if not os.path.isdir(os.path.join(cache, name, "qsub_py")):
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def hold(folder: str) -> bool:
    """Keep a bundle from being cleaned away for as long as this process lives."""
    try:
        lock = os.open(
            os.path.join(folder, ".in-use"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
    except FileNotFoundError:
        return False
    fcntl.flock(lock, fcntl.LOCK_SH)
    # It may have been cleaned between the look and the lock.
    return os.path.isdir(os.path.join(folder, "qsub_py"))


def clean(cache: str, kept: str) -> None:
    """Delete the bundles that nobody uses."""
    for name in os.listdir(cache):
        folder = os.path.join(cache, name)
        if name == kept or len(name) != 16 or name.strip("0123456789abcdef"):
            continue
        try:
            with open(os.path.join(folder, ".in-use"), "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                trash = tempfile.mkdtemp(prefix=".old-", dir=cache)
                os.rename(folder, os.path.join(trash, name))
            shutil.rmtree(trash, ignore_errors=True)
        except OSError:
            continue


def main() -> None:
    """Answer `look`, take the bundle, and hand over to what is in it."""
    frames = Frames()
    cache = ""
    while (frame := frames.receive()) is not None:
        request, blob = frame
        folder = os.path.join(cache, request["hash"])
        try:
            if request["op"] == "look":
                cache = settle(request["dir"])
                frames.send(look(cache, request["hash"]))
                continue
            if request["op"] == "unpack":
                unpack(cache, request["hash"], blob)
            elif request["op"] == "enter" and hold(folder):
                clean(cache, request["hash"])
                sys.path.insert(0, folder)
                from qsub_py.node import remote

                frames.send({"ok": True})
                remote.serve(frames.receive, frames.send)
                return
            frames.send({"ok": request["op"] == "unpack"})
        except OSError as error:
            where = getattr(error, "filename", "") or cache
            frames.send({"error": f"{where}: {error.strerror}", "hint": "make room there"})


if __name__ == "__main__":
    main()
