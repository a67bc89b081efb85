"""Estimate pi with many small calls on the cluster: Executor.map.

Usage: python map_pi.py [CALLS] [POINTS_PER_CALL]
"""

from __future__ import annotations

import random
import sys
import time

from qsub_py import Executor


def count_hits(seed: int, points: int) -> int:
    """Return how many of `points` random points of the unit square lie in the quarter circle."""
    rng = random.Random(seed)
    return sum(rng.random() ** 2 + rng.random() ** 2 < 1.0 for _ in range(points))


def main() -> None:
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    points = int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
    start = time.perf_counter()
    with Executor(cpus=1, name="pi") as executor:
        hits = sum(executor.map(count_hits, range(calls), [points] * calls))
    seconds = time.perf_counter() - start
    print(f"pi is about {4 * hits / (calls * points):.5f}")
    print(f"{calls} calls, {calls * points:,} points, {seconds:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
