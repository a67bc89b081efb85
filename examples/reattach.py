"""Submit now, fetch the results later, from any process on any host of the cluster.

Usage: python reattach.py          submit; prints the job's id and ends at once
       python reattach.py ID       print each result, waiting for those that are not there
"""

from __future__ import annotations

import sys
import time

import qsub_py


def collatz_steps(n: int) -> int:
    """Return how many steps the Collatz sequence takes from `n` to 1."""
    if n < 1:
        raise ValueError(f"{n} is not positive")
    time.sleep(0.2)
    steps = 0
    while n != 1:
        n = 3 * n + 1 if n % 2 else n // 2
        steps += 1
    return steps


#: The last one fails: a failure is a result too.
STARTS = [6, 27, 97, 871, 6171, 77031, -1]


def main() -> None:
    if len(sys.argv) == 1:
        print(qsub_py.map(collatz_steps, STARTS, name="collatz").job)
        return
    job = qsub_py.Job(sys.argv[1])
    for start, result in zip(STARTS, job.results(), strict=True):
        text = f"failed: {result}" if isinstance(result, Exception) else f"{result} steps"
        print(f"{start:>6}  {text}")


if __name__ == "__main__":
    main()
