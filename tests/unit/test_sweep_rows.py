"""Rows of files as parameters: types, refusals, pages; and parameters in texts."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsub_py.errors import PayloadError, SpecError
from qsub_py.sweep import Sweep, Table, from_plain
from qsub_py.sweep_fill import as_arguments, check, expansions, fill, is_per_point, used
from qsub_py.sweep_rows import PageReader, from_csv, from_json, from_lines, pack
from qsub_py.sweep_text import combined, parse_axis
from qsub_py.sweep_words import read_arguments


def rows(table: Table) -> list[dict[str, Any]]:
    return list(Sweep((table,)))


def test_lines() -> None:
    assert rows(from_lines("a b\r\n\n 7\n", "f")) == [{"line": "a b"}, {"line": " 7"}]
    with pytest.raises(SpecError, match="f has no rows"):
        from_lines("\n\n", "f")


def test_csv_columns_have_types() -> None:
    text = "\ufeffname,lr,n,code,note\n'x',0.1,1,007,\n\"a,b\",2,,8,hi\n"
    assert rows(from_csv(text, "f")) == [
        {"name": "'x'", "lr": 0.1, "n": 1, "code": "007", "note": ""},
        {"name": "a,b", "lr": 2.0, "n": None, "code": "8", "note": "hi"},
    ]
    assert rows(from_csv("a\tb\n1\tx,y\n", "f")) == [{"a": 1, "b": "x,y"}]
    assert rows(from_csv("a;b\r\n1;2\r\n", "f")) == [{"a": 1, "b": 2}]
    assert rows(from_csv('a\n"two\nlines"\n', "f")) == [{"a": "two\nlines"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f is empty"),
        ("a,b\n", "f has no rows"),
        ("a,b\n1,2\n3\n", "f, line 3: 1 cells, but 2 columns"),
        ("a,a\n1,2\n", "f: the parameter a is given twice"),
        ("learning rate\n1\n", "f: 'learning rate' cannot name a parameter"),
        ("a\n" + "x" * 40_000, "40000 characters"),
    ],
)
def test_bad_csv(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        from_csv(text, "f")


def test_json() -> None:
    text = '[{"a": 1, "b": [1, {"c": null}]}, {"b": true, "a": "x"}]'
    assert rows(from_json(text, "f")) == [{"a": 1, "b": [1, {"c": None}]}, {"a": "x", "b": True}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "f is not JSON"),
        ('[{"a": NaN}]', "NaN is no number"),
        ('{"a": 1}', "not a list of objects"),
        ("[1]", "not a list of objects"),
        ("[]", "has no rows"),
        ('[{"a": 1}, {"b": 1}]', "object 1 has no 'a'"),
        ('[{"a": "\\u0000"}]', "NUL"),
    ],
)
def test_bad_json(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        from_json(text, "f")


def test_few_rows_stand_in_the_spec_many_in_pages() -> None:
    few = pack(Sweep((from_lines("a\nb\n", "f"),)))
    assert few.pages == ()
    assert few.sweep.plain() == {"axes": [{"k": ["line"], "rows": [["a"], ["b"]]}]}
    lines = [f"line {n} of many" for n in range(5000)]
    many = pack(combined([parse_axis("k=1:2")], from_lines("\n".join(lines), "f")))
    assert len(str(many.sweep.plain())) < 300
    assert len(many.pages) == 6 and sum(map(len, many.pages)) < 30_000
    fetched: list[int] = []

    def fetch(number: int) -> bytes:
        fetched.append(number)
        return many.pages[number]

    again = from_plain(many.sweep.plain(), lambda sha: PageReader(sha, fetch))
    assert again.count == 10_000
    assert again.at(9999) == {"line": "line 4999 of many", "k": 2} and fetched == [0, 5]
    assert [p["line"] for p in again][::2] == lines
    assert again.find({"line": "line 7 of many", "k": 2}) == 15


def test_pages_are_verified() -> None:
    packed = pack(Sweep((from_lines("\n".join("x" * n for n in range(1, 2000)), "f"),)))
    pages = list(packed.pages)
    sweep = from_plain(packed.sweep.plain(), lambda sha: PageReader(sha, lambda n: pages[n]))
    pages[2] = pages[1]
    assert sweep.at(0) == {"line": "x"}
    with pytest.raises(PayloadError, match="not those that were signed"):
        sweep.at(sweep.axes[0].per_page)  # type: ignore[union-attr]
    pages[0] = pages[0][::-1]
    sweep = from_plain(packed.sweep.plain(), lambda sha: PageReader(sha, lambda n: pages[n]))
    with pytest.raises(PayloadError, match="not those that were signed"):
        sweep.at(0)


def test_large_rows_make_small_pages() -> None:
    table = from_lines("\n".join("y" * 30_000 + str(n) for n in range(50)), "f")
    packed = pack(Sweep((table,)))
    assert packed.sweep.axes[0].per_page == 8  # type: ignore[union-attr]


# -- parameters in texts -------------------------------------------------------------------

PARAMS = {"lr": 0.1, "n": 7, "s": "a b", "j": [1, {"k": None}], "t": True}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{lr}", "0.1"),
        ("--lr={lr}", "--lr=0.1"),
        ("out/{s}_{n:04d}_{lr:.3f}.npz", "out/a b_0007_0.100.npz"),
        ("{j} {t}", '[1, {"k": null}] True'),
        ("{x} {} { lr } {lr.real} {lr!r} {lr[0]}", "{x} {} { lr } {lr.real} {lr!r} {lr[0]}"),
        ("{{lr}} {{x}} {{lr:.2f}}", "{lr} {{x}} {lr:.2f}"),
        ("${lr} $${lr} \\{lr}", "${lr} $${lr} \\0.1"),
        ('{"lr":{lr},"o":{}}', '{"lr":0.1,"o":{}}'),
        ("awk '{print $1}'", "awk '{print $1}'"),
        ("{s:.3f}", "a b"),
        ("100%", "100%"),
    ],
)
def test_fill(template: str, text: str) -> None:
    assert fill(template, PARAMS) == text


def test_used() -> None:
    assert used("{lr} ${n} {{s}} {x} {lr:.2f} {t}", PARAMS) == ["lr", "t"]


@pytest.mark.parametrize("bad", ["{a:.3q}", "{a:99999}", "{s:.2f}", "{a:d!}"])
def test_formats_are_checked(bad: str) -> None:
    sweep = combined([parse_axis("a=1,2.5"), parse_axis("s=1,x")])
    check("{a:.3f} {a} {b:whatever} ${a:-0} {s:>8}", sweep)
    with pytest.raises(SpecError):
        check(bad, sweep)


def test_a_file_for_each_point() -> None:
    sweep = combined([parse_axis("a=1:3"), parse_axis("b=x"), parse_axis("c=1,2")])
    assert is_per_point("{a}_{c}", sweep) and is_per_point("{a}{b}{c}", sweep)
    assert not is_per_point("{a}{b}", sweep) and not is_per_point("out", sweep)
    pairs = combined([parse_axis("a=1,2"), parse_axis("b=3,3")], is_zip=True)
    assert is_per_point("{a}", pairs) and not is_per_point("{b}", pairs)


def test_all_texts_of_a_template() -> None:
    sweep = combined([parse_axis("a=1:2"), parse_axis("b=1:1000000"), parse_axis("c=x,y")])
    assert expansions("{a}/{c}", sweep) == ["1/x", "1/y", "2/x", "2/y"]
    assert expansions("data", sweep) == ["data"]
    with pytest.raises(SpecError, match="1000000 files"):
        expansions("{b}", sweep)


@settings(deadline=None, max_examples=50)
@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20))
def test_values_cannot_be_commands(value: str) -> None:
    line = """printf '%s|' {s} "in {s} it" 'in {s} it' {s:} a\\'{s} "a\\"{s}" ${s}x"""
    text, fields = as_arguments(line, ["s"])
    words = [fill(field, {"s": value}) for field in fields]
    done = subprocess.run(["/bin/sh", "-c", text, "sh", *words], capture_output=True, check=True,
                          env={"s": "q"})  # fmt: skip
    parts = [value, f"in {value} it", f"in {value} it", value, f"a'{value}", f'a"{value}', "qx", ""]
    assert done.stdout.decode().split("|") == "|".join(parts).split("|")


def test_words_of_functions() -> None:
    words = ["{lr}", "out/{s}", "{n}0", "x={s}", "y=[{n}, {lr}]", "z={q}"]
    assert read_arguments(words, PARAMS) == (
        (0.1, "out/a b", 70), {"x": "a b", "y": [7, 0.1], "z": "{q}"}
    )  # fmt: skip
    assert read_arguments(["{s}"], {"s": "1"}) == (("1",), {})
    assert read_arguments(["{s}", "k=1"]) == (("{s}",), {"k": 1})
