"""sinfo: the queues (Slurm's partitions) and the nodes that serve them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from qsub_py.cli import common
from qsub_py.cli.shims import args
from qsub_py.cli.shims.looking import nodes
from qsub_py.cli.shims.slurm_format import Column, by_letters, lines
from qsub_py.errors import SpecError
from qsub_py.nodeinfo import NodeInfo
from qsub_py.text import safe

_SINFO = (
    ("-h --noheader", 0), ("-o --format", 1), ("-N --Node", 0), ("-l --long", 0),
    ("-p --partition", 1), ("-n --nodes", 1), ("-t --states", 1), ("-s --summarize", 0),
    ("-a --all", 0), ("-r --responding", 0), ("-e --exact", 0), ("-M --clusters --cluster", 1),
    ("-v --verbose", 0), ("-S --sort", 1), ("-d --dead", 0),
)  # fmt: skip
_USUAL, _BY_NODE = "%9P %.5a %.10l %.6D %.6t %N", "%.15N %.6D %.9P %6t"
_MAIN = "main"
_LONG = {"mix": "mixed", "alloc": "allocated", "drng": "draining", "drain": "drained"}


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes of one queue in one state."""

    queue: str
    state: str
    nodes: tuple[NodeInfo, ...]


def _range(numbers: Sequence[int]) -> str:
    least = min(numbers)
    return f"{least}" if least == max(numbers) else f"{least}+"


def _cpus(group: Group) -> str:
    total = sum(node.cpus for node in group.nodes)
    idle = sum(node.cpus_free for node in group.nodes) if group.state in ("idle", "mix") else 0
    other = total if group.state in ("down", "drain") else 0
    return f"{total - idle - other}/{idle}/{other}/{total}"


LETTERS: dict[str, Column[Group]] = {
    "P": Column("PARTITION", lambda group: group.queue + "*" * (group.queue == _MAIN)),
    "R": Column("PARTITION", lambda group: group.queue),
    "a": Column("AVAIL", lambda group: "up"),
    "l": Column("TIMELIMIT", lambda group: "infinite"),
    "D": Column("NODES", lambda group: str(len(group.nodes))),
    "t": Column("STATE", lambda group: group.state),
    "T": Column("STATE", lambda group: _LONG.get(group.state, group.state)),
    "N": Column("NODELIST", lambda group: ",".join(node.name for node in group.nodes)),
    "n": Column("HOSTNAMES", lambda group: ",".join(node.host for node in group.nodes)),
    "c": Column("CPUS", lambda group: _range([node.cpus for node in group.nodes])),
    "m": Column("MEMORY", lambda group: _range([node.mem_bytes >> 20 for node in group.nodes])),
    "G": Column("GRES", lambda group: f"gpu:{n}" if (n := group.nodes[0].gpus) else "(null)"),
    "C": Column("CPUS(A/I/O/T)", _cpus),
    "f": Column("AVAIL_FEATURES", lambda group: ",".join(group.nodes[0].features) or "(null)"),
    "E": Column("REASON", lambda group: group.nodes[0].reason or "none"),
    "O": Column("CPU_LOAD", lambda group: f"{group.nodes[0].load or 0:.2f}"),
}


def sinfo(words: Sequence[str]) -> int:
    """Print the queues with their nodes, by state; with --Node each node by itself."""
    asked = args.read_getopt(words, _SINFO)
    if asked.words:
        raise SpecError(f"sinfo: {asked.words[0]!r} is no option")
    usual = _BY_NODE if asked.has("-N") else _USUAL
    fields = by_letters(asked.last("-o") or usual, LETTERS, "sinfo")
    found = nodes(common.connect())
    rows = grouped(
        found, queues=asked.all("-p"), names=asked.all("-n"), states=asked.all("-t"),
        is_each=asked.has("-N"),
    )  # fmt: skip
    for line in lines(fields, rows, header=not asked.has("-h")):
        print(safe(line))
    return 0


def state_of(node: NodeInfo) -> str:
    """Return Slurm's word for how a node is."""
    if node.state == "draining":
        return "drng" if node.running else "drain"
    if node.state != "up":
        return "down"
    if node.cpus_free == node.cpus:
        return "idle"
    return "mix" if node.cpus_free > 0 else "alloc"


def grouped(
    found: Sequence[NodeInfo], *, queues: Sequence[str] = (), names: Sequence[str] = (),
    states: Sequence[str] = (), is_each: bool = False,
) -> list[Group]:  # fmt: skip
    """Return the nodes of each queue by their states."""
    pairs = sorted(
        (queue, state_of(node), node.name, at)
        for at, node in enumerate(found) for queue in node.queues or (_MAIN,)
        if (not queues or queue in queues) and (not names or node.name in names)
    )  # fmt: skip
    wanted = {word.lower() for word in states}
    groups: list[Group] = []
    for (queue, state), part in groupby(pairs, key=lambda pair: pair[:2]):
        members = tuple(found[at] for *_, at in part)
        if not wanted or {state, _LONG.get(state, state)} & wanted:
            each = [(one,) for one in members] if is_each else [members]
            groups += [Group(queue, state, some) for some in each]
    return groups
