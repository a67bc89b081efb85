"""Run `qnode ensure` at each boot of this host: by a systemd user unit, else by crontab's @reboot.

Both are the user's own, without root. Done again, it writes the same (or, after an upgrade,
what has changed); undone, nothing is left.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qsub_py.config import Config, user_name
from qsub_py.errors import NodeError
from qsub_py.node import edition

_ANSWER_S = 30.0
#: Variables that say where things are; cron and systemd do not know them.
_PLACES = ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "QSUB_STATE_DIR")
_UNIT = """\
# Written by `qnode ensure --install`; `qnode ensure --uninstall` removes it.
[Unit]
Description=qsub_py: nodes of this host in cluster {cluster}

[Service]
Type=oneshot
RemainAfterExit=yes
# The nodes outlive the command that starts them, and the unit.
KillMode=process
Restart=on-failure
RestartSec=60
ExecStart={command}

[Install]
WantedBy=default.target
"""


@dataclass(frozen=True, slots=True)
class Installed:
    """What was done so that nodes come up at boot."""

    #: "systemd" or "crontab".
    by: str
    #: The unit's file, or the line of the crontab.
    what: str
    #: What is missing for it to work at boot, "" when nothing is.
    note: str = ""


def install(config: Config) -> Installed:
    """Let this host run `qnode ensure` at boot; NodeError when there is no way."""
    if _has_systemd():
        _edit_crontab(config.cluster, "", must=False)
        done = _install_unit(config)
    elif shutil.which("crontab"):
        line = f"@reboot {_cron_command(config)} >/dev/null 2>&1 {_mark(config.cluster)}"
        _edit_crontab(config.cluster, line)
        done = Installed("crontab", line)
    else:
        raise NodeError(
            "this host has neither systemd for users nor crontab",
            hint="run `qnode ensure` after each reboot, or from your shell's start-up file",
        )
    _record(config).write_text(f"{done.by}\n")
    return done


def uninstall(config: Config) -> bool:
    """Undo `install`; whether there was anything."""
    path = _unit_path(config.cluster)
    had_unit = path.exists()
    if had_unit:
        if _has_systemd():
            _run(["systemctl", "--user", "disable", path.name])
        path.unlink()
        if _has_systemd():
            _run(["systemctl", "--user", "daemon-reload"])
    had_line = _edit_crontab(config.cluster, "", must=False)
    _record(config).unlink(missing_ok=True)
    return had_unit or had_line


def switch(config: Config, *, undo: bool) -> str:
    """Install, or undo it, and return a sentence on what was done."""
    if undo:
        return "removed" if uninstall(config) else "nothing was installed"
    done = install(config)
    return f"`qnode ensure` runs at boot, by {done.by}" + (f"; {done.note}" if done.note else "")


def refresh(config: Config) -> None:
    """After an upgrade: let what was installed start this copy of the program."""
    if _record(config).exists():
        with contextlib.suppress(NodeError, OSError):
            install(config)


def _record(config: Config) -> Path:
    return config.state_path() / f"ensure.{config.cluster}"


def _words(config: Config) -> list[str]:
    """Return the command as words, whatever the environment is that starts it."""
    env = [f"{name}={os.environ[name]}" for name in _PLACES if os.environ.get(name)]
    home = edition.home()
    if home.name not in ("site-packages", "dist-packages"):
        env.append(f"PYTHONPATH={home}")
    env.append(f"QSUB_CLUSTER={config.cluster}")
    return ["/usr/bin/env", *env, sys.executable, "-m", "qsub_py", "qnode", "ensure"]


# -- systemd -------------------------------------------------------------------------------


def _install_unit(config: Config) -> Installed:
    path = _unit_path(config.cluster)
    command = " ".join(map(_unit_word, _words(config)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_UNIT.format(cluster=config.cluster, command=command))
    except OSError as error:
        raise NodeError(f"cannot write {path}: {error.strerror}") from None
    for words in (["daemon-reload"], ["enable", path.name]):
        done = _run(["systemctl", "--user", *words])
        if done.returncode:
            raise NodeError(f"systemctl --user {words[0]} failed: {_complaint(done)}")
    linger = _run(["loginctl", "enable-linger", user_name()])
    note = ""
    if linger.returncode:
        note = (
            f"it runs when you log in; for each boot ask root: loginctl enable-linger {user_name()}"
        )
    return Installed("systemd", str(path), note)


def _unit_path(cluster: str) -> Path:
    config_home = os.environ.get("XDG_CONFIG_HOME", "")
    base = Path(config_home) if os.path.isabs(config_home) else Path.home() / ".config"
    # An @ would make it a template.
    name = re.sub(r"[^\w.-]", "_", cluster, flags=re.ASCII)
    return base / "systemd" / "user" / f"qsub_py-{name}.service"


def _unit_word(word: str) -> str:
    """Quote a word of ExecStart (systemd.service(5), Command lines)."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"' if re.search(r"[^\w./=:+-]", word) else word


def _has_systemd() -> bool:
    """Whether a systemd of this user's own answers."""
    return _run(["systemctl", "--user", "show-environment"]).returncode == 0


# -- crontab -------------------------------------------------------------------------------


def _cron_command(config: Config) -> str:
    # cron takes a bare % for the end of the line.
    return shlex.join(_words(config)).replace("%", "\\%")


def _mark(cluster: str) -> str:
    return f"# qsub_py cluster {cluster}"


def _edit_crontab(cluster: str, line: str, *, must: bool = True) -> bool:
    """Put our line into the crontab in place of the one there is, "": none; whether it had one."""
    found = _run(["crontab", "-l"])
    if found.returncode and not re.search("no crontab", found.stderr, re.IGNORECASE):
        if must:
            raise NodeError(f"crontab cannot be read: {_complaint(found)}")
        return False
    lines = found.stdout.splitlines() if not found.returncode else []
    kept = [other for other in lines if not other.endswith(_mark(cluster))]
    wanted = [*kept, line] if line else kept
    if wanted != lines:
        done = _run(["crontab", "-"], text="".join(f"{one}\n" for one in wanted))
        if done.returncode:
            raise NodeError(f"crontab cannot be written: {_complaint(done)}")
    return len(kept) < len(lines)


def _run(argv: Sequence[str], text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program to its end; one that is not there or hangs has failed."""
    env = dict(os.environ)
    runtime = f"/run/user/{os.getuid()}"
    if "XDG_RUNTIME_DIR" not in env and os.path.isdir(runtime):
        env["XDG_RUNTIME_DIR"] = runtime  # sshd without PAM's systemd module sets none
    try:
        return subprocess.run(
            argv, input=text, capture_output=True, text=True, timeout=_ANSWER_S, env=env,
            errors="surrogateescape", check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(list(argv), 127, "", str(error))


def _complaint(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"
