"""hello.lua, bye.lua, drain.lua, renew.lua, order.lua: nodes come, stay, obey and go."""

from __future__ import annotations

import pytest

from qsub_py.store_node import Refused
from store.driver import CD, GB, START_MS, Cluster, Node


def test_hello_all_keys(cluster: Cluster) -> None:
    node = Node(cluster, "a", gpus=2, queues=("main", "long"))
    cluster.nodes.append(node)
    assert cluster.changes(node.hello) == {
        "nodes/uid-a": 60_000.0, "names/a": "uid-a", "known/uid-a": True,
        "node:uid-a/name": "a", "node:uid-a/inc": "1", "node:uid-a/state": "up",
        "node:uid-a/cpus": "2", "node:uid-a/cpus_free": "2", "node:uid-a/mem": str(4 * GB),
        "node:uid-a/mem_free": str(4 * GB), "node:uid-a/gpus": "2", "node:uid-a/gpus_free": "0,1",
        "node:uid-a/queues": "main,long", "node:uid-a/pythons": "3.11", "node:uid-a/host": "h",
        "node:uid-a/req": "0", "node:uid-a/reply": "", "node:uid-a/seen": str(START_MS),
        "node:uid-a/run": "run-0", "node:uid-a/gpus_busy": "", "node:uid-a/gpus_why": "",
        "meta/schema": "1", "meta/clk": str(START_MS), "meta/served": "0", "meta/runid": "run-0",
    }  # fmt: skip
    assert cluster.changes(node.hello) == {"node:uid-a/inc": "2"}


def test_hello_keeps_what_is_booked(cluster: Cluster) -> None:
    node = cluster.node(gpus=3, cpus=4)
    job = cluster.submit(2, gpus=1)
    cluster.submit(gpus=1)
    [one, _] = node.claim(2, {job: 1})
    node.end(one)
    node.hello()
    assert cluster.field("node:uid-a", "gpus_free") == "0,2"
    assert cluster.field("node:uid-a", "cpus_free") == "3"


def test_name_of_a_live_node_is_taken(cluster: Cluster) -> None:
    cluster.node("a")
    double = Node(cluster, "a")
    double.store.uid = "uid-double"
    with pytest.raises(Refused) as caught:
        double.hello()
    assert (caught.value.word, caught.value.detail) == ("NAME", "uid-a")
    cluster.nodes[0].store.bye()
    double.hello()
    double.store.link.close()


def test_renamed_node_frees_its_name(cluster: Cluster) -> None:
    node = cluster.node("a")
    node.name = "new"
    changed = cluster.changes(node.join)
    assert changed == {
        "names/a": None, "names/new": "uid-a", "node:uid-a/name": "new", "node:uid-a/inc": "2",
    }  # fmt: skip


def test_bye_all_keys(cluster: Cluster) -> None:
    node = cluster.node()
    job = cluster.submit(5)
    node.claim(1, {job: 3})
    cluster.store.order(job, "{}")
    changed = cluster.changes(node.store.bye)
    assert changed == {
        "st:1": b"\1\1\1", "j:1/c1": "0", "again:1": ["0:3"], "on:1/uid-a": None,
        "slots:uid-a/1": None, "nodes/uid-a": None, "orders:uid-a/1": None, "inbox:uid-a": None,
        "node:uid-a/cpus_free": "2", "node:uid-a/mem_free": str(4 * GB),
        "node:uid-a/state": "down", "node:uid-a/reason": "", "node:uid-a/stopped": str(START_MS),
    }  # fmt: skip
    before = cluster.dump()
    with pytest.raises(Refused):
        node.store.bye()
    assert cluster.dump() == before


def test_drain_and_resume(cluster: Cluster) -> None:
    node = cluster.node()
    node.claim()
    changed = cluster.once(lambda: cluster.store.drain(node.uid, reason="disk"))
    assert changed == {
        "node:uid-a/state": "draining", "node:uid-a/reason": "disk", "idle/uid-a": None,
        "inbox:uid-a": ["1"],
    }  # fmt: skip
    node.join()
    assert cluster.field("node:uid-a", "state") == "draining", "it stays so when it joins again"
    changed = cluster.once(lambda: cluster.store.resume(node.uid))
    assert changed == {"node:uid-a/state": "up", "node:uid-a/reason": ""}
    assert cluster.store.drain("nobody") is False


def test_draining_node_ends_what_it_has(cluster: Cluster) -> None:
    node = cluster.node()
    cluster.submit()
    [batch] = node.claim()
    cluster.store.drain(node.uid)
    assert node.end(batch, CD) == 1


def test_renew_all_keys(cluster: Cluster) -> None:
    node = cluster.node()
    cluster.set_clock(START_MS + 2000)
    assert cluster.once(lambda: node.store.renew([])) == {
        "nodes/uid-a": 62_000.0, "node:uid-a/seen": str(START_MS + 2000),
        "meta/clk": str(START_MS + 2000), "meta/served": "2000",
    }  # fmt: skip


def test_order_to_holders_and_to_one(cluster: Cluster) -> None:
    node, other = cluster.node("a"), cluster.node("b")
    job = cluster.submit(2)
    node.claim()
    assert cluster.store.order(job, '{"op":"signal"}') == (("a", "uid-a", 1),)
    assert cluster.store.order_node(other.uid, '{"op":"stop"}') == 1
    assert node.orders() == {1: '{"upto":1,"op":"signal"}'}
    assert other.orders() == {1: '{"op":"stop"}'}
    assert cluster.store.order(99, "{}") == ()


def test_orders_come_in_order(cluster: Cluster) -> None:
    node = cluster.node()
    for number in range(30):
        cluster.store.order_node(node.uid, str(number))
    orders = node.store.renew([1, 2, 29])[1]
    assert [int(order.text) for order in orders] == [*range(2, 28), 29]


def test_order_of_a_node_that_went_is_not_waited_for(cluster: Cluster) -> None:
    node = cluster.node()
    job = cluster.submit()
    node.claim()
    reply = cluster.store.cancel(job, None, by="ann")
    node.store.bye()
    assert cluster.store.orders_done(reply.orders) == []
    assert cluster.states(job) == "CA"
