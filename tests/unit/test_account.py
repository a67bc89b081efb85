"""What was used, how well, and what would have done."""

from __future__ import annotations

import pytest

from qsub_py.account import MIB, DayUse, Usage, by_owner


def test_efficiencies() -> None:
    used = Usage.from_text("2 20000 10000 40000 15000 512 2048 2 15000 512")
    assert used.cpu_efficiency == 0.25
    assert used.memory_efficiency == 0.25
    assert Usage().cpu_efficiency is None
    assert Usage().memory_efficiency is None


@pytest.mark.parametrize(
    ("peak_mib", "longest_s", "mem", "time_s"),
    [
        (1, 0.01, "10M", 60.0),
        (100, 30.0, "120M", 60.0),
        (900, 700.0, "1100M", 1200.0),
        (20_000, 30_000.0, "24G", 46_800.0),
    ],
)
def test_what_would_have_done(peak_mib: int, longest_s: float, mem: str, time_s: float) -> None:
    used = Usage(1, completed=1, completed_longest_s=longest_s,
                 completed_peak_bytes=peak_mib * MIB)  # fmt: skip
    assert (used.enough_mem, used.enough_time_s) == (mem, time_s)
    assert used.enough_time_s >= 1.5 * longest_s


def test_nothing_is_advised_when_nothing_completed() -> None:
    used = Usage(1, longest_s=3.0, peak_bytes=MIB)
    assert (used.enough_mem, used.enough_time_s) == ("", 0.0)


def test_owners_by_use() -> None:
    days = [
        DayUse.from_text("ann", 1, "1 0 1000 500 1000"),
        DayUse.from_text("bob", 1, "1 1 9000 500 9000"),
        DayUse.from_text("ann", 2, "2 1 1000 500 1000"),
    ]
    assert [(use.owner, use.tasks, use.failed) for use in by_owner(days)] == [
        ("bob", 1, 1), ("ann", 3, 1),
    ]  # fmt: skip
