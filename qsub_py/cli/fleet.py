"""What qnode does with hosts over SSH: start, revive, look after; a line for each host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qsub_py import render, tunnel
from qsub_py.cli import common
from qsub_py.cli.asking import TerminalAsker, is_answered
from qsub_py.config import Config
from qsub_py.config_hosts import load_hosts
from qsub_py.deploy import Deployment, Started
from qsub_py.errors import NodeError, QsubError, SpecError
from qsub_py.far_server import FarServer
from qsub_py.fleet import Member, members, put
from qsub_py.hosts import Host
from qsub_py.units import format_size

if TYPE_CHECKING:
    from qsub_py.remote import Remote

T = TypeVar("T")


def find_hosts(words: Sequence[str], file: str | None) -> list[Host]:
    """Return the hosts that `qnode start` was told; all of a file named by -f. SpecError."""
    book = load_hosts(Path(file).expanduser() if file is not None else None)
    hosts = book.find(words) if words else book.all()
    if not hosts:
        raise SpecError(f"{book.source} names no host", hint="write [hosts.NAME] or [groups]")
    return hosts


def serve_on(config: Config, word: str, file: str | None, *, accepts_new: bool) -> None:
    """Put the cluster's server on a host; SpecError, NodeError, SshError."""
    hosts = find_hosts([word], file)
    if len(hosts) != 1:
        raise SpecError("--server-on takes one host")
    with _deployment(config, accepts_new=accepts_new) as (deployment, board):
        deployment.serve_on(hosts[0])
        board.finish(hosts[0].name, f"the server is on {hosts[0].name}")


def start_far_server(config: Config, far: FarServer) -> str:
    """Start the server on its host again and return a sentence."""
    with _deployment(config) as (deployment, _):
        deployment.serve_on(far.place)
    return f"the server runs on {far.name}"


def stop_far_server(config: Config, far: FarServer) -> str:
    """Stop the server on its host and return a sentence."""
    with _deployment(config) as (deployment, _):
        was_running = deployment.stop_server(far)
    return f"the server on {far.name} {'has stopped' if was_running else 'did not run'}"


def start_again(config: Config, wanted: Sequence[Member], *, restarts: bool = False) -> int:
    """Start the nodes of hosts as they were started before; returns the exit code."""
    options = {one.host.name: one.options or {} for one in wanted}
    return start_hosts(config, [one.host for one in wanted], options, restarts=restarts)


def start_hosts(
    config: Config,
    hosts: Sequence[Host],
    options: Mapping[str, Mapping[str, Any]],
    *,
    accepts_new: bool = False,
    restarts: bool = False,
) -> int:
    """Start nodes on hosts, a line for each as it is decided; returns the exit code.

    `options`: of each by its name, over what the host itself says. With `restarts` the agent
    of a node that runs is started anew; what it runs goes on.
    """
    with _deployment(config, accepts_new=accepts_new) as (deployment, board):

        def done(name: str, result: Started | QsubError) -> None:
            if isinstance(result, Started):
                board.finish(name, _line(result))
            else:
                board.finish(name)

        results = deployment.start(hosts, options, done, restarts=restarts)
    for result in results.values():
        if isinstance(result, QsubError):
            common.complain(f"qnode: {result}" + (f"; {result.hint}" if result.hint else ""))
        elif result.warning:
            common.complain(f"qnode: {result.name}: {result.warning}")
    started = [one for one in results.values() if isinstance(one, Started)]
    if started and started[0].way == "tunnel" and not all(one.was_running for one in started):
        common.hint("qnode: the server is on this host: while it sleeps, jobs elsewhere wait; "
                    "`--server-on HOST` puts it on one that stays up")  # fmt: skip
    return _exit_code(list(results.values()))


def _line(node: Started) -> str:
    what = "runs already" if node.was_running else "is up"
    if node.was_restarted:
        what = "is up again"
    if node.was_upgraded:
        what = "is up with the new version"
    has = f"{node.cpus} cpus, {format_size(node.mem_bytes)}"
    has += f", {node.gpus} gpus" if node.gpus else ""
    return f"node {node.name} {what}: {has}, Python {node.python} ({node.way})"


def _exit_code(results: Sequence[object]) -> int:
    codes = {error.exit_code for error in results if isinstance(error, QsubError)}
    return codes.pop() if len(codes) == 1 else int(bool(codes))


@contextmanager
def _deployment(
    config: Config, *, accepts_new: bool = False
) -> Iterator[tuple[Deployment, render.Board]]:
    with render.board() as board:
        asker = TerminalAsker(board) if is_answered() else None

        def finishing(count: int) -> None:
            hosts = "1 host" if count == 1 else f"{count} hosts"
            with board.paused():
                common.complain(f"qnode: finishes with {hosts}; Ctrl-C again leaves at once")

        yield (
            Deployment(
                config,
                told=board.tell,
                asker=asker,
                confirm=asker.confirm if asker else lambda unknown: False,
                accepts_new=accepts_new,
                finishing=finishing,
            ),
            board,
        )


def tidy(config: Config, stopped: Sequence[Member]) -> None:
    """Take away the ways of nodes that have stopped, here and on their hosts."""
    for one in stopped:
        put(config, replace(one, is_stopped=True))
        if one.way == "tunnel":
            tunnel.remove(config, one.host.name)
    with _deployment(config) as (deployment, board):
        for name, trouble in deployment.forget([one.host for one in stopped]).items():
            board.finish(name)
            if isinstance(trouble, QsubError):
                common.hint(f"qnode: the records on {name} could not be removed: {trouble}")


def member(config: Config, name: str) -> Member:
    """Return a host that was started from here; NodeError."""
    found = members(config).get(name)
    if found is None:
        raise NodeError(f"no node {name} was started from this host",
                        hint="see `qnode list`; work where it was started")  # fmt: skip
    return found


def on_host(config: Config, name: str, action: Callable[[Remote], T]) -> T:
    """Run `action` with our code running on the host of a node; raises SshError, NodeError."""
    host = member(config, name).host
    with _deployment(config) as (deployment, board), deployment.remote(host) as remote:
        board.finish(name)
        return action(remote)
