"""A node as clients see it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node as the store has it now."""

    uid: str
    name: str
    host: str
    #: "up", "draining", "lost" (its lease lapsed), "down" (stopped).
    state: str
    cpus: int
    cpus_free: int
    mem_bytes: int
    mem_free_bytes: int
    gpus: int
    features: tuple[str, ...]
    queues: tuple[str, ...]
    pythons: tuple[str, ...]
    running: int
    version: str
    lease_left_s: float
    reason: str
    user: str = ""
    started_at: float = 0.0
    #: Devices that no task has, and those that processes outside of the queue use.
    gpus_free: tuple[int, ...] = ()
    gpus_busy: tuple[int, ...] = ()
    gpus_why: str = ""  # why that is not known
    #: Load average of the last minute, None of a node that does not tell.
    load: float | None = None
    way: str = ""  # to the server: local, tunnel, direct, ssh
    alias: str = ""
    boot: str = ""
