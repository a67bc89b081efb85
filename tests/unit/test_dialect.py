"""What the options of Slurm, PBS and Grid Engine come to in ours: the tables."""

from __future__ import annotations

import pytest

from qsub_py import dialect_pbs, dialect_sge
from qsub_py.dialect import Dialect, Reading, split_line, take_all, understand
from qsub_py.dialect_pbs import PBS, TORQUE, job_id
from qsub_py.dialect_sge import SGE
from qsub_py.dialect_slurm import SLURM
from qsub_py.dialect_units import path, seconds, sge_size, size_text
from qsub_py.dialect_words import DIALECTS, named, owner
from qsub_py.errors import SpecError


def read(dialect: Dialect, *lines: str) -> Reading:
    """Read directive lines as they stand behind the marker, from line 2 on."""
    items = []
    for number, line in enumerate(lines, 2):
        where = f"job.sh, line {number}"
        items += take_all(dialect, split_line(line, where, dialect.marker), where)
    return understand(items, lambda path: path in (".", "logs", "~"))


def said(dialect: Dialect, *lines: str) -> tuple[str, ...]:
    """Return our options, and behind them what is told beside them."""
    reading = read(dialect, *lines)
    return (*reading.options, *(f"{name}:{value}" for name, value in reading.extras.items()))


def refusal(dialect: Dialect, *lines: str) -> str:
    with pytest.raises(SpecError) as caught:
        read(dialect, *lines)
    return f"{caught.value}; {caught.value.hint}"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--job-name=fit", ("--name=fit",)),
        ("-J 'my job (2)'", ("--name=my_job__2_",)),
        ("-t 10", ("--time=10",)),
        ("--time=1-12:00:00", ("--time=1-12:00:00",)),
        ("-p gpu", ("--queue=gpu",)),
        ("-c 4 -n 2", ("--cpus=4", "tasks:2", "procs:2")),
        ("-c4 -n2", ("--cpus=4", "tasks:2", "procs:2")),
        ("--nodes=1 --ntasks-per-node=8", ("tasks:8", "procs:8")),
        ("-N 1-2 --mem=0 --exclusive", ()),
        ("--mem=4000 --mem-per-cpu=2G", ("--mem=4000", "--mem-per-cpu=2G")),
        ("--gres=gpu:a100:2", ("--gpus=2",)),
        ("--gres=gpu", ("--gpus=1",)),
        ("--gres=gpu:1,lscratch:50", ("--gpus=1",)),
        ("-G a100:3", ("--gpus=3",)),
        ("--gpus-per-task=2 -n 3", ("--gpus=6", "tasks:3", "procs:3")),
        ("--gpus=2 --cpus-per-gpu=4 --mem-per-gpu=8G", ("--gpus=2", "--cpus=8", "--mem=16G")),
        ("-a 0-15:4%2", ("--array=0-15:4%2",)),
        ("--output=log/%x-%4A_%a.out -e %j-%t.err", ("--output=log/%x-%4A_%a.out",
                                                   "--error=%j-0.err")),
        ("-o %u%%.%N.%J", ("--output=%u%%.%N.%j",)),
        ("--export=NIL", ("--export=NONE",)),
        ("--export=ALL,A=1", ("--export=ALL,A=1",)),
        ("--nice --hold --no-requeue", ("--priority=-100", "--hold", "--no-requeue")),
        ("--nice=-5", ("--priority=5",)),
        ("--requeue --no-requeue", ("--no-requeue",)),
        ("--signal=B:USR2@30", ("soft_signal:B:USR2@30",)),
        ("--signal SIGUSR1", ("soft_signal:USR1@60",)),
        ("-d afterok:12:13,afterany:14", ("--dependency=afterok:12:13,afterany:14",)),
        ("--depend=singleton", ("--dependency=singleton",)),
        ("-x n1 -w n2 -C 'fast&ib' -L a:2", ("--exclude=n1", "--nodelist=n2",
                                            "--constraint=fast&ib", "--licenses=a:2")),
        ("-D /tmp -A p1 -b now+1hour -W", ("--chdir=/tmp", "--account=p1", "--begin=now+1hour",
                                          "--wait")),
        ("-p gpu # the fast ones", ("--queue=gpu",)),
        ("--comment 'a #1 job'", ("--comment=a #1 job",)),
    ],
)  # fmt: skip
def test_slurm(line: str, expected: tuple[str, ...]) -> None:
    assert said(SLURM, line) == expected


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("--nodes=2", "`--nodes=2`: a task runs on one node; write --array"),
        ("-N 4", "a task runs on one node"),
        ("hetjob", "a task runs on one node"),
        ("--mem=lots", "bad size 'lots'"),
        ("--time=soon", "bad time 'soon'"),
        ("--cpus-per-task=0", "a whole number from 1 on"),
        ("--partitoin=x", "Slurm has no option '--partitoin'"),
        ("--ntask=2", "could be --ntasks or --ntasks-per-"),
        ("-p", "`-p` of Slurm needs a value"),
        ("-p=gpu", "Slurm has no option '-p=gpu'"),
        ("--hold=1", "takes no value"),
        ("gpu", "'gpu' is no option of Slurm"),
        ("-o %b.out", "'%b' cannot be filled in"),
        ("--gres=shard:2", "there is no resource 'shard:2'"),
        ("--deadline=now+1hour", "for the beginning here; write #QSUB --deadline WHEN"),
        ("--input=data.txt", "write `< data.txt` in the script"),
        ("--uid=0", "runs as the nodes' user"),
        ("-p fast,slow", "a job has one queue here"),
        ("'x", "No closing quotation"),
    ],
)
def test_slurm_refuses(line: str, part: str) -> None:
    assert part in refusal(SLURM, "-J x", line)
    assert refusal(SLURM, "-J x", line).startswith("job.sh, line 3: ")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-N fit -q gpu@server -p 10", ("--name=fit", "--queue=gpu", "--priority=10")),
        ("-l select=1:ncpus=4:mem=8gb:ngpus=1", ("--cpus=4", "--mem=8G", "--gpus=1", "tasks:1")),
        ("-l select=ncpus=4:mpiprocs=2", ("--cpus=4", "tasks:1", "procs:2")),
        ("-l nodes=1:ppn=8", ("--cpus=8", "tasks:1", "procs:8")),
        ("-l nodes=ws3:ppn=2:bigmem", ("--nodelist=ws3", "--constraint=bigmem", "--cpus=2",
                                      "tasks:1", "procs:2")),
        ("-lnodes=1,walltime=1:30:00", ("--time=5400s",)),
        ("-l walltime=90,mem=500mb,ncpus=2", ("--time=90s", "--mem=500M", "--cpus=2", "tasks:1")),
        ("-l walltime=1:00:00:00", ("--time=86400s",)),
        ("-l pmem=2gb,vmem=4gb", ("--mem=4G",)),
        ("-l pmem=2gb", ("--mem-per-cpu=2G",)),
        ("-l mem=1048576", ("--mem=1M",)),
        ("-l place=scatter:excl,cput=10", ()),
        ("-J 0-9:3%2", ("--array=0-9:3%2",)),
        ("-t 1,3,5-7%2", ("--array=1,3,5-7%2",)),
        ("-W depend=afterok:12.srv:13[].srv,afterany:14[3]", ("--dependency=afterok:12:13,"
                                                              "afterany:14_3",)),
        ("-W depend=afterokarray:12[].srv", ("--dependency=afterok:12",)),
        ("-W block=true,umask=027", ("--wait", "umask:027")),
        ("-W block=false", ()),
        ("-a 202612312359.30", ("--begin=2026-12-31T23:59:30",)),
        ("-a 12312359", ("--begin=12/31 23:59",)),
        ("-a 2359", ("--begin=23:59",)),
        ("-j oe -e x.err -o x.out", ("--output=x.out",)),
        ("-j eo -e x.err -o x.out", ("--output=x.err",)),
        ("-j n -e x.err", ("--error=x.err",)),
        ("-o host:out/$PBS_JOBNAME.$PBS_JOBID", ("--output=out/%x.%A",)),
        ("-o logs", ("--output=logs/%x.o%j",)),
        ("-J 1-3 -o logs -e e/^array_index^", ("--array=1-3", "--output=logs/%x.o%A.%a",
                                              "--error=e/%a")),
        ("-J 1-3 -o all.txt -e /dev/null", ("--array=1-3", "--output=all.txt.%a",
                                           "--error=/dev/null")),
        ("-V -v A=1,B", ("--export=ALL", "--export=A=1,B")),
        ("-r n -h -A p1", ("--no-requeue", "--hold", "--account=p1")),
        ("-S /bin/bash@host", ("shell:/bin/bash",)),
        ("-l select=1:ncpus=8:ompthreads=4", ("--cpus=8", "--export=ALL",
                                             "--export=OMP_NUM_THREADS=4", "tasks:1")),
        ("-m abe -M me@x.org -k oe -c n -X -R oe", ()),
    ],
)  # fmt: skip
def test_pbs(line: str, expected: tuple[str, ...]) -> None:
    assert said(PBS, line) == expected


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("-l select=2:ncpus=4", "`select=2:ncpus=4`: a task runs on one node"),
        ("-l select=1:ncpus=4+1:ncpus=2", "a task runs on one node"),
        ("-l nodes=2:ppn=4", "`nodes=2:ppn=4`: a task runs on one node"),
        ("-l nodes=n1+n2", "a task runs on one node"),
        ("-l foo=3", "'foo' is no resource of PBS"),
        ("-l walltime=1h", "'1h' is no time limit"),
        ("-l mem=lots", "'lots' is no size"),
        ("-W depend=before:12", "`depend=before:12` is not known"),
        ("-W depend=afterok:me", "'me' is no id of a job"),
        ("-W stagein=a@h:b", "files are not staged"),
        ("-W colour=red", "is no attribute"),
        ("-I", "no interactive jobs"),
        ("-j both", "write oe, eo or n"),
        ("-o $SCRATCH/x", "'$SCRATCH' cannot be filled in"),
        ("-Z", "PBS has no option '-Z'"),
        ("-p high", "a whole number"),
        ("-a 20261231", "bad time '20/26 12:31'"),
        ("-a noon", "'noon' is no start time"),
        ("Resources:", "'Resources:' is no option of PBS"),
    ],
)
def test_pbs_refuses(line: str, part: str) -> None:
    assert part in refusal(PBS, "-N x", line)
    assert refusal(PBS, "-N x", line).startswith("job.sh, line 3: ")


def test_torque_and_pbs_differ() -> None:
    assert "Torque has no option '-J'" in refusal(TORQUE, "-J 1-3")
    assert said(TORQUE, "-t 1-3 -d /tmp") == ("--array=1-3", "--chdir=/tmp")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-N fit -cwd -q all.q -p -5", ("--name=fit", "--queue=all.q", "--priority=-5")),
        ("-t 1-10:2 -tc 4", ("--array=1-10:2", "at_once:4")),
        ("-t 5", ("--array=5",)),
        ("-pe smp 4", ("--cpus=4", "tasks:1")),
        ("-pe mpi* 4-16", ("--cpus=4", "tasks:1")),
        ("-l h_rt=1:30:00,h_vmem=4G", ("--time=5400s", "--mem-per-cpu=4G")),
        ("-l h_rt=90", ("--time=90s",)),
        ("-l h_rt=::30", ("--time=30s",)),
        ("-l h_rt=INFINITY", ("--time=UNLIMITED",)),
        ("-l mem_free=2G -l h_vmem=3G -l s_vmem=1G", ("--mem-per-cpu=3G",)),
        ("-l mem_free=1000k", ("--mem-per-cpu=1000000B",)),
        ("-l s_rt=50,h_rt=60", ("--time=60s", "soft_signal:USR1@10")),
        ("-l s_rt=50", ("--time=50s",)),
        ("-l gpu=2 -l hostname=ws1", ("--gpus=2", "--nodelist=ws1")),
        ("-l h=!ws1 -l arch=lx-amd64", ("--exclude=ws1",)),
        ("-soft -l foo=1 -q fast -hard -l gpu=1", ("--gpus=1",)),
        ("-q all.q@ws1", ("--queue=all.q", "--nodelist=ws1")),
        ("-hold_jid 12,13.4 -hold_jid_ad 14", ("--dependency=afterany:12:13_4,aftercorr:14",)),
        ("-o logs/ -j y -e x", ("--output=logs/%x.o%j",)),
        ("-t 1-3 -o logs -e logs/", ("--array=1-3", "--output=logs/%x.o%A.%a",
                                    "--error=logs/%x.e%A.%a")),
        ("-o $HOME/out/$JOB_NAME.$JOB_ID.$TASK_ID", ("--output=~/out/%x.%A.%a",)),
        ("-o host:/tmp/100%", ("--output=/tmp/100%%",)),
        ("-sync y -r yes -h", ("--wait", "--requeue", "--hold")),
        ("-sync n -now n -j n", ()),
        ("-notify", ("soft_signal:USR2@60",)),
        ("-S /bin/bash -V -v A=1", ("--export=ALL", "--export=A=1", "shell:/bin/bash")),
        ("-wd /tmp -P proj -a 202612312359", ("--chdir=/tmp", "--account=proj",
                                            "--begin=2026-12-31T23:59")),
        ("-b y", ("program:y",)),
        ("-w e -m beas -M me@x -R y -terse", ()),
    ],
)  # fmt: skip
def test_sge(line: str, expected: tuple[str, ...]) -> None:
    assert said(SGE, line) == expected


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("-l foo=3", "'foo' is no resource of Grid Engine"),
        ("-l h_rt=1h", "'1h' is no time limit"),
        ("-pe smp", "`-pe` of Grid Engine needs a value"),
        ("-pe smp many", "a number of slots is a whole number"),
        ("-hold_jid step1", "'step1' is no list of job ids"),
        ("-q a.q,b.q", "a job has one queue here"),
        ("-now y", "jobs wait for their turn"),
        ("-i in.txt", "write `< in.txt` in the script"),
        ("-Nfit", "Grid Engine has no option '-Nfit'"),
        ("-o $FOO/x", "'$FOO' cannot be filled in"),
        ("-@ file", "options come from the command line"),
        ("-j maybe", "write y or n"),
    ],
)
def test_sge_refuses(line: str, part: str) -> None:
    assert part in refusal(SGE, "-N x", line)
    assert refusal(SGE, "-N x", line).startswith("job.sh, line 3: ")


#: What workflow tools write into each of their scripts.
@pytest.mark.parametrize(
    ("dialect", "line"),
    [
        (SLURM, "--nodes=1 --ntasks-per-node=4 --exclusive --wckey=w --open-mode=append"),
        (SLURM, "--signal=USR2@90 --mem=14GB --time=0:30:00 --no-requeue --parsable"),
        (SLURM, "--job-name=dask-worker -n 1 --cpus-per-task=2 --mem=14G -t 00:30:00 -e a -o b"),
        (SLURM, "-D /tmp --mail-user me --mail-type NONE --chdir=/w --hint=nomultithread"),
        (PBS, "-S /bin/bash -m n -k eo -N x -j oe -W umask=077"),
        (PBS, "-l select=1:ncpus=2:mem=14GB -l walltime=00:30:00"),
        (PBS, "-l nodes=1:ppn=2 -l mem=14gb -o a.out -e a.err"),
        (SGE, "-S /bin/bash -cwd -j y -notify -terse -V -m n -N x"),
        (SGE, "-l h_rt=00:30:00 -l mem_free=14G -pe smp 2 -l m_mem_free=2G -o a -e b"),
    ],
)
def test_what_workflow_tools_write(dialect: Dialect, line: str) -> None:
    assert len(read(dialect, line).said) > 1


@pytest.mark.parametrize("known", DIALECTS)
def test_each_rule_is_one_of_three(known: str) -> None:
    for name, rule in DIALECTS[known].rules.items():
        assert rule.read or rule.harmless or rule.refused, name
        assert not (rule.refused and (rule.read or rule.harmless)), name
    resources = {**dialect_pbs.RESOURCES, **dialect_sge.RESOURCES}
    assert all(rule.read or rule.harmless for rule in resources.values())


def test_each_option_is_told_with_its_place() -> None:
    reading = read(SLURM, "-J x --mail-type=END", "--mem=4G")
    assert [(one.where, one.text, one.meaning, one.is_harmless) for one in reading.said] == [
        ("job.sh, line 2", "-J x", "--name=x", False),
        ("job.sh, line 2", "--mail-type=END", "mail is not sent", True),
        ("job.sh, line 3", "--mem=4G", "--mem=4G", False),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("1:30", 90), ("1:00:00", 3600), ("1:00:00:00", 86400), ("72:00:00", 259200),
     ("1:0:0", 3600), (":30", 30), ("10.5", 10)],
)  # fmt: skip
def test_seconds(text: str, expected: int) -> None:
    assert seconds(text) == expected


def test_sizes() -> None:
    assert (sge_size("4G"), sge_size("4g"), sge_size("1.5M")) == (2**32, 4 * 10**9, 3 * 2**19)
    assert [size_text(size) for size in (2**30, 3 * 2**20, 2**40, 1000)] == ["1G", "3M", "1T",
                                                                            "1000B"]  # fmt: skip


def test_paths_and_ids() -> None:
    assert path("a:b", {}) == "b"
    assert path("/a/b", {}) == "/a/b"
    assert [job_id(text) for text in ("12", "12.srv", "12[]", "12[3].a.b", "12_3")] == [
        "12", "12", "12", "12_3", "12_3",
    ]  # fmt: skip
    with pytest.raises(SpecError):
        path("host:", {})


def test_dialects_by_name() -> None:
    assert named("SLURM") is SLURM
    assert named("pbspro") is PBS
    assert named("auto") is None
    with pytest.raises(SpecError, match="no dialect 'condor'"):
        named("condor")


def test_words_of_ours_stay_ours() -> None:
    for word in ("-N", "-t", "-a", "-p", "-w", "--mem", "-c3", "-J", "-W", "-b"):
        assert owner(word, "x", is_ours=True) is None
    assert owner("-z", "x", is_ours=False) is None
