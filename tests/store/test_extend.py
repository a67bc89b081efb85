"""extend.lua: more points for a sweep, while it runs and when it has ended."""

from __future__ import annotations

import pytest

from qsub_py.errors import StoreBusy, StoreError
from qsub_py.model import State
from store.driver import CD, Cluster, F, Node

LANE = "1|0|0|main|||ann"
SWEEP = {"axes": [{"k": "a", "v": [["range", 0, 4, 1, 1, -1]]}]}


@pytest.fixture
def node(cluster: Cluster) -> Node:
    return cluster.node(cpus=8)


def sweep(cluster: Cluster, count: int = 4, **options: object) -> int:
    return cluster.submit(count, sweep=SWEEP, is_array=True, **options)


def extend(cluster: Cluster, job: int, first: int, count: int, *, grid: bytes = b"grid",
           pages: tuple[bytes, ...] = (), sig: bytes = b"sig") -> bool:  # fmt: skip
    uid = cluster.uid(job)
    return cluster.store.extend(job, uid, first, count, grid, sig, pages)


def test_all_keys(cluster: Cluster, node: Node) -> None:
    job = sweep(cluster)
    [batch] = node.claim(1, {job: 4})
    node.end(batch)
    assert cluster.once(lambda: extend(cluster, job, 4, 2)) == {
        "j:1/n": "6", "j:1/ended": "0", "ended/1": None, "active/1": 1.0,
        "grids:1/5-0": {"n": "2", "d": "grid", "s": "sig", "b": ""},
        f"lane:{LANE}/1": 1.0, f"lanes/{LANE}": 1.0,
    }  # fmt: skip
    [batch] = node.claim(8, {job: 8})
    assert (batch.first, batch.count, batch.attempt) == (4, 2, 1)
    node.end(batch)
    assert cluster.store.job(job).state is State.COMPLETED


def test_while_it_runs_and_is_held(cluster: Cluster, node: Node) -> None:
    job = sweep(cluster, is_held=True)
    assert extend(cluster, job, 4, 3) and extend(cluster, job, 7, 1)
    cluster.store.release(job)
    assert sum(b.count for b in node.claim(8, {job: 8})) == 8
    assert extend(cluster, job, 8, 1)
    grids = cluster.store.grids(job)
    assert [(g.first, g.count) for g in grids] == [(4, 3), (7, 1), (8, 1)]
    assert [cluster.store.grids(job, p)[0].first for p in (4, 6, 7, 8)] == [4, 4, 7, 8]
    assert cluster.store.grids(job, 3) == []


def test_an_idle_node_hears_of_it(cluster: Cluster, node: Node) -> None:
    job = sweep(cluster)
    node.end(node.claim(1, {job: 4})[0])
    assert node.claim() == []
    extend(cluster, job, 4, 1)
    assert cluster.dump()[f"inbox:{node.uid}"] == ["1"]


def test_who_comes_second_is_told(cluster: Cluster) -> None:
    job = sweep(cluster)
    assert extend(cluster, job, 4, 2)
    assert not extend(cluster, job, 4, 2, sig=b"another")
    assert not extend(cluster, job, 9, 2)
    assert extend(cluster, job, 4, 2), "the same again"
    assert cluster.store.job(job).total == 6


def test_cancelled_ranges_stay_cancelled(cluster: Cluster, node: Node) -> None:
    job = sweep(cluster)
    cluster.store.cancel(job, [(2, 3)], by="ann")
    extend(cluster, job, 4, 2)
    for batch in node.claim_all({job: 8}):
        node.end(batch)
    assert cluster.states(job) == "CD CD CA CA CD CD"


def test_refused(cluster: Cluster) -> None:
    plain, gone = cluster.submit(4), sweep(cluster)
    cluster.store.cancel(gone, None, by="ann")
    for job, text in ((plain, "is no sweep"), (gone, "given up as a whole")):
        before = cluster.dump()
        with pytest.raises(StoreError, match=text):
            extend(cluster, job, 4, 1)
        assert cluster.dump() == before
    with pytest.raises(StoreError, match="there is no job"):
        cluster.store.extend(gone, "another", 4, 1, b"", b"")


def test_rows_go_with_the_job(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(2, sweep=SWEEP, is_array=True, pages=(b"index", b"page"))
    blob = cluster.store.rows_blob(job)
    assert [cluster.store.piece(blob, n) for n in (0, 1)] == [b"index", b"page"]
    extend(cluster, job, 2, 1, pages=(b"i2", b"p2"))
    (grid,) = cluster.store.grids(job)
    assert cluster.store.piece(grid.blob, 1) == b"p2"
    for name in (blob, grid.blob):
        assert cluster.link.command("TTL", cluster.store.keys.blob(name)) == -1
    for batch in node.claim_all({job: 8}):
        node.end(batch)
    cluster.serve(10)
    cluster.store.purge(cluster.now_ms / 1000)
    assert not [key for key in cluster.dump() if key.startswith(("grids", "blob", "j:"))]


def test_memory_is_short(private: Cluster) -> None:
    job = sweep(private)
    private.serve(2)
    used = private.store.health().memory_bytes
    private.link.command("CONFIG", "SET", "maxmemory", int(used / 0.9))
    with pytest.raises(StoreBusy, match="80 %"):
        extend(private, job, 4, 1)
    private.link.command("CONFIG", "SET", "maxmemory", 0)


def test_the_size_of_a_grid_costs_nothing(cluster: Cluster) -> None:
    """A million points take the keys, bytes and scripts that ten take."""
    sizes, calls = [], []
    for count in (10, 1_000_000):
        start = scripts(cluster)
        job = sweep(cluster, count)
        extend(cluster, job, count, count)
        cluster.store.states(job, 0, 20)
        cluster.store.job(job)
        cluster.store.cancel(job, [(5, 2 * count - 1)], by="ann")
        cluster.store.cancel(job, None, by="ann")
        calls.append(scripts(cluster) - start)
        keys = [k for k in cluster.link.command("KEYS", f"{cluster.prefix}*:{job}")]
        sizes.append(sum(cluster.link.command("MEMORY", "USAGE", key) for key in keys))
        assert cluster.store.job(job).counts[State.CANCELLED] == 2 * count
    assert calls[0] == calls[1] and abs(sizes[0] - sizes[1]) < 200


def scripts(cluster: Cluster) -> int:
    info = cluster.link.command("INFO", "commandstats").decode()
    lines = [line for line in info.splitlines() if line.startswith("cmdstat_eval")]
    return sum(int(line.split("calls=")[1].split(",")[0]) for line in lines)


# -- --max-fails ---------------------------------------------------------------------------


def test_too_many_failures(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(100, max_fails="2")
    first, second, third = node.claim(3, {job: 2})
    node.finish(first, [F, F])
    assert cluster.store.job(job).counts[State.PENDING] == 94
    found = cluster.once(lambda: node.finish(second, [F, CD]))
    assert found[f"j:{job}/fate"] == "5" and "todo" not in found
    info = cluster.store.job(job)
    assert info.reason == "more than 2 of its tasks failed (--max-fails)"
    assert (info.counts[State.CANCELLED], info.counts[State.COMPLETING]) == (94, 2)
    assert '"op":"cancel"' in "".join({**node.orders(), **node.orders()}.values())
    node.finish(third, [5, 5])
    info = cluster.store.job(job)
    assert (info.has_ended, info.state, info.counts[State.CANCELLED]) == (True, State.FAILED, 96)
    assert cluster.call("tend") == 0


@pytest.mark.parametrize(("most", "bad", "goes_on"), [("10%", 2, True), ("10%", 3, False),
                                                      ("0", 1, False)])  # fmt: skip
def test_a_share_of_them(
    cluster: Cluster, node: Node, most: str, bad: int, goes_on: bool
) -> None:  # fmt: skip
    job = cluster.submit(20, max_fails=most)
    [batch] = node.claim(1, {job: 10})
    node.finish(batch, [F] * bad + [CD] * (10 - bad))
    assert (cluster.store.job(job).counts[State.PENDING] == 10) == goes_on


def test_the_last_failure_cancels_nothing(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(2, max_fails="1")
    [batch] = node.claim(1, {job: 2})
    node.finish(batch, [F, F])
    assert cluster.states(job) == "F F" and cluster.store.job(job).reason == ""


def test_stopped_and_run_again(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(10, max_fails="0")
    [batch] = node.claim(1, {job: 2})
    node.finish(batch, [F, CD])
    assert cluster.states(job) == "F CD" + " CA" * 8
    cluster.store.requeue(job, [(0, 9)], {State.FAILED, State.CANCELLED})
    for batch in node.claim_all({job: 10}):
        node.end(batch)
    assert cluster.store.job(job).state is State.COMPLETED
