"""A wide job is not starved by narrow ones: one node keeps room for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qsub_py.store_limits import read_limits, set_limits
from qsub_py.terms import Terms
from store.driver import Cluster, Node


def saver(cluster: Cluster) -> str:
    """Return "node:job" of who saves for what, "" for nobody."""
    found = read_limits(cluster.store).saving
    return f"{found[0].removeprefix('uid-')}:{found[1]}" if found else ""


def half_busy(cluster: Cluster, *names: str, cpus: int = 2) -> list[Node]:
    """Return nodes that run one narrow task each."""
    nodes = [cluster.node(name, cpus=cpus) for name in names]
    for node in nodes:
        cluster.submit()
        node.claim(1)
    return nodes


def finish_all(node: Node) -> None:
    for batch in list(node.held.values()):
        node.end(node.held.pop(batch.slot))


def woken(cluster: Cluster) -> set[str]:
    return {name.removeprefix("inbox:uid-") for name in cluster.dump() if name[:5] == "inbox"}


def test_all_keys(cluster: Cluster) -> None:
    [a] = half_busy(cluster, "a")
    wide = cluster.submit(cpus=2)
    cluster.submit()
    changed = cluster.changes(a.claim)
    assert changed["meta/saving"] == f"uid-a|{wide}|1|2|0|0|main|||ann"
    assert a.held.keys() == {1}, "it takes nothing of lower rank"
    assert cluster.changes(a.claim).keys() == {"node:uid-a/req"}
    finish_all(a)
    assert [batch.job for batch in a.claim_all()] == [wide]
    assert saver(cluster) == ""


def test_a_stream_of_narrow_jobs(cluster: Cluster) -> None:
    """The wide one starts after at most what ran when it came; the other node works on."""
    a, b = cluster.node("a"), cluster.node("b")
    cluster.submit(4)
    running = [*a.claim_all(), *b.claim_all()]
    assert len(running) == 4
    wide = cluster.submit(cpus=2)
    ended = 0
    for _ in range(10):
        cluster.submit(2)
        node = a if ended % 2 == 0 else b
        slot = min(node.held)
        node.end(node.held.pop(slot))
        ended += 1
        if wide in [batch.job for batch in node.claim_all()]:
            break
        assert len(a.held) + len(b.held) >= 2, "one node alone keeps room"
    assert cluster.states(wide) == "R"
    assert ended <= 4


def test_better_rank_and_what_fits_beside_it_still_start(cluster: Cluster) -> None:
    [a] = half_busy(cluster, "a", cpus=4)
    cluster.submit(cpus=3)
    a.claim(1)
    assert len(a.held) == 2
    wide = cluster.submit(cpus=3)
    narrow = cluster.submit(3)
    finish_all(a)
    cluster.submit()
    [first] = a.claim(1)
    assert first.job == wide
    a.held.clear(), a.held.update({first.slot: first})
    urgent = cluster.submit(priority=5)
    more = cluster.submit(cpus=3)
    assert [batch.job for batch in a.claim_all()] == [urgent]
    a.end(first)
    assert [batch.job for batch in a.claim_all()] == [narrow, narrow, narrow]
    assert cluster.states(more) == "PD"


def test_what_fits_beside_the_wide_one_starts(cluster: Cluster) -> None:
    """Four cpus, three are busy: room for 3 is kept, and one may go to others all the same."""
    node = cluster.node("a", cpus=4)
    first = cluster.submit(2)
    [old, *_] = node.claim_all()
    wide = cluster.submit(cpus=3)
    narrow = cluster.submit(9)
    assert [batch.job for batch in node.claim_all()] == [narrow]
    assert node.claim_all() == []
    node.end(old)
    assert node.claim_all() == [], "one of the two before it still runs"
    [other] = [batch for batch in node.held.values() if batch.job == first and batch != old]
    node.end(other)
    assert [batch.job for batch in node.claim_all()] == [wide]


def test_one_node_saves_and_the_others_go_on(cluster: Cluster) -> None:
    a, b = half_busy(cluster, "a", "b")
    wide = cluster.submit(cpus=2)
    narrow = cluster.submit(9)
    assert a.claim() == []
    assert [batch.job for batch in b.claim()] == [narrow]
    assert saver(cluster) == f"a:{wide}"


def test_a_better_one_takes_it_over(cluster: Cluster) -> None:
    a, b = half_busy(cluster, "a", "b")
    cluster.submit(cpus=2)
    a.claim()
    cluster.link.command("DEL", f"{cluster.prefix}inbox:uid-a")
    urgent = cluster.submit(cpus=2, priority=3, mem_bytes=1)
    assert b.claim() == []
    assert saver(cluster) == f"b:{urgent}"
    assert "a" in woken(cluster)


def test_taken_elsewhere(cluster: Cluster) -> None:
    a, b = half_busy(cluster, "a", "b")
    wide, narrow = cluster.submit(cpus=2), cluster.submit()
    a.claim()
    cluster.link.command("DEL", f"{cluster.prefix}inbox:uid-a")
    finish_all(b)
    assert [batch.job for batch in b.claim()] == [wide]
    assert (saver(cluster), "a" in woken(cluster)) == ("", True)
    assert [batch.job for batch in a.claim()] == [narrow]


@pytest.mark.parametrize("way", ["cancel", "hold", "drain", "lapse", "bye"])
def test_given_up(cluster: Cluster, way: str) -> None:
    a, b = half_busy(cluster, "a", "b")
    wide = cluster.submit(cpus=2)
    a.claim()
    cluster.link.command("DEL", f"{cluster.prefix}inbox:uid-a")
    ways: dict[str, Callable[[], object]] = {
        "cancel": lambda: cluster.store.cancel(wide, None, by="ann"),
        "hold": lambda: cluster.store.hold(wide),
        "drain": lambda: cluster.store.drain(a.uid),
        "lapse": a.lapse,
        "bye": a.store.bye,
    }
    ways[way]()
    assert saver(cluster) == ""
    if way in ("cancel", "hold"):
        assert "a" in woken(cluster), "it has refused work meanwhile"
    else:
        for batch in b.claim():
            b.end(b.held.pop(batch.slot))
        cluster.submit()
        b.claim()
        assert saver(cluster) == f"b:{wide}"


def test_not_for_what_waits_for_something_else(cluster: Cluster) -> None:
    [a] = half_busy(cluster, "a")
    set_limits(cluster.store, {"license:matlab": 1})
    cluster.submit(cpus=2, terms=Terms(licenses=("matlab:1",)))
    set_limits(cluster.store, {"license:matlab": 0})
    cluster.submit(cpus=3)
    narrow = cluster.submit()
    assert [batch.job for batch in a.claim()] == [narrow]
    assert saver(cluster) == ""


def test_one_that_saves_is_no_room_for_narrow_jobs(cluster: Cluster) -> None:
    a, b = half_busy(cluster, "a", "b")
    cluster.submit(cpus=2)
    a.claim(), b.claim()
    for node in (a, b):
        cluster.link.command("DEL", f"{cluster.prefix}inbox:{node.uid}")
    cluster.submit()
    assert "b" in woken(cluster)
    assert saver(cluster).startswith("a:")
