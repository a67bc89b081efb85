"""The far end of `qsub_py.remote`: what a host does for the head over SSH, one request at a time.

Started by `bootstrap` from the bundle. A request is a JSON header with an "op", perhaps a blob
with secrets; the answer is a header, or several with "more" before the last. The head going away
ends it; nodes that were started live on.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from qsub_py import config as configuration
from qsub_py import server, server_start, serving, ssh_keygen, tunnel_node, upstream
from qsub_py.config import Config
from qsub_py.errors import ConfigError, QsubError
from qsub_py.node import control, doctor, install, local, local_logs, turns

Header = dict[str, Any]
Receive = Callable[[], tuple[Header, bytes] | None]
Send = Callable[[Header], None]


def serve(receive: Receive, send: Send) -> None:
    """Answer requests until the head has gone."""
    while (frame := receive()) is not None:
        header, blob = frame
        try:
            for answer in _OPS[header["op"]](header, blob):
                send(answer)
        except QsubError as error:
            send({"error": str(error), "hint": error.hint})
        except BrokenPipeError:
            return
        except Exception as error:
            send({"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()})


def _config(header: Header) -> Config:
    return replace(configuration.load({}), cluster=header["cluster"], url="")


def _prepare(header: Header, blob: bytes) -> Iterator[Header]:
    """Install the cluster's keys, and the record of a server that is reached directly.

    That of a tunnel is written by `python -m qsub_py.upstream`, which the head runs when the
    tunnel stands.
    """
    secrets = json.loads(blob)
    config = _config(header)
    # Here, not only when it starts: a way for it would lead the node that runs astray.
    turns.take(config)
    local.check_only(config, header["name"])
    configuration.install_keys(config.cluster, secrets["keys"])
    if header["url"]:
        upstream.write(
            config, url=header["url"], way="direct", password=secrets["password"],
            ca=secrets["ca"],
        )  # fmt: skip
    yield {"argv": _own_argv("qsub_py.upstream"), "state_dir": str(config.state_path())}


def _own_argv(module: str) -> list[str]:
    folder = Path(__file__).resolve().parents[2]
    return ["/usr/bin/env", f"PYTHONPATH={folder}", sys.executable, "-m", module]


def _program(header: Header, _: bytes) -> Iterator[Header]:
    """Say whether this host has a server program."""
    config = _config(header)
    try:
        server_start.find_program(config.server.binary, config.server_path())
    except ConfigError:
        yield {"has": False}
    else:
        yield {"has": True}


def _lend(header: Header, blob: bytes) -> Iterator[Header]:
    """Take a server program for this host."""
    server_start.lend_program(_config(header).server_path(), blob)
    yield {}


def _serve(header: Header, blob: bytes) -> Iterator[Header]:
    """Make this host the cluster's server; a key may come in and forward its port alone."""
    secrets = json.loads(blob)
    config = _config(header)
    configuration.install_keys(config.cluster, secrets["keys"])
    found = serving.serve({"cluster": config.cluster})
    line = ssh_keygen.restricted(secrets["public"], found["port"])
    tunnel_node.authorize(line, secrets["public"].split(" ", 2)[2])
    yield {**found, "argv": _own_argv("qsub_py.serving"), "state_dir": str(config.state_path())}


def _unserve(header: Header, _: bytes) -> Iterator[Header]:
    """Stop the server of this host; what runs goes on."""
    yield {"was": server.stop(_config(header).server_path())}


def _join(header: Header, blob: bytes) -> Iterator[Header]:
    """Reach a server on another host by this host's own ssh."""
    secrets = json.loads(blob)
    tunnel_node.join(
        _config(header), private_key=secrets["private_key"], password=secrets["password"],
        **header["server"],
    )  # fmt: skip
    yield {}


def _start(header: Header, _: bytes) -> Iterator[Header]:
    """Start the node, or restart the agent of one that runs from another bundle."""
    config = _config(header)
    os.chdir("/")
    place = f"{config.cluster}.{header['name']}"
    found = [(where, runs) for _, where, runs in local.local_nodes(config) if where.name == place]
    was_there = any(control.is_there(where) for where, _ in found)
    is_old = any(runs and not control.runs_this_package(where) for where, runs in found)
    try:
        started = local.start(config, **header["options"])
    except QsubError:
        if not was_there:
            control.destroy(config, header["name"])  # it may still be on its way
        raise
    is_anew = started.was_running and (is_old or header["restarts"])
    if is_anew and not started.was_restarted:
        control.restart(config, [started.name])
    yield {
        **asdict(started),
        "node_dir": str(started.node_dir),
        "was_restarted": is_anew or started.was_restarted,
        "was_upgraded": is_old,
    }


def _destroy(header: Header, _: bytes) -> Iterator[Header]:
    """End a node and all it runs at once, without a word to the server."""
    yield {"was": control.destroy(_config(header), header["name"])}


def _forget(header: Header, _: bytes) -> Iterator[Header]:
    """Delete the record of the server when no node is left; keys stay."""
    config = _config(header)
    turns.take(config)
    if not any(runs for _, _, runs in local.local_nodes(config)):
        tunnel_node.leave(config)
    yield {}


def _boot(header: Header, _: bytes) -> Iterator[Header]:
    """Install what starts this host's nodes at boot, or undo it."""
    yield {"said": install.switch(_config(header), undo=header["undo"])}


def _doctor(header: Header, _: bytes) -> Iterator[Header]:
    yield {"checks": [asdict(check) for check in doctor.checks(_config(header))]}


def _logs(header: Header, _: bytes) -> Iterator[Header]:
    """Send the last lines of a node's logs, then, if asked to follow, what is added."""
    for text in local_logs.read(
        _config(header), header["name"], lines=header["lines"], follows=header["follows"]
    ):
        yield {"text": text, "more": True}
    yield {}


_OPS: dict[str, Callable[[Header, bytes], Iterator[Header]]] = {
    "prepare": _prepare,
    "program": _program,
    "lend": _lend,
    "serve": _serve,
    "unserve": _unserve,
    "join": _join,
    "start": _start,
    "destroy": _destroy,
    "forget": _forget,
    "boot": _boot,
    "doctor": _doctor,
    "logs": _logs,
}
