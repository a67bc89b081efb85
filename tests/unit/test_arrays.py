"""Arrays and references to jobs and tasks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsub_py.arrays import (
    JobRef,
    format_array,
    is_limit,
    parse_array,
    parse_limit,
    parse_share,
    parse_task_ids,
)
from qsub_py.errors import SpecError
from qsub_py.model import Segments


@pytest.mark.parametrize(
    ("text", "indices", "limit"),
    [
        ("3", [3], 0),
        ("1-5", [1, 2, 3, 4, 5], 0),
        ("1-10:3%2", [1, 4, 7, 10], 2),
        ("1-9:2%8,205", [1, 3, 5, 7, 9, 205], 8),
        ("0,3,7-9", [0, 3, 7, 8, 9], 0),
        ("9,1-2", [9, 1, 2], 0),
        ("1-2, 5", [1, 2, 5], 0),
        ("2147483647", [2**31 - 1], 0),
    ],
)
def test_array(text: str, indices: list[int], limit: int) -> None:
    spec = parse_array(text)
    assert (list(spec.segments), spec.limit, spec.is_merged) == (indices, limit, False)


def test_a_limit_alone() -> None:
    assert is_limit("%8") and not is_limit("1-3%8")
    assert parse_limit("%8").limit == 8
    for text in ("%0", "%8,%9", "%x", "%", "1-3%8"):
        with pytest.raises(SpecError):
            parse_limit(text)


def test_a_share_of_the_tasks() -> None:
    assert [parse_share(text) for text in ("0", "5", "0%", "100%")] == ["0", "5", "0%", "100%"]
    for text in ("", "x", "-1", "101%", "%", "5%%"):
        with pytest.raises(SpecError, match="no number of tasks"):
            parse_share(text)


def test_a_double_number_counts_once_where_it_came_first() -> None:
    spec = parse_array("5,1-3,3-6,5")
    assert list(spec.segments) == [5, 1, 2, 3, 4, 6]
    assert spec.is_merged


def test_ranges_that_interlace_are_not_double() -> None:
    spec = parse_array("0-8:2,1-9:2")
    assert list(spec.segments) == [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]
    assert not spec.is_merged


def test_a_long_list_of_neighbours_becomes_one_range() -> None:
    spec = parse_array(",".join(map(str, range(5000))))
    assert spec.segments == Segments(((0, 4999, 1),))
    assert not spec.is_merged


def test_ten_million_tasks_cost_nothing() -> None:
    assert parse_array("1-10000000").segments == Segments(((1, 10_000_000, 1),))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("5-1", "'5-1'"),
        ("0-", "'0-'"),
        ("1-10:0", "'1-10:0'"),
        ("1,a,3", "'a'"),
        ("-3", "'-3'"),
        ("", "''"),
        ("1,,2", "''"),
        ("1-3%0", "%N"),
        ("1%2,3%4", "%N"),
        ("1-3%", "'1-3%'"),
        ("0-10000000", "the limit is 10000000"),
        ("2147483648", "numbers end at 2147483647"),
        ("9" * 30, "bad part"),
        ("1-2000000,5", "overlap"),
        ("1-3\x1b[2J", "x1b"),
        ("٣", "bad part"),
    ],
)
def test_bad_array_shows_the_bad_part(text: str, part: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_array(text)
    assert part in str(caught.value)
    assert "\x1b" not in str(caught.value)


PARTS = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 20), st.integers(1, 5)), min_size=1, max_size=8
)


@given(PARTS, st.integers(0, 9))
def test_array_means_what_it_lists(parts: list[tuple[int, int, int]], limit: int) -> None:
    text = ",".join(f"{first}-{first + length}:{step}" for first, length, step in parts)
    spec = parse_array(text + (f"%{limit}" if limit else ""))
    assert spec.limit == limit
    wanted = [i for first, length, step in parts for i in range(first, first + length + 1, step)]
    assert list(spec.segments) == list(dict.fromkeys(wanted))
    assert spec.is_merged == (len(set(wanted)) < len(wanted))
    again = parse_array(format_array(spec.segments, spec.limit))
    assert (list(again.segments), again.limit) == (list(spec.segments), limit)
    assert [spec.segments.position(i) for i in spec.segments] == list(range(spec.segments.count))


def test_format_array_as_qstat_shows_it() -> None:
    assert format_array(Segments(((5, 1024, 1),)), 8) == "5-1024%8"
    assert format_array(Segments(((1, 9, 2), (20, 20, 1)))) == "1-9:2,20"
    many = Segments(tuple((i, i, 1) for i in range(0, 100, 3)))
    assert format_array(many, 4, width=10) == "0,3,6,9,...%4"


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("12", JobRef(12, 12)),
        ("12-20", JobRef(12, 20)),
        ("12_3", JobRef(12, 12, indices=Segments(((3, 3, 1),)))),
        ("12[3]", JobRef(12, 12, indices=Segments(((3, 3, 1),)))),
        ("12.3", JobRef(12, 12, indices=Segments(((3, 3, 1),)))),
        ("12_[1-5,9]", JobRef(12, 12, indices=Segments(((1, 5, 1), (9, 9, 1))))),
        ("12_[5-1024%8]", JobRef(12, 12, indices=Segments(((5, 1024, 1),)))),
        ("12[1-5]", JobRef(12, 12, indices=Segments(((1, 5, 1),)))),
        ("12.1-5", JobRef(12, 12, indices=Segments(((1, 5, 1),)))),
        ("12.prep", JobRef(12, 12, task_name="prep")),
        ("last", JobRef(back=0)),
        ("@", JobRef(back=0)),
        ("@~1", JobRef(back=1)),
        ("@~2_7", JobRef(back=2, indices=Segments(((7, 7, 1),)))),
        ("last.prep", JobRef(back=0, task_name="prep")),
    ],
)
def test_reference(text: str, ref: JobRef) -> None:
    assert parse_task_ids(text) == ref
    assert parse_task_ids(str(ref)) == ref


def test_reference_knows_its_jobs() -> None:
    assert list(parse_task_ids("12-14").jobs) == [12, 13, 14]
    assert parse_task_ids("12-14").is_whole
    assert not parse_task_ids("12_1").is_whole
    assert list(parse_task_ids("last").jobs) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "0",
        "-1",
        "12_",
        "12_-3",
        "12[",
        "12]",
        "12[]",
        "12_a",
        "20-12",
        "12-20_3",
        "12 ",
        "99999999999999999999",
        "1-9999999",
        "@~",
        "last2",
        "12.-x",
        "12.a b",
        "12\n",
        "٣",
    ],
)
def test_bad_reference_shows_the_grammar(text: str) -> None:
    with pytest.raises(SpecError, match=r"write|1 to 128|limit"):
        parse_task_ids(text)
