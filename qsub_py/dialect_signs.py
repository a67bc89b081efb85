"""Signs by which a script is known to be written for another batch system.

Pure, and light: every submission looks for them, few find any. The tables that tell what
directives mean are imported only then.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SYSTEMS = ("slurm", "pbs", "sge")

#: Who names one of these was written for that system: ids, arrays, where the job came from.
_NAMED = {
    "slurm": re.compile(
        r"\bSLURM_(?:JOB_ID|JOBID|ARRAY_JOB_ID|ARRAY_TASK_(?:ID|COUNT|MIN|MAX|STEP)|SUBMIT_DIR)\b"
    ),
    "pbs": re.compile(
        r"\bPBS_(?:JOBID|ARRAY_INDEX|ARRAY_ID|ARRAYID|O_WORKDIR|NODEFILE)\b"
    ),
    "sge": re.compile(
        r"\bSGE_(?:TASK_(?:ID|FIRST|LAST|STEPSIZE)|O_WORKDIR)\b|\$\{?NSLOTS\b|\$\{?JOB_ID\b"
    ),
}  # fmt: skip
#: A script's own variable of this plain name is no sign of Grid Engine.
_OWN = re.compile(r"\b(?:NSLOTS|JOB_ID)=")

#: Directives further down are not read.
MAX_HEAD_BYTES = 32 * 1024
#: What begins a comment in some language: shell and Python, C, SQL and Lua, TeX and MATLAB.
_SIGNS = ("#", "//", "--", "%")
_DIRECTIVE = re.compile(r"(?:#|//|--|%)(QSUB|SBATCH|PBS)(?=[\s-]|$)(.*)|#(\$)\s*(-.*)?$")
#: PBS and we look behind spaces, Slurm and Grid Engine do not.
_INDENTED = ("QSUB", "PBS")


@dataclass(frozen=True, slots=True)
class Directive:
    """A line for a batch system: whose (QSUB, SBATCH, PBS, $), where, and what it says."""

    marker: str
    number: int
    text: str
    #: It stands before the first command.
    is_in_head: bool = True


def directives(text: str) -> list[Directive]:
    """Return the directives in the first 32 KiB of a script.

    Those before its first command are all found; behind it only Grid Engine's, which alone
    looks for them there.
    """
    found, is_in_head = [], True
    for number, line in enumerate(_top(text).splitlines(), 1):
        stripped = line.strip()
        is_in_head = is_in_head and (not stripped or stripped.startswith(_SIGNS))
        match = _DIRECTIVE.match(stripped)
        marker = (match[1] or match[3]) if match else ""
        if match is None or (line[0].isspace() and marker not in _INDENTED):
            continue
        if is_in_head or marker == "$":
            said = (match[2] or match[4] or "").strip()
            found.append(Directive(marker, number, said, is_in_head))
    return [line for line in found if line.text]


def _top(text: str) -> str:
    data = text[:MAX_HEAD_BYTES].encode("utf-8", "surrogateescape")
    if len(data) == len(text):
        return text
    whole, _, _ = data[:MAX_HEAD_BYTES].rpartition(b"\n")
    return whole.decode("utf-8", "surrogateescape")


def wanted(text: str) -> str:
    """Return the system whose ids or arrays a script names, "" when it names none."""
    for system, names in _NAMED.items():
        match = names.search(text)
        if match and not (match[0].startswith("$") and _OWN.search(text)):
            return system
    return ""
