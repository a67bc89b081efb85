"""append.lua: more tasks for an open job, each once."""

from __future__ import annotations

import pytest

from qsub_py.errors import JobNotFound, StoreError
from store.driver import CD, START_MS, Cluster

LANE = "1|0|0|main|||ann"


@pytest.fixture
def job(cluster: Cluster) -> int:
    return cluster.submit(0, is_open=True)


def append(cluster: Cluster, job: int, first: int, count: int, **more: bool) -> None:
    cluster.store.append(job, cluster.uid(job), first, count, b"chunk", b"sig", **more)


def test_all_keys(cluster: Cluster, job: int) -> None:
    assert cluster.once(lambda: append(cluster, job, 0, 2)) == {
        "j:1/n": "2", "args:1/1-0": {"n": "2", "d": "chunk", "s": "sig", "b": ""},
        f"lane:{LANE}/1": 1.0, f"lanes/{LANE}": 1.0,
    }  # fmt: skip
    assert cluster.once(lambda: append(cluster, job, 2, 3)) == {
        "j:1/n": "5", "args:1/3-0": {"n": "3", "d": "chunk", "s": "sig", "b": ""},
    }  # fmt: skip
    assert cluster.store.chunk(job, 1) == (0, 2, b"chunk", b"sig")
    assert cluster.store.chunk(job, 4) == (2, 3, b"chunk", b"sig")


def test_older_chunk_again(cluster: Cluster, job: int) -> None:
    append(cluster, job, 0, 2)
    append(cluster, job, 2, 2)
    assert cluster.changes(lambda: append(cluster, job, 0, 2)) == {}


def test_gap(cluster: Cluster, job: int) -> None:
    def late() -> None:
        with pytest.raises(StoreError, match="has only 0 tasks"):
            append(cluster, job, 2, 2)

    assert cluster.changes(late) == {}


def test_closing_chunk(cluster: Cluster, job: int) -> None:
    changed = cluster.once(lambda: append(cluster, job, 0, 1, close=True))
    assert changed["j:1/open"] == "0"
    assert changed["open/1"] is None
    with pytest.raises(StoreError, match="it was closed"):
        append(cluster, job, 1, 1)


def test_close_ends_what_is_done(cluster: Cluster, job: int) -> None:
    append(cluster, job, 0, 1)
    node = cluster.node()
    [batch] = node.claim()
    node.end(batch, CD)
    assert not cluster.store.job(job).has_ended
    changed = cluster.once(lambda: cluster.store.close_job(job))
    assert changed == {
        "j:1/open": "0", "j:1/ended": str(START_MS), "j:1/rseq": "2", "res:1/2-0": {"x": "1"},
        "open/1": None, "active/1": None, "ended/1": float(START_MS),
    }  # fmt: skip


def test_wrong_uid_or_id(cluster: Cluster, job: int) -> None:
    for number, uid in ((job, "another"), (99, cluster.uid(job))):
        with pytest.raises(JobNotFound):
            cluster.store.append(number, uid, 0, 1, b"chunk", b"sig")


def test_cancelled_job_takes_no_more(cluster: Cluster, job: int) -> None:
    append(cluster, job, 0, 3)
    cluster.store.cancel(job, None, by="ann")
    with pytest.raises(StoreError, match="it was closed"):
        append(cluster, job, 3, 1)
    assert cluster.states(job) == "CA CA CA"


def test_silent_client_is_closed_after_ten_minutes(cluster: Cluster, job: int) -> None:
    append(cluster, job, 0, 1)
    cluster.serve(500)
    cluster.store.keep_open(job, cluster.uid(job))
    cluster.serve(599)
    cluster.call("sweep")
    assert cluster.store.job(job).is_open
    cluster.serve(3)
    changed = cluster.once(lambda: cluster.call("sweep"))
    assert changed == {"j:1/open": "0", "open/1": None}
    assert cluster.states(job) == "PD"


def test_large_chunk_is_a_blob(cluster: Cluster, job: int) -> None:
    cluster.store.append(job, cluster.uid(job), 0, 1, b"x" * 100_000, b"sig")
    assert cluster.store.chunk(job, 0)[2] == b"x" * 100_000


def test_many_in_one_trip(cluster: Cluster, job: int) -> None:
    chunks = [(at, 10, b"chunk", b"sig", "") for at in range(0, 50, 10)]
    changed = cluster.once(lambda: cluster.store.append_many(job, cluster.uid(job), chunks))
    assert changed["j:1/n"] == "50"
    assert sum(name.startswith("args:1/") for name in changed) == 5
