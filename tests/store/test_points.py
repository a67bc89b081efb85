"""Points of a job's sweep as client and node read them: fetched when needed, and verified."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from qsub_py.errors import PayloadError, SignatureError
from qsub_py.points import Points
from qsub_py.signing import Key, Keyring, sign
from qsub_py.sweep import Sweep
from qsub_py.sweep_rows import from_lines, pack
from qsub_py.sweep_text import combined, parse_axis
from store.driver import Cluster

KEY = Key.new()


def sweep(*texts: str) -> Sweep:
    return combined([parse_axis(text) for text in texts])


@dataclass
class Study:
    """A sweep in the store, and how often it was asked for something."""

    cluster: Cluster
    first: Sweep
    asked: int = 0
    job: int = field(init=False)

    def __post_init__(self) -> None:
        packed = pack(self.first)
        self.job = self.cluster.submit(self.first.count, sweep=packed.sweep.plain(),
                                       is_array=True, pages=packed.pages)  # fmt: skip
        self.points = self.read()

    def read(self) -> Points:
        def ask(request: Any) -> Any:
            self.asked += 1
            return request(self.cluster.store)

        plain = pack(self.first).sweep.plain()
        uid = self.cluster.uid(self.job)
        return Points(ask, Keyring(KEY), self.cluster.name, job=self.job, uid=uid, sweep=plain)

    def extend(self, more: Sweep, *, key: Key = KEY, uid: str = "", first: int = -1) -> None:
        at = self.cluster.store.job(self.job).total
        packed, real = pack(more), self.cluster.uid(self.job)
        data = json.dumps(packed.sweep.plain()).encode()
        said = b"%d" % (at if first < 0 else first)
        signature = sign(
            key, "grid", self.cluster.name, uid or real, said, b"%d" % more.count, data
        )
        assert self.cluster.store.extend(
            self.job, real, at, more.count, data, signature, packed.pages
        )


def test_grids_are_fetched_when_first_needed(cluster: Cluster) -> None:
    study = Study(cluster, sweep("a=1:3", "b=x,y"))
    study.extend(sweep("b=z", "a=1:2"))
    study.extend(sweep("a=7:8", "b=y"))
    points = study.points
    assert points.of(5) == {"a": 3, "b": "y"} and study.asked == 0
    assert list(points.of(9).items()) == [("a", 8), ("b", "y")] and study.asked == 1
    assert list(points.of(6).items()) == [("a", 1), ("b", "z")] and study.asked == 2
    assert [points.of(at)["a"] for at in range(10)] == [1, 1, 2, 2, 3, 3, 1, 2, 7, 8]
    assert study.asked == 2 and (points.end(0), points.end(7), points.end(9)) == (6, 8, 10)
    assert [first for first, _ in study.read().all()] == [0, 6, 8]
    with pytest.raises(PayloadError, match="task 10 are missing"):
        points.of(10)


def test_rows_come_page_by_page(cluster: Cluster) -> None:
    lines = [f"line {n}, which is rather long" for n in range(3000)]
    study = Study(cluster, Sweep((from_lines("\n".join(lines), "f"),)))
    study.extend(Sweep((from_lines("\n".join(line.upper() for line in lines), "f"),)))
    assert study.points.of(2999) == {"line": lines[2999]}
    assert study.points.of(5999) == {"line": lines[2999].upper()}
    assert study.asked == 6, "a name and two pieces, then a grid and two pieces"


def test_a_larger_sample_of_the_same_rows(cluster: Cluster) -> None:
    table = from_lines("\n".join(f"line {n}, which is rather long" for n in range(3000)), "f")
    study = Study(cluster, Sweep((table,), sample=(3, 1)))
    (_, known), *_ = study.points.all()
    study.extend(replace(known, sample=(5, 1)))
    assert cluster.store.grids(study.job)[0].blob == ""
    drawn = [study.points.of(at)["line"] for at in range(8)]
    assert len(set(drawn)) == 5 and drawn[:3] == drawn[3:6]


@pytest.mark.parametrize("wrong", [{"key": Key.new()}, {"uid": "another"}, {"first": 5}])
def test_what_was_not_signed_so_is_refused(cluster: Cluster, wrong: dict[str, Any]) -> None:
    study = Study(cluster, sweep("a=1:3"))
    study.extend(sweep("a=4:5"), **wrong)
    assert study.points.of(2) == {"a": 3}
    with pytest.raises(SignatureError):
        study.points.of(3)
    with pytest.raises(SignatureError):
        study.points.all()


def test_a_server_that_was_rolled_back_may_have_other_grids(cluster: Cluster) -> None:
    study = Study(cluster, sweep("a=1:3"))
    copy = cluster.copy()
    study.extend(sweep("a=4:5"))
    assert study.points.of(3) == {"a": 4}
    cluster.roll_back(copy)
    study.extend(sweep("a=7:9"))
    study.points.forget()
    assert study.points.of(3) == {"a": 7}
