"""When schedules fire: intervals, cron, days on which the clock changes, what was missed."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from qsub_py.errors import SpecError
from qsub_py.periodic import NONE, Look, NoTimeZone, Rule, check_cron, local_zone, zone

HOUR = 3_600_000
BERLIN = "Europe/Berlin"


def ms(*parts: int, name: str = BERLIN) -> int:
    """Return a local time as epoch milliseconds."""
    return int(datetime(*parts, tzinfo=zone(name)).timestamp()) * 1000  # type: ignore[misc,arg-type]


def local(at: int, name: str = BERLIN) -> str:
    return datetime.fromtimestamp(at / 1000, zone(name)).strftime("%m-%d %H:%M %z")


def times(line: str, start: int, count: int, name: str = BERLIN) -> list[str]:
    return [local(at, name) for at in Rule(cron=line, timezone=name).times(start, count)]


def test_the_hour_that_does_not_exist() -> None:
    """On 29 March 2026 clocks go from 02:00 to 03:00: what would come then comes right after."""
    assert times("30 2 * * *", ms(2026, 3, 28, 12), 2) == ["03-29 03:00 +0200", "03-30 02:30 +0200"]
    assert times("0 3 * * *", ms(2026, 3, 28, 12), 2) == ["03-29 03:00 +0200", "03-30 03:00 +0200"]


def test_the_hour_that_exists_twice() -> None:
    """On 25 October 2026 clocks go from 03:00 back to 02:00: it runs in the first of them."""
    assert times("30 2 * * *", ms(2026, 10, 24, 12), 2) == [
        "10-25 02:30 +0200", "10-26 02:30 +0100",
    ]  # fmt: skip
    assert times("*/30 * * * *", ms(2026, 10, 25, 1, 45), 5) == [
        "10-25 02:00 +0200", "10-25 02:30 +0200", "10-25 02:00 +0100", "10-25 02:30 +0100",
        "10-25 03:00 +0100",
    ]  # fmt: skip


def test_each_time_follows_from_the_one_before() -> None:
    """What agents compute one by one is what one would compute at once."""
    for line in ("30 2 * * *", "*/20 * * * *", "15 1-3 * * *", "0 */2 * * *"):
        rule = Rule(cron=line, timezone=BERLIN)
        for start in (ms(2026, 3, 28, 20), ms(2026, 10, 24, 20)):
            at, one_by_one = rule.first(start), []
            for _ in range(60):
                one_by_one.append(at)
                at = rule.after(at)
            assert one_by_one == rule.times(start, 60)
            assert one_by_one == sorted(set(one_by_one))


@pytest.mark.parametrize(("line", "kept"), [
    ("3 17 * * SUN", "3 17 * * sun"), ("  0   0 1 jan,jul * ", "0 0 1 jan,jul *"),
    ("@daily", "0 0 * * *"), ("@WEEKLY", "0 0 * * 0"), ("*/5 8-18/2 * * 1-5", "*/5 8-18/2 * * 1-5"),
])  # fmt: skip
def test_lines(line: str, kept: str) -> None:
    assert check_cron(line) == kept


@pytest.mark.parametrize(
    "line",
    ["", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "0 0 31 2 *", "x * * * *", "@often",
     "0 0 * * 8", "5-1 * * * *", "*/0 * * * *"],
)  # fmt: skip
def test_bad_lines(line: str) -> None:
    with pytest.raises(SpecError):
        check_cron(line)


def test_weekday_names() -> None:
    found = Rule(cron="3 17 * * sun").times(ms(2026, 11, 21, name="UTC"), 2)
    days = [datetime.fromtimestamp(at / 1000, timezone.utc) for at in found]
    assert [(day.weekday(), day.hour, day.minute) for day in days] == [(6, 17, 3), (6, 17, 3)]


def test_intervals_keep_their_beat() -> None:
    rule = Rule(every_ms=5000)
    assert rule.times(1000, 3) == [1000, 6000, 11000]
    assert rule.look(1000, 1000) == Look(1000, 0, 6000)
    assert rule.look(1000, 5999) == Look(1000, 0, 6000)
    assert rule.look(1000, 6000) == Look(6000, 1, 11000)
    assert rule.look(1000, 10**9) == Look(999996000 + 0, 199999, 10**9 + 1000)


def test_missed_times_of_cron() -> None:
    rule = Rule(cron="0 * * * *", timezone="UTC")
    assert rule.look(HOUR, HOUR) == Look(HOUR, 0, 2 * HOUR)
    assert rule.look(HOUR, 5 * HOUR + 10) == Look(5 * HOUR, 4, 6 * HOUR)
    year = 365 * 24 * HOUR
    look = Rule(cron="* * * * *").look(0, 3 * year)
    assert (look.fire_ms, look.missed, look.next_ms) == (3 * year, 1000, 3 * year + 60_000)


def test_no_catching_up() -> None:
    rule = Rule(every_ms=HOUR, catch_up=NONE)
    assert rule.look(HOUR, HOUR + 30_000) == Look(HOUR, 0, 2 * HOUR), "late, but not missed"
    assert rule.look(HOUR, HOUR + 61_000) == Look(0, 1, 2 * HOUR)
    assert rule.look(HOUR, 5 * HOUR + 1000) == Look(5 * HOUR, 4, 6 * HOUR)


def test_until() -> None:
    rule = Rule(every_ms=5000, until_ms=12_000)
    assert rule.times(1000, 9) == [1000, 6000, 11000]
    assert rule.look(1000, 10**6) == Look(11000, 2, 0)
    assert Rule(every_ms=5000, until_ms=500).first(1000) == 0
    cron = Rule(cron="0 * * * *", until_ms=3 * HOUR)
    assert cron.times(HOUR, 9) == [HOUR, 2 * HOUR, 3 * HOUR]
    assert cron.look(HOUR, 99 * HOUR) == Look(3 * HOUR, 2, 0)


def test_time_zones(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoTimeZone, match="no time zone"):
        zone("Europe/Atlantis")
    with pytest.raises(NoTimeZone):
        zone("../../etc/passwd")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert local_zone() == "Asia/Tokyo"
    monkeypatch.setenv("TZ", "UTC")
    assert local_zone() == "UTC"


def test_as_bytes() -> None:
    rule = Rule(cron="0 3 * * *", timezone=BERLIN, catch_up=NONE)
    assert Rule.from_bytes(rule.to_bytes()) == rule
    assert rule.shown == "0 3 * * * (Europe/Berlin)"
    assert Rule(every_ms=1500).shown == "every 1.5s"
    assert Rule(every_ms=HOUR).shown == "every 1h"
