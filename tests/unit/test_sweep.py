"""Sweeps: what the text means, position by position, and which points are new."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsub_py.errors import PayloadError, SpecError
from qsub_py.sweep import Axis, Params, Sweep, Table, Zip, from_plain
from qsub_py.sweep_less import joined, less
from qsub_py.sweep_shuffle import Shuffle
from qsub_py.sweep_text import combined, parse_axis, value_of


def values(text: str) -> list[Any]:
    axis = parse_axis(text)
    return [axis.value(number) for number in range(axis.count)]


def sweep(*texts: str, **options: Any) -> Sweep:
    return combined([parse_axis(text) for text in texts], **options)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("lr=0.1,0.01", [0.1, 0.01]),
        ("seed=1:10", list(range(1, 11))),
        ("seed=1:10:4", [1, 5, 9]),
        ("d=10:1:-3", [10, 7, 4, 1]),
        ("n=-2:2", [-2, -1, 0, 1, 2]),
        ("x=0:1:0.1", [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        ("x=1:2:0.5", [1.0, 1.5, 2.0]),
        ("x=1.0:3", [1.0, 2.0, 3.0]),
        ("x=1e-3:3e-3:1e-3", [0.001, 0.002, 0.003]),
        ("x=5:5", [5]),
        ("m=1:3,10,linspace(0,1,3)", [1, 2, 3, 10, 0.0, 0.5, 1.0]),
        ("s='a,b',c,\"it's\"", ["a,b", "c", "it's"]),
        ("s='',x", ["", "x"]),
        ("s='1',1", ["1", 1]),
        ("s= a , b ", ["a", "b"]),
        ("b=True,None,true", [True, None, "true"]),
        ("p=host:path,a:1,12:x", ["host:path", "a:1", "12:x"]),
        ("n=007,1_000,0x10,inf,nan,1e999", ["007", "1_000", "0x10", "inf", "nan", "1e999"]),
        ("n=1e3,.5,5.,+5,-0.5", [1000.0, 0.5, 5.0, 5, -0.5]),
        ("u=a=b,{x}", ["a=b", "{x}"]),
        ("f=linspace,'logspace('", ["linspace", "logspace("]),
        ("x=logspace(-4,-1,4)", [0.0001, 0.001, 0.01, 0.1]),
        ("x= linspace( 1 , 2 , 1 ) ", [1.0]),
    ],
)
def test_what_is_written(text: str, wanted: list[Any]) -> None:
    found = values(text)
    assert found == wanted
    assert [type(v) for v in found] == [type(v) for v in wanted]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr", "has no ="),
        ("=1", "no name"),
        ("a-b=1", "cannot name a parameter"),
        ("1a=1", "cannot name a parameter"),
        ("größe=1", "cannot name a parameter"),
        ("lr=", "has no values"),
        ("lr=1,,2", "empty value"),
        ("lr=1,", "empty value"),
        ("lr='a", "quote"),
        ("lr='a'b", "quote"),
        ("x=10:1", "wrong way"),
        ("x=1:10:-1", "wrong way"),
        ("x=1:5:0", "is 0"),
        ("x=linspace(0,1)", "cannot read linspace"),
        ("x=logspac(0,1,3)", "a value with a parenthesis needs quotes"),
        ("x=linspace(0,1,0)", "cannot read linspace"),
        ("x=linspace(0,1,2.5)", "cannot read linspace"),
        ("x=logspace(0,400,3)", "too large"),
        ("x=1:5e400", "too large"),
        ("x=a\0b", "NUL"),
        ("x=" + "y" * 40_000, "40000 characters"),
        ("x=0:1e18:0.1", "the limit is"),
    ],
)
def test_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        parse_axis(text)
    assert "\n" not in f"{caught.value}{caught.value.hint}"


def test_the_cure_for_a_range_that_runs_the_wrong_way() -> None:
    with pytest.raises(SpecError) as caught:
        parse_axis("x=10:1:3")
    assert values("x=" + caught.value.hint.removeprefix("write ")) == [10, 7, 4, 1]


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.integers(1, 40))
def test_linspace_is_numpys(first: float, last: float, count: int) -> None:
    numpy = pytest.importorskip("numpy")
    assert values(f"x=linspace({first!r},{last!r},{count})") == list(
        numpy.linspace(first, last, count)
    )


@settings(deadline=None)
@given(st.floats(-20, 20), st.floats(-20, 20), st.integers(1, 40))
def test_logspace_is_numpys(first: float, last: float, count: int) -> None:
    numpy = pytest.importorskip("numpy")
    found = values(f"x=logspace({first!r},{last!r},{count})")
    assert found == pytest.approx(list(numpy.logspace(first, last, count)), rel=1e-14)


@settings(deadline=None)
@given(st.integers(-50, 50), st.integers(1, 9), st.integers(0, 30), st.integers(0, 6))
def test_ranges_do_not_drift(first: int, step: int, more: int, digits: int) -> None:
    def shown(number: int) -> str:
        return f"{number / 10**digits:.{digits}f}"

    text = f"{shown(first)}:{shown(first + more * step)}:{shown(step)}"
    assert list(map(str, values(f"x={text}"))) == [
        str(float(shown(first + n * step)) if digits else first + n * step) for n in range(more + 1)
    ]


def test_values_have_types() -> None:
    assert [type(value_of(word)) for word in ("1", "1.", "x", "-3", "1e5", "", "٣")] == [
        int, float, str, int, float, str, str
    ]  # fmt: skip


# -- grids ---------------------------------------------------------------------------------


def test_product_in_the_order_written_last_fastest() -> None:
    grid = sweep("lr=0.1,0.01", "seed=1:3")
    assert grid.count == 6 and grid.names == ("lr", "seed")
    assert [tuple(p.values()) for p in grid] == list(itertools.product([0.1, 0.01], [1, 2, 3]))
    with pytest.raises(IndexError):
        grid.at(6)


def test_a_value_written_twice_counts_once() -> None:
    assert [p["a"] for p in sweep("a=2,1:3,1,2.0,linspace(0,4,5)")] == [2, 1, 3, 0.0, 4.0]
    assert len(list(sweep("a=1,1", "b=x,x", is_zip=True))) == 2


def test_side_by_side() -> None:
    pairs = sweep("a=1:3", "b=x,y,z", is_zip=True)
    assert list(pairs) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}, {"a": 3, "b": "z"}]
    with pytest.raises(SpecError, match="a has 2, b has 3"):
        sweep("a=1:2", "b=1:3", is_zip=True)


@pytest.mark.parametrize(
    ("texts", "message"),
    [(("a=1", "a=2"), "a is given twice"), (("lr=1", "LR=2"), "differ only in case")],
)
def test_names_are_told_apart(texts: tuple[str, ...], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        sweep(*texts)


def test_a_grid_of_any_size_is_never_expanded() -> None:
    axes = [parse_axis(f"{name}=1:1000000") for name in "abc"]
    huge = Sweep(tuple(axes))
    assert huge.at(123456789012345678) == {"a": 123457, "b": 789013, "c": 345679}
    drawn = combined(axes, sample=(5, 7))
    assert drawn.count == 5 and [drawn.find(p) for p in drawn] == [0, 1, 2, 3, 4]
    with pytest.raises(SpecError, match="at most 10000000 tasks"):
        combined(axes[:2])
    with pytest.raises(SpecError, match="the limit is"):
        combined([*axes, parse_axis("d=1:10")])


def test_samples() -> None:
    twenty, fifty = (sweep("a=1:100", "b=1:7", sample=(n, 1)) for n in (20, 50))
    points = [tuple(p.values()) for p in fifty]
    assert len(set(points)) == 50 and points != sorted(points)
    assert points[:20] == [tuple(p.values()) for p in twenty], "a larger sample goes on"
    assert list(sweep("a=1:100", "b=1:7", sample=(20, 2))) != list(twenty)
    assert len({tuple(p.values()) for p in sweep("a=1:100", "b=1:7", sample=(700, 5))}) == 700
    with pytest.raises(SpecError, match="more than the 6 points"):
        sweep("a=1:6", sample=(7, 0))


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(0, 2**63))
def test_shuffle_is_a_permutation(size: int, seed: int) -> None:
    shuffle = Shuffle(size, seed)
    found = [shuffle.forward(number) for number in range(size)]
    assert sorted(found) == list(range(size))
    assert [shuffle.backward(number) for number in found] == list(range(size))


def test_shuffle_is_fair() -> None:
    firsts = [Shuffle(10, seed).forward(0) for seed in range(2000)]
    assert all(140 < firsts.count(number) < 260 for number in range(10))


def test_a_sample_never_changes() -> None:
    """Jobs in the store are read with the same permutation for as long as they are kept."""
    assert [Shuffle(10**12, 42).forward(n) for n in range(3)] == FIRST_OF_MANY


FIRST_OF_MANY = [440054438443, 310228014412, 898649119308]


# -- as JSON, and back ---------------------------------------------------------------------

AXES = ["lr=0.1,0.01,'x'", "s=1:9:2", "x=0:1:0.25", "y=linspace(0,1,4)", "z=logspace(-2,0,3),7"]


@pytest.mark.parametrize("options", [{}, {"sample": (30, 9)}])
def test_there_and_back(options: dict[str, Any]) -> None:
    first = sweep(*AXES, **options)
    again = from_plain(json.loads(json.dumps(first.plain())))
    assert again == first and list(again) == list(first)
    assert [again.find(p) for p in again] == list(range(first.count))


def test_rows_and_pairs_there_and_back() -> None:
    table = Table(("a", "b"), 2, ((1, "x"), (2, None)))
    pair = Zip((parse_axis("c=1,2"), parse_axis("d=3,4")))
    first = Sweep((table, pair), picks=((1, 2),), keywords=("a",))
    assert list(first) == [{"a": 1, "b": "x", "c": 2, "d": 4}, {"a": 2, "b": None, "c": 1, "d": 3}]
    assert from_plain(json.loads(json.dumps(first.plain()))) == first
    assert [first.find(p) for p in first] == [0, 1]
    assert first.find({"a": 1, "b": "x", "c": 1, "d": 3}) is None
    away = from_plain({"axes": [{"k": ["a"], "n": 9, "page": 4, "sha": "00"}]})
    with pytest.raises(PayloadError):
        away.at(0)


# -- what is new ---------------------------------------------------------------------------


def points(*sweeps: Sweep) -> list[tuple[Any, ...]]:
    names = sorted(sweeps[0].names) if sweeps else []
    return [tuple(p[name] for name in names) for s in sweeps for p in s]


def test_only_new_values_of_one_parameter() -> None:
    new = less(sweep("lr=0.1,0.5", "seed=1:3"), [sweep("lr=0.1,0.01", "seed=1:3")])
    assert [list(part) for part in new] == [
        [{"lr": 0.5, "seed": 1}, {"lr": 0.5, "seed": 2}, {"lr": 0.5, "seed": 3}]
    ]
    assert less(sweep("lr=0.1", "seed=1:2"), [sweep("seed=1:3", "lr=0.1,0.01")]) == []


def test_a_million_more_of_a_range_is_one_range() -> None:
    new = less(sweep("seed=1:2000000"), [sweep("seed=1:1000000")])
    assert [part.count for part in new] == [1_000_000]
    assert new[0].at(0) == {"seed": 1_000_001} and len(json.dumps(new[0].plain())) < 100
    both = less(sweep("a=1:1000", "b=1:2000"), [sweep("a=1:500", "b=1:1000")])
    assert sum(part.count for part in both) == 2_000_000 - 500_000 and len(both) == 2


def test_a_larger_sample_goes_on() -> None:
    small, large = (sweep("a=1:1000", "b=1:1000", sample=(n, 3)) for n in (20, 50))
    assert less(large, [small]) == [Sweep(large.axes, large.sample, ((20, 30),))]


PIECES = st.one_of(
    st.lists(st.integers(0, 12), min_size=1, max_size=4).map(lambda v: ",".join(map(str, v))),
    st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(1, 4)).map(
        lambda t: f"{t[0]}:{t[1]}:{t[2] if t[1] >= t[0] else -t[2]}"
    ),
    st.tuples(st.integers(0, 6), st.integers(7, 12), st.integers(1, 9)).map(
        lambda t: f"linspace({t[0]},{t[1]},{t[2]})"
    ),
    st.tuples(st.integers(0, 20), st.integers(1, 9)).map(
        lambda t: f"{t[0] / 2}:{t[0] / 2 + t[1]}:0.5"
    ),
)
GRIDS = st.tuples(PIECES, PIECES).map(lambda t: sweep(f"a={t[0]}", f"b={t[1]}"))


@settings(max_examples=300, deadline=None)
@given(GRIDS, st.lists(GRIDS, min_size=1, max_size=3), st.booleans(), st.randoms())
def test_new_points(new: Sweep, known: list[Sweep], is_sample: bool, chance: Any) -> None:
    if is_sample:
        new = Sweep(new.axes, (chance.randint(1, new.grid), chance.randrange(99)))
    parts = less(new, known)
    wanted = set(points(new)) - set(points(*known))
    assert set(points(*parts)) == wanted
    for part in parts:
        again = from_plain(json.loads(json.dumps(part.plain())))
        assert all(again.find(p) is not None for p in part)
    assert less(new, [*known, *parts]) == []


@settings(deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=3))
def test_all_values_of_a_parameter(texts: list[str]) -> None:
    found = joined([sweep(f"a={text}") for text in texts], "a")
    assert isinstance(found, Axis)
    seen = {found.value(number) for number in range(found.count)}
    assert seen == {v for text in texts for v in values(f"a={text}")}


def test_rows_that_are_new() -> None:
    def table(*rows: tuple[Any, ...]) -> Sweep:
        return Sweep((Table(("a", "b"), len(rows), rows),))

    known = table((1, "x"), (2, "y"))
    new = less(table((2, "y"), (3, "z"), (1.0, "x"), (4, "z")), [known])
    assert [list(part) for part in new] == [[{"a": 3, "b": "z"}, {"a": 4, "b": "z"}]]
    odd = [(n, "x") for n in range(5000)]
    even = [row for row in odd if row[0] % 2]
    (part,) = less(table(*odd), [table(*even)])
    first: Params = part.at(1)
    assert part.count == 2500 and first == {"a": 2, "b": "x"}


def test_too_many_to_compare() -> None:
    with pytest.raises(SpecError, match="one by one"):
        less(sweep("a=1:2000000", sample=(1_500_000, 1)), [sweep("a=1:5")])
