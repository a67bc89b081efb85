"""Slurm's options (sbatch(1)): what `#SBATCH` lines mean here.

Long names are those of qsub, so most are taken as they are. Pure.
"""

from __future__ import annotations

import re

from qsub_py.dialect import (
    OPTIONAL,
    Dialect,
    Found,
    Rule,
    by,
    count,
    flag,
    harmless,
    name_job,
    notice,
    refused,
    table,
    to,
    whole,
)
from qsub_py.dialect_units import size_text
from qsub_py.errors import SpecError
from qsub_py.text import quoted
from qsub_py.units import parse_array, parse_begin, parse_duration, parse_size

_ONE_NODE = "a task runs on one node"
_MANY = "write --array for many tasks, or -n for processes on one node"
_LAYOUT = "cpus of a node are not told apart here"
_SITE = "there is nothing of the kind here"
_NO_MAIL = "mail is not sent"
_QUIET = "qsub prints the id alone"
_STEPS = "there are no job steps here"
#: Slurm's placeholders -> ours, "" for none.
_PLACES = {
    **{letter: f"%{letter}" for letter in "jAaxuN%"}, "J": "%j", "n": "0", "t": "0", "s": "batch",
    "b": "", "r": "",
}  # fmt: skip
_GPU = re.compile(r"(?:gres[:/])?gpu(?::(?!\d)[\w.-]+)?(?:[:=](\d{1,4}))?(?:\(.*\))?")
_SCRATCH = re.compile(r"(?:gres[:/])?\w*(scratch|tmp|disk|nvme|ssd)\w*(?:[:=].*)?", re.IGNORECASE)


def _nodes(found: Found, text: str) -> None:
    if not re.fullmatch(r"1(-\d+)?", text):
        raise SpecError(f"`--nodes={text}`: {_ONE_NODE}", hint=_MANY)


def _number(fact: str, what: str) -> Rule:
    """Return the rule of a number that is settled with others."""
    return by(lambda found, text: found.note(fact, str(count(text, what)), shown=f"{text} {what}"))


def _memory(option: str) -> Rule:
    def read(found: Found, text: str) -> None:
        if parse_size(text):
            found.say(option, text)

    return Rule(read, harmless="the node's share of memory for each cpu, without a limit")


def _gpus(fact: str) -> Rule:
    def read(found: Found, text: str) -> None:
        match = re.fullmatch(r"(?:(?!\d)[\w.-]+[:=])?(\d{1,4})", text)
        if not match:
            raise SpecError(f"{quoted(text)} is no number of GPUs", hint="write --gpus N")
        found.note(fact, match[1], shown=f"{match[1]} gpus")

    return by(read)


def _gres(found: Found, text: str) -> None:
    for item in text.split(","):
        match = _GPU.fullmatch(item)
        if match:
            found.note("gpus", match[1] or "1", shown=f"--gpus={match[1] or 1}")
        elif not _SCRATCH.fullmatch(item) and item.lower() not in ("", "none"):
            raise SpecError(f"there is no resource {quoted(item)} here", hint="write gpu:N")


def _output(option: str) -> Rule:
    def read(found: Found, text: str) -> None:
        found.say(option, _pattern(text))

    return by(read)


def _pattern(text: str) -> str:
    def fill(match: re.Match[str]) -> str:
        width, letter = match[1], match[2]
        place = _PLACES.get(letter, "")
        if not place:
            raise SpecError(f"{quoted(match[0])} cannot be filled in in {quoted(text)}",
                            hint="%j %A %a %x %u %N are known")  # fmt: skip
        return f"%{width}{place[1:]}" if place[0] == "%" and letter != "%" else place

    return re.sub(r"%(\d*)(.?)", fill, text)


def _export(found: Found, text: str) -> None:
    found.say("--export", "NONE" if text.upper() in ("NIL", "NONE") else text)


def _nice(found: Found, text: str) -> None:
    found.say("--priority", str(-whole(text or "100", "--nice")))


def _priority(found: Found, text: str) -> None:
    found.say("--priority", str(whole(text, "--priority")))


def _signal(found: Found, text: str) -> None:
    match = re.fullmatch(r"(?:([RrBb]+):)?(?:SIG)?(\w+)(?:@(\d+))?", text)
    if not match:
        raise SpecError(f"{quoted(text)} is no signal: write [B:]USR1@60")
    shell = "B:" if "B" in (match[1] or "").upper() else ""
    notice(found, f"{shell}{match[2]}@{match[3] or 60}")


def _input(found: Found, text: str) -> None:
    if text != "/dev/null":
        raise SpecError(f"`--input={text}`: a job reads nothing from standard input here",
                        hint=f"write `< {text}` in the script")  # fmt: skip


def _partition(found: Found, text: str) -> None:
    if "," in text:
        raise SpecError(f"`--partition={text}`: a job has one queue here", hint="name one")
    found.say("--queue", text)


def _settle(found: Found) -> None:
    """Multiply what is said for each process, GPU or node."""
    facts = {name: int(found.facts.get(name, 0)) for name in (
        "gpus", "ntasks", "per_node", "per_gpu", "gpus_per_task", "cpus_per_gpu")}  # fmt: skip
    tasks = facts["ntasks"] or facts["per_node"] or facts["per_gpu"] * facts["gpus"]
    gpus = facts["gpus"] or facts["gpus_per_task"] * max(tasks, 1)
    if "gpus" in found.facts or gpus:
        found.say("--gpus", str(gpus))
    if facts["cpus_per_gpu"] and gpus:
        found.say("--cpus", str(facts["cpus_per_gpu"] * gpus))
        tasks = 0
    if "mem_per_gpu" in found.facts and gpus:
        found.say("--mem", size_text(parse_size(found.facts["mem_per_gpu"]) * gpus))
    if tasks:
        found.note("tasks", str(tasks))
        found.note("procs", str(tasks))


_RULES = table(
    ("-J --job-name", by(name_job)),
    ("--comment", to("--comment")),
    ("-A --account", to("--account")),
    ("-c --cpus-per-task", by(lambda found, text: found.say("--cpus", str(count(text, "cpus"))))),
    ("-n --ntasks", _number("ntasks", "processes")),
    ("--ntasks-per-node --tasks-per-node", _number("per_node", "processes")),
    ("--ntasks-per-gpu", _number("per_gpu", "processes for each gpu")),
    ("-N --nodes", Rule(_nodes, harmless="a task runs on one node anyway")),
    ("--mem", _memory("--mem")),
    ("--mem-per-cpu", _memory("--mem-per-cpu")),
    ("--mem-per-gpu", by(lambda found, text: found.note(
        "mem_per_gpu", str(parse_size(text) and text), shown=f"memory {text} for each gpu"))),
    ("-G --gpus --gpus-per-node", _gpus("gpus")),
    ("--gpus-per-task", _gpus("gpus_per_task")),
    ("--gpus-per-socket", refused(_LAYOUT, "write --gpus N")),
    ("--cpus-per-gpu", _number("cpus_per_gpu", "cpus for each gpu")),
    ("--gres", Rule(_gres, harmless="disk space is not booked")),
    ("-t --time", to("--time", parse_duration)),
    ("-a --array", to("--array", parse_array)),
    ("-d --dependency", to("--dependency")),
    ("-b --begin", to("--begin", lambda text: parse_begin(text, now=0.0))),
    ("-H --hold", flag("--hold")),
    ("--nice", by(_nice, OPTIONAL)),
    ("--priority", by(_priority)),
    ("-p --partition", by(_partition)),
    ("-w --nodelist", to("--nodelist")),
    ("-x --exclude", to("--exclude")),
    ("-C --constraint", to("--constraint")),
    ("-L --licenses", to("--licenses")),
    ("--requeue", flag("--requeue")),
    ("--no-requeue", flag("--no-requeue")),
    ("--signal", by(_signal)),
    ("-D --chdir --workdir", to("--chdir")),
    ("-o --output", _output("--output")),
    ("-e --error", _output("--error")),
    ("-i --input", Rule(_input, harmless="a job's standard input is empty anyway")),
    ("--export", by(_export)),
    ("-W --wait", flag("--wait")),
    ("--test-only", flag("--dry-run")),
    ("--wrap", to("--wrap")),
    ("--mail-type --mail-user", harmless(_NO_MAIL)),
    ("--parsable -Q --quiet -v --verbose -vv -vvv", harmless(_QUIET, 0)),
    ("--open-mode", harmless("each attempt's output is kept")),
    ("-q --qos --wckey --reservation -M --clusters --cluster --mcs-label", harmless(_SITE)),
    ("--exclusive", harmless("a task has its cpus for itself; write --cpus for more", OPTIONAL)),
    ("-s --oversubscribe --share -O --overcommit", harmless("cpus are booked by --cpus", OPTIONAL)),
    ("--ntasks-per-core --ntasks-per-socket --cores-per-socket --sockets-per-node "
     "--threads-per-core -B --extra-node-info --hint --distribution -m --mem-bind --cpu-bind "
     "--cpu_bind --gpu-bind --core-spec -S --thread-spec --tres-bind --mincpus --gres-flags",
     harmless(_LAYOUT)),
    ("--cpu-freq --gpu-freq --power --profile --acctg-freq --switches --network --tmp --bcast "
     "--time-min --delay-boot --batch --prefer --segment --extra", harmless(_SITE)),
    ("--contiguous --spread-job --use-min-nodes -k --reboot --resv-ports --stepmgr "
     "--external --ignore-pbs", harmless(_SITE, 0)),
    ("--no-kill --propagate --get-user-env --wait-all-nodes --kill-on-invalid-dep "
     "--x11 --oom-kill-step", harmless(_SITE, OPTIONAL)),
    ("--deadline", refused("it is for the end there, for the beginning here",
                           "write #QSUB --deadline WHEN")),
    ("--export-file", refused("variables come from the command line", "write --export A=1")),
    ("--uid --gid", refused("a job runs as the nodes' user")),
    ("--container --container-id --burst-buffer --bb --bbf", refused(_SITE)),
    ("--tres-per-task", refused(_STEPS, "write --cpus, --gpus")),
    ("hetjob packjob", refused(_ONE_NODE, _MANY, 0)),
)  # fmt: skip

SLURM = Dialect("slurm", "Slurm", "slurm", "SBATCH", _RULES, _settle, abbreviates=True)
