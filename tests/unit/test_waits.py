"""Dependencies as text, as pairs of tasks, and inputs of calls as groups and bytes."""

from __future__ import annotations

import pytest

from qsub_py import inputs
from qsub_py.chunks import groups_of
from qsub_py.errors import SpecError
from qsub_py.inputs import Place, Run
from qsub_py.model import Segments
from qsub_py.waits import Edge, Group, correspond, is_id, merge, parse, parse_after

UID, OTHER = "0123456789abcdef", "fedcba9876543210"


def shown(text: str) -> list[str]:
    return [f"{w.kind}:{w.ref}" if w.ref else w.kind for w in parse(text)[0]]


@pytest.mark.parametrize(
    ("text", "wanted", "is_or"),
    [
        ("afterok:12", ["afterok:12"], False),
        ("afterok:12:13,afterany:14_3", ["afterok:12", "afterok:13", "afterany:14_3"], False),
        ("afterok:1?afternotok:2", ["afterok:1", "afternotok:2"], True),
        ("afterok:1_[2,4-8:2],singleton", ["singleton", "afterok:1_[2,4-8:2]"], False),
        ("afterok:12,afterok:12", ["afterok:12"], False),
        ("after:last,aftercorr:@~2", ["after:last", "aftercorr:@~2"], False),
    ],
)
def test_parse(text: str, wanted: list[str], is_or: bool) -> None:
    assert shown(text) == wanted
    assert parse(text)[1] is is_or


@pytest.mark.parametrize("text", ["", ",", "afterok:", "afterok:1,", "singleton:3", "ok:1", "12"])
def test_not_a_dependency(text: str) -> None:
    with pytest.raises(SpecError):
        parse(text)


def test_after() -> None:
    assert [str(w.ref) for w in parse_after("12,13 14_[1,2]")] == ["12", "13", "14_[1,2]"]
    assert [is_id(w) for w in ("12", "12,13", "12_3", "12_[1-5,9]", "12,13_4")] == [True] * 5
    assert [is_id(w) for w in ("a.sh", "./12", "-3", "12.sh", "12x", "")] == [False] * 6


def segments(*parts: tuple[int, int, int]) -> Segments:
    return Segments(parts)


def pairs(child: Segments, parent: Segments) -> dict[int, int]:
    """Return index of a child -> index of the task it waits for, as the groups say."""
    found = {}
    for group in correspond(child, parent, 7):
        (edge,) = group.edges
        for i in range(group.count):
            found[child.index(group.first + i)] = parent.index(edge.first + i * edge.step)
    return found


@pytest.mark.parametrize(
    ("child", "parent"),
    [
        (segments((1, 100, 1)), segments((1, 100, 1))),
        (segments((3, 90, 1)), segments((1, 100, 1))),
        (segments((1, 99, 2)), segments((1, 100, 1))),
        (segments((2, 98, 4)), segments((0, 100, 2))),
        (segments((5, 20, 1)), segments((0, 9, 1), (10, 30, 1))),
        (segments((7, 7, 1), (0, 3, 1)), segments((0, 9, 1))),
    ],
)
def test_correspond(child: Segments, parent: Segments) -> None:
    found = pairs(child, parent)
    assert found == {index: index for index in child}


def test_a_million_in_one_group() -> None:
    many = segments((1, 10**6, 1))
    assert correspond(many, many, 7) == (Group(0, 10**6, (Edge(7, 0, 1, 1),)),)


def test_no_such_task() -> None:
    with pytest.raises(SpecError, match="job 7 has no task 4"):
        correspond(segments((0, 9, 1)), segments((0, 3, 1)), 7)
    with pytest.raises(SpecError, match="has no task 1,"):
        correspond(segments((0, 9, 1)), segments((0, 8, 2)), 7)


def test_merge() -> None:
    one = (Group(0, 10, (Edge(1, 5, 1, 1),)),)
    two = (Group(0, 4, (Edge(2, 0, 1, 2),)), Group(4, 6, (Edge(2, 20, 1, 1),)))
    assert merge((one, two)) == (
        Group(0, 4, (Edge(1, 5, 1, 1), Edge(2, 0, 1, 2))),
        Group(4, 6, (Edge(1, 9, 1, 1), Edge(2, 20, 1, 1))),
    )
    assert merge(()) == ()


def run(job: int, first: int, size: int = 1) -> Run:
    return Run(job, UID, first, size)


def test_groups_of_shapes() -> None:
    stage = [[run(1, 5 + i)] for i in range(200)]
    assert list(groups_of(stage, 10)) == [Group(10, 200, (Edge(1, 5, 1, 1),))]
    same = [[run(1, 0, 9)] for _ in range(4)]
    assert list(groups_of(same, 0)) == [Group(0, 4, (Edge(1, 0, 9, 0),))]
    tree = [[run(1, 2 * i, 2)] for i in range(4)]
    assert list(groups_of(tree, 0)) == [Group(0, 4, (Edge(1, 0, 2, 2),))]
    two = [[run(1, i), run(2, 3)] for i in range(4)]
    assert list(groups_of(two, 0)) == [Group(0, 4, (Edge(1, 0, 1, 1), Edge(2, 3, 1, 0)))]


def test_groups_end_where_the_shape_does() -> None:
    needs = [[run(1, 0)], [], [run(1, 9)], [run(1, 8)], [run(2, 9)], [run(2, 9), run(2, 11)]]
    found = [(group.first, group.count) for group in groups_of(needs, 0)]
    assert found == [(0, 1), (2, 1), (3, 1), (4, 1), (5, 1)]


def test_many_inputs_are_put_in_order() -> None:
    places = [Place(1, UID, n) for n in (*range(0, 100, 2), *range(1, 100, 2))]
    assert list(groups_of([inputs.runs_of(places)], 0)) == [Group(0, 1, (Edge(1, 0, 100),))]
    large = list(groups_of([[run(1, 0, 10_000)]], 0))
    assert [edge.count for edge in large[0].edges] == [4096, 4096, 1808]


def test_references_as_bytes() -> None:
    places = [Place(1, UID, 3), Place(1, UID, 4), Place(2, OTHER, 4), Place(1, UID, 5)]
    runs = inputs.runs_of(places)
    assert runs == [run(1, 3, 2), Run(2, OTHER, 4, 1), run(1, 5)]
    data = inputs.with_inputs(runs, b"pickle")
    found, at = inputs.read_inputs(data)
    assert (found, data[at:]) == (runs, b"pickle")
    assert inputs.read_inputs(b"\x80\x05pickle") == ([], 0)
    assert inputs.merged([*runs, run(1, 4, 3)]) == [run(1, 3, 4), Run(2, OTHER, 4, 1)]
