"""What qsub reads of --ship and --fetch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from qsub_py.cli.common import read
from qsub_py.cli.options import Request
from qsub_py.errors import SpecError
from qsub_py.globs import check_glob
from qsub_py.model import JobSpec
from qsub_py.units import parse_size

if TYPE_CHECKING:
    from qsub_py.config import JobConfig
    from qsub_py.shipping import Parcel


def with_files(
    spec: JobSpec, request: Request, limits: JobConfig | None
) -> tuple[JobSpec, tuple[Parcel, ...]]:
    """Return the spec with what it ships and fetches, and the parcels; raises SpecError."""
    if request.ship and request.chdir is not None:
        raise SpecError(
            "--ship and --chdir exclude each other: what is shipped lies in a private directory,"
            " where the job runs",
            hint="run qsub in that directory, or leave one out",
        )
    if not request.ship and (request.ship_ignore or request.gitignore):
        raise SpecError("--ship-ignore and --gitignore need --ship", hint="write --ship .")
    if limits is None:
        from qsub_py.config import JobConfig

        limits = JobConfig()
    if request.fetch:
        patterns = tuple(dict.fromkeys(map(_pattern, request.fetch)))
        spec = replace(spec, fetch=patterns, fetch_bytes=parse_size(limits.fetch_limit),
                       fetch_job_bytes=parse_size(limits.fetch_total))  # fmt: skip
    if not request.ship:
        return spec, ()
    from qsub_py.shipping import make_parcels  # here: few jobs ship

    parcels = make_parcels(
        request.ship, base=spec.cwd, ignore=request.ship_ignore,
        does_gitignore=bool(request.gitignore), limit=parse_size(limits.ship_limit),
    )  # fmt: skip
    return replace(spec, ship=tuple(parcel.ship for parcel in parcels)), parcels


def _pattern(text: str) -> str:
    return read("--fetch", check_glob, text)
