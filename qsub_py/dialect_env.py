"""The variables that other batch systems give their jobs, made from what is known of ours.

Pure. A job gets the whole set of one system or nothing of any, since libraries take such
variables for a running job of that system; dialect_signs tells which set a script wants.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Facts:
    """What the variables are made of."""

    job: int
    name: str
    owner: str
    queue: str
    account: str
    cwd: str
    script_path: str
    #: Of the node, as others find it in the network.
    host: str
    cpus: int
    #: Processes the job asked for; 0: nothing was said of that.
    procs: int
    mem_bytes: int
    time_s: float
    is_array: bool
    count: int
    first: int
    last: int
    step: int
    #: Where a file with a line for each process lies.
    host_file: str
    path: str
    home: str
    shell: str


def host_lines(system: str, host: str, cpus: int, procs: int, queue: str) -> str:
    """Return the file that names the hosts of a job, "" where the system has none."""
    if system == "pbs":
        return f"{host}\n" * max(1, procs)
    return f"{host} {cpus} {queue}@{host} UNDEFINED\n" if system == "sge" else ""


def of_job(system: str, facts: Facts) -> dict[str, str]:
    """Return the variables that all tasks of a job have in common."""
    return _JOB[system](facts) if system else {}


def _slurm(facts: Facts) -> dict[str, str]:
    procs = facts.procs or 1
    env = {
        "SLURM_JOB_NAME": facts.name,
        "SLURM_JOB_USER": facts.owner,
        "SLURM_JOB_PARTITION": facts.queue,
        "SLURM_CLUSTER_NAME": "qsub",
        "SLURM_SUBMIT_DIR": facts.cwd,
        "SLURM_CPUS_PER_TASK": str(max(1, facts.cpus // procs)),
        "SLURM_CPUS_ON_NODE": str(facts.cpus),
        "SLURM_JOB_CPUS_PER_NODE": str(facts.cpus),
        "SLURM_TASKS_PER_NODE": str(procs),
        **dict.fromkeys(("SLURM_NTASKS", "SLURM_NPROCS"), str(procs)),
        **dict.fromkeys(("SLURM_NNODES", "SLURM_JOB_NUM_NODES"), "1"),
        **dict.fromkeys(("SLURM_JOB_NODELIST", "SLURM_NODELIST", "SLURMD_NODENAME",
                         "SLURM_TOPOLOGY_ADDR"), facts.host),
        **dict.fromkeys(("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_GTIDS"), "0"),
    }  # fmt: skip
    if facts.account:
        env["SLURM_JOB_ACCOUNT"] = facts.account
    if facts.mem_bytes:
        env["SLURM_MEM_PER_NODE"] = str(-(-facts.mem_bytes // 2**20))
    if facts.is_array:
        env |= {
            "SLURM_ARRAY_JOB_ID": str(facts.job),
            "SLURM_ARRAY_TASK_COUNT": str(facts.count),
            "SLURM_ARRAY_TASK_MIN": str(facts.first),
            "SLURM_ARRAY_TASK_MAX": str(facts.last),
            "SLURM_ARRAY_TASK_STEP": str(facts.step),
        }
    return env


def _pbs(facts: Facts) -> dict[str, str]:
    env = {
        "PBS_JOBNAME": facts.name,
        "PBS_ENVIRONMENT": "PBS_BATCH",
        "PBS_NODEFILE": facts.host_file,
        "PBS_O_WORKDIR": facts.cwd,
        "PBS_O_LOGNAME": facts.owner,
        "PBS_O_HOME": facts.home,
        "PBS_O_PATH": facts.path,
        "PBS_O_SHELL": facts.shell,
        "PBS_NUM_NODES": "1",
        "PBS_NUM_PPN": str(facts.procs or facts.cpus),
        "PBS_NP": str(facts.procs or facts.cpus),
        "NCPUS": str(facts.cpus),
        "PBS_NODENUM": "0",
        "PBS_VNODENUM": "0",
        **dict.fromkeys(("PBS_QUEUE", "PBS_O_QUEUE"), facts.queue),
    }
    if facts.time_s:
        env["PBS_WALLTIME"] = f"{facts.time_s:.0f}"
    if facts.is_array:
        env["PBS_ARRAY_ID"] = f"{facts.job}[]"
    return env


def _sge(facts: Facts) -> dict[str, str]:
    bounds = (facts.first, facts.last, facts.step) if facts.is_array else ("undefined",) * 3
    return {
        "JOB_ID": str(facts.job),
        "JOB_NAME": facts.name,
        "REQUEST": facts.name,
        "JOB_SCRIPT": facts.script_path,
        "QUEUE": facts.queue,
        "NSLOTS": str(facts.cpus),
        "NHOSTS": "1",
        "NQUEUES": "1",
        "HOSTNAME": facts.host,
        "PE_HOSTFILE": facts.host_file,
        "ENVIRONMENT": "BATCH",
        "SGE_O_WORKDIR": facts.cwd,
        "SGE_O_LOGNAME": facts.owner,
        "SGE_O_HOME": facts.home,
        "SGE_O_PATH": facts.path,
        "SGE_O_SHELL": facts.shell,
        **dict(zip(("SGE_TASK_FIRST", "SGE_TASK_LAST", "SGE_TASK_STEPSIZE"),
                   map(str, bounds), strict=True)),
    }  # fmt: skip


_JOB = {"slurm": _slurm, "pbs": _pbs, "sge": _sge}


def of_attempt(system: str, attempt: int, gpus: str, scratch: str) -> dict[str, str]:
    """Return the variables of one attempt: its devices, its scratch directory.

    PBS and Grid Engine give each task a directory; scripts that `cd $TMPDIR` rely on it.
    """
    env: dict[str, str] = {}
    if system == "slurm":
        if attempt > 1:
            env["SLURM_RESTART_COUNT"] = str(attempt - 1)
        if gpus:
            env["SLURM_JOB_GPUS"] = gpus
            env["SLURM_GPUS_ON_NODE"] = str(gpus.count(",") + 1)
    elif system and scratch:
        env["TMPDIR"] = scratch
        env |= {"PBS_JOBDIR": scratch} if system == "pbs" else {"TMP": scratch}
    if system == "sge":
        env["RESTARTED"] = str(int(attempt > 1))
    return env


def of_task(system: str, job: int, index: int, *, is_array: bool) -> dict[str, str]:
    """Return the variables of one task: ids that our commands take, each task's its own.

    Slurm gives the tasks of an array numbers of their own as SLURM_JOB_ID: what is named by
    it (files, scancel) is one task's. So it is `12_3` here.
    """
    if system == "slurm":
        own = f"{job}_{index}" if is_array else str(job)
        env = {"SLURM_JOB_ID": own, "SLURM_JOBID": own}
        return env | ({"SLURM_ARRAY_TASK_ID": str(index)} if is_array else {})
    if system == "pbs":
        env = {"PBS_JOBID": f"{job}[{index}]" if is_array else str(job)}
        names = ("PBS_ARRAY_INDEX", "PBS_ARRAYID") if is_array else ()
        return env | dict.fromkeys(names, str(index))
    return {"SGE_TASK_ID": str(index) if is_array else "undefined"} if system else {}
