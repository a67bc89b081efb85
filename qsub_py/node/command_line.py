"""The words that run a command or a script on this node."""

from __future__ import annotations

from qsub_py.model import JobSpec
from qsub_py.node import surroundings
from qsub_py.node.job_files import moved
from qsub_py.node.settings import NodeSettings

#: Runs the spooled text of a script under the name and in the place of the original.
_RUN_SCRIPT = """\
import os, sys
_path, _spooled = sys.argv[1:3]
_path = _path and os.path.abspath(_path)
sys.argv[:3] = [_path]
sys.path[0] = os.path.dirname(_path) if _path else os.getcwd()
with open(_spooled, encoding="utf-8") as _file: _text = _file.read()
__file__ = _path
exec(compile(_text, _path or "<stdin>", "exec"))
"""


def command_line(spec: JobSpec, spooled: str, settings: NodeSettings) -> list[str]:
    """Return the argv of a job's tasks; `spooled` is the file with the text of its script."""
    if spec.script is None:
        return list(spec.argv)
    if spec.script_path.endswith(".py"):
        python = surroundings.interpreter(spec, settings)
        path = moved(spec, spec.script_path) if spec.ship else spec.script_path
        head = [python, "-c", _RUN_SCRIPT, path, spooled]
    else:
        head = [*_interpreter(spec.script), spooled]
    return [*head, *spec.argv]


def _interpreter(script: str) -> list[str]:
    """Return the words that run a script: its `#!` line as the kernel reads it, else /bin/sh."""
    line = script.split("\n", 1)[0]
    if not line.startswith("#!") or not line[2:].strip():
        return ["/bin/sh"]
    return line[2:].strip().split(None, 1)


def is_shell(spec: JobSpec) -> bool:
    """Whether a shell runs the job, whose programs are what a signal is meant for."""
    return spec.script is not None and not spec.script_path.endswith(".py")
