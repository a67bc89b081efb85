"""Large arguments that the calls of one joblib.Parallel have in common travel once.

The data of a grid search are an argument of every fit. Here such arguments become part of the
function, which a node gets once for each job; a call has a hole in their place. Knows nothing
of joblib, and `make_run` makes what runs on a node, which need not have qsub_py.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

#: A function with its arguments, as joblib has it.
Item = tuple[Callable[..., Any], Sequence[Any], dict[str, Any]]
#: The same with holes: (position or keyword, number of the part that belongs there).
Holed = tuple[Callable[..., Any], list[Any], dict[str, Any], list[tuple[int | str, int]]]

#: Smaller arguments just go with their call.
LEAST_BYTES = 64 << 10
#: What is shared beyond this would weigh on the server's memory as one piece.
_MOST_BYTES = 256 << 20
#: Each time something is added, all of it travels again.
_MOST_EDITIONS = 4


class Sharing:
    """What is shared so far.

    Everything large in the first batch, and later what is met a second time: the folds of a
    cross-validation are, the pieces of a divided array are not. Arguments are told apart by
    content, so that one that is changed between two calls is another one.
    """

    def __init__(self, dumps: Callable[[object], bytes], least_bytes: int = LEAST_BYTES) -> None:
        self._dumps, self._least = dumps, least_bytes
        #: Pickled, so that each batch has values of its own, which it may change.
        self.parts: list[bytes] = []
        self._numbers: dict[bytes, int] = {}
        self._seen: dict[bytes, weakref.ref[Any]] = {}
        self._editions = 0

    def holed(self, items: Sequence[Item]) -> list[Holed]:
        """Return calls with holes where they have arguments that are shared, as of now."""
        known: dict[int, int | None] = {}
        before = len(self.parts)
        found: list[Holed] = []
        for fn, args, kwargs in items:
            places: dict[int | str, Any] = dict([*enumerate(args), *kwargs.items()])
            holes: list[tuple[int | str, int]] = []
            for where, value in places.items():
                if _weight(value) < self._least:
                    continue
                if id(value) not in known:
                    known[id(value)] = self._number(value)
                if (number := known[id(value)]) is not None:
                    holes.append((where, number))
                    places[where] = None
            rest = [places[where] for where in range(len(args))]
            found.append((fn, rest, {name: places[name] for name in kwargs}, holes))
        self._editions += len(self.parts) > before or not self._editions
        return found

    def _number(self, value: object) -> int | None:
        """Return the number of the part that is this value, None when it is not shared."""
        data = self._dumps(value)
        digest = hashlib.sha256(data).digest()
        if digest in self._numbers or self._editions == 0:
            return self._add(digest, data)
        if digest in self._seen and self._editions < _MOST_EDITIONS:
            # What else was met once may well come again, too: all in one edition.
            for other in [ref() for ref in self._seen.values()]:
                if other is not None and other is not value:
                    packed = self._dumps(other)
                    self._add(hashlib.sha256(packed).digest(), packed)
            self._seen.clear()
            return self._add(digest, data)
        with suppress(TypeError):  # not every type can be referred to weakly
            self._seen[digest] = weakref.ref(value)
        return None

    def _add(self, digest: bytes, data: bytes) -> int | None:
        if digest in self._numbers:
            return self._numbers[digest]
        if sum(map(len, self.parts)) + len(data) > _MOST_BYTES:
            return None
        self.parts.append(data)
        self._numbers[digest] = len(self.parts) - 1
        return self._numbers[digest]


def _weight(value: object) -> int:
    """Return about how many bytes a value has: arrays, frames, sparse matrices; else 0."""
    return max(_sizes(value), default=0)


def _sizes(value: object) -> Iterator[int]:
    if isinstance(value, (bytes, bytearray, str)):
        yield len(value)
    with suppress(Exception):  # whatever the attributes of others' types may do
        for holder in (value, getattr(value, "data", None)):
            size = getattr(holder, "nbytes", None)
            if isinstance(size, int):
                yield size
        usage: Any = getattr(type(value), "memory_usage", None)
        if usage is not None:  # a frame of pandas
            yield int(usage(value, index=False).sum())


def make_run(parts: Sequence[bytes], name: str) -> Callable[[list[Holed], bytes], list[Any]]:
    """Return the function that runs a batch on a node; it takes holed calls and a pickled scope.

    The scope is (backend, n_jobs) for what the calls themselves do in parallel; it is passed
    over where joblib is not installed.
    """

    def run(items: list[Any], scope: bytes) -> list[Any]:
        import pickle
        from contextlib import nullcontext

        try:
            from joblib import parallel_config

            backend, n_jobs = pickle.loads(scope)
            context = parallel_config(backend=backend, n_jobs=n_jobs)
        except ImportError:
            context = nullcontext()
        values: dict[int, Any] = {}
        results = []
        with context:
            for fn, args, kwargs, holes in items:
                for where, number in holes:
                    if number not in values:
                        values[number] = pickle.loads(parts[number])
                    (args if isinstance(where, int) else kwargs)[where] = values[number]
                results.append(fn(*args, **kwargs))
        return results

    run.__name__ = run.__qualname__ = name
    run.__module__ = "__main__"  # so it travels by value
    return run
