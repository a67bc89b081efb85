"""Pickle with the user's own code inside: functions, classes and modules travel by value.

A module is the user's own when its file is neither the standard library's, nor an installed
package's, nor ours. Imports cloudpickle, so it is itself imported late.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from types import ModuleType
from typing import Any

import cloudpickle
from cloudpickle.cloudpickle import dynamic_subimport

#: Registering modules is global to the process; two threads must not undo each other's.
_lock = threading.RLock()
_STDLIB = os.path.dirname(os.path.realpath(os.__file__)) + os.sep
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
#: On a host that was sent us in a bundle, what came with us lies beside us and is nobody's own.
_HOME = os.path.realpath(os.path.join(os.path.dirname(__file__), os.pardir, ""))
_BUNDLED = _HOME + os.sep if os.path.exists(os.path.join(_HOME, ".in-use")) else ""
_PACKAGE = __name__.partition(".")[0]
#: What a module's globals need not carry: they describe the file it came from.
_MACHINERY = {"__builtins__", "__loader__", "__spec__", "__cached__"}
PersistentId = Callable[[Any], Any]
_LRU_WRAPPER = type(functools.lru_cache(len))


def dumps(obj: object, persistent_id: PersistentId = lambda obj: None) -> bytes:
    """Pickle `obj`, own code by value; raises whatever its parts raise.

    `persistent_id` says what stands for an object (None: itself), as that of a Pickler.
    A global of an own module that cannot be pickled (a lock, an open file) is left out when
    the module as a whole must travel; a function that uses it then fails by its name.
    """
    with _by_value():
        try:
            return _dump(_Pickler, obj, persistent_id)
        except Exception:
            return _dump(_PrunedPickler, obj, persistent_id)


def is_own(module: ModuleType) -> bool:
    """Whether this module is the user's own code, which a node cannot be expected to have."""
    name = module.__name__
    if name == _PACKAGE or name.startswith(_PACKAGE + "."):
        return False
    file = getattr(module, "__file__", None)
    if isinstance(file, str):
        return _is_own_path(file)
    return any(_is_own_path(os.path.join(path, "")) for path in _namespace_path(module))


def _namespace_path(module: ModuleType) -> list[str]:
    try:
        return [path for path in module.__path__ if isinstance(path, str)]
    except Exception:  # no package, or an object that only poses as a module
        return []


@functools.lru_cache(maxsize=4096)
def _is_own_path(file: str) -> bool:
    if file.startswith("<") or file.endswith(tuple(EXTENSION_SUFFIXES)):
        return False
    real = os.path.realpath(file)
    if _BUNDLED and real.startswith(_BUNDLED):
        return False
    return not any(part in path for part in _INSTALLED for path in (file, real)) and not (
        file.startswith(_STDLIB) or real.startswith(_STDLIB)
    )


@contextlib.contextmanager
def _by_value() -> Iterator[None]:
    """Have cloudpickle take own modules by value meanwhile; leave its registry as it was."""
    with _lock:
        added = []
        before = cloudpickle.list_registry_pickle_by_value()
        for name, module in _own_modules(tuple(map(id, list(sys.modules.values())))):
            if name not in before:
                cloudpickle.register_pickle_by_value(module)
                added.append(module)
        try:
            yield
        finally:
            for module in added:
                cloudpickle.unregister_pickle_by_value(module)


@functools.lru_cache(maxsize=1)
def _own_modules(_: tuple[int, ...]) -> tuple[tuple[str, ModuleType], ...]:
    """Return own modules; looked up again when other modules are imported than before."""
    return tuple(
        (name, module)
        for name, module in list(sys.modules.items())
        if isinstance(module, ModuleType)
        and name != "__main__"
        and module.__name__ == name
        and is_own(module)
    )


def _dump(
    pickler: type[_Pickler], obj: object, persistent_id: PersistentId = lambda obj: None
) -> bytes:
    with io.BytesIO() as file:
        pickler(file, persistent_id).dump(obj)
        return file.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle, for modules that refer to each other and for cached functions."""

    def __init__(self, file: io.BytesIO, persistent_id: PersistentId) -> None:
        self._persistent_id = persistent_id
        super().__init__(file, protocol=5)

    def persistent_id(self, obj: Any) -> Any:
        """Return what stands for an object, None for itself."""
        return self._persistent_id(obj)

    def reducer_override(self, obj: Any) -> Any:
        """Split a module into its making and its content, so that cycles end."""
        if isinstance(obj, ModuleType) and is_own(obj):
            return dynamic_subimport, (obj.__name__, {}), self.module_state(obj)
        if type(obj) is _LRU_WRAPPER and _is_own_function(obj.__wrapped__):
            size, typed = obj.cache_parameters().values()
            info = type(obj.cache_info())
            return _LRU_WRAPPER, (obj.__wrapped__, size, typed, info), vars(obj)
        return super().reducer_override(obj)

    def module_state(self, module: ModuleType) -> dict[str, Any]:
        """Return the globals that travel."""
        return {k: v for k, v in list(vars(module).items()) if k not in _MACHINERY}


class _PrunedPickler(_Pickler):
    """The second try: module globals that cannot be pickled stay behind."""

    def module_state(self, module: ModuleType) -> dict[str, Any]:
        """Return the globals that can travel."""
        state = super().module_state(module)
        return {k: v for k, v in state.items() if isinstance(v, ModuleType) or _can_pickle(v)}


class _ShallowPickler(_Pickler):
    """Probes one global; modules inside it are taken for granted."""

    def module_state(self, module: ModuleType) -> dict[str, Any]:
        """Return nothing: other modules are probed on their own."""
        return {}


def _can_pickle(value: object) -> bool:
    try:
        _dump(_ShallowPickler, value)
    except Exception:
        return False
    return True


def _is_own_function(fn: Any) -> bool:
    name = getattr(fn, "__module__", None)
    module = sys.modules.get(name) if isinstance(name, str) else None
    return name == "__main__" or module is None or is_own(module)


def _renew_after_fork() -> None:
    # A thread that the child does not have may have held it.
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_after_fork)
