"""Processes of the tunnels that outlive the command which starts them. Standard library only."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from qsub_py.errors import NodeError

#: They get no more of the environment: nothing takes them for a part of the job that started them.
_KEPT_VARIABLES = (
    "HOME", "PATH", "LD_LIBRARY_PATH", "LANG", "TZ", "USER", "LOGNAME", "SSH_AUTH_SOCK",
    "XDG_CONFIG_HOME", "XDG_STATE_HOME", "QSUB_SERVER_BINARY", "QSUB_SERVER_MAXMEMORY",
    "QSUB_SERVER_APPENDFSYNC", "QSUB_SERVER_PORT",
)  # fmt: skip
_DETACH = '"$@" </dev/null >/dev/null 2>&1 &'
_LOG_BYTES = 1024 * 1024


def spawn(module: str, *words: str, directory: Path) -> None:
    """Run `python -m MODULE WORDS...` in the background, as nobody's child; NodeError."""
    environ = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    home = Path(__file__).resolve().parents[1]
    if home.name not in ("site-packages", "dist-packages"):
        environ["PYTHONPATH"] = str(home)
    python = sys.executable or shutil.which("python3") or "python3"
    argv: Sequence[str] = [python, "-m", module, *words]
    try:
        subprocess.run(
            ["/bin/sh", "-c", _DETACH, "sh", *argv],
            cwd=directory,
            env=environ,
            start_new_session=True,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NodeError(f"cannot start {module}: {error}") from error


def detach(log: Path) -> None:
    """Leave the terminal and every descriptor but the log."""
    with contextlib.suppress(OSError):  # it is the leader of a session already
        os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.umask(0o077)
    null = os.open(os.devnull, os.O_RDWR)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((null, 0), (out, 1), (out, 2)):
        os.dup2(source, target)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir("/")


def limit_log(path: Path) -> None:
    """Keep the log's last two parts; the file stays the same for those who append to it."""
    with contextlib.suppress(OSError):
        if path.stat().st_size > _LOG_BYTES:
            path.with_suffix(".log.1").write_bytes(path.read_bytes())
            os.truncate(path, 0)
