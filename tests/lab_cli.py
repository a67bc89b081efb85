"""scripts/lab: a lab of hosts by hand."""

from __future__ import annotations

import argparse
import os
import sys

import lab as labs
from lab import Lab
from lab_host import HEAD, USER

_ABOUT = """\
Bring up a network of real hosts on this machine (needs root), with their own addresses,
names, homes and sshd, and a host `head` from where they can be reached: h1, h2, ...
  scripts/lab up 3
  scripts/lab exec head               a shell on the head; exec h1 for one on h1
  scripts/lab exec head ssh h1 hostname
  scripts/lab cut h2; scripts/lab heal h2
  scripts/lab kill h2; scripts/lab boot h2
  scripts/lab down
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lab", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lab", default=os.environ.get("QSUB_LAB", "hand"), help="name of the lab")
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="bring up a lab of N hosts")
    up.add_argument("count", type=int, metavar="N")
    verbs.add_parser("down", help="end the lab")
    verbs.add_parser("status", help="show the labs and their hosts")
    execute = verbs.add_parser("exec", help="run a command on a host (none: a shell)")
    execute.add_argument("--root", action="store_true", help=f"as root, not as {USER}")
    execute.add_argument("host", metavar="HOST")
    execute.add_argument("command", nargs=argparse.REMAINDER)
    cut = verbs.add_parser("cut", help="part a host from the network without a word")
    cut.add_argument("host", metavar="HOST")
    cut.add_argument("way", nargs="?", default="both", choices=["both", "in", "out", "down"])
    for verb, what in (
        ("heal", "undo what cut did"),
        ("kill", "cut a host's power: all its processes at once"),
        ("boot", "switch a host on again: a new boot id, the home kept"),
        ("reset", "make a host as it was at first"),
    ):
        verbs.add_parser(verb, help=what).add_argument("host", metavar="HOST")
    return parser


def main() -> int:
    """Do what the command line says."""
    asked = _parser().parse_args()
    if reason := labs.why_not():
        print(f"lab: {reason}", file=sys.stderr)
        return 1
    if asked.verb == "status":
        return _status()
    try:
        if asked.verb == "up":
            return _up(asked.lab, asked.count)
        labs.sweep()
        return _do(asked)
    except FileNotFoundError:
        print(f"lab: no lab {asked.lab!r} is up; scripts/lab up 3 makes one", file=sys.stderr)
    except (KeyError, AssertionError, FileExistsError) as error:
        print(f"lab: {error}", file=sys.stderr)
    return 1


def _up(name: str, count: int) -> int:
    lab = Lab.up(count, name=name, owned=False)
    names = " ".join(lab.hosts)
    print(f"up: {names}; try: scripts/lab exec head ssh h1 hostname")
    return 0


def _status() -> int:
    for lab in labs.labs():
        print(f"lab {lab.name}{' (of a test)' if lab.owner else ''}")
        for host in lab.machines:
            what = f"{len(host.processes())} processes" if host.pid else "off"
            print(f"  {host.name:<6} {host.address:<12} {what}")
    return 0


def _do(asked: argparse.Namespace) -> int:
    lab = Lab.attach(asked.lab)
    if asked.verb == "down":
        lab.down()
        return 0
    if asked.host not in [HEAD, *lab.hosts]:
        raise KeyError(f"no host {asked.host!r}; there are {', '.join([HEAD, *lab.hosts])}")
    host = lab[asked.host]
    if asked.verb == "exec":
        _exec(host, asked)
    elif asked.verb == "cut":
        host.cut(asked.way)
    else:
        getattr(host, asked.verb)()
        lab.save()
    return 0


def _exec(host: labs.Host, asked: argparse.Namespace) -> None:
    """Become the command."""
    assert host.pid, f"{host.name} is off"
    words = asked.command or [host.shell, "-i"]
    env = {"TERM": os.environ.get("TERM", "dumb")}
    cwd = os.getcwd() if host.is_head else ""
    argv = host.argv(words, user="root" if asked.root else USER, env=env, cwd=cwd)
    os.execvp(argv[0], argv)


if __name__ == "__main__":
    sys.exit(main())
