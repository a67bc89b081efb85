"""Pack what a call returned or raised, so that the client can rebuild it."""

from __future__ import annotations

import importlib.util
import pickle
import sys
import traceback
import types
from typing import Any

Error = dict[str, Any]


def load_by_path(name: str, path: str) -> types.ModuleType:
    """Import a module, or package, from a file that need not be on sys.path."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class Results:
    """Packs what calls return or raise, so that the client can rebuild it."""

    def __init__(self, culprit_path: str) -> None:
        self._culprit_path = culprit_path

    def dumps(self, value: object) -> bytes:
        """Pickle plainly, or by value what the client could not import (`__main__`, ...)."""
        try:
            return pickle.dumps(value, 5)
        except Exception:
            import cloudpickle

            data: bytes = cloudpickle.dumps(value, 5)
            return data

    def value(self, value: object) -> tuple[int, bytes, str]:
        """Return (kind, bytes, what went wrong) of a result."""
        try:
            return 1, self.dumps(value), ""
        except Exception as error:
            text = f"{self._describe(value)}: {error}"
            failure = {"type": "PicklingError", "module": "pickle", "text": text}
            return 2, pickle.dumps({**failure, "traceback": "", "pickle": None}, 5), text

    def _describe(self, value: object) -> str:
        try:
            name = "_qsub_culprit"
            module = sys.modules.get(name) or load_by_path(name, self._culprit_path)
            text: str = module.describe("the result", value, self.dumps)
            return text
        except Exception:
            return f"the result of type {type(value).__qualname__} cannot be pickled"

    def error(self, error: BaseException) -> tuple[bytes, str]:
        """Return (bytes, one line) of an exception; one that cannot travel goes as text."""
        kind = type(error)
        try:
            text = str(error)
        except Exception:
            text = "<its text cannot be made>"
        # The first frame is ours.
        trace = error.__traceback__.tb_next if error.__traceback__ else None
        lines = "".join(traceback.format_exception(kind, error, trace))
        try:
            packed: bytes | None = self.dumps(error)
        except Exception:
            packed = None
        failure: Error = {"type": kind.__qualname__, "module": kind.__module__, "text": text}
        failure.update(traceback=lines, pickle=packed)
        line = f"{kind.__qualname__}: {text}".splitlines()[0].removesuffix(": ")
        return pickle.dumps(failure, 5), line[:500]
