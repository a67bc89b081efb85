"""What a node lends to the interpreters and shells of its jobs.

Every interpreter gets our cloudpickle, unless it has one. On a host where nothing is installed
jobs also find our commands on PATH (at its end) and calls can import qsub_py: so that a job can
submit jobs there as it can where it came from.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from qsub_py.bundle import LIBRARIES

_COMMANDS = ("qsub", "qstat", "qcancel", "qdel", "qhold", "qalter", "qrls", "qsuspend",
             "qresume", "qrerun", "qwait", "qlog", "qresult", "qfetch", "qacct", "qnode",
             "qsub-py")  # fmt: skip
_COMMAND = """\
#!/bin/sh
PYTHONPATH={home}${{PYTHONPATH:+:$PYTHONPATH}} exec {python} -m qsub_py {verb}"$@"
"""


def lend(node_dir: Path) -> None:
    """Bring the node's lib/ and bin/ up to date with the package that runs."""
    import cloudpickle

    packages = {"cloudpickle": Path(cloudpickle.__file__).parent}
    home = Path(__file__).resolve().parents[2]
    if is_bundle(home):
        packages |= {name: home / name for name in ("qsub_py", *LIBRARIES)}
        _write_commands(node_dir / "bin", home)
    (node_dir / "lib").mkdir(mode=0o700, exist_ok=True)
    for name, target in packages.items():
        link = node_dir / "lib" / name
        if not link.is_symlink() or os.readlink(link) != str(target):
            draft = link.with_name(f".{name}.{os.getpid()}")
            draft.unlink(missing_ok=True)
            draft.symlink_to(target)
            draft.replace(link)


def is_bundle(home: Path) -> bool:
    """Whether the package was unpacked here from a bundle, and not installed."""
    return (home / ".in-use").exists()


def _write_commands(folder: Path, home: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    for name in _COMMANDS:
        verb = "" if name == "qsub-py" else f"{name} "
        text = _COMMAND.format(home=_quoted(home), python=_quoted(sys.executable), verb=verb)
        path = folder / name
        with contextlib.suppress(OSError):
            if path.read_text() == text:
                continue
        draft = folder / f".{name}.{os.getpid()}"
        draft.write_text(text)
        draft.chmod(0o700)
        draft.replace(path)


def _quoted(path: str | Path) -> str:
    import shlex

    return shlex.quote(str(path))
