"""qsub --deadline, qalter --deadline: what has not begun by then is cancelled."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

from env import Env, wait_until
from qsub_py.model import State

LATE = "not begun by its deadline"


def test_from_beginning_to_end(cluster_env: Env) -> None:
    runs = cluster_env.qsub("-c", 2, "--deadline", "now+1hour", "sleep", "60")
    cluster_env.wait_state(runs, State.RUNNING)
    late = cluster_env.qsub("-a", "1-1000000", "--deadline", "now+2seconds", "true")
    held = cluster_env.qsub("-H", "--deadline", "now+1hour", "true")
    info = cluster_env.wait_job(late)
    assert (info.state, info.counts[State.CANCELLED]) == (State.CANCELLED, 1_000_000)
    assert info.reason == LATE
    assert f"ended CANCELLED: {LATE}" in cluster_env.run("qstat", "--why", late).stdout
    assert "deadline" in cluster_env.run("qstat", "-f", held).stdout
    assert cluster_env.run("qwait", late, check=False).returncode == 3
    cluster_env.run("qalter", held, "--deadline", "now+1second")
    assert cluster_env.wait_job(held).reason == LATE
    cluster_env.wait_state(runs, State.RUNNING)


def test_altered(env: Env) -> None:
    job = env.qsub("-H", "--deadline", "now+1hour", "true")

    def deadline() -> float:
        with closing(env.store()) as store:
            return store.job(job).deadline_at

    first = deadline()
    env.run("qalter", job, "--deadline", "now+2hours")
    assert 3000 < deadline() - first < 4200
    done = env.run("qalter", job, "-b", "now+3hours", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"the deadline of job {job} is before it" in done.stderr
    done = env.run("qalter", job, "--deadline", "2001-01-01", check=False)
    assert done.returncode == 2 and "over already" in done.stderr
    env.run("qalter", job, "--deadline", "none", "-b", "now+3hours")
    assert deadline() == 0
    done = env.run("qalter", job, "--deadline", "now+2hours", check=False)
    assert done.returncode == 2 and "not after --begin" in done.stderr


def test_firings(cluster_env: Env) -> None:
    """Of a schedule each job has its own, counted from its due time."""
    blocks = cluster_env.qsub("-c", 2, "sleep", "60")
    cluster_env.wait_state(blocks, State.RUNNING)
    schedule = cluster_env.qsub("--every", "1h", "--deadline", "now+1second", "true")
    found = wait_until(
        lambda: [one for one in json.loads(cluster_env.run("qstat", "--json", "-a").stdout)
                 if one["id"] not in (blocks, schedule)], what="the first firing"
    )  # fmt: skip
    assert cluster_env.wait_job(found[0]["id"]).reason == LATE
    cluster_env.run("qcancel", schedule)


@pytest.mark.parametrize(("words", "complaint"), [
    (["--deadline", "someday"], "--deadline: bad time"),
    (["--deadline", "2001-01-01"], "over already"),
    (["--deadline", "now"], "over already"),
    (["--begin", "now+2hours", "--deadline", "now+1hour"], "is not after --begin"),
    (["--begin", "now+1hour", "--deadline", "now+1hour"], "is not after --begin"),
    (["--every", "1h", "--deadline", "16:00"], "write how long after each due time"),
    (["--every", "1h", "--deadline", "now"], "write how long after each due time"),
    (["--cron", "@daily", "--deadline", "now+5lightyears"], "write how long after"),
])  # fmt: skip
def test_bad_input(env: Env, words: list[str], complaint: str) -> None:
    done = env.run("qsub", *words, "true", check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert complaint in done.stderr


@pytest.mark.parametrize(("words", "said"), [
    ([], "what has not begun by now+1hour"),
    (["--every", "2h"], "what has not begun by its due time +1hour"),
])  # fmt: skip
def test_dry_run(env: Env, words: list[str], said: str) -> None:
    done = env.run("qsub", "--dry-run", *words, "--deadline", "now+1hour", "true")
    [line] = [line for line in done.stdout.splitlines() if line.startswith("cancelled")]
    assert line.split(None, 1)[1] == said
