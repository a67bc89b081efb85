"""qnode: start, stop and look at nodes, and at the embedded server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import click

from qsub_py import config, render
from qsub_py.cli import common
from qsub_py.cli.node_table import shown_minors, table
from qsub_py.cli.shapes import node_json
from qsub_py.errors import SpecError
from qsub_py.hosts import check_python
from qsub_py.units import format_size, parse_size


@click.group("qnode")
@common.options
def qnode() -> None:
    """Start, stop and look at the nodes that run jobs."""


@qnode.command("start")
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@click.option("-f", "--file", metavar="FILE", help="Start on the hosts of this hosts.toml.")
@click.option("--cpus", metavar="N", help="Processors that jobs may use (all).")
@click.option("--mem", metavar="SIZE", help="Memory that jobs may use (all).")
@click.option("--gpus", metavar="N", help="GPUs that jobs may use (all).")
@click.option("--name", metavar="NAME", help="Name of a node of this host (the host's).")
@click.option("--features", metavar="WORD,...", help="Words that jobs can ask for.")
@click.option("--queues", metavar="NAME,...", help="Queues that it serves (main).")
@click.option("--python", metavar="PATH", help="Python that runs the node there (looked for).")
@click.option("--env", metavar="DIR", help="Environment of the jobs there (DIR or conda:NAME).")
@click.option("--avoid-busy-gpus", is_flag=True, help="Give no GPU that others use.")
@click.option("--server-on", metavar="HOST", help="Put the server on this host, by SSH.")
@click.option("--accept-new", is_flag=True, help="Trust host keys that are not known yet.")
@common.options
def start(hosts: tuple[str, ...], file: str | None, name: str | None, python: str | None,
          accept_new: bool, server_on: str | None, **options: Any) -> int:  # fmt: skip
    """Start a node on this host, or on each HOST by SSH; one that runs already is left alone.

    A HOST is what ssh takes, [user@]host[:port]; node[01-12] and @group (of hosts.toml) are many.
    Nothing need be installed there but python3 (3.10 or newer).
    """
    settings = config.load()
    wanted = _sizes(options)
    is_here = not hosts and file is None
    # All that is given is looked at before anything is done.
    is_told = any(value is not None for value in (name, python, *wanted.values()))
    if is_here and server_on is not None and is_told:
        raise SpecError("--server-on alone starts no node",
                        hint="name the hosts of nodes as well")  # fmt: skip
    if is_here and python is not None:
        raise SpecError("--python is for nodes on other hosts",
                        hint="here it is the Python that runs qnode")  # fmt: skip
    if not is_here and name is not None:
        raise SpecError("--name is for a node of this host", hint="hosts are named as ssh does")
    if is_here and server_on is None:
        _start_here(settings, name, wanted)
        return 0
    from qsub_py.cli import fleet

    found = [] if is_here else fleet.find_hosts(hosts, file)
    if python is not None:
        check_python(python)
        found = [replace(host, options=replace(host.options, python=python)) for host in found]
    if server_on is not None:
        fleet.serve_on(settings, server_on, file, accepts_new=accept_new)
    if not found:
        return 0
    options = dict.fromkeys((host.name for host in found), wanted)
    return fleet.start_hosts(settings, found, options, accepts_new=accept_new)


def _sizes(options: dict[str, Any]) -> dict[str, Any]:
    """Return what the options of `start` say of a node, None where nothing was said."""
    cpus, mem, gpus, env = (options[name] for name in ("cpus", "mem", "gpus", "env"))
    return {
        "cpus": None if cpus is None else common.whole(cpus, "--cpus", least=1, most=4096),
        "mem_bytes": None if mem is None else _memory(mem),
        "gpus": None if gpus is None else common.whole(gpus, "--gpus", least=0, most=1024),
        "features": _names(options["features"], "--features") or None,
        "queues": _names(options["queues"], "--queues") or None,
        "env": env,
        "avoid_busy_gpus": options["avoid_busy_gpus"] or None,
    }


def _start_here(settings: config.Config, name: str | None, wanted: dict[str, Any]) -> None:
    from qsub_py.node import local

    own = settings.node
    configured = {
        "cpus": own.cpus or None, "mem_bytes": parse_size(own.mem or "0") or None,
        "gpus": own.gpus if own.gpus >= 0 else None, "features": own.features,
        # The default of the configuration is no wish to change a node that runs.
        "queues": () if own.queues == config.NodeConfig().queues else own.queues,
    }  # fmt: skip
    chosen = configured | {key: value for key, value in wanted.items() if value is not None}
    started = local.start(settings, name=_name(name) if name is not None else own.name, **chosen)
    what = "runs already" if started.was_running else "is up"
    if started.was_restarted:
        what = f"runs with other {', '.join(started.changed)}" if started.changed else "is renewed"
    has = f"{started.cpus} cpus, {format_size(started.mem_bytes)}"
    has += f", {started.gpus} gpus" if started.gpus else ""
    has += f", Python {shown_minors(started.pythons)}"
    print(f"node {started.name} {what}: {has}")
    if not started.was_running:
        common.hint("qnode: submit a job with `qsub COMMAND`; `qnode stop` ends the node")


@qnode.command("stop")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--now", is_flag=True, help="Take its tasks away, to run again elsewhere.")
@click.option("--all", "everything", is_flag=True, help="All nodes of the cluster.")
@common.options
def stop(names: tuple[str, ...], now: bool, everything: bool) -> int:
    """Stop this host's nodes (or those named) when what they run has ended."""
    if names and everything:
        raise SpecError("--all takes no names", hint="leave out the one or the other")
    from qsub_py.cli.life import stop

    return stop(common.connect(), names, everything=everything, now=now)


@qnode.command("list")
@click.option("-a", "--all", "everything", is_flag=True, help="Also stopped nodes.")
@click.option("-l", "--long", "is_long", is_flag=True, help="Also host, user, queues, features.")
@click.option("--noheader", is_flag=True, help="Leave the headings out.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@common.options
def list_(everything: bool, is_long: bool, noheader: bool, as_json: bool) -> None:
    """Show the nodes: what they have (used/all), how they are and how they are reached."""
    client = common.connect()
    nodes = client.ask(lambda store: store.nodes(gone=True))
    shown = [node for node in nodes if everything or node.state != "down"]
    if as_json:
        render.show_json([node_json(node) for node in shown])
        return
    if not shown:
        common.complain("no nodes; start one here with `qnode start`")
        return
    render.show(table(shown, is_long=is_long), header=not noheader)


@qnode.command("drain")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--reason", metavar="TEXT", default="", help="Shown in qnode list.")
@common.options
def drain(names: tuple[str, ...], reason: str) -> None:
    """Let nodes start nothing new; what runs goes on."""
    from qsub_py.cli.nodes import chosen, switch

    client = common.connect()
    for node in chosen(client, names):
        switch(client, node, drains=True, reason=reason)
        common.hint(f"qnode: {node.name} drains; it still runs {node.running}")


@qnode.command("limits")
@click.argument("changes", nargs=-1, metavar="[KIND:NAME=N]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@common.options
def limits(changes: tuple[str, ...], as_json: bool) -> None:
    """Show what jobs may use at most, and set it.

    license:matlab=4: of all jobs together; owner:ann=64: cpus that tasks of ann have at once;
    owner:*=32: of everybody else. N `none` removes a limit.
    """
    from qsub_py.cli.limits import limits

    limits(changes, as_json=as_json)


@qnode.command("resume")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@common.options
def resume(names: tuple[str, ...]) -> None:
    """Let drained nodes work again."""
    from qsub_py.cli.nodes import chosen, switch

    client = common.connect()
    for node in chosen(client, names):
        switch(client, node, drains=False)
        common.hint(f"qnode: {node.name} works again")


@qnode.command("restart")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@common.options
def restart(names: tuple[str, ...]) -> int:
    """Restart the agents of this host's nodes, or of those named; jobs go on.

    Nodes on other hosts get the version of qsub_py that is installed here.
    """
    from qsub_py.cli.life import restart

    return restart(config.load(), names)


@qnode.command("ensure")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--install", "does_install", is_flag=True, help="Do so at each boot of this host.")
@click.option("--uninstall", "does_undo", is_flag=True, help="Do so no more.")
@common.options
def ensure(names: tuple[str, ...], does_install: bool, does_undo: bool) -> int:
    """Start what should run and does not: the server, tunnels, nodes here and elsewhere.

    With --install a systemd user unit or a line of the crontab does it at each boot, here or
    on the hosts of the nodes that are named.
    """
    from qsub_py.cli import life

    if does_install and does_undo:
        raise SpecError("--install and --uninstall exclude each other")
    if does_install or does_undo:
        return life.install(config.load(), names, undo=does_undo)
    if names:
        raise SpecError("`qnode ensure` takes names only with --install or --uninstall")
    return life.ensure(config.load())


@qnode.command("doctor")
@click.argument("name", required=False, metavar="[NAME]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@common.options
def doctor(name: str | None, as_json: bool) -> int:
    """Look for what may keep a node (of this host, or NAME) from working; exit code 1 if so."""
    from qsub_py.cli.life import doctor

    return doctor(config.load(), name or "", as_json=as_json)


@qnode.command("logs")
@click.argument("name", required=False, metavar="[NAME]")
@click.option("-n", "--lines", metavar="N", help="How many lines (50).")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written.")
@common.options
def logs(name: str | None, lines: str | None, follow: bool) -> None:
    """Show the log of a node, of this host or another."""
    from qsub_py.cli.life import print_logs

    count = 50 if lines is None else common.whole(lines, "--lines", least=1)
    print_logs(config.load(), name or "", lines=count, follows=follow)


@qnode.group("server")
def server() -> None:
    """The embedded server of this host."""


@server.command("start")
@common.options
def server_start() -> None:
    """Start it, unless it runs."""
    from qsub_py.cli.nodes import start_server

    print(start_server(config.load()))


@server.command("stop")
@common.options
def server_stop() -> None:
    """Stop it; jobs that run go on, and are reported when it is back."""
    from qsub_py.cli.nodes import stop_server

    print(stop_server(config.load()))


@server.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@common.options
def server_status(as_json: bool) -> int:
    """Show how it is; exit code 69 when it does not run."""
    from qsub_py.cli.nodes import show_status

    return show_status(config.load(), as_json=as_json)


def _memory(text: str) -> int:
    size = parse_size(text)
    if size == 0:
        raise SpecError("--mem must be above 0", hint="leave it out for all there is")
    return size


def _name(text: str) -> str:
    from qsub_py.units import check_name

    return check_name(text, what="node name")


def _names(text: str | None, option: str) -> tuple[str, ...]:
    from qsub_py.units import check_name

    words = [word.strip() for word in text.split(",")] if text is not None else []
    return tuple(check_name(word, what=f"word for {option}") for word in words)


def main(words: Sequence[str] | None = None) -> None:
    """Run qnode (console script)."""
    common.main(qnode, words)
