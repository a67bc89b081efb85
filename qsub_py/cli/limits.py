"""`qnode limits`: what all jobs of the cluster together may use."""

from __future__ import annotations

import re
from collections.abc import Sequence

from qsub_py import render
from qsub_py.cli import common
from qsub_py.errors import SpecError
from qsub_py.limits import KINDS, Limits
from qsub_py.store_limits import read_limits, set_limits
from qsub_py.text import quoted

_MOST = 1_000_000_000


def limits(words: Sequence[str], *, as_json: bool) -> None:
    """Set the limits that words name, then show all."""
    changes = dict(_change(word) for word in words)
    client = common.connect()
    if changes:
        client.ask(lambda store: set_limits(store, changes))
    found = client.ask(read_limits)
    rows = _rows(found)
    if as_json:
        render.show_json(
            [{"kind": kind, "name": name, "used": used, "total": total}
             for kind, name, used, total in rows]
        )  # fmt: skip
    elif rows:
        cells = tuple((kind, name, "-" if used is None else str(used), str(total))
                      for kind, name, used, total in rows)  # fmt: skip
        render.show(render.Table(("KIND", "NAME", "USED", "TOTAL"), cells,
                                 frozenset({"USED", "TOTAL"})))  # fmt: skip
    else:
        common.complain("no limits; `qnode limits license:NAME=N owner:NAME=CPUS` sets some")


def _change(word: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(?P<kind>\w+):(?P<name>[^=]+)=(?P<value>.*)", word, re.ASCII)
    if not match or match["kind"] not in KINDS or not _is_name(match["kind"], match["name"]):
        shapes = " or ".join(f"{kind}:NAME=N" for kind in KINDS)
        raise SpecError(f"{quoted(word)} is no limit", hint=f"write {shapes}; N `none` removes it")
    name = f"{match['kind']}:{match['name']}"
    if match["value"] == "none":
        return name, None
    return name, common.whole(match["value"], name, least=0, most=_MOST)


def _is_name(kind: str, name: str) -> bool:
    if kind == "owner":
        return name == "*" or re.fullmatch(r"[^\s:|=*]{1,128}", name) is not None
    return re.fullmatch(r"(?!-)[\w.+@-]{1,64}", name, re.ASCII) is not None


def _rows(found: Limits) -> list[tuple[str, str, int | None, int]]:
    rows: list[tuple[str, str, int | None, int]] = []
    for full, total in sorted(found.most.items()):
        kind, _, name = full.partition(":")
        used = found.licenses_used if kind == "license" else found.cpus_held
        # What all together use says nothing of a cap that each has.
        rows.append((kind, name, None if name == "*" else used.get(name, 0), total))
    return rows
