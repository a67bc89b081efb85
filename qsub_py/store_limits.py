"""The limits of a cluster in the store: set them, see what is in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qsub_py.errors import SpecError
from qsub_py.limits import Limits, license_complaint
from qsub_py.model import JobInfo
from qsub_py.store_core import StoreCore
from qsub_py.store_link import Argument
from qsub_py.store_rows import decoded, pairs
from qsub_py.terms import terms_of_lane

HALF_LIFE_S = 7 * 86400.0


def _numbers(reply: object) -> dict[str, int]:
    return {decoded(name): int(float(value)) for name, value in pairs(reply).items()}


def set_limits(store: StoreCore, changes: Mapping[str, int | None]) -> None:
    """Set limits by name ("license:matlab"), None removes one."""
    words = [word for name, n in changes.items() for word in (name, "" if n is None else n)]
    store.link.call("limits", store.keys.meta, *words)


def read_limits(store: StoreCore, jobs: Sequence[JobInfo] = ()) -> Limits:
    """Return the limits with what is in use, as far as these jobs are concerned."""
    prefix = store.keys.prefix
    owners = {job.owner for job in jobs}
    ask: list[tuple[Argument, ...]] = [
        ("HGETALL", prefix + "limits"), ("HGETALL", prefix + "lic_used"),
    ]  # fmt: skip
    most, used = store.link.pipeline(ask)
    caps = _numbers(most)
    owners |= {name[6:] for name in caps if name.startswith("owner:") and name != "owner:*"}
    ordered = sorted(owners)
    rates = sorted({rate for rate in (terms_of_lane(job.lane).rate for job in jobs) if rate})
    saves = store.link.command("HGET", store.keys.meta, "saving")
    node, job = decoded(saves).split("|")[:2] if saves else ("", "0")
    ask = [("HGET", _own(store, owner), "cpus") for owner in ordered]
    ask += [("GET", f"{prefix}rate:{rate}") for rate in rates]
    found = store.link.pipeline(ask) if ask else []
    cpus = {owner: int(n or 0) for owner, n in zip(ordered, found, strict=False)}
    times = zip(rates, found[len(ordered) :], strict=True)
    rates_at = {rate: float(at or 0) / 1000 for rate, at in times}
    return Limits(caps, _numbers(used), cpus, rates_at, (node, int(job)) if node else None)


def read_use(store: StoreCore, owner: str, *, now: float) -> float:
    """Return the cpu seconds that an owner has used; half of them are forgotten in a week."""
    used, at = store.link.command("HMGET", _own(store, owner), "used", "at")
    if used is None:
        return 0.0
    past_s = max(0.0, now - int(at) / 1000)
    return float(float(used) * 2.0 ** (-past_s / HALF_LIFE_S))


def _own(store: StoreCore, owner: str) -> str:
    # As it is in the owner's lanes.
    return f"{store.keys.prefix}own:{owner.replace('|', '_')}"


def check_licenses(store: StoreCore, words: tuple[str, ...]) -> None:
    """Raise SpecError when a job that asks for these licences could never start."""
    most = _numbers(store.link.command("HGETALL", store.keys.prefix + "limits"))
    if complaint := license_complaint(words, most):
        raise SpecError(complaint, hint="`qnode limits license:NAME=N` says how many there are")
