"""qsub as PBS Pro and Torque have it: prints `12`, or `12[]` of an array."""

from __future__ import annotations

from collections.abc import Sequence

from qsub_py.cli.shims import sending
from qsub_py.dialect_pbs import PBS, TORQUE


def qsub(words: Sequence[str], system: str) -> int:
    """Submit a job and print its id, one line and nothing else."""
    asked = sending.read(TORQUE if system == "torque" else PBS, words)
    draft = asked.draft
    from qsub_py.cli.submitting import submit

    return submit(draft, does_wait=asked.does_wait, does_follow=False,
                  told="{}[]".format if draft.spec.is_array else str)  # fmt: skip
