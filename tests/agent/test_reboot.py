"""A host that comes back from a reboot: what it ran is known lost at once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from agent.test_agent import outcome, pid_from, submit
from env import Env, alive, wait_until
from qsub_py.model import State

BOOT_ID = "/proc/sys/kernel/random/boot_id"


def can_fake() -> bool:
    """Whether a mount namespace of our own can be had, with another file for the boot id."""
    if not shutil.which("unshare"):
        return False
    command = f"mount --bind /etc/hostname {BOOT_ID}"
    return (
        subprocess.run(["unshare", "-m", "sh", "-c", command], capture_output=True).returncode == 0
    )


@pytest.mark.skipif(not can_fake(), reason="needs root and util-linux's unshare")
def test_tasks_of_a_rebooted_host_run_again_at_once(env: Env, tmp_path: Path) -> None:
    started = env.start_node("n1", cpus=2)
    script = f"echo $QSUB_ATTEMPT >> {tmp_path}/attempts; echo $$ > {tmp_path}/pid$QSUB_ATTEMPT\n"
    job = submit(env, f"{script}[ $QSUB_ATTEMPT = 2 ] || sleep 600")
    kept = submit(env, f"echo $$ > {tmp_path}/kept; sleep 600", requeue=False)
    pids = [pid_from(tmp_path / "pid1"), pid_from(tmp_path / "kept")]
    # The power goes: for neither is there time to start the other again.
    env.kill("agent", sig=signal.SIGSTOP)
    for pid in (env.kill("keeper"), env.kill("agent"), *pids):
        if alive(pid):
            os.kill(pid, 9)
        wait_until(lambda pid=pid: not alive(pid))
    (tmp_path / "boot_id").write_text(f"{uuid.uuid4()}\n")
    command = f"mount --bind {tmp_path}/boot_id {BOOT_ID} && exec {sys.executable} -m qsub_py"
    package = str(Path(sys.modules["qsub_py"].__file__ or "").parents[1])
    subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{command} qnode start --name n1 --cpus 2"], check=True,
        env={**os.environ, "PYTHONPATH": package}, cwd="/", timeout=60, capture_output=True,
    )  # fmt: skip
    assert env.wait_job(job).state is State.COMPLETED
    assert (tmp_path / "attempts").read_text() == "1\n2\n"
    assert env.wait_job(kept).state is State.NODE_FAIL
    assert outcome(env, kept).reason == "the host rebooted"
    store = env.store()
    [node] = store.nodes()
    store.close()
    assert node.boot == (tmp_path / "boot_id").read_text().strip()
    assert started.uid == node.uid
