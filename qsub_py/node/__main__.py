"""Run the agent of a node: `python -m qsub_py.node NODE_DIR [--replace]`.

With `--replace` it ends the agent that runs, once it has come so far itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import logging
import os
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import qsub_py
from qsub_py import config as configuration
from qsub_py.config import Config
from qsub_py.errors import ConfigError, QsubError, StoreUnavailable
from qsub_py.node import edition, hardware, local
from qsub_py.node.agent import Agent
from qsub_py.node.lending import lend
from qsub_py.node.settings import NodeSettings
from qsub_py.reach import endpoint
from qsub_py.signing import Keyring
from qsub_py.store_link import Link
from qsub_py.store_node import NodeStore

#: Shorter than the silence after which the keeper takes an agent for dead.
_TIMEOUT_S = 4.0
_REVIVE_S = 2.0


def main() -> None:
    """Run the agent until it is told to stop."""
    node_dir = Path(sys.argv[1])
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    edition.hold()
    lock = open(node_dir / "agent.lock", "ab")  # noqa: SIM115 - held until the process ends
    if not _locked(lock.fileno(), node_dir, replaces="--replace" in sys.argv[2:]):
        logging.error("another agent runs this node")
        sys.exit(75)
    edition.write_pid(node_dir / "agent.pid")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # The keeper may have started us; what we start is nobody's zombie.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        _make(node_dir).run()
    except QsubError as error:
        (node_dir / "failed").write_text(f"{error}\n{error.hint}", "utf-8")
        logging.error("%s", error)
        sys.exit(error.exit_code)


def _locked(descriptor: int, node_dir: Path, *, replaces: bool) -> bool:
    """Take the lock; an agent that is being replaced has a moment to go."""
    for _ in range(100):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if replaces:
                _end_former(node_dir)
            time.sleep(0.02)
    return False


def _end_former(node_dir: Path) -> None:
    """End the agent of this node whose pid is written down; it may be gone already."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((node_dir / "agent.pid").read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if os.fsencode(node_dir) in words and pid != os.getpid():
            os.kill(pid, signal.SIGKILL)


def _make(node_dir: Path) -> Agent:
    settings = NodeSettings.load(node_dir)
    config = replace(configuration.load(), cluster=settings.cluster, url=settings.url)
    configuration.load_key(settings.cluster, create=True)
    ring = Keyring.of(configuration.load_keys(settings.cluster))
    link, waiting = _links(config)
    store = NodeStore(link, settings.cluster, settings.uid)
    lend(node_dir)
    return Agent(
        node_dir,
        settings,
        store,
        waiting,
        ring,
        shown=_shown(settings),
        pythons=_pythons(settings),
        agent_argv=local.agent_argv(node_dir),
        build=local.build(),
        revive=lambda: _revive(config),
        retention_s=config.retention_s,
    )


def _revive(config: Config) -> tuple[str, str]:
    """Return where the server is now, started when it is the embedded one; StoreError."""
    try:
        return endpoint(config, wait_s=_REVIVE_S)
    except ConfigError as error:
        # Somebody may mend it: a node that holds work does not give up for this.
        raise StoreUnavailable(str(error), hint=error.hint) from error


def _links(config: Config) -> tuple[Link, Link]:
    """Return two connections to the server, started when it is the embedded one."""
    while True:
        try:
            url, password = endpoint(config)
            break
        except StoreUnavailable as error:
            logging.warning("%s", error)
            time.sleep(2.0)
    first, second = (Link(url, password=password, timeout_s=_TIMEOUT_S) for _ in range(2))
    return first, second


def _pythons(settings: NodeSettings) -> tuple[str, ...]:
    """Return the minor versions that calls can have here; an interpreter may be gone by now."""
    there = [minor for minor, path in settings.pythons.items() if os.access(path, os.X_OK)]
    return tuple(dict.fromkeys([*there, hardware.python_minor()]))


def _shown(settings: NodeSettings) -> dict[str, str]:
    return {
        "host": socket.gethostname(),
        "user": getpass.getuser(),
        "version": qsub_py.__version__,
        "features": ",".join(_features(settings)),
        "alias": settings.alias,
        "way": settings.way,
        "boot": hardware.boot_id(),
        "pid": str(os.getpid()),
        "started": f"{time.time():.0f}",
    }


def _features(settings: NodeSettings) -> tuple[str, ...]:
    """Return the words of the user, then those for what is here."""
    gpu_words = [word for gpu in settings.devices for word in gpu.words()]
    return tuple(
        dict.fromkeys([*settings.features, *hardware.features(_pythons(settings), gpu_words)])
    )


if __name__ == "__main__":
    main()
