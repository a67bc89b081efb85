"""Wake-ups: a script that makes tasks ready tells as many idle nodes that fit."""

from __future__ import annotations

import pytest

from store.driver import CD, GB, LOST, RETURNED, Cluster, Node


def idle(cluster: Cluster) -> list[str]:
    """Return the names of the idle nodes."""
    return sorted(name[9:] for name in cluster.dump() if name.startswith("idle/"))


def make_idle(*nodes: Node) -> None:
    for node in nodes:
        assert node.claim(100) == []


@pytest.fixture
def four(cluster: Cluster) -> list[Node]:
    nodes = [cluster.node(name, cpus=2) for name in "abcd"]
    make_idle(*nodes)
    return nodes


@pytest.mark.parametrize(
    ("count", "options", "woken"),
    [
        (1, {}, 1), (2, {}, 1), (3, {}, 2), (100, {}, 4), (2, {"cpus": 2}, 2),
        (2, {"mem_bytes": 3 * GB}, 2), (100, {"limit": 3}, 2), (5, {"is_held": True}, 0),
        (5, {"queue": "other"}, 0), (5, {"nodelist": ("c",)}, 1),
    ],
)  # fmt: skip
def test_as_many_as_there_is_work(
    cluster: Cluster, four: list[Node], count: int, options: dict, woken: int
) -> None:
    cluster.submit(count, **options)
    assert len(idle(cluster)) == 4 - woken
    rung = [name for name in cluster.dump() if name.startswith("inbox:")]
    assert len(rung) == woken


def test_by_devices(cluster: Cluster) -> None:
    nodes = [cluster.node(name, cpus=16, gpus=1) for name in "abc"]
    make_idle(*nodes)
    cluster.submit(3, gpus=1)
    assert idle(cluster) == []


def test_each_chunk(cluster: Cluster, four: list[Node]) -> None:
    job = cluster.submit(0, is_open=True)
    for at in range(4):
        cluster.store.append(job, cluster.uid(job), at * 2, 2, b"", b"")
        assert len(idle(cluster)) <= 3 - at


def test_room_under_a_limit(cluster: Cluster) -> None:
    node, other = cluster.node("a"), cluster.node("b")
    cluster.submit(2, limit=1)
    [batch] = node.claim(1)
    make_idle(other)
    cluster.store.drain(node.uid)
    node.end(batch, CD)
    assert idle(cluster) == []
    assert len(other.claim()) == 1


@pytest.mark.parametrize("code", [LOST, RETURNED])
def test_what_comes_back(cluster: Cluster, code: int) -> None:
    node, other = cluster.node("a"), cluster.node("b")
    cluster.submit()
    [batch] = node.claim()
    make_idle(other)
    node.end(batch, code)
    assert idle(cluster) == []


def test_lapse_and_bye(cluster: Cluster) -> None:
    node, other, third = (cluster.node(name) for name in "abc")
    cluster.submit()
    node.claim()
    make_idle(other)
    node.lapse()
    assert idle(cluster) == []
    other.claim()
    make_idle(third)
    other.store.bye()
    assert idle(cluster) == []


def test_bye_does_not_wake_the_one_that_leaves(cluster: Cluster) -> None:
    node, other = cluster.node("a"), cluster.node("b")
    cluster.submit()
    assert len(node.claim(2)) == 1
    make_idle(other)
    assert idle(cluster) == ["a", "b"]
    node.store.bye()
    assert idle(cluster) == []
    assert len(other.claim()) == 1


def test_unfit_nodes_sleep_on(cluster: Cluster) -> None:
    node, other = cluster.node("a"), cluster.node("b")
    job = cluster.submit()
    [batch] = node.claim()
    make_idle(other)
    node.store.give_back(batch, bytes([RETURNED]), "no such directory")
    assert idle(cluster) == []
    make_idle(node)
    [batch] = other.claim()
    make_idle(node)
    cluster.store.hold(job)
    other.end(batch, RETURNED)
    make_idle(other)
    cluster.store.release(job)
    assert idle(cluster) == ["a"]


def test_rerun(cluster: Cluster, four: list[Node]) -> None:
    job = cluster.submit(2)
    for batch in four[0].claim(2):
        four[0].end(batch, CD)
    make_idle(*four)
    cluster.store.requeue(job, [(0, 1)], {state for state, _ in cluster.store.states(job, 0, 1)})
    assert len(idle(cluster)) == 3


def test_a_time_to_begin_is_told(cluster: Cluster) -> None:
    """The idle node knows of no time before it looks: it is told to."""
    make_idle(cluster.node("a"))
    cluster.submit(begin_at=cluster.now_ms / 1000 + 1)
    assert cluster.dump()["inbox:uid-a"] == ["3"]
    assert idle(cluster) == ["a"]
