"""What a node is, as `qnode start` wrote it into its state directory; its agent reads it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


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
    features: tuple[str, ...] = ()
    queues: tuple[str, ...] = ("main",)

    def save(self, node_dir: Path) -> None:
        """Write it, whole or not at all."""
        text = json.dumps(asdict(self), indent=1)
        new = node_dir / "node.json.new"
        new.touch(mode=0o600)  # a URL may hold a password
        new.write_text(text + "\n", "utf-8")
        os.replace(new, node_dir / "node.json")

    @classmethod
    def load(cls, node_dir: Path) -> NodeSettings:
        """Read it back; OSError or ValueError when it is missing or damaged."""
        raw = json.loads((node_dir / "node.json").read_text("utf-8"))
        raw["features"], raw["queues"] = tuple(raw["features"]), tuple(raw["queues"])
        return cls(**raw)
