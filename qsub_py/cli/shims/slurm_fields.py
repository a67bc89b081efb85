"""The fields that squeue and sacct can show, each with its heading and its cell. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from qsub_py.cli.shims import slurm_words
from qsub_py.cli.shims.looking import Row
from qsub_py.cli.shims.slurm_format import Column


@dataclass(frozen=True, slots=True)
class At:
    """A row, and when it was looked at."""

    row: Row
    now: float


def _place(at: At) -> str:
    row = at.row
    if row.node:
        return row.node
    return f"({row.reason or 'None'})" if not row.state.is_terminal or row.reason else ""


def _left(at: At) -> str:
    row = at.row
    if not row.job.time_s:
        return "UNLIMITED"
    ran = slurm_words.elapsed(row, at.now)
    return slurm_words.duration(max(0.0, row.job.time_s - ran))


def _spec(name: str) -> Column[At]:
    headings = {"account": "ACCOUNT", "comment": "COMMENT", "cwd": "WORK_DIR",
                "script_path": "COMMAND"}  # fmt: skip
    return Column(headings[name], lambda at: str(getattr(at.row.spec, name, "") or "(null)"))


NEEDS_SPEC = frozenset(("ACCOUNT", "COMMENT", "WORK_DIR", "COMMAND", "Account", "Comment",
                         "WorkDir"))  # fmt: skip
NEEDS_NODES = frozenset(("NODELIST(REASON)", "NODELIST", "EXEC_HOST", "NodeList", "TIME",
                          "TIME_LEFT", "START_TIME"))  # fmt: skip
NEEDS_REASONS = frozenset(("NODELIST(REASON)", "REASON", "Reason"))
NEEDS_ENDS = frozenset(("TIME", "END_TIME", "START_TIME"))

#: squeue's letters.
LETTERS: dict[str, Column[At]] = {
    "i": Column("JOBID", lambda at: slurm_words.job_id(at.row)),
    "A": Column("JOBID", lambda at: slurm_words.job_id(at.row)),
    "F": Column("ARRAY_JOB_ID", lambda at: str(at.row.job.id)),
    "K": Column("ARRAY_TASK_ID", lambda at: slurm_words.task_cell(at.row)),
    "t": Column("ST", lambda at: slurm_words.short(at.row.state)),
    "T": Column("STATE", lambda at: slurm_words.long(at.row.state)),
    "j": Column("NAME", lambda at: at.row.job.name),
    "u": Column("USER", lambda at: at.row.job.owner),
    "P": Column("PARTITION", lambda at: at.row.job.queue),
    "M": Column("TIME", lambda at: slurm_words.duration(slurm_words.elapsed(at.row, at.now))),
    "L": Column("TIME_LEFT", _left),
    "l": Column("TIME_LIMIT", lambda at: slurm_words.limit(at.row)),
    "D": Column("NODES", lambda at: "1"),
    "C": Column("CPUS", lambda at: str(at.row.job.cpus)),
    "c": Column("MIN_CPUS", lambda at: str(at.row.job.cpus)),
    "m": Column("MIN_MEMORY", lambda at: slurm_words.memory(at.row.job.mem_bytes)),
    "b": Column("TRES_PER_NODE", lambda at: f"gres/gpu:{n}" if (n := at.row.job.gpus) else "N/A"),
    "R": Column("NODELIST(REASON)", _place),
    "r": Column("REASON", lambda at: at.row.reason or "None"),
    "N": Column("NODELIST", lambda at: at.row.node),
    "B": Column("EXEC_HOST", lambda at: at.row.node or "n/a"),
    "Q": Column("PRIORITY", lambda at: str(at.row.job.priority)),
    "p": Column("PRIORITY", lambda at: str(at.row.job.priority)),
    "y": Column("NICE", lambda at: str(-at.row.job.priority)),
    "V": Column("SUBMIT_TIME", lambda at: slurm_words.moment(at.row.job.submitted_at)),
    "S": Column("START_TIME", lambda at: _start(at.row, "N/A")),
    "e": Column("END_TIME", lambda at: _end(at.row, "N/A")),
    "q": Column("QOS", lambda at: "normal"),
    "a": _spec("account"),
    "k": _spec("comment"),
    "Z": _spec("cwd"),
    "o": _spec("script_path"),
}
#: squeue --Format.
NAMES: dict[str, Column[At]] = {
    name: LETTERS[letter] for name, letter in {
        "jobid": "i", "jobarrayid": "i", "arrayjobid": "F", "arraytaskid": "K", "statecompact": "t",
        "state": "T", "name": "j", "username": "u", "partition": "P", "timeused": "M",
        "timeleft": "L", "timelimit": "l", "numnodes": "D", "numcpus": "C", "mincpus": "c",
        "minmemory": "m", "tres-per-node": "b", "reasonlist": "R", "reason": "r", "nodelist": "N",
        "batchhost": "B", "prioritylong": "Q", "priority": "p", "nice": "y", "submittime": "V",
        "starttime": "S", "endtime": "e", "qos": "q", "account": "a", "comment": "k",
        "workdir": "Z", "command": "o",
    }.items()
}  # fmt: skip


def _start(row: Row, none: str) -> str:
    return slurm_words.moment(row.started_at) if row.started_at else none


def _end(row: Row, none: str) -> str:
    return slurm_words.moment(row.ended_at) if row.ended_at else none


def _seconds(at: At) -> float:
    return slurm_words.elapsed(at.row, at.now)


def _used(at: At) -> str:
    end = at.row.outcome
    return slurm_words.duration(end.cpu_s if end else 0, is_full=True)


def _peak(at: At) -> str:
    end = at.row.outcome
    return f"{end.max_rss_bytes >> 10}K" if end and end.max_rss_bytes else ""


#: sacct's fields.
FIELDS: dict[str, Column[At]] = {
    "jobid": Column("JobID", lambda at: slurm_words.job_id(at.row), 12),
    "jobidraw": Column("JobIDRaw", lambda at: slurm_words.job_id(at.row, limit=False), 12),
    "jobname": Column("JobName", lambda at: at.row.job.name),
    "partition": Column("Partition", lambda at: at.row.job.queue),
    "account": Column("Account", lambda at: at.row.spec.account if at.row.spec else ""),
    "alloccpus": Column("AllocCPUS", lambda at: str(at.row.job.cpus)),
    "reqcpus": Column("ReqCPUS", lambda at: str(at.row.job.cpus), 8),
    "ncpus": Column("NCPUS", lambda at: str(at.row.job.cpus)),
    "nnodes": Column("NNodes", lambda at: "1", 8),
    "allocnodes": Column("AllocNodes", lambda at: "1"),
    "state": Column("State", lambda at: slurm_words.accounted(at.row.state)),
    "exitcode": Column("ExitCode", lambda at: slurm_words.exit_code(at.row), 8),
    "derivedexitcode": Column("DerivedExitCode", lambda at: slurm_words.exit_code(at.row), 15),
    "elapsed": Column("Elapsed", lambda at: slurm_words.duration(_seconds(at), is_full=True)),
    "elapsedraw": Column("ElapsedRaw", lambda at: f"{_seconds(at):.0f}"),
    "cputime": Column("CPUTime", lambda at: slurm_words.duration(
        _seconds(at) * at.row.job.cpus, is_full=True)),
    "cputimeraw": Column("CPUTimeRAW", lambda at: f"{_seconds(at) * at.row.job.cpus:.0f}"),
    "totalcpu": Column("TotalCPU", _used),
    "maxrss": Column("MaxRSS", _peak),
    "reqmem": Column("ReqMem", lambda at: slurm_words.memory(at.row.job.mem_bytes)),
    "timelimit": Column("Timelimit", lambda at: slurm_words.limit(at.row, is_full=True)),
    "submit": Column("Submit", lambda at: slurm_words.moment(at.row.job.submitted_at), 19),
    "eligible": Column("Eligible", lambda at: slurm_words.moment(
        at.row.job.begin_at or at.row.job.submitted_at), 19),
    "start": Column("Start", lambda at: _start(at.row, "Unknown"), 19),
    "end": Column("End", lambda at: _end(at.row, "Unknown"), 19),
    "nodelist": Column("NodeList", lambda at: at.row.node or "None assigned", 15),
    "user": Column("User", lambda at: at.row.job.owner, 9),
    "uid": Column("UID", lambda at: "", 6),
    "cluster": Column("Cluster", lambda at: "qsub"),
    "priority": Column("Priority", lambda at: str(at.row.job.priority)),
    "qos": Column("QOS", lambda at: "normal"),
    "reason": Column("Reason", lambda at: at.row.reason or "None", 22),
    "comment": Column("Comment", lambda at: at.row.spec.comment if at.row.spec else "", 14),
    "workdir": Column("WorkDir", lambda at: at.row.spec.cwd if at.row.spec else "", 20),
}  # fmt: skip
