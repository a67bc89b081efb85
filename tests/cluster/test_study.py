"""A study from end to end while hosts go away: each point of a sweep has one result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lab import Lab
from lab_cluster import SAY, Cluster, ran_again

pytestmark = pytest.mark.timeout(240)

#: Seed 2 fails until the user has mended something.
POINT = SAY + """\
say start; beat 12
if [ "$QSUB_PARAM_seed" = 2 ] && [ ! -e ~/mended ]; then say end; echo unmended; exit 3; fi
mkdir -p "out/$1"
echo "$1 $2 $(cat data/base) $QSUB_NODE $QSUB_ATTEMPT" > "out/$1/$2.txt"
say end
echo "{\\"score\\": $(($2 * $(cat data/base))), \\"by\\": \\"$QSUB_NODE $QSUB_ATTEMPT\\"}"
"""


@pytest.fixture
def cluster(lab3: Lab) -> Cluster:
    """Return three nodes of two cpus whose leases are short, and a study on the head."""
    made = Cluster(lab3, lease_s=3)
    made.start("--cpus", "2", *lab3.hosts)
    study = lab3.head.home / "work/study"
    (study / "data").mkdir(parents=True)
    (study / "data/base").write_text("100\n")
    (study / "point.sh").write_text(POINT)
    return made


def in_study(cluster: Cluster) -> dict[str, Any]:
    return {"cwd": str(cluster.head.home / "work/study")}


def rows(cluster: Cluster, job: int) -> Iterator[tuple[Any, ...]]:
    """Yield (lr, seed, state, exit code, score) of each point, and what ran it must be one."""
    tasks = {task["index"]: task for task in cluster.tasks(job)}
    for row in cluster.listed("qresult", job):
        task, result = tasks[row["index"]], row["result"] or {}
        assert row["params"] == task["params"]
        if result:
            assert result["by"] == f"{task['node']} {task['attempt']}"
        yield (*row["params"].values(), row["state"], row["exit_code"], result.get("score"))


def check_files(cluster: Cluster, job: int) -> None:
    """Each point brought back its file, written by the attempt that counts."""
    cluster.run("qfetch", job, "-o", "results")
    folder = cluster.head.home / "work/results"
    found = {str(path.relative_to(folder)): path.read_text().split()
             for path in folder.rglob("*.txt")}  # fmt: skip
    expected = {}
    for task in cluster.tasks(job):
        lr, seed = (str(value) for value in task["params"].values())
        words = [lr, seed, "100", task["node"], str(task["attempt"])]
        expected[f"{task['index']}/out/{lr}/{seed}.txt"] = words
    assert found == expected


def test_each_point_has_one_result(cluster: Cluster) -> None:
    words = ["--ship", ".", "--fetch", "out/**", "--sweep", "lr=0.1,0.01", "--sweep", "seed=1:4"]
    job = int(cluster.run("qsub", *words, "point.sh", "--", "{lr}", "{seed}",
                          **in_study(cluster)).stdout)  # fmt: skip
    cluster.wait_ledger(lambda lines: len({line.host for line in lines}) == 3, what="all work")
    cluster.lab["h1"].cut()
    # More points are thought of meanwhile; those which it has are not run again.
    more = ["--extend", job, "--sweep", "lr=0.5,0.1", "--sweep", "seed=1:2"]
    assert int(cluster.run("qsub", *more, **in_study(cluster)).stdout) == job
    cluster.wait_ledger(ran_again("h1"), what="h1's points run elsewhere")
    cluster.lab["h1"].heal()
    assert cluster.run("qwait", job, check=False, timeout=90).returncode == 3

    points = [(lr, seed) for lr in (0.1, 0.01) for seed in range(1, 5)] + [(0.5, 1), (0.5, 2)]
    assert list(rows(cluster, job)) == [
        (lr, seed, "FAILED", 3, None) if seed == 2 else (lr, seed, "COMPLETED", 0, 100 * seed)
        for lr, seed in points
    ]
    before = {task["index"]: task["attempt"] for task in cluster.tasks(job)}
    for host in cluster.lab.hosts.values():
        (host.home / "mended").touch()
    cluster.run("qrerun", job, "--failed")
    cluster.wait_completed(job)
    assert list(rows(cluster, job)) == [
        (lr, seed, "COMPLETED", 0, 100 * seed) for lr, seed in points
    ]
    after = {task["index"]: task["attempt"] for task in cluster.tasks(job)}
    assert {index for index in after if after[index] != before[index]} == {1, 5, 9}
    table = cluster.run("qresult", job).stdout.splitlines()
    assert table[0].split()[:3] == ["JOBID", "lr", "seed"] and len(table) == 1 + len(points)
    cluster.check_ledger(job)
    check_files(cluster, job)
