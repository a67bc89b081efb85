"""Medians, spreads and ratios of what was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.rows import OURS, Figure


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of them lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(slots=True)
class Measured:
    """Every value of every figure by contender, and why some are missing."""

    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, contender: str, found: dict[str, float]) -> None:
        """Take the figures of one block."""
        for key, value in found.items():
            self.values.setdefault((key, contender), []).append(value)

    def median(self, key: str, contender: str) -> float | None:
        """Return the median over the blocks, None when there is none."""
        values = self.values.get((key, contender))
        return statistics.median(values) if values else None

    def spread(self, key: str, contender: str) -> tuple[float, float] | None:
        """Return the least and the largest value."""
        values = self.values.get((key, contender))
        return (min(values), max(values)) if values else None

    def times_better(self, figure: Figure, other: str) -> float | None:
        """Return how many times better we are than another contender."""
        mine, theirs = self.median(figure.key, OURS), self.median(figure.key, other)
        if not mine or theirs is None or not math.isfinite(mine):
            return None
        return mine / theirs if figure.is_rate else theirs / mine

    def meets_goal(self, figure: Figure) -> bool | None:
        """Whether our median reaches the goal; None without one."""
        mine = self.median(figure.key, OURS)
        if mine is None or figure.goal is None:
            return None
        return mine >= figure.goal if figure.is_rate else mine <= figure.goal
