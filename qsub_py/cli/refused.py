"""What qsub refuses: words that can be read in two ways.

A word that two systems read in two ways is refused with both readings, so that no job starts
with a wrong meaning. What other systems' words mean is in the dialects.
"""

from __future__ import annotations

import re

from qsub_py.errors import SpecError

_RANGE = re.compile(r"\d+-\d+(:\d+)?(%\d+)?$")
_INTEGER = re.compile(r"[+-]?\d+$")
_PBS_DATE = re.compile(r"(\d\d){0,4}([01]\d|2[0-3])[0-5]\d(\.[0-5]\d)?$")

#: Who else reads the option in the other way.
_OTHERS = {"-t": "sge", "-N": "slurm", "-p": "pbs", "-w": "sge", "-a": "pbs", "-d": "torque"}
#: Short option, shape of its value -> the two readings.
_AMBIGUOUS: dict[str, tuple[re.Pattern[str], str]] = {
    "-t": (_RANGE, "an array (Grid Engine) is --array {v}, a time limit is --time {v}"),
    "-N": (_INTEGER, "a number of nodes (Slurm) is not needed, a name is --name {v}"),
    "-p": (_INTEGER, "a priority (PBS) is --priority {v}, a queue is --queue {v}"),
    "-w": (re.compile("[evnpw]$"), "a check (Grid Engine) is --dry-run, a node is --nodelist {v}"),
    "-a": (_PBS_DATE, "a start time (PBS) is --begin DATE, an array is --array {v}"),
    "-c": (re.compile(r"[nscwu](=\d+)?$"), "checkpoints (PBS) are not known, cpus are --cpus N"),
    "-d": (re.compile(r"[/~.]"), "a directory (Torque) is --chdir {v}, other jobs are --dependency"
           " afterok:JOB"),
}  # fmt: skip


def check_word(option: str) -> None:
    """Raise SpecError when `option` means two things."""
    if option == "-h":
        raise SpecError("`-h` could mean two things", hint="write --help or --hold")


def check_value(option: str, value: str) -> None:
    """Raise SpecError when other systems read `option value` in another way."""
    shape, readings = _AMBIGUOUS.get(option, (None, ""))
    if shape is not None and shape.match(value):
        other = f" (or write --dialect {_OTHERS[option]} first)" if option in _OTHERS else ""
        raise SpecError(f"`{option} {value}` could mean two things",
                        hint=readings.format(v=value) + other)  # fmt: skip
