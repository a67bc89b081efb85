"""What a node does about schedules: it verifies them, and says what it cannot compute."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from qsub_py.model import JobSpec, Submission
from qsub_py.node.beat import Beat
from qsub_py.periodic import Rule
from qsub_py.proof import sign_schedule
from qsub_py.server import Endpoint
from qsub_py.signing import Key, Keyring
from qsub_py.store_schedules import ScheduleInfo, Schedules
from store.driver import Cluster

RING = Keyring(Key.new())


@pytest.fixture
def cluster(valkey: Endpoint) -> Iterator[Cluster]:
    made = Cluster(valkey.url, valkey.password)
    yield made
    made.close()


def plan(cluster: Cluster, rule: Rule, key: Key = RING.current) -> ScheduleInfo:
    """Make a schedule that is due now, signed with a key."""
    spec, uid = JobSpec("command", "j", "ann", argv=("true",)), secrets.token_hex(8)
    signature = sign_schedule(key, cluster.name, uid, rule.to_bytes(), spec.to_bytes())
    made = (rule.to_bytes(), cluster.now_ms, 0, rule.overlap)
    sub = Submission(spec, uid, uid, spec.to_bytes(), signature, 1, plan=made)
    number, _ = cluster.store.submit(sub)
    return look(cluster, number)


def look(cluster: Cluster, number: int) -> ScheduleInfo:
    found = Schedules(cluster.store).get(number)
    assert found is not None
    return found


def turn(cluster: Cluster, name: str) -> None:
    """Let a node look after what is due."""
    node = next((n for n in cluster.nodes if n.name == name), None) or cluster.node(name)
    _, due = node.store.housekeep()
    Beat(node.store, RING, name).fire(due, cluster.now_ms / 1000)


def test_two_nodes_fire_once(cluster: Cluster) -> None:
    info = plan(cluster, Rule(every_ms=5000))
    turn(cluster, "a")
    turn(cluster, "b")
    assert look(cluster, info.id).fired == 1
    cluster.set_clock(cluster.now_ms + 12_000)
    turn(cluster, "b")
    turn(cluster, "a")
    one = look(cluster, info.id)
    assert (one.fired + one.skipped, one.missed) == (2, 1)
    assert one.next_ms == info.next_ms + 15_000


def test_a_forged_schedule_makes_nothing(cluster: Cluster) -> None:
    info = plan(cluster, Rule(every_ms=5000), key=Key.new())
    turn(cluster, "a")
    assert cluster.store.jobs() == []
    assert "node a" in look(cluster, info.id).complaint
    assert look(cluster, info.id).next_ms == info.next_ms


def test_a_changed_schedule_makes_nothing(cluster: Cluster) -> None:
    info = plan(cluster, Rule(every_ms=5000))
    other = Rule(every_ms=6000).to_bytes()
    cluster.link.command("HSET", f"{cluster.prefix}s:{info.id}", "rule", other)
    turn(cluster, "a")
    assert cluster.store.jobs() == []


def test_a_node_that_does_not_know_the_zone_leaves_it_to_others(cluster: Cluster) -> None:
    """As on a host without time zone data."""
    info = plan(cluster, Rule(cron="* * * * *", timezone="Europe/Atlantis"))
    turn(cluster, "a")
    one = look(cluster, info.id)
    assert "node a: no time zone" in one.complaint
    assert one.next_ms == info.next_ms, "it stays due"


def test_what_is_gone_is_looked_for_no_more(cluster: Cluster) -> None:
    info = plan(cluster, Rule(every_ms=5000))
    cluster.link.command("DEL", f"{cluster.prefix}s:{info.id}")
    turn(cluster, "a")
    assert cluster.call("promote") == [0, 0]
