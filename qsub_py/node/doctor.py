"""What may keep a node of this host from working well, and what to do about each."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import qsub_py
from qsub_py.config import Config
from qsub_py.node import hardware, interpreters

OK, WARN, BAD = "ok", "warn", "bad"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    #: "ok", "warn" (works, with a loss), "bad" (does not work).
    verdict: str
    detail: str
    #: What to do, "" when nothing is to be done.
    cure: str = ""


def checks(config: Config) -> list[Check]:
    """Look at everything on this host, the most important first; takes a few seconds."""
    minors = ", ".join(interpreters.find())
    return [
        Check("version", OK, f"qsub_py {qsub_py.__version__}, cluster {config.cluster}"),
        Check("python", OK, f"{sys.executable} ({hardware.python_minor()}); calls: {minors}"),
    ]
