"""sbatch: submit a script, as Slurm does."""

from __future__ import annotations

from collections.abc import Sequence

from qsub_py.cli.shims import sending
from qsub_py.dialect_slurm import SLURM


def sbatch(words: Sequence[str]) -> int:
    """Submit a job and print `Submitted batch job 12`; `--parsable` prints 12."""
    asked = sending.read(SLURM, words)
    if asked.is_dry:
        from qsub_py.cli.dry_run import describe

        print(describe(asked.draft))
        return 0
    is_bare = any("--parsable".startswith(said) and len(said) > 5 for said in asked.said)
    from qsub_py.cli.submitting import submit

    return submit(asked.draft, does_wait=asked.does_wait, does_follow=False,
                  told=str if is_bare else "Submitted batch job {}".format)  # fmt: skip
