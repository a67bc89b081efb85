"""What a task of a sweep gets of its own: variables, words, arguments, files, a reason to skip."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterable
from typing import Any

from qsub_py.errors import PayloadError, SpecError
from qsub_py.model import Batch, JobSpec
from qsub_py.payload import join_calls
from qsub_py.points import Points
from qsub_py.signing import Keyring
from qsub_py.store_core import StoreCore
from qsub_py.sweep import Params
from qsub_py.sweep_fill import fill, text_of
from qsub_py.sweep_words import read_arguments
from qsub_py.text import expand_pattern


class Special:
    """What is not the same for all tasks of a job; `points` is None in an array."""

    def __init__(self, job: int, spec: JobSpec, points: Points | None, node: str) -> None:
        self._job, self._spec, self._points, self._node = job, spec, points, node
        self._has_words = any("{" in word for word in spec.argv)
        self._at, self._params = -1, Params()
        self._epoch, self._attempt = 0, 1

    @property
    def is_sweep(self) -> bool:
        """Whether its tasks have parameters."""
        return self._points is not None

    def begin(self, batch: Batch) -> None:
        """Get ready for the tasks of a batch."""
        if batch.epoch != self._epoch and self._points is not None:
            # The server may have lost its last writes, and been given other grids since.
            self._points.forget()
            self._at = -1
        self._epoch, self._attempt = batch.epoch, batch.attempt

    def params(self, position: int) -> Params:
        """Return the parameters of a task; {} in an array."""
        if self._points is not None and position != self._at:
            self._at, self._params = position, self._points.of(position)
        return self._params

    def dress(self, task: dict[str, Any], position: int, argv: list[str]) -> None:
        """Give a task its variables and words; `argv` is what all tasks have in common."""
        params = self.params(position)
        if self._points is not None:
            count = self._points.end(position)
            task["env"] |= {"QSUB_TASK_COUNT": str(count), "QSUB_TASK_MAX": str(count - 1)}
            task["env"] |= variables(params)
            if self._has_words and argv:
                head = len(argv) - len(self._spec.argv)
                task["argv"] = [*argv[:head], *(fill(word, params) for word in self._spec.argv)]
        # What an attempt before this one left may be half a file.
        if self._spec.skip_if_exists and self._attempt == 1:
            path = self.pattern(self._spec.skip_if_exists, position)
            task["skip"] = os.path.join(self._spec.cwd, path)

    def pattern(self, pattern: str, position: int) -> str:
        """Return the path of a task that a pattern means."""
        spec = self._spec
        path = expand_pattern(
            pattern, job=self._job, index=spec.index(position), name=spec.name, user=spec.owner,
            node=self._node, is_array=spec.is_array,
        )  # fmt: skip
        return fill(path, self.params(position))

    def chunk(self, positions: Iterable[int]) -> bytes:
        """Return the arguments of these calls, as a client would have packed them."""
        return join_calls([self._call(position) for position in positions])

    def _call(self, position: int) -> bytes:
        params = self.params(position)
        names = self._points.keywords if self._points is not None else ()
        try:
            args, kwargs = read_arguments(self._spec.argv, params)
        except SpecError as error:  # was checked at submit
            raise PayloadError(f"the arguments of task {position}: {error}") from error
        return pickle.dumps((args, {**kwargs, **{name: params[name] for name in names}}), 5)


def special_of(
    job: int, uid: str, spec: JobSpec, store: StoreCore, ring: Keyring, node: str
) -> Special | None:
    """Return what the tasks of a job have of their own, None in an ordinary array."""
    if not spec.sweep:
        return Special(job, spec, None, node) if spec.skip_if_exists else None
    points = Points(lambda request: request(store), ring, store.cluster,
                    job=job, uid=uid, sweep=spec.sweep)  # fmt: skip
    return Special(job, spec, points, node)


def variables(params: Params) -> dict[str, str]:
    """Return QSUB_PARAMS (JSON), and each parameter under its name as written and in capitals."""
    env = {"QSUB_PARAMS": json.dumps(params, separators=(",", ":"))}
    for name, value in params.items():
        env[f"QSUB_PARAM_{name}"] = env[f"QSUB_PARAM_{name.upper()}"] = text_of(value)
    return env
