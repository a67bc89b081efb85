"""scripts/bench: measure qsub_py, its peers and the limits in one run."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

from benchmarks import limits, report
from benchmarks.driver import ContenderFailed
from benchmarks.figures import Measured
from benchmarks.profiling import profile
from benchmarks.rows import CONTENDERS, GROUPS, OURS, PEERS, Group
from benchmarks.stage import Stage

_QUICKER = 10
_QUIET_LOAD = 0.7


def main() -> None:
    """Run what the command line asks for."""
    options = _options()
    groups = _chosen(options)
    signal.signal(signal.SIGTERM, _leave)
    with Stage(with_peers=options.peers) as stage:
        if options.profile:
            print(profile(stage, groups[0], options.contender[0]))
            return
        host = report.machine()
        if host["load_1m"] > _QUIET_LOAD:
            print(
                f"others work here (load {host['load_1m']}): compare ratios only", file=sys.stderr
            )
        measured = measure(stage, groups, options.contender)
    if options.json:
        print(json.dumps(report.as_json(groups, measured, host), indent=2))
    else:
        print(report.tables(groups, measured, host), end="")
    sys.exit(1 if any(name == OURS for _, name in measured.failures) else 0)


def measure(stage: Stage, groups: Sequence[Group], contenders: Sequence[str]) -> Measured:
    """Measure groups, block after block, in each block one contender after the other."""
    measured = Measured()
    for group in groups:
        for block in range(group.blocks):
            for name in [name for name in contenders if name in group.sizes]:
                if (group.name, name) in measured.failures:
                    continue
                print(f"{group.name} {block + 1}/{group.blocks} {name}", file=sys.stderr)
                try:
                    answer = stage.driver(name).ask(group.name, group.sizes[name])
                    measured.add(name, answer)
                except ContenderFailed as failure:
                    measured.failures[group.name, name] = str(failure)
                    print(f"  failed: {failure}", file=sys.stderr)
    return measured


def _options() -> argparse.Namespace:
    names = ",".join(group.name for group in GROUPS)
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure qsub_py (embedded server, append-only file, signatures, one node of "
        "2 cpus), and what others do with the same work. Everything runs in a temporary "
        "directory ($TMPDIR) and is ended.",
        epilog=f"rows: {names}",
    )
    parser.add_argument("--only", metavar="ROWS", help="these rows, with commas")
    parser.add_argument("--quick", action="store_true", help="one short block, to see it work")
    parser.add_argument("--blocks", type=int, metavar="N", help="blocks a row (3)")
    parser.add_argument("--peers", action="store_true",
                        help="also Celery, RQ, Huey and loky, in .bench-venv")  # fmt: skip
    parser.add_argument("--contender", metavar="NAMES", help="only these, with commas")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--profile", metavar="ROW",
                        help="show where the time of one row goes, by process")  # fmt: skip
    options = parser.parse_args()
    given = options.contender.split(",") if options.contender else None
    options.contender = given or [n for n in CONTENDERS if options.peers or n not in PEERS]
    options.contender = [name for name in options.contender if limits.is_installed(name)]
    if unknown := set(options.contender) - set(CONTENDERS):
        parser.error(f"no contender {min(unknown)}; known: {', '.join(CONTENDERS)}")
    if not options.peers and set(options.contender) & set(PEERS):
        parser.error("give --peers, too")
    return options


def _chosen(options: argparse.Namespace) -> list[Group]:
    """Return the groups asked for, with their sizes; exits on an unknown name."""
    wanted = options.profile or options.only
    names = wanted.split(",") if wanted else [group.name for group in GROUPS]
    by_name = {group.name: group for group in GROUPS}
    if unknown := [name for name in names if name not in by_name]:
        sys.exit(f"scripts/bench: no row {unknown[0]}; known: {', '.join(by_name)}")
    groups = [by_name[name] for name in names]
    if options.quick:
        groups = [_quick(group) for group in groups]
    if options.blocks:
        groups = [replace(group, blocks=options.blocks) for group in groups]
    return groups


def _quick(group: Group) -> Group:
    sizes = {
        name: max(min(n, group.least), n // _QUICKER) for name, n in group.sizes.items()
    }  # fmt: skip
    return replace(group, blocks=1, sizes=sizes)


def _leave(*_: object) -> NoReturn:
    raise SystemExit(143)  # so that what was started is ended


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
