"""Grid Engine's options: what `#$` lines mean here.

Times are seconds, memory is for each slot; see qsub(1), complex(5) and sge_types(5). Pure.
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
    notice,
    read_resources,
    refused,
    table,
    to,
    whole,
)
from qsub_py.dialect_units import begin, limit, path, place_outputs, seconds, sge_size, size_text
from qsub_py.errors import SpecError
from qsub_py.text import quoted
from qsub_py.units import parse_array

_SITE = "there is nothing of the kind here"
_NO_MAIL = "mail is not sent"
_PATHS = {"HOME": "~", "USER": "%u", "JOB_ID": "%A", "JOB_NAME": "%x", "HOSTNAME": "%N",
          "TASK_ID": "%a"}  # fmt: skip
_JOB = re.compile(r"(\d+)(?:\.(\d+))?", re.ASCII)
_YES, _NO = ("y", "yes"), ("n", "no")


def _yes(text: str, option: str) -> bool:
    if text.lower() not in _YES + _NO:
        raise SpecError(f"`{option} {text}`: write y or n")
    return text.lower() in _YES


# -- resources -----------------------------------------------------------------------------


def _memory(found: Found, text: str) -> None:
    """Take memory for each slot; of several kinds the most."""
    if text.lower() == "infinity":
        return
    size = max(sge_size(text), int(found.facts.get("memory", 0)))
    found.note("memory", str(size))
    found.say("--mem-per-cpu", size_text(size))


def _soft_limit(found: Found, text: str) -> None:
    found.note("s_rt", str(seconds(text)), shown=f"--signal=USR1 after {seconds(text)} s")


def _gpus(found: Found, text: str) -> None:
    found.say("--gpus", str(whole(text, "a number of GPUs")))


def _host(found: Found, text: str) -> None:
    option, name = ("--exclude", text[1:]) if text.startswith("!") else ("--nodelist", text)
    if not re.fullmatch(r"[\w.-]+", name):
        raise SpecError(f"{quoted(text)} is no name of one host", hint="write --nodelist A,B")
    found.say(option, name)


RESOURCES = table(
    ("h_rt", by(limit)),
    ("s_rt", by(_soft_limit)),
    ("h_vmem s_vmem mem_free virtual_free h_rss s_rss m_mem_free mem mf vf memory h_mem tmem rmem "
     "ram", Rule(_memory, harmless="there is no limit anyway")),
    ("slots", by(lambda found, text: all_cpus(found, count(text, "a number of slots")))),
    ("gpu gpus ngpus cuda gpu_card", by(_gpus)),
    ("hostname host h", by(_host)),
    ("qname q", by(lambda found, text: _queue(found, text))),
    ("h_cpu s_cpu h_fsize s_fsize h_stack s_stack h_core s_core h_data s_data",
     harmless("this limit is not kept here")),
    ("arch a exclusive excl num_proc p os", harmless(_SITE)),
    ("tmpfs tmp_free tmpspace scratch scratch_free disk", harmless("disk space is not booked")),
)  # fmt: skip


def _resources(found: Found, text: str) -> None:
    if "is_soft" not in found.facts:
        read_resources(text, RESOURCES, found, system="Grid Engine")


def _slots(found: Found, text: str) -> None:
    """Take `smp 4`, `smp 4-8` (the least is enough)."""
    number = text.split()[1].split(",")[0].partition("-")[0]
    all_cpus(found, count(number or "1", "a number of slots"))


# -- other options -------------------------------------------------------------------------


def _array(found: Found, text: str) -> None:
    parse_array(text)
    found.say("--array", text)


def _at_once(found: Found, text: str) -> None:
    found.note("at_once", str(whole(text, "-tc")), shown=f"{text} tasks at once")


def _hold_for(kind: str) -> Rule:
    def read(found: Found, text: str) -> None:
        jobs = [_JOB.fullmatch(part.strip()) for part in text.split(",")]
        if not all(jobs):
            raise SpecError(f"{quoted(text)} is no list of job ids",
                            hint="jobs are waited for by their ids here")  # fmt: skip
        ids = [f"{job[1]}_{job[2]}" if job[2] else job[1] for job in jobs if job]
        found.add("--dependency", ":".join([kind, *ids]))

    return by(read)


def _queue(found: Found, text: str) -> None:
    if "is_soft" in found.facts:
        return
    name, at, host = text.partition("@")
    if "," in text or "*" in text or not name or host.startswith("@"):
        raise SpecError(f"`-q {text}`: a job has one queue here", hint="name one, without hosts")
    found.say("--queue", name)
    if at:
        _host(found, host)


def _join(found: Found, text: str) -> None:
    found.note("sge_join", "oe" if _yes(text, "-j") else "",
               shown="errors with the output" if _yes(text, "-j") else "")  # fmt: skip


def _sync(found: Found, text: str) -> None:
    if _yes(text, "-sync"):
        found.say("--wait")


def _now(found: Found, text: str) -> None:
    if _yes(text, "-now"):
        raise SpecError("`-now y`: jobs wait for their turn here", hint="leave it out")


def _program(found: Found, text: str) -> None:
    if _yes(text, "-b"):
        found.note("program", "y", shown="a command line, not a script")


def _rerun(found: Found, text: str) -> None:
    found.say("--requeue" if _yes(text, "-r") else "--no-requeue")


def _verify(found: Found, text: str) -> None:
    if text == "v":
        found.say("--dry-run")
    elif text not in ("e", "w", "n", "p"):
        raise SpecError(f"`-w {text}`: write e, w, n, v or p")


def _output(option: str) -> Rule:
    return by(lambda found, text: found.say(option, path(text, _PATHS)))


def _input(found: Found, text: str) -> None:
    if text != "/dev/null":
        raise SpecError(f"`-i {text}`: a job reads nothing from standard input here",
                        hint=f"write `< {text}` in the script")  # fmt: skip


def _is_soft(found: Found, text: str) -> None:
    found.note("is_soft", "y")


def _is_hard(found: Found, text: str) -> None:
    found.facts.pop("is_soft", None)


def _settle(found: Found) -> None:
    soft_s = int(found.facts.get("s_rt", 0))
    hard = found.last("--time").removesuffix("s")
    if soft_s and not hard:
        found.say("--time", f"{soft_s}s")
    elif soft_s and hard.isdigit() and soft_s < int(hard):
        found.note("soft_signal", f"USR1@{int(hard) - soft_s}")
    place_outputs(found, found.facts.get("sge_join", ""))


_RULES = table(
    ("-N", by(name_job)),
    ("-A -P", to("--account")),
    ("-pe", by(_slots, 2)),
    ("-l", Rule(_resources, harmless="as it is here anyway, or a wish (-soft)")),
    ("-soft", Rule(_is_soft, harmless="wishes are not looked at", takes=0)),
    ("-hard", Rule(_is_hard, harmless="what follows must be met", takes=0)),
    ("-t", by(_array)),
    ("-tc", by(_at_once)),
    ("-hold_jid", _hold_for("afterany")),
    ("-hold_jid_ad", _hold_for("aftercorr")),
    ("-a", by(begin)),
    ("-h", flag("--hold")),
    ("-p", by(lambda found, text: found.say("--priority", str(whole(text, "-p"))))),
    ("-q", Rule(_queue, harmless="a wish (-soft)")),
    ("-o", _output("--output")),
    ("-e", _output("--error")),
    ("-i", Rule(_input, harmless="a job's standard input is empty anyway")),
    ("-j", Rule(_join, harmless="each goes to its own file")),
    ("-cwd", harmless("jobs run where they were submitted", 0)),
    ("-wd", to("--chdir")),
    ("-S", by(lambda found, text: found.note("shell", text.split(",")[0].rpartition(":")[2],
                                            shown=f"run by {text}"))),
    ("-V", by(export_all, 0)),
    ("-v", by(export)),
    ("-r -rerun", by(_rerun)),
    ("-sync", Rule(_sync, harmless="qsub returns at once anyway")),
    ("-now", Rule(_now, harmless="jobs wait for their turn anyway")),
    ("-b", Rule(_program, harmless="a script")),
    ("-notify", by(lambda found, text: notice(found, "USR2@60"), 0)),
    ("-w", Rule(_verify, harmless="a job that no node can take is told by qstat --why")),
    ("-terse", harmless("qsub prints the id alone anyway", 0)),
    ("-m -M", harmless(_NO_MAIL)),
    ("-R -ar -js -shell -jsv -ac -dc -sc -masterq -ckpt -c -binding -mods -bind -rdi -par -bgio "
     "-si -jc -adds -clears -display", harmless(_SITE)),
    ("-clear -nostdin -pty -xd", harmless(_SITE, 0)),
    ("-@ -C", refused("options come from the command line and the script")),
    ("-dl", refused("it raises a priority there", "write #QSUB --deadline WHEN to cancel")),
    ("-u", refused("a job runs as the nodes' user")),
    ("-inherit -verify", refused(_SITE, takes=0)),
)  # fmt: skip

SGE = Dialect(
    "sge", "Grid Engine", "sge", "$", _RULES, _settle, attaches=False,
    always=("--requeue-exit",),
)  # fmt: skip
