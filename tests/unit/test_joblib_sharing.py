"""Which large arguments of a joblib.Parallel travel once, and what a node makes of them."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from qsub_py.joblib_sharing import Holed, Item, Sharing, make_run


class Data:
    """An argument of some size."""

    def __init__(self, size: int, mark: int = 0) -> None:
        self.nbytes, self.mark = size, mark


def call(*args: Any, **kwargs: Any) -> Item:
    return sorted, args, kwargs


def holes(found: list[Holed]) -> list[list[tuple[int | str, int]]]:
    return [one[3] for one in found]


@pytest.fixture
def sharing() -> Sharing:
    return Sharing(pickle.dumps, 1000)


def test_what_is_large_in_the_first_batch_is_shared(sharing: Sharing) -> None:
    data = Data(1000)
    found = sharing.holed([call(1, data, Data(999), key=data), call(data)])
    assert holes(found) == [[(1, 0), ("key", 0)], [(0, 0)]]
    fn, args, kwargs, _ = found[0]
    assert (fn, args[0], args[1], kwargs) == (sorted, 1, None, {"key": None})
    assert [pickle.loads(part).nbytes for part in sharing.parts] == [1000]
    assert holes(sharing.holed([call(data), call()])) == [[(0, 0)], []]


def test_later_it_is_what_comes_again_with_all_that_came_once(sharing: Sharing) -> None:
    sharing.holed([call(1)])
    folds = [Data(1000, n) for n in range(5)]
    for fold in folds:
        assert holes(sharing.holed([call(fold)])) == [[]]
    assert holes(sharing.holed([call(folds[0])])) != [[]]
    assert len(sharing.parts) == 5
    assert all(holes(sharing.holed([call(fold)])) != [[]] for fold in folds)
    assert len(sharing.parts) == 5


def test_pieces_that_come_once_are_not_shared(sharing: Sharing) -> None:
    for n in range(50):
        sharing.holed([call(Data(1000, n))])
    assert len(sharing.parts) == 1  # the first


def test_what_changes_between_calls_is_another_argument(sharing: Sharing) -> None:
    data = Data(1000)
    assert holes(sharing.holed([call(data)])) == [[(0, 0)]]
    data.mark = 1
    assert holes(sharing.holed([call(data)])) == [[]]
    data.mark = 0
    assert holes(sharing.holed([call(data)])) == [[(0, 0)]]


def test_the_number_of_editions_is_bounded(sharing: Sharing) -> None:
    kept = [Data(1000, n) for n in range(20)]
    for data in kept:
        sharing.holed([call(data)])
        sharing.holed([call(data)])
    assert len(sharing.parts) == 4


def test_sizes_are_those_of_data() -> None:
    numpy = pytest.importorskip("numpy")
    sharing = Sharing(pickle.dumps, 8000)
    values = [numpy.zeros(1000), numpy.zeros(999), "x" * 8000, b"x" * 7999, list(range(9999))]
    assert holes(sharing.holed([call(*values)])) == [[(0, 0), (2, 1)]]


def test_frames_and_sparse_matrices_are_data() -> None:
    frames, sparse = pytest.importorskip("pandas"), pytest.importorskip("scipy.sparse")
    sharing = Sharing(pickle.dumps, 8000)
    values = [frames.DataFrame({"data": [0.5] * 1000}), sparse.eye(1000, format="csr")]
    assert holes(sharing.holed([call(*values)])) == [[(0, 0), (1, 1)]]


def test_each_batch_has_values_of_its_own(sharing: Sharing) -> None:
    joblib = pytest.importorskip("joblib")
    scope = pickle.dumps((joblib.parallel.SequentialBackend(nesting_level=1), None))
    run = make_run((pickle.dumps([1, 2]),), "extend")
    assert run.__name__ == "extend"
    items: Any = [(list.append, [None, 3], {}, [(0, 0)]), (list.copy, [None], {}, [(0, 0)])]
    for _ in range(2):
        assert run(items, scope)[1] == [1, 2, 3]


def test_a_node_needs_neither_joblib_nor_us(tmp_path: Path) -> None:
    run = make_run((pickle.dumps([3, 1]),), "sorted")
    scope = b"cjoblib.parallel\nSequentialBackend\n."
    path = tmp_path / "call"
    path.write_bytes(cloudpickle.dumps((run, [(sorted, [None], {}, [(0, 0)])], scope)))
    where = str(Path(cloudpickle.__file__).parents[1])
    program = (
        "import pickle, sys\n"
        "sys.modules['joblib'] = sys.modules['qsub_py'] = None\n"
        f"sys.path.insert(0, {where!r})\n"
        f"run, items, scope = pickle.load(open({str(path)!r}, 'rb'))\n"
        "print(run(items, scope))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == b"[[1, 3]]\n"
