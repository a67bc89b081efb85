"""What qsub knows but does not take (yet): words of other batch systems.

Two tables and the one-line refusals made from them. A word that two systems read in two ways
is refused with both readings, so that no job starts with a wrong meaning.
"""

from __future__ import annotations

import re

from qsub_py.errors import SpecError

#: Other systems' words -> (whose they are, what to write here).
FOREIGN: dict[str, tuple[str, str]] = {
    "-terse": ("Grid Engine", "qsub always prints the job id alone"),
    "-cwd": ("Grid Engine", "jobs always run where they were submitted"),
    "-wd": ("Grid Engine", "write --chdir DIR"),
    "-pe": ("Grid Engine", "write --cpus N"),
    "-tc": ("Grid Engine", "write --array 1-100%N, with --sweep --array %N"),
    "-sync": ("Grid Engine", "write --wait"),
    "-hold_jid": ("Grid Engine", "write --dependency afterany:JOB"),
    "-hold_jid_ad": ("Grid Engine", "write --dependency aftercorr:JOB"),
    "-notify": ("Grid Engine", "write --signal USR2@60"),
    "-now": ("Grid Engine", "leave it out"),
    "-l": ("PBS and Grid Engine", "write --cpus N, --mem SIZE, --time LIMIT"),
    "-V": ("PBS and Grid Engine", "the environment is exported by default, see --export"),
    "-v": ("PBS and Grid Engine", "write --export ALL,NAME=VALUE"),
    "-j": ("PBS and Grid Engine", "output and errors are merged unless -e is given"),
    "-S": ("PBS and Grid Engine", "write #! in the script, or --python"),
    "-m": ("PBS and Grid Engine", "mail is not sent"),
    "-M": ("PBS and Grid Engine", "mail is not sent"),
    "-P": ("PBS and Grid Engine", "write --account NAME"),
    "-r": ("PBS and Grid Engine", "write --requeue or --no-requeue"),
    "-k": ("PBS", "output is kept: see qlog"),
    "-n": ("Slurm", "write --cpus N"),
    "--ntasks": ("Slurm", "write --cpus N"),
    "--ntasks-per-node": ("Slurm", "write --cpus N"),
    "--nodes": ("Slurm", "a task runs on one node; write --array for many"),
    "--mail-type": ("Slurm", "mail is not sent"),
    "--mail-user": ("Slurm", "mail is not sent"),
    "--parsable": ("Slurm", "qsub always prints the job id alone"),
    "--qos": ("Slurm", "write --priority N"),
    "--ntasks-per-core": ("Slurm", "write --cpus N"),
    "--exclusive": ("Slurm", "write --cpus with all of a node's cpus"),
    "--open-mode": ("Slurm", "leave it out"),
    "--nice": ("Slurm", "write --priority N"),
}

_RANGE = re.compile(r"\d+-\d+(:\d+)?$")
_INTEGER = re.compile(r"[+-]?\d+$")
_PBS_DATE = re.compile(r"(\d\d){0,4}([01]\d|2[0-3])[0-5]\d(\.[0-5]\d)?$")
_PBS_ATTRIBUTE = re.compile(
    r"(depend|block|umask|stagein|stageout|group_list|sandbox|run_count|release_nodes_on_stageout)="
)

#: Short option, shape of its value -> the two readings.
_AMBIGUOUS: dict[str, tuple[re.Pattern[str], str]] = {
    "-t": (_RANGE, "an array (Grid Engine) is --array {v}, a time limit is --time {v}"),
    "-N": (_INTEGER, "a number of nodes (Slurm) is not needed, a name is --name {v}"),
    "-p": (_INTEGER, "a priority (PBS) is --priority {v}, a queue is --queue {v}"),
    "-w": (re.compile("[evnpw]$"), "a check (Grid Engine) is --dry-run, a node is --nodelist {v}"),
    "-a": (_PBS_DATE, "a start time (PBS) is --begin DATE, an array is --array {v}"),
    "-J": (_RANGE, "an array (PBS) is --array {v}, a name is --name {v}"),
    "-b": (re.compile("(y|n|yes|no)$"), "a program (Grid Engine) needs no -b, a time is --begin"),
    "-c": (re.compile(r"[nscwu](=\d+)?$"), "checkpoints (PBS) are not known, cpus are --cpus N"),
}  # fmt: skip


def is_foreign(word: str) -> bool:
    """Whether `word` is an option of another batch system."""
    return word in FOREIGN


def check_word(option: str) -> None:
    """Raise SpecError when `option` is of another system."""
    if option == "-h":
        raise SpecError("`-h` could mean two things", hint="write --help or --hold")
    if option in FOREIGN:
        system, cure = FOREIGN[option]
        raise SpecError(f"`{option}` of {system} is not supported yet", hint=cure)


def check_flag(option: str, following: str) -> None:
    """Raise SpecError when a flag is followed by what only PBS puts there (`-W depend=..`)."""
    if option == "-W" and _PBS_ATTRIBUTE.match(following):
        attribute = following.partition("=")[0]
        cures = {"block": "write --wait", "depend": "write --dependency afterok:JOB"}
        cure = cures.get(attribute, "leave it out")
        raise SpecError(f"`-W {attribute}=` of PBS is not supported yet", hint=cure)


def check_value(option: str, value: str) -> None:
    """Raise SpecError when other systems read `option value` in another way."""
    shape, readings = _AMBIGUOUS.get(option, (None, ""))
    if shape is not None and shape.match(value):
        raise SpecError(f"`{option} {value}` could mean two things",
                        hint=readings.format(v=value))  # fmt: skip
