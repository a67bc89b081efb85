"""Another version takes over under load: two real copies of the package, each where it was put."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import qsub_py
from agent.test_agent import pid_from, submit
from env import Env, alive, wait_until
from qsub_py.model import State
from qsub_py.node import edition

PACKAGE = Path(qsub_py.__file__).parent


def copy(home: Path, version: str) -> Path:
    """Put a copy of the package, of another version, into an empty directory."""
    shutil.copytree(PACKAGE, home / "qsub_py", ignore=shutil.ignore_patterns("__pycache__"))
    edit(home / "qsub_py/__init__.py", r'(?m)^__version__ = ".*"$', f'__version__ = "{version}"')
    (home / ".in-use").touch()
    return home


def edit(path: Path, pattern: str, text: str) -> None:
    changed, count = re.subn(pattern, text, path.read_text())
    assert count == 1, (path, pattern)
    path.write_text(changed)


def qnode(home: Path, *words: str) -> str:
    """Run qnode of a copy."""
    done = subprocess.run(
        [sys.executable, "-m", "qsub_py", "qnode", *words], cwd="/", capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(home)}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def runs_from(pid: int) -> Path:
    """Return which copy a process has on its path."""
    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    path = next(word[11:] for word in words if word.startswith(b"PYTHONPATH="))
    return Path(os.fsdecode(path).split(":")[0])


def is_in_use(home: Path) -> bool:
    with open(home / ".in-use", "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def version(env: Env) -> str:
    store = env.store()
    try:
        return store.nodes()[0].version
    finally:
        store.close()


@pytest.fixture
def old(env: Env, tmp_path: Path) -> Path:
    """Return the copy that the node n1 was started from."""
    home = copy(tmp_path / "old", "1.0.0")
    env.node_dirs["n1"] = env.config.state_path() / "nodes" / "default.n1"
    return home


def begin(env: Env, tmp_path: Path) -> tuple[int, int]:
    """Start a job that ends when told; return its id and its pid."""
    script = f"echo $$ > {tmp_path}/pid; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"
    return submit(env, script), pid_from(tmp_path / "pid")


def other(env: Env, role: str, than: int) -> int:
    """Return the pid of another agent or keeper, when there is one."""

    def found() -> int:
        try:
            pid = env.pid(role)
        except (OSError, ValueError):
            return 0
        return pid if pid != than and alive(pid) else 0

    return wait_until(found, what=f"another {role}")


def test_upgrade_under_load(env: Env, old: Path, tmp_path: Path) -> None:
    new = copy(tmp_path / "new", "1.1.0")
    qnode(old, "start", "--name", "n1", "--cpus", "2")
    job, pid = begin(env, tmp_path)
    agent, keeper = env.pid("agent"), env.pid("keeper")
    assert version(env) == "1.0.0" and is_in_use(old) and not is_in_use(new)

    assert "n1 is renewed" in qnode(new, "start", "--name", "n1")
    second = env.pid("agent")
    assert (runs_from(second), version(env)) == (new, "1.1.0")
    assert alive(pid) and not alive(agent)

    env.kill("agent")
    third = other(env, "agent", second)
    assert runs_from(third) == new
    assert alive(pid) and env.pid("keeper") == keeper
    assert is_in_use(old) and is_in_use(new)

    (tmp_path / "go").touch()
    assert env.wait_job(job).state is State.COMPLETED
    assert runs_from(other(env, "keeper", keeper)) == new
    wait_until(lambda: not is_in_use(old))
    assert env.wait_job(submit(env, "true")).state is State.COMPLETED
    assert env.pid("agent") == third


def test_agent_works_with_the_keeper_before(env: Env, old: Path, tmp_path: Path) -> None:
    """A keeper of protocol 1 hears of no command line and tells no edition."""
    edit(old / "qsub_py/node/wire.py", r"(?m)^VERSION = 2$", "VERSION = 1")
    edit(old / "qsub_py/node/keeper.py", r"self\._supervisor\.learn\(.*\)", "pass")
    edit(old / "qsub_py/node/keeper.py", r'state\["edition"\] = .*', "pass")
    edit(old / "qsub_py/node/hand.py", r', "argv": self\._argv', "")
    qnode(old, "start", "--name", "n1", "--cpus", "1")
    keeper = env.pid("keeper")
    job, pid = begin(env, tmp_path)
    new = copy(tmp_path / "new", "1.1.0")
    qnode(new, "restart", "n1")
    wait_until(lambda: version(env) == "1.1.0")
    waiting = submit(env, "true")
    assert alive(pid) and env.pid("keeper") == keeper
    (tmp_path / "go").touch()
    for one in (job, waiting):
        assert env.wait_job(one).state is State.COMPLETED
    assert runs_from(other(env, "keeper", keeper)) == new


def test_a_copy_that_is_being_deleted_is_not_run(tmp_path: Path) -> None:
    assert edition.hold(tmp_path) is None
    (tmp_path / ".in-use").touch()
    held: Any = edition.hold(tmp_path)
    assert is_in_use(tmp_path)
    os.close(held)
    with open(tmp_path / ".in-use", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            edition.hold(tmp_path)
