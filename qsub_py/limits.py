"""The limits of the cluster as they are now, and what they say to a job that waits.

Pure: reading them is `store_limits.py`, deciding by them `lua/lib/policy.lua`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from qsub_py.model import JobInfo
from qsub_py.terms import Terms, licenses_of, shown_rate, terms_of_lane
from qsub_py.units import format_span

KINDS = ("license", "owner")


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be in use at most, and what is."""

    #: "license:matlab" -> 4.
    most: Mapping[str, int] = field(default_factory=dict)
    #: Licence -> how many running tasks hold.
    licenses_used: Mapping[str, int] = field(default_factory=dict)
    #: Owner -> cpus that running tasks hold.
    cpus_held: Mapping[str, int] = field(default_factory=dict)
    #: Rate as in lanes -> when the next task may start.
    rates_at: Mapping[str, float] = field(default_factory=dict)
    #: Who keeps room for which wide job: (node uid, job).
    saving: tuple[str, int] | None = None

    def cap(self, owner: str) -> int | None:
        """Return how many cpus an owner's tasks may hold at once, None: any number."""
        return self.most.get(f"owner:{owner}", self.most.get("owner:*"))


def license_complaint(words: tuple[str, ...], most: Mapping[str, int]) -> str:
    """Return why a job that asks for these licences could never start, "" when it could."""
    known = {name.partition(":")[2]: n for name, n in most.items() if name.startswith("license:")}
    for name, count in licenses_of(words).items():
        if name not in known:
            has = f"there are {', '.join(sorted(known))}" if known else "there are none"
            return f"no licence is called {name}; {has}"
        if count > known[name]:
            return f"{count} of licence {name} are asked for, there are {known[name]}"
    return ""


def blocked(job: JobInfo, limits: Limits, *, now: float) -> tuple[str, str] | None:
    """Return (reason, sentence) when a limit of the cluster keeps a job from starting now."""
    cap, held = limits.cap(job.owner), limits.cpus_held.get(job.owner, 0)
    if cap is not None and job.cpus > cap:
        return "AssocGrpCpuLimit", f"it needs {job.cpus} cpus, all of {job.owner} may have {cap}"
    if cap is not None and held + job.cpus > cap:
        return "AssocGrpCpuLimit", f"tasks of {job.owner} hold {held} cpus and may have {cap}"
    terms = terms_of_lane(job.lane)
    for name, count in licenses_of(terms.licenses).items():
        total, used = limits.most.get(f"license:{name}"), limits.licenses_used.get(name, 0)
        if total is None:
            return "Licenses", f"there is no licence {name} any more; see `qnode limits`"
        if count > total:
            return "Licenses", f"it needs {count} of licence {name}, there are only {total}"
        if used + count > total:
            return "Licenses", f"{used} of {total} of licence {name} are in use, it needs {count}"
    wait_s = limits.rates_at.get(terms.rate, 0.0) - now
    if wait_s > 0:
        wait = format_span(math.ceil(wait_s))
        return "RateLimit", f"the next may start in {wait} ({_shown(job, terms)})"
    return None


def _shown(job: JobInfo, terms: Terms) -> str:
    """Return the rate as the user wrote it: one of the job's own has the name of its uid."""
    shown = shown_rate(terms.rate)
    return shown.removeprefix(f"{job.uid}:")
