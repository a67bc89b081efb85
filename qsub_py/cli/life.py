"""The life of nodes on this host and on those started from it: revive, restart, logs, doctor."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from qsub_py import far_server, render
from qsub_py.cli import common
from qsub_py.cli.nodes import chosen, stop_nodes
from qsub_py.config import Config
from qsub_py.errors import NodeError, QsubError
from qsub_py.fleet import Member, members
from qsub_py.node import control, local, local_logs
from qsub_py.text import safe

#: How long `ensure` waits for tunnels that are on their way back.
_TUNNEL_S = 10.0

if TYPE_CHECKING:
    from qsub_py.client import Client
    from qsub_py.remote import Remote


def stop(client: Client, names: Sequence[str], *, everything: bool, now: bool) -> int:
    """Stop nodes, here or elsewhere, and the ways that led to them; returns the exit code.

    A node that the server does not hear of any more is ended over SSH.
    """
    config, ours = client.config, members(client.config)
    live = {node.name for node in client.ask(lambda store: store.nodes())}
    silent = [name for name in names if name not in live and name in ours]
    heard = [name for name in names if name not in silent]
    code = 0
    if heard or everything or not silent:
        code = stop_nodes(client, chosen(client, heard, everything=everything), now=now)
    for name in silent:
        code = max(code, _end_by_ssh(config, name))
    still = {node.name for node in client.ask(lambda store: store.nodes())}
    # What was stopped before may be switched off for good: only by its name it is tried again.
    gone = [
        one
        for name, one in ours.items()
        if name not in still and (name in names or (everything and not one.is_stopped))
    ]
    if gone:
        from qsub_py.cli.fleet import tidy

        tidy(config, gone)
    return code


def _end_by_ssh(config: Config, name: str) -> int:
    from qsub_py.cli.fleet import on_host

    def destroy(remote: Remote) -> None:
        was = remote.ask({"op": "destroy", "cluster": config.cluster, "name": name})["was"]
        print(f"node {name} has {'been ended' if was else 'stopped'}")

    try:
        on_host(config, name, destroy)
    except QsubError as error:
        common.complain(f"qnode: {error}; {name} is left alone from now on")
        return 1
    return 0


def restart(config: Config, names: Sequence[str]) -> int:
    """Start the agents of nodes anew, with the version installed here; returns the exit code."""
    from qsub_py.cli.fleet import member

    here = {settings.name for settings, _, _ in local.local_nodes(config)}
    away = [member(config, name) for name in dict.fromkeys(names) if name not in here]
    code = 0
    near = [name for name in names if name in here]
    if near or not names:
        for name in control.restart(config, near):
            print(f"node {name} is up again")
    if away:
        from qsub_py.cli.fleet import start_again

        code = start_again(config, away, restarts=True)
    return code


def ensure(config: Config) -> int:
    """Start what should run and does not; returns the exit code."""
    from qsub_py.reach import endpoint

    endpoint(config)
    far = far_server.load(config)
    if far and not far_server.is_near(config, far):
        from qsub_py.cli.fleet import start_far_server

        print(start_far_server(config, far))
    for name in local.ensure(config):
        print(f"node {name} is up again")
    wanted = {name: one for name, one in members(config).items() if not one.is_stopped}
    return _ensure_members(config, wanted) if wanted else 0


def _ensure_members(config: Config, wanted: dict[str, Member]) -> int:
    from qsub_py import tunnel
    from qsub_py.cli.fleet import start_again

    tunnelled = [name for name, one in wanted.items() if one.way == "tunnel"]
    down = set()
    if tunnelled:
        tunnel.ensure(config)
        states = tunnel.await_up(config, tunnelled, timeout_s=_TUNNEL_S)
        down = {name for name in tunnelled if name not in states or states[name].state != "up"}
    client = common.connect()
    up = {node.name for node in client.ask(lambda store: store.nodes()) if node.state != "lost"}
    # A tunnel that is down may want a passphrase, which is asked for here.
    dead = [one for name, one in wanted.items() if name not in up or name in down]
    return start_again(config, dead) if dead else 0


def install(config: Config, names: Sequence[str], *, undo: bool) -> int:
    """Let hosts run `qnode ensure` at boot (this one, or those of nodes), or no more."""
    from qsub_py.cli.fleet import member, on_host
    from qsub_py.node import install as boot

    request = {"op": "boot", "cluster": config.cluster, "undo": undo}
    here = {"", *(settings.name for settings, _, _ in local.local_nodes(config))}
    for name in names:
        if name not in here:
            member(config, name)  # a name that is none is told before anything is done
    code = 0
    for name in names or [""]:
        try:
            if name in here:
                said = boot.switch(config, undo=undo)
            else:
                said = on_host(config, name, lambda remote: str(remote.ask(request)["said"]))
        except QsubError as error:  # the others go on
            where = f"{name}: " if name in here - {""} else ""
            common.complain(f"qnode: {where}{error}" + (f"; {error.hint}" if error.hint else ""))
            code = code or error.exit_code
        else:
            print(safe(f"{name or 'this host'}: {said}"), flush=True)
    return code


def doctor(config: Config, name: str, *, as_json: bool) -> int:
    """Print what was found on a node's host, and the cures; returns the exit code."""
    from qsub_py.node.doctor import BAD, checks

    # Without a name nothing is looked up: the state directory may be what is wrong.
    if name and name not in {settings.name for settings, _, _ in local.local_nodes(config)}:
        from qsub_py.cli.fleet import on_host

        request = {"op": "doctor", "cluster": config.cluster}
        found: list[dict[str, str]] = on_host(
            config, name, lambda remote: list(remote.ask(request)["checks"])
        )
    else:
        found = [asdict(check) for check in checks(config)]
    if as_json:
        render.show_json(found)
    else:
        _print_checks(found)
    return int(any(check["verdict"] == BAD for check in found))


def _print_checks(found: Sequence[Mapping[str, str]]) -> None:
    width = max((len(check["name"]) for check in found), default=0)
    for check in found:
        print(safe(f"{check['verdict']:<4}  {check['name']:<{width}}  {check['detail']}"))
        if check["cure"]:
            print(safe(f"{'':<4}  {'':<{width}}  -> {check['cure']}"))


def print_logs(config: Config, name: str, *, lines: int, follows: bool) -> None:
    """Print the last lines of the logs of a node's agent and keeper, and what is added."""
    here = {settings.name for settings, _, _ in local.local_nodes(config)}
    if name and name not in here and name in members(config):
        from qsub_py.cli.fleet import on_host

        request = {"op": "logs", "cluster": config.cluster, "name": name,
                   "lines": lines, "follows": follows}  # fmt: skip

        def show(remote: Remote) -> None:
            for answer in remote.stream(request):
                _print(answer["text"])

        on_host(config, name, show)
        return
    if name and name not in here:
        raise NodeError(f"no node {name} was started on this host or from it",
                        hint="see `qnode list`")  # fmt: skip
    for text in local_logs.read(config, name, lines=lines, follows=follows):
        _print(text)


def _print(text: str) -> None:
    sys.stdout.write(safe(text, keep="\n\t"))
    sys.stdout.flush()
