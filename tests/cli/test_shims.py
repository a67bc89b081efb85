"""The tools that drive other batch systems, against a live queue through the written shims.

Each test runs the command lines of one tool and reads the answers by that tool's own
expressions and rules.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from env import Env, wait_until
from qsub_py.cli.shims import TOOLS
from qsub_py.model import JobInfo, JobSpec, State

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]

OURS = f"{sys.executable} -m qsub_py"


@pytest.fixture(scope="module")
def module_env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Env]:
    """Return a batch system, with the shims of each other system, that all tests share."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("QSUB_", "XDG_", "SLURM_", "PBS_", "SGE_")):
                patch.delenv(name)
        home = tmp_path_factory.mktemp("shims")
        patch.setenv("HOME", str(home))
        made = Env(home)
        made.start_node("n1", cpus=4)
        for system in TOOLS:
            made.run("shims", system, home / system)
        yield made
        made.close()


@pytest.fixture(autouse=True)
def env(
    module_env: Env, isolated_env: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Env]:
    """Point this test at the module's batch system, in a directory of its own."""
    monkeypatch.setenv("HOME", str(module_env.home))
    monkeypatch.chdir(tmp_path)
    yield module_env
    module_env.run("qcancel", "--all", check=False)


@pytest.fixture
def run(env: Env, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line as a tool does, with its system's commands first on PATH.

    The test's marker `system` says which system that is.
    """
    marker = request.node.get_closest_marker("system")
    assert marker is not None
    monkeypatch.setenv("PATH", f"{env.home / marker.args[0]}:{os.environ['PATH']}")

    def call(line: str, *, code: int | None = 0, **options: Any) -> Done:
        options.setdefault("stdin", None if "input" in options else subprocess.DEVNULL)
        if options["stdin"] is None:
            del options["stdin"]
        done = subprocess.run(
            line, shell=True, capture_output=True, text=True, timeout=60, **options
        )
        assert code is None or done.returncode == code, done
        return done

    return call


def script(name: str, text: str) -> str:
    Path(name).write_text(text)
    return name


def info(env: Env, job: int | str) -> JobInfo:
    store = env.store()
    try:
        return store.job(int(job))
    finally:
        store.close()


def spec(env: Env, job: int | str) -> JobSpec:
    from qsub_py.client import Client

    client = Client.connect(env.config)
    try:
        return client.spec(client.store.job(int(job)))
    finally:
        client.close()


def runs(env: Env, *jobs: int | str) -> None:
    """Wait until jobs run."""
    for job in jobs:
        env.wait_state(int(job), State.RUNNING)


# -- Snakemake, cluster-generic --------------------------------------------------------------


@pytest.mark.system("slurm")
def test_snakemake(env: Env, run: Run) -> None:
    def submitted(options: str, text: str) -> str:
        text = f"#!/bin/sh\n# properties = {{}}\n{text} && exit 0 || exit 1"
        path = script("snakejob.a.1.sh", text)
        done = run(f'{OURS} qsub {options} "{path}"')
        assert done.stderr == ""
        return done.stdout.split("\n")[0].strip()

    def status(job: str) -> str:
        ret = run(f"{OURS} qstat --outcome '{job}'").stdout.strip().split("\n")
        assert len(ret) == 1 and ret[0] in ["running", "success", "failed"]
        return ret[0]

    good, bad, slow = submitted("", "true"), submitted("", "false"), submitted("", "sleep 60")
    after = submitted(f"--after {good} {slow}", "true")
    env.wait_job(int(good))
    env.wait_job(int(bad))
    assert [status(job) for job in (good, bad, slow, after)] == [
        "success", "failed", "running", "running",
    ]  # fmt: skip
    # The command is one word.
    subprocess.run([f"{env.home}/slurm/scancel", good, slow, after], check=True, timeout=10)
    env.wait_job(int(slow))
    assert status(slow) == status(after) == "failed"
    assert status("4000000") == "failed"
    array = submitted("--array 1-2", "test $QSUB_TASK_ID = 1")
    env.wait_job(int(array))
    found = [status(f"{array}{task}") for task in ("_1", "_2", "")]
    assert found == ["success", "failed", "failed"]


def test_outcome_without_a_server(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qsub_py.cli.outcome._PATIENCE_S", 0.0)
    monkeypatch.setenv("QSUB_URL", "redis://127.0.0.1:1/0")
    from qsub_py.cli import outcome

    assert outcome._outcome("12") == "running"


# -- Nextflow --------------------------------------------------------------------------------

NEXTFLOW_BODY = "NXF_CHDIR=$PWD\ntouch started.$1; sleep 60\n"


def until(condition: Callable[[], object]) -> None:
    wait_until(condition, timeout_s=30)


@pytest.mark.system("sge")
def test_nextflow_sge(env: Env, run: Run) -> None:
    decode = ("r", "t", "qw", "hqw", "s", "S", "Eqw")
    here = os.getcwd()
    head = f"#!/bin/bash\n#$ -wd {here}\n#$ -N nf-step_(1)\n#$ -o {here}/.command.log\n"
    head += "#$ -j y\n#$ -terse\n#$ -notify\n#$ -l h_rt=00:10:00\n#$ -l h_rss=100M,mem_free=100M\n"
    head += "#$ -l slots=1\n"

    def submitted(more: str = "") -> str:
        script(".command.run", head + more + NEXTFLOW_BODY)
        text = run("qsub -terse .command.run 2>&1").stdout
        entry = text.strip().splitlines()[-1].strip()
        assert re.fullmatch(r"\d+", entry)
        return entry

    def statuses(line: str) -> dict[str, str]:
        found = {}
        for at, row in enumerate(run(f"{line} 2>&1").stdout.splitlines()):
            cols = row.strip().split()
            if at >= 2 and len(cols) > 5:
                found[cols[0]] = cols[4]
        return found

    assert statuses("qstat") == {}
    one, held = submitted(), submitted("#$ -h\n")
    array = submitted("#$ -t 1-2\n#$ -o /dev/null\n")
    runs(env, one, array)
    until(lambda: statuses("qstat") == {one: "r", held: "hqw", array: "r"})
    assert statuses("qstat -q main") == statuses("qstat")
    assert statuses("qstat -q other") == {}
    assert set(statuses("qstat").values()) <= set(decode)
    waiting = submitted("#$ -pe smp 4\n")
    assert statuses("qstat")[waiting] == "qw"
    run(f"qdel {one}")
    run(f"qdel {array}.1 {held}")
    env.wait_job(int(one))
    until(lambda: one not in statuses("qstat"))
    run(f"qdel {one}")
    assert "does not exist" in run("qdel 4000000", code=1).stderr


def nextflow_pbs(text: str) -> dict[str, str]:
    """Return the states of jobs as Nextflow reads the two kinds of lines."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("Job Id:"):
            name = line.partition("Job Id:")[2].strip()
        elif name and "job_state =" in line:
            found[name] = line.partition("job_state =")[2].strip()
    return found


GREP = "{ grep -E '(Job Id:|job_state =)' || true; }"


def nextflow_pbs_submit(run: Run, more: str = "") -> str:
    head = f"#!/bin/bash\n#PBS -N nf-step_1\n#PBS -o {os.getcwd()}/.command.log\n#PBS -j oe\n"
    script(".command.run", f"{head}#PBS -l walltime=00:10:00\n{more}{NEXTFLOW_BODY}")
    result = run("qsub -N nf-step_1 .command.run 2>&1").stdout.strip()
    assert result and "\n" not in result
    return result


@pytest.mark.system("torque")
def test_nextflow_pbs(env: Env, run: Run) -> None:
    def statuses(queue: str = "") -> dict[str, str]:
        line = f"set -o pipefail; qstat -f -1{queue} | {GREP}"
        return nextflow_pbs(run(f"bash -c '{line.replace(chr(39), chr(34))}' 2>&1").stdout)

    one = nextflow_pbs_submit(run, "#PBS -l nodes=1:ppn=2\n#PBS -l mem=100mb\n")
    held = nextflow_pbs_submit(run, "#PBS -h\n")
    array = nextflow_pbs_submit(run, "#PBS -t 0-1\n#PBS -o /dev/null\n")
    assert array.endswith("[]") and one.isdigit()
    runs(env, one, array[:-2])
    task = array.replace("[]", "[1]")
    until(lambda: statuses().get(task) == "R")
    assert (statuses()[one], statuses()[held], statuses(" main")[one]) == ("R", "H", "R")
    assert statuses(" other") == {}
    run(f"qdel {one}")
    run(f"qdel {array}")
    env.wait_job(int(one))
    until(lambda: statuses()[one] == "C")
    assert statuses()[array] == "C"


@pytest.mark.system("pbs")
def test_nextflow_pbspro(env: Env, run: Run) -> None:
    servers = "$( qstat -B -f | awk -v ORS=' ' '$1 == \"Server:\" {print \"@\"$2}' )"

    def statuses(place: str) -> dict[str, str]:
        path = script("status.sh", f"set -o pipefail; qstat -f {place} | {GREP}")
        return nextflow_pbs(run(f"bash {path} 2>&1").stdout)

    one = nextflow_pbs_submit(run, "#PBS -l select=1:ncpus=2:mem=100mb\n")
    held = nextflow_pbs_submit(run, "#PBS -h\n")
    array = nextflow_pbs_submit(run, "#PBS -J 0-1\n#PBS -o /dev/null\n")
    runs(env, one, array[:-2])
    until(lambda: statuses(servers).get(array.replace("[]", "[0]")) == "R")
    assert (statuses(servers)[one], statuses("main")[held]) == ("R", "H")
    older = "$( qstat -B | grep -E -v '(^Server|^---)' | awk -v ORS=' ' '{print \"@\"$1}' )"
    assert statuses(older) == statuses(servers)
    run(f"qdel {one}")
    env.wait_job(int(one))
    until(lambda: one not in statuses(servers))


@pytest.mark.system("slurm")
def test_nextflow_slurm(env: Env, run: Run) -> None:
    def submitted(more: str = "", *, is_piped: bool = False) -> str:
        head = f"#!/bin/bash\n#SBATCH -J nf-step_(1)\n#SBATCH -o {os.getcwd()}/.command.log\n"
        head += "#SBATCH --no-requeue\n#SBATCH --signal B:USR2@30\n#SBATCH -t 00:10:00\n"
        text = f"{head}#SBATCH --mem 100M\n{more}{NEXTFLOW_BODY}"
        script(".command.run", text)
        done = run("sbatch 2>&1", input=text) if is_piped else run("sbatch .command.run 2>&1")
        match = next(filter(None, (
            re.search(r"Submitted batch job (\d+)", line) for line in done.stdout.splitlines()
        )))  # fmt: skip
        return match[1]

    def statuses(more: str = f" -u {getpass.getuser()}") -> dict[str, str]:
        lines = run(f"squeue --noheader -o '%i %t' -t all{more} 2>&1").stdout.splitlines()
        pairs = [re.split(r"\s+", line) for line in lines]
        assert all(len(pair) == 2 for pair in pairs)
        return {job: state for job, state in pairs}

    one, piped = submitted("#SBATCH -c 2\n"), submitted("#SBATCH -H\n", is_piped=True)
    array = submitted("#SBATCH --array 0-3\n#SBATCH -o /dev/null\n")
    runs(env, one, array)
    until(lambda: statuses().get(f"{array}_1") == "R")
    found = statuses()
    assert (found[one], found[piped], found[f"{array}_[2-3]"]) == ("R", "PD", "PD")
    assert statuses(f" -p main -u {getpass.getuser()}") == found
    assert statuses(" --only-job-state") == found
    assert statuses(" -p other") == {} == statuses(" -u nobody")
    assert statuses(" -r")[f"{array}_3"] == "PD"
    run(f"scancel {one}")
    run(f"scancel {array}_2")
    env.wait_job(int(one))
    until(lambda: statuses()[one] == "CA")
    assert statuses()[f"{array}_2"] == "CA"


# -- dask-jobqueue ---------------------------------------------------------------------------

DASK = {
    "pbs": ["-N dask-worker", "-l select=1:ncpus=1:mem=954MB", "-l walltime=00:30:00",
            "-e {log}/", "-o {log}/"],
    "sge": ["-N dask-worker", "-l h_rt=00:30:00", "-e {log}/", "-o {log}/", "-cwd", "-j y"],
    "slurm": ["-J dask-worker", "-e {log}/dask-worker-%J.err", "-o {log}/dask-worker-%J.out",
              "-n 1", "-N 1", "--cpus-per-task=1", "--mem=954M", "-t 00:30:00"],
}  # fmt: skip
MARKER = {"pbs": "PBS", "sge": "$", "slurm": "SBATCH"}


def dask(env: Env, run: Run, system: str, submit: str, cancel: str) -> None:
    Path("logs").mkdir()
    log = Path("logs").absolute()
    lines = [f"#{MARKER[system]} {line.format(log=log)}" for line in DASK[system]]
    path = script("tmpfile.sh", "\n".join(["#!/usr/bin/env bash", "", *lines, "",
                                           "echo hello; sleep 60", ""]))  # fmt: skip
    done = run(f"{submit} {path}")
    Path(path).unlink()
    match = re.search(r"(?P<job_id>\d+)", done.stdout)
    assert match is not None and done.stderr == ""
    job = match.groupdict()["job_id"]
    runs(env, job)
    made = spec(env, job)
    assert (made.name, made.cpus, made.time_s) == ("dask-worker", 1, 1800)
    until(lambda: any(file.read_text() == "hello\n" for file in log.iterdir()))
    run(f"{cancel} {job}")
    assert env.wait_job(int(job)).state is State.CANCELLED


@pytest.mark.system("pbs")
def test_dask_pbs(env: Env, run: Run) -> None:
    dask(env, run, "pbs", "qsub", "qdel")


@pytest.mark.system("sge")
def test_dask_sge(env: Env, run: Run) -> None:
    dask(env, run, "sge", "qsub", "qdel")


@pytest.mark.system("slurm")
def test_dask_slurm(env: Env, run: Run) -> None:
    dask(env, run, "slurm", "sbatch", "scancel")


# -- Parsl -----------------------------------------------------------------------------------


def parsl_submitted(run: Run, system: str, *, more: str = "", options: str = "") -> str:
    here = os.getcwd()
    lines = {
        "torque": ["-S /bin/bash", "-N parsl.torque.1700000000.1", "-m n", "-l walltime=00:20:00",
                   "-l nodes=1:ppn=1", f"-o {here}/x.submit.stdout", f"-e {here}/x.submit.stderr"],
        "pbs": ["-S /bin/bash", "-N parsl.1700000000.1", "-m n", "-l walltime=00:20:00",
                "-l select=1:ncpus=1", f"-o {here}/x.stdout", f"-e {here}/x.stderr"],
        "sge": ["-S /bin/bash", f"-o {here}/x.submit.stdout", f"-e {here}/x.submit.stderr",
                "-cwd", "-l h_rt=00:20:00"],
        "slurm": ["--job-name=parsl.slurm.1700000000.1", f"--output={here}/x.stdout",
                  f"--error={here}/x.stderr", "--nodes=1", "--time=20", "--ntasks-per-node=1",
                  "--exclusive"],
    }[system]  # fmt: skip
    marker = MARKER.get(system, "PBS")
    head = "\n".join(f"#{marker} {line}" for line in [*lines, *more.splitlines()])
    path = script("x.submit", f'#!/bin/bash\n\n{head}\n\n\n\nexport JOBNAME="x"\n\nsleep 60\n')
    command = {"sge": "qsub -terse", "slurm": "sbatch"}.get(system, "qsub")
    done = run(f"{command} {options} {os.path.abspath(path)}")
    assert done.stderr == ""
    if system == "slurm":
        found = [re.match(r"Submitted batch job (?P<id>\S*)", line)
                 for line in done.stdout.split("\n")]  # fmt: skip
        return next(match["id"] for match in found if match)
    return [line.strip() for line in done.stdout.split("\n") if line.strip()][-1]


@pytest.mark.system("torque")
def test_parsl_torque(env: Env, run: Run) -> None:
    def statuses(*jobs: str) -> dict[str, str]:
        found = {}
        for line in run(f"qstat {' '.join(jobs)}", code=None).stdout.split("\n"):
            parts = line.split()
            if not parts or parts[0].upper().startswith("JOB") or parts[0].startswith("---"):
                continue
            assert parts[4] in "BRCEHQWS" and parts[0] in jobs
            found[parts[0]] = parts[4]
        return found

    one = parsl_submitted(run, "torque", options="-q main -A physics")
    held = parsl_submitted(run, "torque", more="-h")
    runs(env, one)
    assert spec(env, one).account == "physics"
    assert statuses(one, held) == {one: "R", held: "H"}
    run(f"qdel {one} {held}")
    env.wait_job(int(one))
    assert statuses(one, held, "4000000") == {one: "C", held: "C"}
    run(f"qdel {one} {held}")


@pytest.mark.system("pbs")
@pytest.mark.parametrize("ended", ["", "-x "])
def test_parsl_pbspro(env: Env, run: Run, ended: str) -> None:
    def statuses(*jobs: str) -> dict[str, str]:
        found = json.loads(run(f"qstat {ended}-f -F json {' '.join(jobs)}").stdout)
        return {job: one["job_state"] for job, one in found.get("Jobs", {}).items()}

    one, held = parsl_submitted(run, "pbs"), parsl_submitted(run, "pbs", more="-h")
    runs(env, one)
    assert statuses(one, held) == {one: "R", held: "H"}
    assert statuses("4000000") == {}
    run(f"qdel {one} {held}")
    env.wait_job(int(one))
    assert statuses(one, held) == ({one: "F", held: "F"} if ended else {})


@pytest.mark.system("sge")
def test_parsl_grid_engine(env: Env, run: Run) -> None:
    known = ("qw", "hqw", "hrwq", "r", "s", "ts", "t", "eqw", "d", "dr")

    def statuses() -> dict[str, str]:
        found = {}
        for line in run("qstat").stdout.split("\n"):
            parts = line.split()
            if parts and parts[0].lower() != "job-id" and not parts[0].startswith("----"):
                assert parts[4].lower() in known
                found[parts[0]] = parts[4].lower()
        return found

    one = parsl_submitted(run, "sge", options="-q main")
    held = parsl_submitted(run, "sge", more="-h")
    runs(env, one)
    assert statuses() == {one: "r", held: "hqw"}
    env.run("qsuspend", one)
    assert statuses()[one] == "r"
    run(f"qdel {one} {held}")
    env.wait_job(int(one))
    assert statuses() == {}


@pytest.mark.system("slurm")
def test_parsl_slurm(env: Env, run: Run) -> None:
    def statuses(line: str) -> dict[str, str]:
        found = {}
        for row in run(line).stdout.split("\n"):
            if row:
                job, state, *_ = row.split()
                found[job] = state
        return found

    run("sacct -X")
    one, held = parsl_submitted(run, "slurm"), parsl_submitted(run, "slurm", more="--hold")
    runs(env, one)
    squeue = f"squeue --noheader --format='%i %t' --job '{one},{held},4000000'"
    sacct = f"sacct -X --noheader --format=jobid,state%20 --job '{one},{held},4000000'"
    assert statuses(squeue) == {one: "R", held: "PD"}
    assert statuses(sacct) == {one: "RUNNING", held: "PENDING"}
    run(f"scancel {one} {held}")
    env.wait_job(int(one))
    assert statuses(squeue) == {}
    assert statuses(sacct) == {one: "CANCELLED", held: "CANCELLED"}


# -- submitit --------------------------------------------------------------------------------

PENDING_ARRAY = r"(?P<main_id>\d+)_\[(?P<arrays>(\d+(-\d+)?(,)?)+)(\%\d+)?\]"
CHECKPOINT = """\
import os, signal, subprocess, sys, time
if os.path.exists("done"):
    print("again", os.environ["SLURM_JOB_ID"], flush=True)
    sys.exit(0)
def leave(*_):
    open("done", "w").close()
    subprocess.check_call(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], timeout=60)
    sys.exit(-1)
signal.signal(signal.SIGUSR2, leave)
open("ready", "w").close()
while True:
    time.sleep(0.1)
"""


def submitit_submitted(run: Run, command: str, *more: str) -> str:
    here = os.getcwd()
    name = "%A_%a" if any("--array" in line for line in more) else "%j"
    lines = [f"--error={here}/{name}_0_log.err", "--job-name=submitit", "--nodes=1",
             "--open-mode=append", f"--output={here}/{name}_0_log.out", "--signal=USR2@90",
             "--time=5", "--wckey=submitit", *more]  # fmt: skip
    srun = f"srun --unbuffered --output {here}/{name}_%t_log.out --error {here}/{name}_%t_log.err"
    path = script("submission_file.sh", "\n".join([
        "#!/bin/bash", "", "# Parameters", *(f"#SBATCH {line}" for line in lines), "", "# command",
        "export SUBMITIT_EXECUTOR=slurm", f"{srun} {command}", "",
    ]))  # fmt: skip
    found = re.search(r"job (?P<id>[0-9]+)", run(f"sbatch {os.path.abspath(path)}").stdout)
    assert found is not None
    return found["id"]


def submitit_states(run: Run, *jobs: str) -> dict[str, str]:
    words = " ".join(f"-j {job}" for job in jobs)
    lines = run(f"sacct -o JobID,State,NodeList --parsable2 {words}").stdout.splitlines()
    names, found = lines[0].split("|"), {}
    assert names == ["JobID", "State", "NodeList"]
    for line in lines[1:]:
        stats = dict(zip(names, line.split("|"), strict=True))
        match = re.search(PENDING_ARRAY, stats["JobID"])
        if match is None:
            found[stats["JobID"]] = stats["State"]
            continue
        for part in match["arrays"].split(","):
            first, _, last = part.partition("-")
            for number in range(int(first), int(last or first) + 1):
                found[f"{match['main_id']}_{number}"] = stats["State"]
    return found


@pytest.mark.system("slurm")
def test_submitit(env: Env, run: Run) -> None:
    one = submitit_submitted(run, "sh -c 'echo out; echo err >&2; echo $SLURM_STEP_ID; exit 3'")
    env.wait_job(int(one))
    assert submitit_states(run, one) == {one: "FAILED"}
    assert Path(f"{one}_0_log.out").read_text() == "out\n0\n"
    assert Path(f"{one}_0_log.err").read_text() == "err\n"
    array = submitit_submitted(run, "sleep 60", "--array=0-9%2", "--cpus-per-task=1")
    held = submitit_submitted(run, "true", "--hold")
    runs(env, array)
    until(lambda: submitit_states(run, array).get(f"{array}_1") == "RUNNING")
    states = submitit_states(run, array, held)
    assert states == {
        **{f"{array}_{n}": "RUNNING" for n in (0, 1)},
        **{f"{array}_{n}": "PENDING" for n in range(2, 10)}, held: "PENDING",
    }  # fmt: skip
    run(f"scancel {array}_7")
    env.run("qsuspend", array)
    states = submitit_states(run, array)
    assert (states[f"{array}_0"], states[f"{array}_7"]) == ("RUNNING", "CANCELLED")
    assert submitit_states(run, "4000000") == {}
    run(f"scancel {array} {held}")
    env.wait_job(int(array))


@pytest.mark.system("slurm")
@pytest.mark.parametrize("array", ["", "--array=5-5"])
def test_submitit_checkpoints(env: Env, run: Run, array: str) -> None:
    path = os.path.abspath(script("work.py", CHECKPOINT))
    job = submitit_submitted(run, f"{sys.executable} -u {path}", *([array] if array else []))
    task = f"{job}_5" if array else job
    until(Path("ready").exists)
    # Its shell has no handler and lives on.
    run(f"scancel {task} --signal SIGUSR2")
    assert env.wait_job(int(job)).state is State.COMPLETED
    text = Path(f"{task}_0_log.out").read_text()
    assert text == f"again {task}\n"
    assert submitit_states(run, job) == {task: "COMPLETED"}


# -- what no tool does, but people do --------------------------------------------------------


@pytest.mark.system("slurm")
def test_slurm_by_hand(env: Env, run: Run) -> None:
    job = run("sbatch --parsable -n 2 -J fit --wrap='sleep 60'").stdout.strip()
    runs(env, job)
    head, line = run("squeue").stdout.splitlines()
    assert head.split()[:4] == ["JOBID", "PARTITION", "NAME", "USER"]
    assert line.split()[:3] == [job, "main", "fit"] and line.endswith(" n1")
    assert run("squeue --me -h -O jobid:8,state").stdout.split() == [job, "RUNNING"]
    assert f"JobId={job}" in run(f"scontrol show job {job}").stdout
    assert "JobState=RUNNING" in run(f"scontrol -o show job {job}").stdout
    assert re.search(r"^main\*\s+up\s+infinite\s+1\s+mix n1$", run("sinfo").stdout, re.MULTILINE)
    run(f"scontrol update jobid={job} timelimit=30")
    assert info(env, job).time_s == 1800
    assert "no field" in run("squeue -o %z", code=2).stderr
    assert "no such file" in run("sbatch nothing.sh", code=2).stderr
    assert "Invalid job id" in run("scancel 4000000", code=1).stderr
    run(f"scancel -n other -u {getpass.getuser()}")
    assert not info(env, job).has_ended
    run("scancel -n fit")
    assert env.wait_job(int(job)).state is State.CANCELLED
    assert run("scontrol show hostnames 'a[1-2,07],b'").stdout.split() == ["a1", "a2", "a07", "b"]
    done = run("srun -n 1 sh -c 'echo hi; exit 4'", code=4)
    assert done.stdout == "hi\n"


@pytest.mark.system("slurm")
def test_only_what_waits_is_cancelled(env: Env, run: Run) -> None:
    job = run("sbatch --parsable -c 2 --array=1-5 --wrap='sleep 60'").stdout.strip()
    until(lambda: info(env, job).counts.get(State.RUNNING) == 2)
    run(f"scancel --state=PENDING {job}")
    assert info(env, job).counts.get(State.RUNNING) == 2
    assert info(env, job).counts.get(State.CANCELLED) == 3


@pytest.mark.system("slurm")
def test_arguments_behind_the_script_are_its_own(env: Env, run: Run) -> None:
    script("job.sh", '#!/bin/sh\necho $# "$@"\n')
    job = run("sbatch --wait -o out.txt job.sh --cpus 3 -o x", code=0).stdout.split()[-1]
    assert Path("out.txt").read_text() == "4 --cpus 3 -o x\n"
    assert spec(env, job).cpus == 1


@pytest.mark.system("pbs")
def test_pbs_by_hand(env: Env, run: Run) -> None:
    job = run("qsub -N fit -J 1-3 -- sleep 60").stdout.strip()
    number = job.removesuffix("[]")
    runs(env, number)
    assert run("qselect -N fit").stdout.split() == [job]
    assert run(f"qstat {job}").stdout.splitlines()[-1].split()[4] == "B"
    assert run(f"qstat -t {job}").stdout.splitlines()[-1].split()[0] == f"{number}[3]"
    run(f"qalter -l walltime=60 -p 5 {job}")
    assert (info(env, number).time_s, info(env, number).priority) == (60, 5)
    run(f"qhold {job}")
    assert info(env, number).is_held
    run(f"qrls {job}")
    run(f"qdel -W force {number}[1-2].server")
    until(lambda: info(env, number).counts.get(State.CANCELLED) == 2)
    run(f"qdel {job}")
    env.wait_job(int(number))
    assert "Job has finished" in run(f"qstat {job}", code=35).stderr
    assert "Unknown Job Id" in run("qstat 4000000", code=153).stderr
    assert run(f"qstat -x {job}").stdout.splitlines()[-1].split()[4] == "F"
    assert "illegally formed" in run("qdel x", code=2).stderr


@pytest.mark.system("sge")
def test_grid_engine_by_hand(env: Env, run: Run) -> None:
    done = run("qsub -b y -N fit -t 1-6:2 -h sleep 60")
    found = re.fullmatch(r'Your job-array (\d+)\.1-5:2 \("fit"\) has been submitted\n', done.stdout)
    assert found is not None
    job = found[1]
    assert run("qstat").stdout.splitlines()[-1].split()[-1] == "1,3,5"
    assert "job_name" in run(f"qstat -j {job}").stdout
    assert "do not exist" in run("qstat -j 4000000", code=1).stderr
    run(f"qalter -l h_rt=90 -tc 1 {job}")
    assert (info(env, job).time_s, info(env, job).limit) == (90, 1)
    run(f"qrls {job}")
    runs(env, job)
    run(f"qdel {job} -t 3")
    until(lambda: info(env, job).counts.get(State.CANCELLED) == 1)
    run("qdel -u '*'")
    env.wait_job(int(job))
    line = run("qsub -b y true").stdout
    assert re.fullmatch(r'Your job \d+ \("true"\) has been submitted\n', line)
    assert run("qselect").stdout == "main@n1\n"


@pytest.mark.system("slurm")
def test_a_job_that_was_printed_for_slurm(env: Env, run: Run) -> None:
    words = "--sweep lr=0.1,0.2 -o %a.txt --wrap 'echo {lr} $QSUB_TASK_ID $SLURM_JOB_ID'"
    done = run(f"{OURS} qsub --to slurm {words} | sbatch --wait")
    job = done.stdout.split()[-1]
    assert [Path(f"{n}.txt").read_text() for n in (0, 1)] == [
        f"0.1 0 {job}_0\n", f"0.2 1 {job}_1\n",
    ]  # fmt: skip


# -- writing them ----------------------------------------------------------------------------


def test_other_programs_are_left_alone(env: Env, tmp_path: Path) -> None:
    theirs = tmp_path / "bin" / "squeue"
    theirs.parent.mkdir()
    theirs.write_text("#!/bin/sh\n")
    done = env.run("shims", "slurm", theirs.parent, check=False)
    assert done.returncode == 1 and "another program" in done.stderr
    assert [path.name for path in theirs.parent.iterdir()] == ["squeue"]
    assert env.run("shims", "lsf", tmp_path, check=False).returncode == 2
    theirs.unlink()
    for _ in range(2):  # ours are written anew
        env.run("shims", "slurm", theirs.parent)
    assert sorted(path.name for path in theirs.parent.iterdir()) == sorted(TOOLS["slurm"])
