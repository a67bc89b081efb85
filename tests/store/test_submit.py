"""submit.lua: one job a token, in its lane when it is ready."""

from __future__ import annotations

import pytest

from store.driver import GB, START_MS, Cluster

LANE = "1|0|0|main|||ann"
COUNTS = {f"j:1/c{code}": "0" for code in range(1, 10)}
NEW = {
    "active/1": 1.0, "tok:token-1": b"1",
    "j:1/uid": "uid-of-token-1", "j:1/token": "token-1", "j:1/spec": "spec", "j:1/sig": "sig",
    "j:1/n": "1", "j:1/cursor": "0", **COUNTS, "j:1/rseq": "0", "j:1/unfit": "0",
    "j:1/lane": LANE, "j:1/rank": "1", "j:1/prio": "0", "j:1/limit": "0", "j:1/held": "0",
    "j:1/open": "0", "j:1/begin": "0", "j:1/fate": "0", "j:1/requeue": "1",
    "j:1/submitted": str(START_MS), "j:1/started": "0", "j:1/ended": "0",
    "j:1/name": "j", "j:1/owner": "ann", "j:1/queue": "main", "j:1/kind": "command",
    "j:1/cpus": "1", "j:1/mem": "0", "j:1/gpus": "0", "j:1/time": "0.0", "j:1/array": "0",
    "meta/schema": "1", "meta/clk": str(START_MS), "meta/served": "0", "meta/job": "1",
}  # fmt: skip
IN_LANE = {f"lane:{LANE}/1": 1.0, f"lanes/{LANE}": 1.0}


def test_all_keys(cluster: Cluster) -> None:
    assert cluster.once(lambda: cluster.submit(token="token-1")) == NEW | IN_LANE


def test_replay_finds_the_first(cluster: Cluster) -> None:
    sub = cluster.submission(3)
    assert [cluster.store.submit(sub) for _ in range(3)] == [(1, True), (1, False), (1, False)]
    assert cluster.store.find_key(sub.token) == 1


def test_replay_after_the_end(cluster: Cluster) -> None:
    job = cluster.submit(token="one")
    cluster.store.cancel(job, None, by="ann")
    assert cluster.changes(lambda: cluster.submit(token="one")) == {}


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"is_held": True}, {"j:1/held": "1"}),
        ({"begin_at": 1_700_000_100.0}, {"j:1/begin": "1700000100000", "due/1": 1_700_000_100_000}),
    ],
)
def test_not_ready(cluster: Cluster, options: dict, fields: dict) -> None:
    assert cluster.once(lambda: cluster.submit(token="token-1", **options)) == NEW | fields


def test_open_without_tasks(cluster: Cluster) -> None:
    expected = NEW | {"j:1/open": "1", "j:1/n": "0", "open/1": 600_000.0}
    assert cluster.once(lambda: cluster.submit(0, token="token-1", is_open=True)) == expected


def test_none_at_all_ends_at_once(cluster: Cluster) -> None:
    expected = NEW | {
        "j:1/n": "0", "j:1/ended": str(START_MS), "active/1": None, "ended/1": float(START_MS),
        "j:1/rseq": "1", "res:1/1-0": {"x": "1"},
    }  # fmt: skip
    del expected["active/1"]
    assert cluster.once(lambda: cluster.submit(0, token="token-1")) == expected


def test_a_million_cost_as_much_as_one(cluster: Cluster) -> None:
    changed = cluster.once(lambda: cluster.submit(1_000_000, token="token-1"))
    assert changed == NEW | IN_LANE | {"j:1/n": "1000000", "j:1/array": "1"}


def test_priority_is_the_rank(cluster: Cluster) -> None:
    low, high = cluster.submit(), cluster.submit(priority=3)
    assert int(cluster.field(f"j:{high}", "rank")) < int(cluster.field(f"j:{low}", "rank"))
    assert cluster.dump()[f"lanes/{LANE}"] == float(cluster.field(f"j:{high}", "rank"))


def test_large_function_is_a_blob_that_stays(cluster: Cluster) -> None:
    job = cluster.submit(function=b"f" * 3_000_000)
    assert cluster.store.function(job) == b"f" * 3_000_000
    [blob] = [name for name in cluster.dump() if name.startswith(f"blobs:{job}/")]
    key = cluster.prefix + "blob:" + blob.split("/")[1]
    assert cluster.link.command("TTL", key) == -1


def test_wakes_an_idle_node(cluster: Cluster) -> None:
    node = cluster.node(mem=8 * GB)
    node.claim()
    changed = cluster.changes(cluster.submit)
    assert changed["idle/uid-a"] is None
    assert changed["inbox:uid-a"] == ["1"]
