"""Module-level `submit` and `map`: one hidden Executor for each set of options.

They own the names of the options; where the function could take one of them too, they
refuse rather than guess.
"""

from __future__ import annotations

import inspect
import os
import threading
import time as clock
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from qsub_py import client as clients
from qsub_py.callspec import Resources, pack_files, read_resources
from qsub_py.executor import Executor, map_calls
from qsub_py.futures import Future
from qsub_py.results import Values

T = TypeVar("T")

OPTIONS = frozenset(inspect.signature(read_resources).parameters) - {"config"}
_executors: dict[Resources, Executor] = {}
_default: Executor | None = None
_lock = threading.Lock()


def submit(fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
    """Run `fn(*args, **kwargs)` on a node and return its Future.

    The keywords cpus, mem, gpus, time, name, priority, queue, nodelist, exclude, constraint,
    licenses, rate, python, env, limit, ship, ship_ignore, fetch, retries, backoff, retry_on,
    on_oom, on_timeout, signal and max_tasks_per_child are those of `Executor`; all others go to
    `fn`. Raises TypeError when `fn` could take one of them itself.
    """
    global _default
    if not kwargs or OPTIONS.isdisjoint(kwargs):
        if _default is None:
            _default = _executor({})
        return _default.submit(fn, *args, **kwargs)
    options, rest = _split(fn, kwargs)
    return _executor(options).submit(fn, *args, **rest)


def map(
    fn: Callable[..., T],
    *iterables: Iterable[Any],
    timeout: float | None = None,
    chunksize: int = 1,
    **options: Any,
) -> Values:
    """Run `fn` on each item as one job; see `Executor.map`, and `submit` for the options."""
    deadline = None if timeout is None else clock.monotonic() + timeout
    if chunksize < 1:
        raise ValueError("chunksize must be >= 1.")
    if unknown := options.keys() - OPTIONS:
        raise TypeError(f"map() got an unexpected keyword argument {min(unknown)!r}")
    client = clients.shared()
    resources = read_resources(client.config, **options)
    parcels = pack_files(resources)
    return map_calls(client, resources, fn, iterables, deadline, parcels)


def _split(fn: Callable[..., Any], kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (options, arguments of the function); TypeError where a name could be either."""
    options = {name: value for name, value in kwargs.items() if name in OPTIONS}
    if clash := sorted(_taken(fn) & options.keys()):
        raise TypeError(
            f"{clash[0]!r} could be meant for submit() or for the function; give resources to "
            f"qsub_py.Executor({clash[0]}=...), or the argument by functools.partial"
        )
    return options, {name: value for name, value in kwargs.items() if name not in OPTIONS}


def _taken(fn: Callable[..., Any]) -> frozenset[str]:
    """Return the names of options that `fn` accepts as keywords."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (ValueError, TypeError):  # a builtin that does not tell
        return frozenset()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return OPTIONS
    return OPTIONS & {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}


def _executor(options: dict[str, Any]) -> Executor:
    with _lock:
        resources = read_resources(clients.shared().config, **options)
        if resources not in _executors:
            _executors[resources] = Executor(**options)
        return _executors[resources]


def _forget_after_fork() -> None:
    global _default, _lock
    _default, _lock = None, threading.Lock()
    _executors.clear()


os.register_at_fork(after_in_child=_forget_after_fork)
