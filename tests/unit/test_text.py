"""Names, output patterns, and what may reach a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsub_py.errors import SpecError
from qsub_py.text import check_name, check_pattern, expand_pattern, is_per_task, quoted, safe


def expand(pattern: str, **changes: object) -> str:
    values = {"job": 12, "index": 3, "name": "sim", "user": "ann", "node": "n1", "is_array": True}
    return expand_pattern(pattern, **{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("out-%A_%4a.%x", "out-12_0003.sim"),
        ("%j.out", "12_3.out"),
        ("%5j", "00012_3"),
        ("/d/%u/%N/%%a", "/d/ann/n1/%a"),
        ("%4x", "sim"),
        ("plain", "plain"),
        ("", ""),
    ],
)
def test_pattern(pattern: str, path: str) -> None:
    assert expand(pattern) == path


def test_a_plain_job_has_no_task_in_its_id() -> None:
    assert expand("%j", is_array=False, index=0) == "12"


def test_words_add_no_directory() -> None:
    assert expand("%x", name="../../etc/passwd") == ".._.._etc_passwd"


@pytest.mark.parametrize("pattern", ["%q", "100%", "%", "%11a", "%999999999999a", "%٣a"])
def test_unknown_placeholder(pattern: str) -> None:
    with pytest.raises(SpecError, match="unknown"):
        expand(pattern)


def test_check_pattern_refuses_nul() -> None:
    assert check_pattern("a/%j") == "a/%j"
    with pytest.raises(SpecError, match="NUL"):
        check_pattern("a\0b")


@pytest.mark.parametrize(
    ("pattern", "answer"), [("%A.out", False), ("%4a", True), ("%j", True), ("%%a", False)]
)
def test_is_per_task(pattern: str, answer: bool) -> None:
    assert is_per_task(pattern) is answer


@pytest.mark.parametrize("name", ["sim", "a", "train-1.2", "lr=0.1", "a@b:c+d", "x" * 128, "été"])
def test_good_name(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "-x", "a b", "a\n", "\x1b[2J", "x" * 129, "a/b", "a\udcff", "‮abc", "a\0"]
)
def test_bad_name(name: str) -> None:
    with pytest.raises(SpecError, match="bad node name") as caught:
        check_name(name, what="node name")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢字", "plain é 漢字"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\tc\x7f\x9b", "a\\x0ab\\x09c\\x7f\\x9b"),
        ("\u202eevil\u2066", "\\u202eevil\\u2066"),
        ("\udcff", "\\xff"),
        ("\ud800", "\\ud800"),
    ],
)
def test_safe(text: str, shown: str) -> None:
    assert safe(text) == shown


def test_safe_keeps_what_it_is_told() -> None:
    assert safe("a\n\tb\x1b", keep="\n\t") == "a\n\tb\\x1b"


@given(st.text(st.characters(exclude_categories=())))
def test_safe_text_can_be_printed_and_is_stable(text: str) -> None:
    shown = safe(text)
    shown.encode()
    assert safe(shown) == shown
    assert len(quoted(text)) <= 2 + 60 * 6
