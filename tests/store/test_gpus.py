"""Devices: each with one batch at a time, and none that processes outside of the queue use."""

from __future__ import annotations

from store.driver import Cluster


def test_no_device_that_others_use_is_given_out(cluster: Cluster) -> None:
    node = cluster.node(gpus=3, cpus=8)
    job = cluster.submit(4, gpus=1)
    node.store.renew([], {"gpus_busy": "0,2"})
    [one] = node.claim(8)
    assert one.gpus == (1,)
    assert cluster.field("node:uid-a", "gpus_free") == "0,2"
    assert node.claim(8) == []
    node.store.renew([], {"gpus_busy": "2"})
    [two] = node.claim(8)
    assert two.gpus == (0,)
    node.store.renew([], {"gpus_busy": "1"})
    node.end(one)
    [three] = node.claim(8)
    assert three.gpus == (2,)
    assert cluster.field("node:uid-a", "gpus_free") == "1"
    node.store.renew([], {"gpus_busy": ""})
    [four] = node.claim(8)
    assert four.gpus == (1,)
    for batch in (two, three, four):
        node.end(batch)
    assert sorted(cluster.field("node:uid-a", "gpus_free").split(",")) == ["0", "1", "2"]
    assert cluster.states(job) == "CD CD CD CD"


def test_a_freed_device_is_given_to_the_next_at_once(cluster: Cluster) -> None:
    """Freed in one script with the wake-up: the free ones stand before those that are shut."""
    node = cluster.node(gpus=2, cpus=8)
    node.store.renew([], {"gpus_busy": "1"})
    cluster.submit(2, gpus=1)
    [one] = node.claim(8)
    assert node.end(one) == 1
    [two] = node.claim(8)
    assert (one.gpus, two.gpus) == ((0,), (0,))


def test_a_node_with_devices_in_use_is_not_woken(cluster: Cluster) -> None:
    shut, open_ = cluster.node("a", gpus=1), cluster.node("b", gpus=1)
    shut.store.renew([], {"gpus_busy": "0"})
    for node in (shut, open_):
        node.claim()
    changed = cluster.changes(lambda: cluster.submit(gpus=1))
    assert "idle/uid-b" in changed and "idle/uid-a" not in changed


def test_a_node_that_lost_devices_does_not_get_them_back(cluster: Cluster) -> None:
    node = cluster.node(gpus=2, cpus=4)
    cluster.submit(2, gpus=1)
    first, second = node.claim(4)
    node.has["gpus"] = 1
    node.join()
    node.end(first)
    node.end(second)
    assert cluster.field("node:uid-a", "gpus_free") == "0"


def test_hello_of_an_agent_that_does_not_watch(cluster: Cluster) -> None:
    node = cluster.node(gpus=1)
    node.store.renew([], {"gpus_busy": "0", "load": "1.50"})
    assert cluster.store.nodes()[0].gpus_busy == (0,)
    assert cluster.store.nodes()[0].load == 1.5
    node.join()
    assert cluster.store.nodes()[0].gpus_busy == ()
