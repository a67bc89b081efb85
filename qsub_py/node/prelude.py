"""The program that a command with shipped files begins as, and that collects files at its end.

    prelude.py unpack JSON PROGRAM ARGV...    unpacks into its directory, then becomes PROGRAM
    prelude.py collect JSON                   packs what matches

The keeper starts it by its path, so that unpacking is never in the way of its loop. What
becomes of it is written to descriptor 3: "ok" just before the command begins, "!" and the reason
when it cannot; or what `private.collect` says.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import types

if __name__ == "__main__":
    # As in runner.py: the package need not be installed for this interpreter.
    _HERE = __file__.rpartition("/")[0]
    sys.path[:] = [path for path in sys.path if path != _HERE]
    for _name, _path in (("qsub_py", _HERE.rpartition("/")[0]), ("qsub_py.node", _HERE)):
        sys.modules[_name] = types.ModuleType(_name)
        sys.modules[_name].__path__ = [_path]

from qsub_py.archive import ArchiveError
from qsub_py.node import private

STATUS = 3


def _unpack(config: dict[str, object], program: str, argv: list[str]) -> None:
    ships: list[list[str]] = config["ships"]  # type: ignore[assignment]
    links: list[list[str]] = config["links"]  # type: ignore[assignment]
    try:
        private.stage(".", ships, str(config["since"]))
        for source, path in links:
            private.link(".", source, path)
    except ArchiveError as error:
        _say(f"!cannot unpack what was shipped: {error}")
    except OSError as error:
        where = os.fsdecode(error.filename) if error.filename else "what was shipped"
        _say(f"!cannot unpack {where}: {(error.strerror or '').lower()}")
    else:
        _become(_shipped(program, str(config["submit_dir"])), argv)


def _shipped(program: str, submit_dir: str) -> str:
    """Return the program as it was shipped, if it was, else as it was named."""
    if program.startswith(submit_dir.rstrip("/") + "/"):
        below = "./" + program[len(submit_dir.rstrip("/")) + 1 :]
        if os.path.exists(below):
            return below
    return program


def _become(program: str, argv: list[str]) -> None:
    # The interpreter ignores these, and may have added LC_CTYPE.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    with open("/proc/self/environ", "rb") as file:
        words = file.read().split(b"\0")
    env = dict(word.split(b"=", 1) for word in words if b"=" in word)
    _say("ok")
    try:
        os.execve(program, argv, env)
    except OSError as error:
        _say(f"!{(error.strerror or str(error)).lower()}: {program} on this node")


def _say(text: str) -> None:
    os.write(STATUS, text.encode("utf-8", "surrogateescape")[:4000])


def main() -> None:
    """Do what the first argument says."""
    os.set_inheritable(STATUS, False)
    config = json.loads(sys.argv[2])
    if sys.argv[1] == "unpack":
        _unpack(config, sys.argv[3], sys.argv[4:])
        sys.exit(1)
    _say(json.dumps(private.collect(**config)))


if __name__ == "__main__":
    main()
