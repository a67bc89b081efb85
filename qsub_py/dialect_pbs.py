"""The options of PBS Pro (OpenPBS) and Torque: what `#PBS` lines mean here.

Where the two differ only one knows the word (-J or -t for arrays), so that `#PBS` lines are read
as both. Times are seconds, sizes bytes: see qsub(1B). Pure.
"""

from __future__ import annotations

import re

from qsub_py.dialect import (
    Dialect,
    Found,
    Rule,
    all_cpus,
    by,
    count,
    export,
    export_all,
    flag,
    harmless,
    name_job,
    read_resources,
    refused,
    table,
    to,
    whole,
)
from qsub_py.dialect_units import begin, limit, path, pbs_size, place_outputs
from qsub_py.errors import SpecError
from qsub_py.text import is_per_task, quoted
from qsub_py.units import parse_array

_ONE_NODE = "a task runs on one node"
_MANY = "write --array for many tasks, or ncpus=N for many cpus of one node"
_SITE = "there is nothing of the kind here"
_NO_MAIL = "mail is not sent"
_STAGING = "files are not staged by PBS's rules here"
_PATHS = {
    "HOME": "~", "USER": "%u", "LOGNAME": "%u", "PBS_O_LOGNAME": "%u", "PBS_JOBID": "%A",
    "PBS_JOBNAME": "%x", "PBS_ARRAYID": "%a", "PBS_ARRAY_INDEX": "%a", "array_index": "%a",
    "PBS_O_WORKDIR": ".",
}  # fmt: skip
_JOB = re.compile(r"(\d+)(?:\[(\d*)\]|_(\d+))?(?:\.[\w.-]+)?", re.ASCII)
_KINDS = {
    **{kind: kind for kind in ("after", "afterok", "afternotok", "afterany")},
    **{f"{kind}array": kind for kind in ("afterok", "afternotok", "afterany")},
    "afterstartarray": "after",
}


# -- resources -----------------------------------------------------------------------------


def _cpus(found: Found, text: str) -> None:
    all_cpus(found, count(text, "a number of cpus"))


def _gpus(found: Found, text: str) -> None:
    found.say("--gpus", str(whole(text.partition(":")[0], "a number of GPUs")))


def _size(option: str) -> Rule:
    return by(lambda found, text: found.say(option, pbs_size(text)))


def _virtual(found: Found, text: str) -> None:
    found.note("vmem", pbs_size(text), shown=f"memory {text}")


def _procs(found: Found, text: str) -> None:
    found.note("procs", str(count(text, "mpiprocs")), shown=f"{text} lines in $PBS_NODEFILE")


def _threads(found: Found, text: str) -> None:
    export(found, f"OMP_NUM_THREADS={count(text, 'ompthreads')}")


def _ppn(found: Found, text: str) -> None:
    _cpus(found, text)
    _procs(found, text)


def _host(found: Found, text: str) -> None:
    found.say("--nodelist", text)


#: What may stand in a chunk of `select=` as well as by itself.
_CHUNK = table(
    ("ncpus", by(_cpus)),
    ("mem", _size("--mem")),
    ("pmem", _size("--mem-per-cpu")),
    ("vmem pvmem", by(_virtual)),
    ("ngpus gpus naccelerators", by(_gpus)),
    ("mpiprocs", by(_procs)),
    ("ompthreads", by(_threads)),
    ("host vnode", by(_host)),
    ("arch opsys", harmless("nodes are Linux")),
)


def _select(found: Found, text: str) -> None:
    first, *rest = text.split(":")
    if not first.isdigit():
        first, rest = "1", text.split(":")
    if "+" in text or int(first) != 1:
        raise SpecError(f"`select={text}`: {_ONE_NODE}", hint=_MANY)
    for part in rest:
        read_resources(part, _CHUNK, found, system="PBS")


def _nodes(found: Found, text: str) -> None:
    first, *rest = text.partition("#")[0].split(":")
    if "+" in text or (first.isdigit() and int(first) != 1):
        raise SpecError(f"`nodes={text}`: {_ONE_NODE}", hint=_MANY)
    if not first.isdigit():
        _host(found, first)
    features = [part for part in rest if "=" not in part and part not in ("shared", "exclusive")]
    if features:
        found.say("--constraint", "&".join(features))
    for part in rest:
        name, equals, value = part.partition("=")
        if name == "ppn":
            _ppn(found, value)
        elif equals:
            read_resources(part, _CHUNK, found, system="Torque")


RESOURCES = {
    **_CHUNK,
    **table(
        ("select", Rule(_select, harmless="a task runs on one node anyway")),
        ("nodes", Rule(_nodes, harmless="a task runs on one node anyway")),
        ("procs", by(_ppn)),
        ("nodect", harmless("a task runs on one node anyway")),
        ("walltime max_walltime", by(limit)),
        ("min_walltime cput pcput", harmless("the time limit is --time")),
        ("place", harmless("a task runs on one node anyway")),
        ("file nice software prologue epilogue qos naccesspolicy", harmless(_SITE)),
    ),
}


def _resources(found: Found, text: str) -> None:
    read_resources(text, RESOURCES, found, system="PBS")


# -- other options -------------------------------------------------------------------------


def _array(found: Found, text: str) -> None:
    parse_array(text)
    found.say("--array", text)


def job_id(text: str) -> str:
    """Return a job id of PBS (`12.server`, `12[].server`, `12[3]`) as ours; raises SpecError."""
    match = _JOB.fullmatch(text.strip())
    if not match:
        raise SpecError(f"{quoted(text)} is no id of a job")
    task = match[2] or match[3]
    return f"{match[1]}_{task}" if task else match[1]


def _depend(found: Found, text: str) -> None:
    for part in text.split(","):
        kind, *ids = part.split(":")
        if kind not in _KINDS or not ids:
            raise SpecError(f"`depend={part}` is not known here",
                            hint="after, afterok, afternotok, afterany:JOB are")  # fmt: skip
        found.add("--dependency", ":".join([_KINDS[kind], *map(job_id, ids)]))


def _block(found: Found, text: str) -> None:
    if text.lower() in ("true", "t", "y", "1"):
        found.say("--wait")


def _umask(found: Found, text: str) -> None:
    if not re.fullmatch(r"[0-7]{1,4}", text):
        raise SpecError(f"{quoted(text)} is no umask", hint="write umask=022")
    found.note("umask", text, shown=f"umask {text}")


_ATTRIBUTES = table(
    ("depend", by(_depend)),
    ("block", Rule(_block, harmless="qsub returns at once anyway")),
    ("umask", by(_umask)),
    ("group_list run_count release_nodes_on_stageout pwd", harmless(_SITE)),
    ("stagein stageout", refused(_STAGING, "write --ship, --fetch")),
    ("sandbox", refused(_STAGING, "write --ship .")),
    ("x interactive", refused(_SITE)),
)


def _attributes(found: Found, text: str) -> None:
    for part in re.split(r",(?=\w+=)", text):
        name, _, value = part.partition("=")
        if name not in _ATTRIBUTES:
            raise SpecError(f"`-W {part}` is no attribute that is known here")
        _ATTRIBUTES[name].apply(found, f"-W {part}", value)


def _join(found: Found, text: str) -> None:
    if text not in ("oe", "eo", "n"):
        raise SpecError(f"`-j {text}`: write oe, eo or n")
    found.note("pbs_join", text, shown="errors with the output" if text != "n" else "")


def _output(option: str) -> Rule:
    return by(lambda found, text: found.say(option, path(text, _PATHS)))


def _queue(found: Found, text: str) -> None:
    queue, at, server = text.partition("@")
    if not queue:
        raise SpecError(f"`-q {text}`: there is one server, {at}{server} is not known")
    found.say("--queue", queue)


def _rerun(found: Found, text: str) -> None:
    if text not in ("y", "n"):
        raise SpecError(f"`-r {text}`: write y or n")
    found.say("--requeue" if text == "y" else "--no-requeue")


def _settle(found: Found) -> None:
    if "vmem" in found.facts and "--mem" not in found.options:
        found.say("--mem", found.facts["vmem"])
    if "--mem" in found.options:
        found.drop("--mem-per-cpu")
    joined = found.facts.get("pbs_join", "n")
    place_outputs(found, "" if joined == "n" else joined)
    if "--array" not in found.options:
        return
    for option in ("--output", "--error"):
        at = found.last(option)
        if at and not is_per_task(at) and not at.startswith("/dev/"):
            found.options[option] = [f"{at}.%a"]


_COMMON = table(
    ("-N", by(name_job)),
    ("-A -P", to("--account")),
    ("-l", Rule(_resources, harmless="as it is here anyway")),
    ("-W", Rule(_attributes, harmless="as it is here anyway")),
    ("-a", by(begin)),
    ("-h", flag("--hold")),
    ("-p", by(lambda found, text: found.say("--priority", str(whole(text, "-p"))))),
    ("-q", by(_queue)),
    ("-o", _output("--output")),
    ("-e", _output("--error")),
    ("-j", Rule(_join, harmless="each goes to its own file")),
    ("-S", by(lambda found, text: found.note("shell", text.split(",")[0].partition("@")[0],
                                            shown=f"run by {text}"))),
    ("-V", by(export_all, 0)),
    ("-v", by(export)),
    ("-r", by(_rerun)),
    ("-m -M", harmless(_NO_MAIL)),
    ("-k -R", harmless("output is kept: see qlog")),
    ("-c", harmless("jobs are not checkpointed")),
    ("-z -X -f -E -n", harmless(_SITE, 0)),
    ("-I", refused("there are no interactive jobs", "write --follow", 0)),
    ("-C", refused("directives begin with #PBS")),
    ("-u -G", refused("a job runs as the nodes' user")),
)  # fmt: skip
_PRO = table(("-J", by(_array)))
_TORQUE = table(
    ("-t", by(_array)),
    ("-d -w", to("--chdir")),
    ("-F", refused("the script's arguments stand behind it")),
    ("-T -D -K", refused(_SITE)),
    ("-L", refused("this form of resources is not known", "write -l nodes=1:ppn=N")),
    ("-b", harmless("an unreachable server is waited for")),
)

#: What a `#PBS` line may hold when nothing says which of the two systems it was written for.
PBS = Dialect("pbs", "PBS", "pbs", "PBS", {**_COMMON, **_PRO, **_TORQUE}, _settle)
TORQUE = Dialect("torque", "Torque", "pbs", "PBS", {**_COMMON, **_TORQUE}, _settle)
