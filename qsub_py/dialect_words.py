"""Which dialect a word of the command line belongs to when none was named: told by its shape.

Pure. Words that two systems read in two ways are no business of this module: they are refused
(cli/refused.py) unless --dialect says whose they are.
"""

from __future__ import annotations

import re

from qsub_py import dialect_pbs, dialect_sge
from qsub_py.dialect import Dialect
from qsub_py.dialect_pbs import PBS, TORQUE
from qsub_py.dialect_sge import SGE
from qsub_py.dialect_slurm import SLURM
from qsub_py.errors import SpecError
from qsub_py.text import did_you_mean, quoted

#: By name, and in the order in which the directives of a script win.
DIALECTS = {dialect.name: dialect for dialect in (SLURM, PBS, TORQUE, SGE)}
#: Which table reads the directives of a marker when no dialect is named.
BY_MARKER = {"SBATCH": SLURM, "PBS": PBS, "$": SGE}

ARRAY = re.compile(r"\d+-\d+(:\d+)?(%\d+)?$")
YES_NO = re.compile(r"(y|n|yes|no)$")
_PBS_ATTRIBUTE = re.compile(
    r"(depend|block|umask|stagein|stageout|group_list|sandbox|run_count|x|interactive"
    r"|release_nodes_on_stageout)="
)
#: Both systems mean the same by these.
_EITHER = ("-V", "-v", "-S", "-m", "-M", "-P", "-r", "-k", "-I")


def named(text: str) -> Dialect | None:
    """Return the dialect of this name, None for `auto`; raises SpecError."""
    word = {"pbspro": "pbs", "openpbs": "pbs", "gridengine": "sge"}.get(text.lower(), text.lower())
    if word in ("auto", ""):
        return None
    if word not in DIALECTS:
        hint = did_you_mean(word, DIALECTS) or f"write {', '.join(DIALECTS)} or auto"
        raise SpecError(f"there is no dialect {quoted(text)}", hint=hint)
    return DIALECTS[word]


def owner(word: str, following: str, *, is_ours: bool) -> Dialect | None:
    """Return whose option `word` is by its shape and the word behind it, None when none's.

    `is_ours`: qsub has an option of this name, too.
    """
    if word == "-W":
        return PBS if _PBS_ATTRIBUTE.match(following) else None
    if word == "-J":
        return PBS if ARRAY.match(following) else None
    if word == "-b":
        return SGE if YES_NO.match(following) else None
    name = word.partition("=")[0] if word.startswith("--") else word
    if is_ours or not name.startswith("-"):
        return None
    if word == "-l":
        return _of_resources(following)
    if re.match(r"-l\w+=", word):
        return PBS
    if re.match(r"-n\d", word):
        return SLURM
    if word == "-j":
        return SGE if YES_NO.match(following) else PBS
    if word in _EITHER:
        return PBS
    if len(name) > 2 and not name.startswith("--"):
        return SGE if name in SGE.rules else None
    return SLURM if name in SLURM.rules and (name == "-n" or name.startswith("--")) else None


def _of_resources(text: str) -> Dialect:
    names = {part.partition("=")[0].strip() for part in text.split(",")}
    is_pbs = names <= dialect_pbs.RESOURCES.keys()
    return SGE if not is_pbs and names & dialect_sge.RESOURCES.keys() else PBS
