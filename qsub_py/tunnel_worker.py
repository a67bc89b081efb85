"""The process that holds the tunnels' SSH connections: a thread a host, under the supervisor.

Run by it: `python -m qsub_py.tunnel_worker STATE_DIR CLUSTER`. It learns its hosts and their
secrets from standard input, in lines of JSON, and ends when that does; what becomes of them
it writes to standard output.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from typing import Any

from qsub_py import config as configuration
from qsub_py.config import Config
from qsub_py.ssh import Secrets
from qsub_py.tunnel_dial import Dialer
from qsub_py.tunnel_host import HostTunnel
from qsub_py.tunnel_place import Entry

_BEAT_S = 5.0


class Worker:
    """The tunnels of one cluster."""

    def __init__(self, config: Config) -> None:
        self._dialer = Dialer(config)
        self._tunnels: dict[str, HostTunnel] = {}
        #: What was asked for one host opens the keys of the others, too.
        self._secrets = Secrets()
        self._lock = threading.Lock()

    def obey(self, message: dict[str, Any]) -> None:
        """Do what the supervisor says."""
        match message["op"]:
            case "agent":
                os.environ["SSH_AUTH_SOCK"] = message["socket"]
            case "add":
                self._add(message)
            case "remove":
                self._stop(message["name"])
            case "retry":
                for tunnel in self._tunnels.values():
                    tunnel.retry()

    def _add(self, message: dict[str, Any]) -> None:
        name, entry = message["name"], Entry.from_dict(message["entry"])
        self._stop(name)
        self._secrets.update(Secrets.from_json(message["secrets"]))
        tunnel = HostTunnel(name, entry, self._secrets, self._dialer, self.report)
        tunnel.serial = message["serial"]
        with self._lock:
            self._tunnels[name] = tunnel
        tunnel.start()

    def _stop(self, name: str) -> None:
        with self._lock:
            tunnel = self._tunnels.pop(name, None)
        if tunnel is not None:
            tunnel.stop()

    def report(self, tunnel: HostTunnel, facts: dict[str, Any]) -> None:
        """Say how a host's tunnel is; from any thread."""
        with self._lock:
            if tunnel is self._tunnels.get(tunnel.host):
                _say({"name": tunnel.host, "serial": tunnel.serial, **facts})

    def beat(self) -> None:
        """Give a sign of life and the numbers, for ever."""
        while True:
            time.sleep(_BEAT_S)
            with self._lock:
                _say({})
                for name, tunnel in self._tunnels.items():
                    numbers = {"sent": tunnel.meter.sent, "received": tunnel.meter.received}
                    _say({"name": name, "serial": tunnel.serial, **numbers})


def _say(message: dict[str, Any]) -> None:
    try:
        os.write(1, json.dumps(message).encode() + b"\n")
    except OSError:  # the supervisor is gone, and so are we
        os._exit(0)


def main(state_dir: str, cluster: str) -> None:
    """Run until standard input ends."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    config = replace(configuration.load(), cluster=cluster, state_dir=state_dir)
    worker = Worker(config)
    threading.Thread(target=worker.beat, daemon=True).start()
    for line in sys.stdin.buffer:
        worker.obey(json.loads(line))
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:3])
