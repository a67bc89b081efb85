"""What the keeper tells a runner of a batch."""

from __future__ import annotations

from typing import Any

from qsub_py.node.batch import Batch


def call_order(batch: Batch, serial: int) -> dict[str, Any]:
    """Return the header of the batch for the runner."""
    return {
        "serial": serial,
        "uid": batch.uid,
        "attempt": batch.attempt,
        "tasks": batch.tasks,
        "chunks": batch.chunks,
        "inputs": batch.inputs,
        "fn_key": batch.common["fn_key"],
        "fn_path": batch.common["fn_path"],
    }


def dress(batch: Batch) -> dict[str, Any]:
    """Return what the runner sets around the calls; told when the last batch's was another."""
    common, private = batch.common, batch.common.get("private")
    own = {k: v for k, v in (common["env"] | batch.env).items() if k.startswith("QSUB_")}
    return {
        "env": own,
        "path": common.get("path") or [],
        "cwd": common["cwd"],
        "umask": common["umask"],
        "fetch": common.get("fetch"),
        "private": private and {**private, "dir": batch.env["QSUB_SCRATCH"]},
        "signal": (common.get("notice") or [0])[0],
    }
