"""Where a user's files are: configuration, state of this host, and who serves the cluster.

Part of `config`. Directories are private (0700); what cannot be used is a ConfigError that
names the cure. Nothing here knows what the files hold but the serving record.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
from pathlib import Path

from qsub_py.errors import ConfigError
from qsub_py.text import check_name, quoted


def home_dir() -> Path:
    """Return the user's home, by HOME or else the password database; raises ConfigError."""
    if home := os.environ.get("HOME"):
        return Path(home)
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        raise ConfigError(
            f"HOME is not set and user {os.getuid()} has no home", hint="export HOME=/a/directory"
        ) from None


def _xdg(variable: str, default: str) -> Path:
    # A relative path is to be ignored: XDG Base Directory Specification.
    given = os.environ.get(variable, "")
    return Path(given) if os.path.isabs(given) else home_dir() / default


def config_dir() -> Path:
    """Return the directory of config.toml and the keys; it may not exist."""
    return _xdg("XDG_CONFIG_HOME", ".config") / "qsub_py"


def default_state_dir() -> Path:
    """Return this host's part of the state directory, which hosts may share over NFS."""
    return _xdg("XDG_STATE_HOME", ".local/state") / "qsub_py" / host_name()


def host_name() -> str:
    """Return this host's name as it stands in paths and records."""
    return os.uname().nodename.replace("/", "_") or "localhost"


def user_name() -> str:
    """Return who the user is: inside a job its owner, who may be called otherwise on this host."""
    if owner := os.environ.get("QSUB_OWNER"):
        return owner
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container without an entry for its uid
        return os.environ.get("USER") or str(os.geteuid())


def private_dir(path: Path, *, cure: str) -> Path:
    """Create `path` (0700, with parents) unless it is there and return it.

    Raises ConfigError with the hint `cure` when it cannot be made or written to.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot create {path}: {error.strerror}", hint=cure) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write to {path}", hint=cure)
    return path


def create_once(path: Path, data: bytes) -> bool:
    """Create a 0600 file with its whole content, or return False when it is there already.

    Of several processes (also on several NFS clients) one wins: link(2) is atomic on both.
    """
    draft = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
    return True


def claim_serving(cluster: str, server_dir: Path) -> None:
    """Record that this host serves `cluster` from `server_dir`, or check that it does.

    The record lies in the configuration directory, which login nodes share: so a second one
    does not start another, empty server. Raises ConfigError when another host is recorded.
    """
    name = check_name(cluster, what="cluster name")
    path = config_dir() / "serving" / f"{name}.json"
    mine = {"host": host_name(), "dir": str(server_dir)}
    recorded = _read_record(path)
    if recorded is None:
        private_dir(path.parent, cure="set XDG_CONFIG_HOME to a directory you can write to")
        try:
            create_once(path, json.dumps(mine).encode() + b"\n")
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from None
        recorded = _read_record(path) or mine
    if recorded != mine and (recorded["host"] != mine["host"] or os.path.isdir(recorded["dir"])):
        raise ConfigError(
            f"cluster {cluster} is served by {quoted(recorded['host'])} from {recorded['dir']}",
            hint=f"work there, or set QSUB_URL to its server, or delete {path} to serve it here",
        )
    if recorded != mine:  # its directory was deleted: nothing is lost by moving on
        path.unlink(missing_ok=True)
        claim_serving(cluster, server_dir)


def _read_record(path: Path) -> dict[str, str] | None:
    try:
        raw = json.loads(path.read_bytes())
        return {"host": str(raw["host"]), "dir": str(raw["dir"])}
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path} is damaged", hint="delete it and try again") from None
