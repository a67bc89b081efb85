"""qnode: start, stop and look at nodes, and at the embedded server."""

from __future__ import annotations

from collections.abc import Sequence

import click

from qsub_py import config, render
from qsub_py.cli import common
from qsub_py.cli.shapes import RIGHT, node_json
from qsub_py.errors import SpecError
from qsub_py.model import NodeInfo
from qsub_py.units import format_size, parse_size

_HEADINGS = (
    "NAME",
    "STATE",
    "CPUS",
    "FREE",
    "MEM",
    "GPUS",
    "RUNNING",
    "QUEUES",
    "FEATURES",
    "REASON",
)
_LIVE = ("up", "draining")


@click.group("qnode")
@common.options
def qnode() -> None:
    """Start, stop and look at the nodes that run jobs."""


@qnode.command("start")
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@click.option("--cpus", metavar="N", help="Processors that jobs may use (all).")
@click.option("--mem", metavar="SIZE", help="Memory that jobs may use (all).")
@click.option("--gpus", metavar="N", help="GPUs that jobs may use (all).")
@click.option("--name", metavar="NAME", help="Name of the node (the host's).")
@click.option("--features", metavar="WORD,...", help="Words that jobs can ask for.")
@click.option("--queues", metavar="NAME,...", help="Queues that it serves (main).")
@common.options
def start(hosts: tuple[str, ...], cpus: str | None, mem: str | None, gpus: str | None,
          name: str | None, features: str | None, queues: str | None) -> None:  # fmt: skip
    """Start a node on this host; one that runs already is left alone."""
    if hosts:
        raise SpecError("`qnode start HOST` is not supported yet",
                        hint="log in there and run `qnode start`")  # fmt: skip
    settings = config.load()
    wanted = settings.node
    size = _memory(mem, wanted.mem)
    cpu_count = (
        common.whole(cpus, "--cpus", least=1, most=4096) if cpus is not None else wanted.cpus
    )
    gpu_count = (
        common.whole(gpus, "--gpus", least=0, most=1024) if gpus is not None else wanted.gpus
    )
    from qsub_py.node import local

    started = local.start(
        settings,
        name=_name(name) if name is not None else wanted.name,
        cpus=cpu_count or None,
        mem_bytes=size,
        gpus=None if gpu_count < 0 else gpu_count,
        features=_names(features, "--features") or wanted.features,
        queues=_names(queues, "--queues") or wanted.queues,
    )
    what = "runs already" if started.was_running else "is up"
    has = f"{started.cpus} cpus, {format_size(started.mem_bytes)}"
    has += f", {started.gpus} gpus" if started.gpus else ""
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
    from qsub_py.cli.nodes import chosen, stop_nodes

    client = common.connect()
    return stop_nodes(client, chosen(client, names, everything=everything), now=now)


@qnode.command("list")
@click.option("-a", "--all", "everything", is_flag=True, help="Also stopped nodes.")
@click.option("--noheader", is_flag=True, help="Leave the headings out.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@common.options
def list_(everything: bool, noheader: bool, as_json: bool) -> None:
    """Show the nodes."""
    client = common.connect()
    nodes = client.ask(lambda store: store.nodes(gone=True))
    shown = [node for node in nodes if everything or node.state != "down"]
    if as_json:
        render.show_json([node_json(node) for node in shown])
        return
    if not shown:
        common.complain("no nodes; start one here with `qnode start`")
        return
    render.show(render.Table(_HEADINGS, tuple(map(_row, shown)), RIGHT), header=not noheader)


def _row(node: NodeInfo) -> tuple[str, ...]:
    is_live = node.state in _LIVE
    return (
        node.name, node.state, str(node.cpus), str(node.cpus_free) if is_live else "-",
        format_size(node.mem_bytes), str(node.gpus), str(node.running) if is_live else "-",
        ",".join(node.queues), ",".join(node.features), node.reason,
    )  # fmt: skip


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
def restart(names: tuple[str, ...]) -> None:
    """Restart the agents of this host's nodes, for instance after an upgrade; jobs go on."""
    from qsub_py.cli.nodes import restart_local

    for name in restart_local(config.load(), names):
        print(f"node {name} is up again")


@qnode.command("logs")
@click.argument("name", required=False, metavar="[NAME]")
@click.option("-n", "--lines", metavar="N", help="How many lines (50).")
@common.options
def logs(name: str | None, lines: str | None) -> None:
    """Show the log of a node of this host."""
    from qsub_py.cli.nodes import print_logs

    count = 50 if lines is None else common.whole(lines, "--lines", least=1)
    print_logs(config.load(), name, count)


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


def _memory(text: str | None, configured: str) -> int | None:
    size = parse_size(text if text is not None else configured or "0")
    if text is not None and size == 0:
        raise SpecError("--mem must be above 0", hint="leave it out for all there is")
    return size or None


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
