"""qsub as Grid Engine has it."""

from __future__ import annotations

from collections.abc import Sequence

from qsub_py.arrays import format_array
from qsub_py.cli.draft import Draft
from qsub_py.cli.shims import sending
from qsub_py.dialect_sge import SGE


def qsub(words: Sequence[str]) -> int:
    """Submit a job and print `Your job 12 ("name") has been submitted`; with -terse 12."""
    asked = sending.read(SGE, words)
    if asked.is_dry:
        from qsub_py.cli.dry_run import describe

        print(describe(asked.draft))
        return 0
    from qsub_py.cli.submitting import submit

    draft, is_terse = asked.draft, "-terse" in asked.said
    return submit(draft, does_wait=asked.does_wait, does_follow=False,
                  told=str if is_terse else lambda job: sentence(job, draft))  # fmt: skip


def sentence(job: int, draft: Draft) -> str:
    """Return what Grid Engine says of a new job."""
    spec = draft.spec
    if not spec.is_array:
        return f'Your job {job} ("{spec.name}") has been submitted'
    tasks = format_array(spec.segments)
    tasks += "" if ":" in tasks or "," in tasks else ":1"
    return f'Your job-array {job}.{tasks} ("{spec.name}") has been submitted'
