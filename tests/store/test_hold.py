"""hold.lua, release.lua, promote.lua: jobs that must wait though there is room."""

from __future__ import annotations

import pytest

from qsub_py.errors import JobNotFound
from store.driver import CD, START_MS, Cluster

LANE = "1|0|0|main|||ann"
IN_LANE = {f"lane:{LANE}/1": 1.0, f"lanes/{LANE}": 1.0}
OUT_OF_LANE = dict.fromkeys(IN_LANE)


def test_hold_and_release(cluster: Cluster) -> None:
    job = cluster.submit(3)
    assert cluster.once(lambda: cluster.store.hold(job)) == {"j:1/held": "1"} | OUT_OF_LANE
    assert cluster.once(lambda: cluster.store.release(job)) == {"j:1/held": "0"} | IN_LANE


def test_hold_lets_what_runs_go_on(cluster: Cluster) -> None:
    node = cluster.node()
    job = cluster.submit(3)
    [batch] = node.claim()
    cluster.store.hold(job)
    assert node.claim() == []
    assert node.end(batch, CD) == 1
    cluster.store.release(job)
    assert [b.first for b in node.claim(2)] == [1, 2]


def test_release_wakes(cluster: Cluster) -> None:
    job = cluster.submit(is_held=True)
    cluster.node().claim()
    changed = cluster.changes(lambda: cluster.store.release(job))
    assert changed["inbox:uid-a"] == ["1"]


def test_ended_and_unknown(cluster: Cluster) -> None:
    job = cluster.submit()
    cluster.store.cancel(job, None, by="ann")
    for change in (cluster.store.hold, cluster.store.release):
        assert cluster.changes(lambda change=change: change(job)) == {}
        assert change(job) is False
        with pytest.raises(JobNotFound):
            change(99)


def test_promote_when_due(cluster: Cluster) -> None:
    cluster.submit(begin_at=START_MS / 1000 + 10)
    cluster.submit(begin_at=START_MS / 1000 + 20)
    assert cluster.call("promote") == [0, START_MS + 10_000]
    cluster.set_clock(START_MS + 10_000)
    changed = cluster.once(lambda: cluster.call("promote"))
    assert changed == {
        "j:1/begin": "0", "due/1": None, **IN_LANE,
        "meta/clk": str(START_MS + 10_000), "meta/served": "3000",
    }  # fmt: skip
    assert cluster.call("promote") == [0, START_MS + 20_000]


def test_promote_a_held_job_does_not_release_it(cluster: Cluster) -> None:
    job = cluster.submit(begin_at=START_MS / 1000 + 10, is_held=True)
    cluster.set_clock(START_MS + 10_000)
    assert cluster.call("promote") == [1, 0]
    assert cluster.node().claim() == []
    cluster.store.release(job)
    assert len(cluster.nodes[0].claim()) == 1


def test_promote_more_than_a_slice(cluster: Cluster) -> None:
    for _ in range(300):
        cluster.submit(begin_at=START_MS / 1000 + 10)
    node = cluster.node(cpus=300)
    cluster.set_clock(START_MS + 10_000)
    assert cluster.call("promote")[0] == 256
    assert node.store.housekeep() == (0.0, [])
    assert len(node.claim_all()) == 300
