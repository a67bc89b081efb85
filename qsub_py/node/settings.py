"""What a node is, as `qnode start` wrote it into its state directory; its agent reads it.

A file of another version is read as far as it is understood: what is missing has its default,
what is unknown is left out.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from qsub_py.node.gpus import Gpu


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """The identity and size of a node, and where its server is."""

    uid: str
    name: str
    cpus: int
    mem_bytes: int
    gpus: int
    cluster: str
    #: "": the embedded server of this host.
    url: str = ""
    #: Words that the user gave; what was found on the machine comes on top.
    features: tuple[str, ...] = ()
    queues: tuple[str, ...] = ("main",)
    #: How the host is called where `qnode start HOST` was run.
    alias: str = ""
    #: How the node reaches the server: "local", "tunnel", "direct", "ssh".
    way: str = "local"
    #: Directory of the virtual or conda environment that jobs get here.
    env: str = ""
    #: Whether gpus that processes outside the queue use are given to nobody.
    avoid_busy_gpus: bool = False
    #: Minor version -> an interpreter of it ("3.11" -> "/usr/bin/python3.11").
    pythons: dict[str, str] = field(default_factory=dict)
    #: What is known of each gpu, by our number; the user may have said that there are more.
    devices: tuple[Gpu, ...] = ()

    def device(self, number: int) -> str:
        """Return what CUDA calls gpu `number` of this node."""
        return self.devices[number].device if number < len(self.devices) else str(number)

    def save(self, node_dir: Path) -> None:
        """Write it, whole or not at all."""
        text = json.dumps(asdict(self), indent=1)
        new = node_dir / "node.json.new"
        new.touch(mode=0o600)  # a URL may hold a password
        new.write_text(text + "\n", "utf-8")
        os.replace(new, node_dir / "node.json")

    @classmethod
    def load(cls, node_dir: Path) -> NodeSettings:
        """Read it back; OSError, ValueError or TypeError when it is missing or damaged."""
        raw = json.loads((node_dir / "node.json").read_text("utf-8"))
        if not isinstance(raw, dict):
            raise ValueError(f"{node_dir}/node.json holds no settings")
        known = _known(cls, raw)
        for name, value in known.items():
            if isinstance(value, list):
                known[name] = tuple(value)
        known["devices"] = tuple(Gpu(**_known(Gpu, row)) for row in known.get("devices", ()))
        return cls(**known)


def _known(kind: type[NodeSettings] | type[Gpu], raw: dict[str, Any]) -> dict[str, Any]:
    """Return what this version knows of a record."""
    return {f.name: raw[f.name] for f in fields(kind) if f.name in raw}
