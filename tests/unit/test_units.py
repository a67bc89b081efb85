"""Durations, sizes and begin times: what is read, what is refused, and the round trips."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsub_py import units
from qsub_py.errors import SpecError

#: A Tuesday, 2026-01-20 12:00:30 local time.
NOW = datetime(2026, 1, 20, 12, 0, 30).timestamp()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10", 600),
        ("10:30", 630),
        ("01:02:03", 3723),
        ("0:90:00", 5400),
        ("1-2", 93600),
        ("1-02:03", 93780),
        ("1-02:03:04", 93784),
        ("90s", 90),
        ("30m", 1800),
        ("2h", 7200),
        ("1d", 86400),
        ("1w", 604800),
        ("1h30m", 5400),
        ("1d12h", 129600),
        ("1.5h", 5400),
        ("0.25s", 0.25),
        (" 2H ", 7200),
        ("90m", 5400),
        ("0", 0),
        ("UNLIMITED", 0),
        ("infinite", 0),
    ],
)
def test_duration(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


def test_a_bare_number_counts_what_the_option_says() -> None:
    assert units.parse_duration("10", bare_s=1.0) == 10


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-5",
        "inf",
        "nan",
        "25h61m",
        "1h90m",
        "30m1h",
        "1h1h",
        "1.5",
        "1:2:3:4",
        "1-",
        "h",
        "1e3",
        "1 h",
        "٣",
        "²",
        "10\n5",
        "9999999d",
        "1" * 50,
        "--1",
        "1:-2",
    ],
)
def test_bad_duration(text: str) -> None:
    with pytest.raises(SpecError, match=r"time|longer"):
        units.parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (5.9, "0:05"),
        (65, "1:05"),
        (3723, "1:02:03"),
        (93784, "1-02:03:04"),
        (-3, "0:00"),
        (float("inf"), "UNLIMITED"),
    ],
)
def test_format_duration(seconds: float, text: str) -> None:
    assert units.format_duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "0.5s"), (40, "40s"), (60, "1m"), (5400, "1h30m"), (3519, "58m39s"), (172_801, "2d1s")],
)
def test_format_span(seconds: float, text: str) -> None:
    assert units.format_span(seconds) == text
    assert seconds < 1 or units.parse_duration(text) == seconds


@given(st.integers(0, int(units.MAX_DURATION_S)))
def test_duration_round_trip(seconds: int) -> None:
    assert units.parse_duration(units.format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4G", 4 * 2**30),
        ("512M", 512 * 2**20),
        ("1.5T", 3 * 2**39),
        ("100", 100 * 2**20),
        ("0.5k", 512),
        ("512MiB", 512 * 2**20),
        ("2gb", 2 * 2**30),
        ("7B", 7),
        ("1P", 2**50),
        ("2 G", 2**31),
        ("0", 0),
    ],
)
def test_size(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "4Q", "-1G", "G", "1e3", "4GG", "1,5G", "9P", "inf", "4G\0"])
def test_bad_size(text: str) -> None:
    with pytest.raises(SpecError, match="size"):
        units.parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0"),
        (512, "512B"),
        (1024, "1K"),
        (1536, "1.5K"),
        (2**20 - 1, "1M"),
        (2**30, "1G"),
        (2**53 - 1, "8P"),
        (2**60, "1024P"),
    ],
)
def test_format_size(size: int, text: str) -> None:
    assert units.format_size(size) == text


@given(st.integers(0, 2**52))
def test_size_round_trip(size: int) -> None:
    again = units.parse_size(units.format_size(size))
    assert abs(again - size) <= size / 20


@given(st.integers(1, 1023), st.sampled_from("KMGT"))
def test_whole_sizes_are_exact(number: int, prefix: str) -> None:
    assert units.format_size(units.parse_size(f"{number}{prefix}")) == f"{number}{prefix}"


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("16:00", datetime(2026, 1, 20, 16)),
        ("9:15", datetime(2026, 1, 21, 9, 15)),
        ("4:30PM", datetime(2026, 1, 20, 16, 30)),
        ("12:00am", datetime(2026, 1, 21)),
        ("16:00:05", datetime(2026, 1, 20, 16, 0, 5)),
        ("midnight", datetime(2026, 1, 21)),
        ("noon", datetime(2026, 1, 21, 12)),
        ("teatime", datetime(2026, 1, 20, 16)),
        ("today", datetime(2026, 1, 20)),
        ("tomorrow", datetime(2026, 1, 21)),
        ("2026-01-20T12:34", datetime(2026, 1, 20, 12, 34)),
        ("2026-01-20T12:34:00", datetime(2026, 1, 20, 12, 34)),
        ("2026-02-01", datetime(2026, 2, 1)),
        ("2026-02-01 noon", datetime(2026, 2, 1, 12)),
        ("03/15", datetime(2026, 3, 15)),
        ("03/15/27-08:00", datetime(2027, 3, 15, 8)),
        ("01/10", datetime(2027, 1, 10)),
        ("01/20", datetime(2026, 1, 20)),
        ("01/10 08:00", datetime(2027, 1, 10, 8)),
        ("tomorrow 16:00", datetime(2026, 1, 21, 16)),
        ("16:00 tomorrow", datetime(2026, 1, 21, 16)),
        ("tomorrowT16:00", datetime(2026, 1, 21, 16)),
        ("tomorrow 4:30 pm", datetime(2026, 1, 21, 16, 30)),
        ("noon tomorrow", datetime(2026, 1, 21, 12)),
        ("031527", datetime(2027, 3, 15)),
        ("03.15.27 08:00", datetime(2027, 3, 15, 8)),
        ("2026-02-01Tnoon", datetime(2026, 2, 1, 12)),
    ],
)
def test_begin_on_the_calendar(text: str, when: datetime) -> None:
    assert units.parse_begin(text, now=NOW) == when.timestamp()


@pytest.mark.parametrize(
    ("text", "delay_s"),
    [("now", 0), ("now+90", 90), ("now+1hour", 3600), ("now + 2 days", 172800), ("NOW+5m", 300)],
)
def test_begin_from_now(text: str, delay_s: float) -> None:
    assert units.parse_begin(text, now=NOW) == NOW + delay_s


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "24:00",
        "12:60",
        "13:00pm",
        "0:30am",
        "2026-02-30",
        "now-5",
        "today tomorrow",
        "16:00 17:00",
        "tomorrow tomorrow",
        "tomorrow16:00",
        "02/30",
        "0315.27",
        "now+1fortnight",
        "now+999999999999w",
        "13/40",
        "2026-01-20T",
        "0001-01-01x",
        "16:00\x1b[m",
    ],
)
def test_bad_begin(text: str) -> None:
    with pytest.raises(SpecError, match="bad time") as caught:
        units.parse_begin(text, now=NOW)
    assert "\x1b" not in str(caught.value)


PARSERS = [
    units.parse_duration,
    units.parse_size,
    units.parse_array,
    units.parse_task_ids,
    units.check_name,
    units.check_pattern,
    lambda text: units.parse_begin(text, now=NOW),
]
WORDS = ["now+", "-", ":", "%", "[", "]", "_", ",", ".", "~", "@", "1", "99", "T", "4G", "\x1b"]
FUZZ = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=30),
    st.lists(st.sampled_from(WORDS), max_size=10).map("".join),
)


@given(FUZZ)
def test_any_text_is_read_or_refused_in_one_clean_line(text: str) -> None:
    for parse in PARSERS:
        try:
            parse(text)
        except SpecError as error:
            assert units.safe(str(error)) == str(error)
