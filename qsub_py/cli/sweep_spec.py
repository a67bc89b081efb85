"""What a sweep makes of a spec: its numbers, its words and patterns checked, its files named."""

from __future__ import annotations

from dataclasses import replace

from qsub_py.cli.options import Request
from qsub_py.cli.spec import check_outputs
from qsub_py.model import JobSpec, Segments
from qsub_py.sweep import Sweep
from qsub_py.sweep_fill import check, expansions, fill, is_per_point
from qsub_py.sweep_rows import pack
from qsub_py.text import is_per_task


def with_sweep(
    spec: JobSpec, request: Request, sweep: Sweep
) -> tuple[JobSpec, Request, tuple[bytes, ...]]:
    """Return the spec with its sweep, the request with its files named, the pages of its rows.

    Raises SpecError.
    """
    packed = pack(sweep)
    numbers = Segments(((0, sweep.count - 1, 1),))
    spec = replace(spec, segments=numbers, is_array=True, sweep=packed.sweep.plain())
    for word in (*spec.argv, spec.output, spec.error, spec.skip_if_exists):
        check(word, sweep)
    names = " ".join(f"{{{name}}}" for name in sweep.names)
    check_outputs(
        spec,
        lambda pattern: is_per_task(pattern) or is_per_point(pattern, sweep),
        f", or all of {names}",
    )
    return spec, _filled(request, sweep), packed.pages


def _filled(request: Request, sweep: Sweep) -> Request:
    """Return a request whose ship list names the files of all points, {name} being a * in --fetch.

    Each task brings back only what it changed in its own directory.
    """
    ship = (path for text in request.ship for path in expansions(text, sweep))
    stars = {name: "*" for name in sweep.names}
    fetch = tuple(fill(text, stars) for text in request.fetch)
    return replace(request, ship=tuple(dict.fromkeys(ship)), fetch=fetch)
