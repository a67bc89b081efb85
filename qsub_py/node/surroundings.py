"""What a job finds on this node: its interpreter, its environment, its devices.

The order in which a Python is looked for:

1. `--python`, `--env` of the job: that or none.
2. The submitter's own, if it is in a virtual or conda environment which exists here as well.
3. That of the node's environment (`qnode start --env`).
4. The submitter's own, if it exists here.
5. For calls, any of the same minor version; for scripts, the agent's.

One of another minor version is passed over for calls: their bytes are made for one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from qsub_py import activation
from qsub_py.model import JobSpec
from qsub_py.node import interpreters
from qsub_py.node.settings import NodeSettings


def interpreter(spec: JobSpec, settings: NodeSettings) -> str:
    """Return the Python that runs a call or a .py script here."""
    if spec.python:
        return spec.python
    own = os.path.join(settings.env, "bin", "python") if settings.env else ""
    choices = [spec.python_hint, own] if _has_environment(spec.python_hint) else [
        own, spec.python_hint
    ]  # fmt: skip
    for path in choices:
        if path and os.access(path, os.X_OK) and _fits(path, spec.python_minor):
            return path
    return settings.pythons.get(spec.python_minor, sys.executable)


def _fits(path: str, minor: str) -> bool:
    return not minor or interpreters.of(path) == minor


def _has_environment(python: str) -> bool:
    """Whether an interpreter lies in a virtual or conda environment of this host."""
    prefix = os.path.dirname(os.path.dirname(python))
    marks = ("pyvenv.cfg", "conda-meta")
    return any(os.path.exists(os.path.join(prefix, mark)) for mark in marks) if python else False


def environment(env: dict[str, str], spec: JobSpec, settings: NodeSettings) -> dict[str, str]:
    """Return a job's variables with the node's environment activated.

    An environment that is active in the job's own variables stays when it exists here, or was
    asked for (`qsub --env`); else it is taken out, for its paths lead nowhere.
    """
    if not settings.env or spec.python or activation.active_here(env):
        return env
    return activation.activated(activation.stripped(env), settings.env)


def gpu_variables(numbers: Sequence[int], spec: JobSpec, settings: NodeSettings) -> dict[str, str]:
    """Return the variables that show a job its gpus and no other; without any, none."""
    found = {"CUDA_VISIBLE_DEVICES": ",".join(settings.device(number) for number in numbers)}
    if numbers and "CUDA_DEVICE_ORDER" not in spec.env:
        # By itself CUDA numbers the fastest first, nvidia-smi by slot.
        found["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    return found
