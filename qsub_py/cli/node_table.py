"""The table of `qnode list`: one row a node."""

from __future__ import annotations

from collections.abc import Sequence

from qsub_py.model import NodeInfo
from qsub_py.reasons import gpus_outside
from qsub_py.render import Table
from qsub_py.units import format_size

_SHORT = ("NAME", "STATE", "CPUS", "MEM", "GPUS", "LOAD", "RUNNING", "PYTHON", "VERSION", "LEASE",
          "WAY", "REASON")  # fmt: skip
_LONG = (*_SHORT[:-1], "HOST", "USER", "QUEUES", "FEATURES", "REASON")
_RIGHT = frozenset({"CPUS", "MEM", "GPUS", "LOAD", "RUNNING", "LEASE"})
_LIVE = ("up", "draining")


def table(nodes: Sequence[NodeInfo], *, is_long: bool = False) -> Table:
    """Return nodes as a table; what a node that is gone has of it is `-`."""
    headings = _LONG if is_long else _SHORT
    cells = [_cells(node) for node in nodes]
    return Table(headings, tuple(tuple(row[name] for name in headings) for row in cells), _RIGHT)


def _cells(node: NodeInfo) -> dict[str, str]:
    is_live = node.state in _LIVE
    used = {
        "CPUS": f"{node.cpus - node.cpus_free}/{node.cpus}",
        "MEM": f"{_size(node.mem_bytes - node.mem_free_bytes)}/{format_size(node.mem_bytes)}",
        "GPUS": f"{node.gpus - len(node.gpus_free)}/{node.gpus}" if node.gpus else "0",
        "LOAD": "-" if node.load is None else f"{node.load:.2f}",
        "RUNNING": str(node.running),
        "LEASE": f"{node.lease_left_s:.0f}s",
        "WAY": node.way or "-",
    }
    gone = {"CPUS": str(node.cpus), "MEM": format_size(node.mem_bytes), "GPUS": str(node.gpus)}
    return {
        **(used if is_live else dict.fromkeys(used, "-") | gone),
        "NAME": node.name,
        "STATE": node.state,
        "PYTHON": shown_minors(node.pythons) or "-",
        "VERSION": node.version or "-",
        "HOST": node.alias or node.host,
        "USER": node.user,
        "QUEUES": ",".join(node.queues),
        "FEATURES": ",".join(node.features),
        "REASON": _reason(node),
    }


def _size(size_bytes: int) -> str:
    return format_size(size_bytes) if size_bytes > 0 else "0"


def _reason(node: NodeInfo) -> str:
    reasons = [node.reason, gpus_outside(node) if node.state in _LIVE else ""]
    return "; ".join(filter(None, reasons))


def shown_minors(pythons: Sequence[str]) -> str:
    """Return minor versions in short: "3.10-3.13", "3.9,3.11"."""
    minors = sorted(int(minor.partition(".")[2]) for minor in pythons if minor.startswith("3."))
    runs: list[list[int]] = []
    for minor in minors:
        if runs and minor == runs[-1][1] + 1:
            runs[-1][1] = minor
        else:
            runs.append([minor, minor])
    return ",".join(f"3.{a}" if a == b else f"3.{a}-3.{b}" for a, b in runs)
