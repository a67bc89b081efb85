"""ship.lua, unship.lua, bring.lua and what submit, finish and purge do with files."""

from __future__ import annotations

import os

import pytest

from qsub_py.errors import StoreBusy, StoreError
from qsub_py.model import Ship, State
from qsub_py.store_files import PIECE_BYTES, ShipLost, squeeze_piece
from store.driver import CD, Cluster, F, Node
from store.test_large import is_quick

SHA = "ab" * 32
BLOB = f"blob:s{SHA}"
SHIP = Ship("data", SHA, 300_000)
PIECES = [(0, squeeze_piece(b"a" * 262_144)), (1, squeeze_piece(b"b" * 37_856))]


@pytest.fixture
def node(cluster: Cluster) -> Node:
    return cluster.node()


def put(cluster: Cluster) -> None:
    cluster.store.put_shipped(SHA, PIECES)


def ttl(cluster: Cluster, name: str = BLOB) -> int:
    return int(cluster.link.command("TTL", cluster.prefix + name))


def end(cluster: Cluster, node: Node) -> None:
    for batch in node.claim_all():
        node.end(batch)


def test_pieces_are_temporary_until_a_submit(cluster: Cluster) -> None:
    changed = cluster.once(lambda: put(cluster))
    assert {name for name in changed if not name.startswith("meta")} == {f"{BLOB}/0", f"{BLOB}/1"}
    assert 0 < ttl(cluster) <= 3600
    assert cluster.store.shipped(SHA) == {0, 1}
    job = cluster.submit(ship=(SHIP,))
    assert ttl(cluster) == -1
    assert cluster.field("refs", f"s{SHA}") == "1"
    assert cluster.dump()[f"blobs:{job}/s{SHA}"] is True
    # Whoever sends it again, or gives up, does the job no harm.
    assert cluster.changes(lambda: put(cluster)) == {}
    assert cluster.changes(lambda: cluster.store.drop_shipped(SHA)) == {}
    assert cluster.store.shipped(SHA) == {0, 1}
    assert ttl(cluster) == -1


def test_submit_wants_every_piece(cluster: Cluster) -> None:
    before = cluster.dump()
    for there in ([], PIECES[:1]):
        if there:
            cluster.store.put_shipped(SHA, there)
            before = cluster.dump()
        with pytest.raises(ShipLost):
            cluster.submit(ship=(SHIP,))
        assert cluster.dump() == before
    put(cluster)
    sub = cluster.submission(ship=(SHIP,), token="t")
    assert cluster.store.submit(sub)[1]
    # The token finds the job though the files are gone.
    cluster.link.command("DEL", cluster.prefix + BLOB)
    assert cluster.store.submit(sub) == (1, False)


def test_giving_up(cluster: Cluster) -> None:
    before = cluster.dump()
    put(cluster)
    cluster.once(lambda: cluster.store.drop_shipped(SHA))
    assert {n for n, v in cluster.dump().items() if before.get(n) != v} <= {
        "meta/clk", "meta/served", "meta/schema",
    }  # fmt: skip


def test_the_last_job_takes_the_files_along(cluster: Cluster, node: Node) -> None:
    put(cluster)
    jobs = [cluster.submit(ship=(SHIP, Ship("again", SHA, 300_000)))]
    end(cluster, node)
    cluster.serve(3)
    jobs.append(cluster.submit(ship=(SHIP,)))
    assert cluster.field("refs", f"s{SHA}") == "2"
    end(cluster, node)
    assert cluster.store.purge(cluster.now_ms / 1000 - 1) == 1
    assert cluster.field("refs", f"s{SHA}") == "1"
    assert cluster.store.shipped(SHA) == {0, 1}
    assert cluster.store.purge(cluster.now_ms / 1000 + 1) == 1
    left = cluster.dump()
    assert not [n for n in left if n.startswith((BLOB, "refs", "blobs:", "files:"))], jobs
    with pytest.raises(ShipLost):
        cluster.submit(ship=(SHIP,))


def test_memory(private: Cluster) -> None:
    """Only what submits is refused at 80 %, what is brought at 90 %."""
    put(private)
    node = private.node()
    job = private.submit(ship=(SHIP,))
    # Large against what comes and goes with each request.
    private.link.command("SETRANGE", private.prefix + "ballast", 2**26, b"x")
    used = private.store.health().memory_bytes
    for share, is_brought in ((0.85, True), (0.95, False)):
        private.link.command("CONFIG", "SET", "maxmemory", int(used / share))
        with pytest.raises(StoreBusy, match="80 %"):
            private.store.put_shipped("cd" * 32, PIECES)
        assert private.store.shipped("cd" * 32) == set()
        word = node.store.bring(job, "b" * 16, PIECES, total=300_000, most=10**9)
        assert word == ("ok" if is_brought else "full")
    assert private.link.command("EXISTS", private.prefix + "blob:" + "b" * 16) == 0
    private.link.command("CONFIG", "SET", "maxmemory", 2**30)
    private.link.command("DEL", private.prefix + "ballast")


def test_bringing_and_its_budget(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(3)
    batches = node.claim_all()
    assert len(batches) == 2
    notes = []
    for at, batch in enumerate(batches):
        name = f"{at:016d}"
        changed = cluster.once(
            lambda name=name: node.store.bring(job, name, PIECES, total=300_000, most=500_000)
        )
        assert {f"blob:{name}/0", f"blob:{name}/1"} <= changed.keys()
        assert ttl(cluster, f"blob:{name}") > 0
        note = (batch.first, b"note %d" % at, 300_000)
        notes.append(note)
        report = {"blobs": (name,), "notes": (note,)}
        cluster.once(lambda batch=batch, report=report: node.finish(batch, [CD], **report))
        assert ttl(cluster, f"blob:{name}") == -1
        if not at:
            # What has ended counts: the second is one too many.
            assert node.store.bring(job, "f" * 16, PIECES, total=300_000, most=500_000) == "budget"
            assert cluster.link.command("EXISTS", f"{cluster.prefix}blob:{'f' * 16}") == 0
            cluster.link.command("HSET", f"{cluster.prefix}j:{job}", "brought", 0)
    assert cluster.store.notes(job, [0, 1, 2]) == {0: b"note 0", 1: b"note 1"}
    assert cluster.store.notes(job, []) == {}
    assert node.store.pieces("0" * 16, 0, 2)[1] == b"b" * 37_856
    with pytest.raises(StoreError, match="gone"):
        node.store.pieces("0" * 16, 2, 1)
    end(cluster, node)
    assert cluster.store.purge(cluster.now_ms / 1000 + 1)
    assert not [n for n in cluster.dump() if n.startswith(("blob", "files"))]


def test_notes_of_what_is_not_accepted_are_not_kept(cluster: Cluster, node: Node) -> None:
    job = cluster.submit(2)
    [batch] = node.claim(1, {job: 2})
    node.finish(batch, [F, 0], notes=((0, b"first", 5), (1, b"too soon", 7)))
    assert cluster.store.notes(job, [0, 1]) == {0: b"first"}
    assert cluster.field(f"j:{job}", "brought") == "5"
    # Told again: the end is known.
    node.finish(batch, [F, 0], notes=((0, b"other", 5),))
    assert cluster.store.notes(job, [0]) == {0: b"first"}
    node.finish(batch, [0, CD], notes=((1, b"second\0\xff", 0),))
    assert cluster.store.notes(job, [1]) == {1: b"second\0\xff"}
    # Run again, it leaves another.
    cluster.store.requeue(job, [(0, 0)], {State.FAILED})
    [again] = node.claim()
    node.finish(again, [CD], notes=((0, b"better", 1),))
    assert cluster.store.notes(job, [0]) == {0: b"better"}


def test_no_call_holds_the_server(private: Cluster) -> None:
    """Four pieces of random bytes are the most that comes in one call."""
    private.link.command("CONFIG", "SET", "slowlog-log-slower-than", 5000)
    node = private.node()
    job = private.submit()
    pieces = [(n, b"R" + os.urandom(PIECE_BYTES)) for n in range(4)]
    numbers = iter(range(100))
    is_quick(private, "ship", lambda: private.store.put_shipped(f"{next(numbers):064x}", pieces))
    is_quick(
        private, "bring",
        lambda: node.store.bring(job, f"{next(numbers):016x}", pieces, total=2**20, most=2**40),
    )  # fmt: skip
    for _ in range(6):
        name = f"{next(numbers):064x}"
        private.store.put_shipped(name, pieces)
        is_quick(private, "unship", lambda name=name: private.store.drop_shipped(name))
