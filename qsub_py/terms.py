"""On which terms a task may start, beyond what it needs of a node's size.

Nodes that it must not or may only run on, licences that it holds while it runs, how often tasks
may start. Part of a job's signed spec, and of its lane. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PERIODS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@dataclass(frozen=True, slots=True)
class Terms:
    """What was asked for, checked and in one form, so that equal terms are equal lanes."""

    #: Names of nodes.
    exclude: tuple[str, ...] = ()
    #: Features: "a&b|c".
    constraint: str = ""
    #: "matlab:1", in order.
    licenses: tuple[str, ...] = ()
    #: "name:10/60000", so many in so many ms; without a name the job's own.
    rate: str = ""

    @classmethod
    def from_json(cls, raw: dict[str, object]) -> Terms:
        """Read back what `dataclasses.asdict` made; raises TypeError."""
        for name in ("exclude", "licenses"):
            words = raw.pop(name, ())
            if not isinstance(words, (list, tuple)):
                raise TypeError(f"{name} is not a list")
            raw[name] = tuple(map(str, words))
        return cls(**raw)  # type: ignore[arg-type]


NO_TERMS = Terms()


def meets(constraint: str, features: Sequence[str]) -> bool:
    """Whether a node with these features satisfies a constraint in its one form."""
    return not constraint or any(
        all(word in features for word in group.split("&")) for group in constraint.split("|")
    )


def licenses_of(words: Sequence[str]) -> dict[str, int]:
    """Return what `parse_licenses` returned as name -> number."""
    pairs = (word.rpartition(":") for word in words)
    return {name: int(count) for name, _, count in pairs}


def shown_rate(rate: str) -> str:
    """Return a rate as people write it: "web:10/m"."""
    name, _, figures = rate.rpartition(":")
    count, _, period_ms = figures.partition("/")
    letters = {ms: letter for letter, ms in PERIODS_MS.items()}
    time = letters.get(int(period_ms), f"{int(period_ms) / 1000:g}s")
    return f"{name}:{count}/{time}" if name else f"{count}/{time}"


def lane_parts(terms: Terms | None, uid: str) -> tuple[str, ...]:
    """Return what terms add to a lane; nothing behind the last that was asked for."""
    if terms is None:
        return ()
    rate = terms.rate
    parts = [
        ",".join(terms.exclude), terms.constraint.replace("|", "/"), ",".join(terms.licenses),
        uid + rate if rate.startswith(":") else rate,
    ]  # fmt: skip
    while parts and not parts[-1]:
        parts.pop()
    return tuple(parts)


def terms_of_lane(lane: str) -> Terms:
    """Read back what `lane_parts` wrote at the end of a lane."""
    exclude, constraint, licenses, rate = [*lane.split("|"), *[""] * 11][7:11]
    return Terms(_words(exclude), constraint.replace("/", "|"), _words(licenses), rate)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)
