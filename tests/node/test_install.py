"""Nodes come up at boot: fake systemctl, loginctl and crontab on PATH that record."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from qsub_py import config as configuration
from qsub_py.config import Config
from qsub_py.errors import NodeError
from qsub_py.node import install

CRONTAB = """\
case "$1" in
  -l) [ -e {folder}/tab ] || {{ echo "no crontab for me" >&2; exit 1; }}; cat {folder}/tab;;
  -) cat > {folder}/tab;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only directory on PATH for programs that `fake` writes."""
    (tmp_path / "bin").mkdir()
    for name in ("sh", "cat", "env"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return tmp_path


def fake(folder: Path, name: str, script: str) -> None:
    path = folder / "bin" / name
    path.write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/asked\n{script}\n')
    path.chmod(0o755)


def asked(folder: Path) -> list[str]:
    path = folder / "asked"
    text = path.read_text() if path.exists() else ""
    path.unlink(missing_ok=True)
    return text.splitlines()


def config(**changes: str) -> Config:
    return configuration.load({f"QSUB_{name.upper()}": text for name, text in changes.items()})


def test_a_unit_of_systemd(folder: Path, isolated_env: Path) -> None:
    fake(folder, "systemctl", "exit 0")
    fake(folder, "loginctl", "exit 0")
    done = install.install(config(cluster="lab@home"))
    path = isolated_env / ".config/systemd/user/qsub_py-lab_home.service"
    assert (done.by, done.what, done.note) == ("systemd", str(path), "")
    text = path.read_text()
    assert "KillMode=process" in text and "WantedBy=default.target" in text
    assert 'QSUB_CLUSTER=lab@home" ' in text and text.count("qnode ensure\n") == 1
    said = asked(folder)
    assert "systemctl --user daemon-reload" in said
    assert f"systemctl --user enable {path.name}" in said
    assert any(line.startswith("loginctl enable-linger ") for line in said)
    assert install.install(config(cluster="lab@home")) == done
    assert path.read_text() == text
    asked(folder)
    assert install.uninstall(config(cluster="lab@home"))
    assert f"systemctl --user disable {path.name}" in asked(folder)
    assert not path.exists()
    assert not install.uninstall(config(cluster="lab@home"))


def test_lingering_is_refused(folder: Path) -> None:
    fake(folder, "systemctl", "exit 0")
    fake(folder, "loginctl", 'echo "Could not enable linger: Access denied" >&2; exit 1')
    assert "ask root: loginctl enable-linger" in install.install(config()).note


def test_systemd_refuses(folder: Path) -> None:
    fake(folder, "systemctl", '[ "$2" != enable ] || { echo "no such bus" >&2; exit 1; }')
    with pytest.raises(NodeError, match="systemctl --user enable failed: no such bus"):
        install.install(config())


def test_a_line_of_the_crontab(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(folder, "systemctl", "exit 1")
    fake(folder, "crontab", CRONTAB.format(folder=folder))
    others = "# mine\n0 3 * * * backup %1\n@reboot other # qsub_py cluster other\n"
    (folder / "tab").write_text(others)
    monkeypatch.setenv("XDG_STATE_HOME", f"{folder}/100% of it")
    done = install.install(config())
    assert done.by == "crontab"
    assert (folder / "tab").read_text() == others + done.what + "\n"
    assert "/100\\% of it" in done.what
    words = shlex.split(done.what.removeprefix("@reboot ").replace("\\%", "%"), comments=True)
    assert words[:2] == ["/usr/bin/env", f"XDG_STATE_HOME={folder}/100% of it"]
    assert words[-4:] == ["qnode", "ensure", ">/dev/null", "2>&1"]
    assert install.install(config()) == done
    assert (folder / "tab").read_text() == others + done.what + "\n"
    monkeypatch.setattr(install.sys, "executable", "/new/python")  # type: ignore[attr-defined]
    install.refresh(config())
    assert (folder / "tab").read_text().count("\n") == 4
    assert "/new/python" in (folder / "tab").read_text()
    assert install.uninstall(config())
    assert (folder / "tab").read_text() == others
    install.refresh(config())
    assert (folder / "tab").read_text() == others


def test_the_line_runs(folder: Path, isolated_env: Path) -> None:
    """As cron would: with next to no environment, and its percent signs."""
    fake(folder, "crontab", CRONTAB.format(folder=folder))
    line = install.install(config()).what.removeprefix("@reboot ")
    command = line.replace("\\%", "%").replace(">/dev/null 2>&1", "")
    env = {"HOME": str(isolated_env), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        ["/bin/sh", "-c", f"{command}\n"], env=env, capture_output=True, text=True
    )
    try:
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
    finally:
        from qsub_py import server

        server.stop(config().server_path())


def test_no_crontab_yet_and_none_allowed(folder: Path) -> None:
    fake(folder, "crontab", CRONTAB.format(folder=folder))
    install.install(config())
    assert (folder / "tab").read_text().startswith("@reboot ")
    fake(folder, "crontab", 'echo "You (me) are not allowed to use this program" >&2; exit 1')
    with pytest.raises(NodeError, match="not allowed"):
        install.install(config())


def test_neither(folder: Path) -> None:
    with pytest.raises(NodeError, match="neither systemd for users nor crontab"):
        install.install(config())
    assert not install.uninstall(config())


@pytest.mark.skipif(not shutil.which("crontab"), reason="needs a crontab")
def test_a_real_crontab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = subprocess.run(["crontab", "-l"], capture_output=True, text=True)
    real = shutil.which("crontab")
    (tmp_path / "crontab").symlink_to(real or "")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    fake_bin = tmp_path / "systemctl"
    fake_bin.write_text("#!/bin/sh\nexit 1\n")
    fake_bin.chmod(0o755)
    try:
        line = install.install(config(cluster="test-of-qsub")).what
        now = subprocess.run(["crontab", "-l"], capture_output=True, text=True).stdout
        assert now.splitlines()[-1] == line
    finally:
        assert install.uninstall(config(cluster="test-of-qsub"))
    after = subprocess.run(["crontab", "-l"], capture_output=True, text=True)
    assert after.stdout.splitlines() == before.stdout.splitlines()
