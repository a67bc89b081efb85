"""A batch job system in Python: `submit`, `map`, `Executor`, `Job`.

Names are imported when first used (PEP 562), so `import qsub_py` costs next to nothing.
"""

from __future__ import annotations

#: As in typing, whose import would cost more than all the rest here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import ALL_COMPLETED as ALL_COMPLETED
    from concurrent.futures import FIRST_COMPLETED as FIRST_COMPLETED
    from concurrent.futures import FIRST_EXCEPTION as FIRST_EXCEPTION
    from concurrent.futures import CancelledError as CancelledError
    from concurrent.futures import as_completed as as_completed
    from concurrent.futures import wait as wait
    from typing import Any

    from qsub_py.calls import map as map
    from qsub_py.calls import submit as submit
    from qsub_py.errors import QsubError as QsubError
    from qsub_py.executor import Executor as Executor
    from qsub_py.failures import DependencyFailed as DependencyFailed
    from qsub_py.failures import NodeLost as NodeLost
    from qsub_py.failures import RemoteError as RemoteError
    from qsub_py.failures import TaskOutOfMemory as TaskOutOfMemory
    from qsub_py.failures import TaskTimeout as TaskTimeout
    from qsub_py.futures import Future as Future
    from qsub_py.inside import Requeue as Requeue
    from qsub_py.inside import checkpoint as checkpoint
    from qsub_py.joblib_register import register_joblib as register_joblib
    from qsub_py.jobs import Job as Job

__version__ = "0.1.0"

#: module: the names it gives.
_NAMES = {
    "qsub_py.calls": ("submit", "map"),
    "qsub_py.executor": ("Executor",),
    "qsub_py.futures": ("Future",),
    "qsub_py.inside": ("Requeue", "checkpoint"),
    "qsub_py.jobs": ("Job",),
    "qsub_py.joblib_register": ("register_joblib",),
    "qsub_py.errors": ("QsubError",),
    "qsub_py.failures": (
        "DependencyFailed",
        "NodeLost",
        "RemoteError",
        "TaskOutOfMemory",
        "TaskTimeout",
    ),
    "concurrent.futures": (
        "as_completed",
        "wait",
        "CancelledError",
        "ALL_COMPLETED",
        "FIRST_COMPLETED",
        "FIRST_EXCEPTION",
    ),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
