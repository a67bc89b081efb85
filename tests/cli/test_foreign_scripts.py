"""Scripts as the handbooks of clusters show them run unchanged: three for each dialect."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from env import Env
from qsub_py.model import State
from qsub_py.node import local

Run = Callable[..., tuple[int, str]]

SLURM_SERIAL = """\
#!/bin/bash
#SBATCH --job-name=serial_test        # Job name
#SBATCH --mail-type=END,FAIL          # Mail events (NONE, BEGIN, END, FAIL, ALL)
#SBATCH --mail-user=email@example.org # Where to send mail
#SBATCH --ntasks=1                    # Run on a single CPU
#SBATCH --mem=1gb                     # Job memory request
#SBATCH --time=00:05:00               # Time limit hrs:min:sec
#SBATCH --output=serial_test_%j.log   # Standard output and error log
cd "$SLURM_SUBMIT_DIR"
echo "$(hostname) $(pwd) $SLURM_JOB_ID"
"""
SLURM_THREADED = """\
#!/bin/bash -l

#SBATCH -J threads -p compute --qos=normal -A my_project
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=4
#SBATCH --mem-per-cpu=100M
#SBATCH --exclusive
#SBATCH --signal=B:USR2@30
#SBATCH --open-mode=append

# Set OMP_NUM_THREADS to the number of CPUs per task
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
echo "$SLURM_NTASKS x $OMP_NUM_THREADS of $SLURM_CPUS_ON_NODE on $SLURM_JOB_NODELIST"
echo "$SLURM_JOB_NAME $SLURM_JOB_PARTITION $SLURM_NNODES ${SLURM_ARRAY_JOB_ID:-no array}"
#SBATCH --mem=999G
"""
SLURM_ARRAY = """\
#!/bin/bash
#SBATCH --array=1-5:2%2
#SBATCH --output=logs/array_%A-%a.out
#SBATCH --error=logs/array_%A-%a.err
#SBATCH -t 5
#SBATCH -N1
PER_TASK=1000
START_NUM=$(( (SLURM_ARRAY_TASK_ID - 1) * PER_TASK + 1 ))
END_NUM=$(( SLURM_ARRAY_TASK_ID * PER_TASK ))
echo "task $SLURM_ARRAY_TASK_ID of $SLURM_ARRAY_TASK_COUNT: $START_NUM to $END_NUM"
echo "$SLURM_ARRAY_JOB_ID $SLURM_ARRAY_TASK_MIN $SLURM_ARRAY_TASK_MAX $SLURM_ARRAY_TASK_STEP" >&2
"""

PBS_PARALLEL = """\
#!/bin/bash
#PBS -N parallel
#PBS -l select=1:ncpus=4:mpiprocs=4:mem=2gb
#PBS -l walltime=00:10:00
#PBS -l place=pack
#PBS -q workq
#PBS -j oe
#PBS -m abe
#PBS -M user@example.org

cd $PBS_O_WORKDIR
NP=$(wc -l < $PBS_NODEFILE)
echo "$NP $NCPUS $(sort -u $PBS_NODEFILE) $PBS_ENVIRONMENT $PBS_QUEUE $(pwd)"
"""
PBS_ARRAY = """\
#!/bin/sh
#PBS -J 1-3
#PBS -r y
#PBS -o logs/
#PBS -k oed
#PBS -l ncpus=1,mem=100mb
cd "${PBS_O_WORKDIR}"
INPUT=$(sed -n "${PBS_ARRAY_INDEX}p" inputs.txt)
echo "subjob ${PBS_ARRAY_INDEX} of ${PBS_ARRAY_ID}: $INPUT"
"""
PBS_SCRATCH = """\
#PBS -S /bin/bash
#PBS -V
#PBS -v GREETING=hello
#PBS -W umask=0077
#PBS -l select=1:ncpus=1 -l walltime=300
JOB_NUMBER=${PBS_JOBID%%[.[]*}
cd $TMPDIR || exit 1
[[ $PWD != $PBS_O_WORKDIR ]] || exit 2
cp $PBS_O_WORKDIR/inputs.txt .
tac inputs.txt > reversed.$JOB_NUMBER
cp reversed.$JOB_NUMBER $PBS_O_WORKDIR/
echo $GREETING $PBS_JOBNAME ${BASH_VERSION:+bash}
"""

TORQUE_PARALLEL = """\
#!/bin/bash
#PBS -l nodes=1:ppn=4,mem=1gb,walltime=00:01:00:00
#PBS -N torque_job
#PBS -o torque.out -e torque.err
#PBS -A account
#PBS -p 10
NP=`cat $PBS_NODEFILE | wc -l`
echo "$NP $PBS_NP $PBS_NUM_PPN $PBS_JOBNAME"
echo "$PBS_WALLTIME" >&2
"""
TORQUE_ARRAY = """\
#!/bin/bash
#PBS -t 0-3%2
#PBS -l nodes=1
#PBS -l pmem=100mb
#PBS -o $PBS_JOBNAME.out -j oe -N sweep
cd $PBS_O_WORKDIR
PARAMETERS=(0.1 0.2 0.3 0.4)
echo "${PARAMETERS[$PBS_ARRAYID]}"
"""
TORQUE_DIRECTORY = """\
#!/bin/csh -f
### a comment
#PBS -S /bin/sh
#PBS -d /tmp
#PBS -l procs=2
##PBS -l nodes=4
#PBS -n
#PBS -m n
for i in 1 2; do echo "$i of $PBS_NP in $(pwd)"; done
"""

SGE_THREADED = """\
#!/bin/bash
#$ -S /bin/bash
#$ -cwd
#$ -N threaded_job
#$ -pe smp 4
#$ -l h_rt=00:10:00,h_vmem=100M
#$ -j y -o output.log
#$ -m beas -M user@example.org
#$ -q all.q
#$ -notify
export OMP_NUM_THREADS=$NSLOTS
echo "$JOB_NAME $NSLOTS $QUEUE $SGE_TASK_ID $(pwd) $SGE_O_WORKDIR"
"""
SGE_ARRAY = """\
#!/bin/sh
#$ -V
#$ -t 1-3
#$ -tc 2
#$ -l mem_free=100M
#$ -l h_rt=600
#$ -o $JOB_NAME.$TASK_ID.out
#$ -N files
# Each task takes one line
SEED=$(awk "NR==$SGE_TASK_ID" inputs.txt)
echo "$SGE_TASK_ID of $SGE_TASK_FIRST-$SGE_TASK_LAST:$SGE_TASK_STEPSIZE $SEED"
"""
SGE_AGAIN = """\
#!/bin/bash
#$ -r y -terse
#$ -R y -w e
#$ -soft -l fast=1 -hard
if [ "$RESTARTED" = 0 ]; then
    echo "checkpoint of $JOB_ID" > checkpoint
    exit 99
fi
cat checkpoint
echo "restarted in $(basename $(dirname $TMPDIR))"
"""


@pytest.fixture
def here(env: Env, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory that the test works in; a node of eight cpus serves all queues."""
    monkeypatch.chdir(tmp_path)
    queues = ("main", "compute", "workq", "all.q")
    started = local.start(env.config, name="n1", cpus=8, mem_bytes=2**34, queues=queues)
    env.node_dirs["n1"] = started.node_dir
    (tmp_path / "inputs.txt").write_text("one\ntwo\nthree\n")
    return tmp_path


@pytest.fixture
def run(env: Env, here: Path) -> Run:
    """Submit a script and wait; return its job's id and output."""

    def run(script: str, *, state: State = State.COMPLETED) -> tuple[int, str]:
        (here / "job.sh").write_text(script)
        done = env.run("qsub", "job.sh")
        assert done.stderr == "", "off a terminal only the id is printed"
        job = int(done.stdout)
        ended = env.wait_job(job)
        log = env.run("qlog", job).stdout
        assert ended.state is state, log
        return job, log

    return run


def test_slurm(here: Path, run: Run) -> None:
    host = socket.gethostname()
    job, _ = run(SLURM_SERIAL)
    assert (here / f"serial_test_{job}.log").read_text() == f"{host} {here} {job}\n"
    _, log = run(SLURM_THREADED)
    assert log == f"2 x 4 of 8 on {host}\nthreads compute 1 no array\n"
    job, _ = run(SLURM_ARRAY)
    logs = {path.name: path.read_text() for path in (here / "logs").iterdir()}
    assert logs[f"array_{job}-3.out"] == "task 3 of 3: 2001 to 3000\n"
    assert logs[f"array_{job}-5.err"] == f"{job} 1 5 2\n"
    assert len(logs) == 6


def test_pbs_pro(here: Path, run: Run) -> None:
    host = socket.gethostname()
    _, log = run(PBS_PARALLEL)
    assert log == f"4 4 {host} PBS_BATCH workq {here}\n"
    (here / "logs").mkdir()
    job, _ = run(PBS_ARRAY)
    logs = {path.name: path.read_text() for path in (here / "logs").iterdir()}
    assert logs[f"job.sh.o{job}.2"] == f"subjob 2 of {job}[]: two\n"
    assert len(logs) == 3
    job, log = run(PBS_SCRATCH)
    assert log == "hello job.sh bash\n"
    assert (here / f"reversed.{job}").read_text() == "three\ntwo\none\n"
    assert (here / f"reversed.{job}").stat().st_mode & 0o777 == 0o600


def test_torque(here: Path, run: Run) -> None:
    run(TORQUE_PARALLEL)
    assert (here / "torque.out").read_text() == "4 4 4 torque_job\n"
    assert (here / "torque.err").read_text() == "3600\n"
    run(TORQUE_ARRAY)
    assert [(here / f"sweep.out.{i}").read_text() for i in range(4)] == [
        "0.1\n", "0.2\n", "0.3\n", "0.4\n",
    ]  # fmt: skip
    _, log = run(TORQUE_DIRECTORY)
    assert log == "1 of 2 in /tmp\n2 of 2 in /tmp\n"


def test_grid_engine(here: Path, run: Run) -> None:
    run(SGE_THREADED)
    assert (here / "output.log").read_text() == (
        f"threaded_job 4 all.q undefined {here} {here}\n"
    )  # fmt: skip
    run(SGE_ARRAY)
    assert [(here / f"files.{i}.out").read_text() for i in (1, 2, 3)] == [
        "1 of 1-3:1 one\n", "2 of 1-3:1 two\n", "3 of 1-3:1 three\n",
    ]  # fmt: skip
    job, log = run(SGE_AGAIN)
    assert log.endswith(f"checkpoint of {job}\nrestarted in scratch\n")


def test_no_other_systems_variables(run: Run) -> None:
    listing = "env | grep -E '^(SLURM|PBS_|SGE_|JOB_ID|NSLOTS)' | sed 's,[_=].*,,' | sort -u\n"
    assert run(f"#!/bin/sh\n{listing}true")[1] == ""
    assert run(f"#!/bin/sh\n: $SLURM_JOB_ID\n{listing}")[1] == "SLURM\nSLURMD\n"
    assert run(f"#!/bin/sh\n#PBS -N x\n{listing}")[1] == "PBS\n"
    assert run(f"#!/bin/sh\n#$ -N x\n{listing}")[1] == "JOB\nNSLOTS\nSGE\n"
    assert run(f"#!/bin/sh\n#QSUB --compat none\n#$ -N x\n{listing}")[1] == ""


def test_dependencies(env: Env, here: Path) -> None:
    first = env.qsub("-H", "-J", "1-2", "--wrap", "echo $PBS_ARRAY_INDEX >> order")
    (here / "pbs.sh").write_text(f"#PBS -W depend=afterok:{first}[].server\necho pbs >> order\n")
    (here / "sge.sh").write_text(
        f"#$ -hold_jid_ad {first} -t 1-2\n#$ -o order.$TASK_ID\necho after $SGE_TASK_ID\n"
    )
    last = [env.qsub("pbs.sh"), env.qsub("sge.sh")]
    assert not (here / "order").exists()
    env.run("qrls", first)
    assert [env.wait_job(job).state for job in last] == [State.COMPLETED] * 2
    assert (here / "order").read_text().endswith("pbs\n")
    assert (here / "order.2").read_text() == "after 2\n"


def test_a_script_on_standard_input(env: Env, here: Path) -> None:
    done = env.run("qsub", "-terse", "-l", "h_rt=60", input=SGE_THREADED, stdin=None)
    assert done.stderr == ""
    env.wait_job(int(done.stdout))
    assert (here / "output.log").read_text().startswith("threaded_job 4 all.q undefined ")
    wrong = env.run("qsub", input="#PBS -l nodes=3\n", stdin=None, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("qsub: stdin, line 1: `nodes=3`: a task runs on one node")


def test_a_call_gets_its_tasks_variables(env: Env, here: Path) -> None:
    (here / "m.py").write_text("import os\ndef f(): return os.environ['SLURM_ARRAY_TASK_ID']\n")
    job = env.qsub("--compat", "slurm", "-a", "3-5", "m.py:f")
    env.wait_job(job)
    assert env.run("qresult", "--csv", job).stdout.count(",3") >= 1
    assert [line.rsplit(",", 1)[1] for line in env.run("qresult", "--csv", job).stdout.split()][
        1:
    ] == ["3", "4", "5"]
