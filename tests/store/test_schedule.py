"""schedule.lua, fire.lua, reschedule.lua: once for each time, whoever looks and however often."""

from __future__ import annotations

import pytest

from qsub_py.errors import JobNotFound
from qsub_py.model import State
from qsub_py.periodic import ALLOW, QUEUE, SKIP, Rule
from qsub_py.proof import firing_uid
from qsub_py.store_schedules import ScheduleInfo, Schedules
from store.driver import START_MS, Cluster, Node

LANE = "1|0|0|main|||ann"
MINUTE = 60_000


@pytest.fixture
def node(cluster: Cluster) -> Node:
    return cluster.node(cpus=8)


def plan(cluster: Cluster, *, overlap: str = SKIP, times: int = 0, **options: object) -> int:
    """Make a schedule that is due now and every minute."""
    rule = Rule(every_ms=MINUTE, overlap=overlap)
    made = (rule.to_bytes(), cluster.now_ms, times, overlap)
    return cluster.submit(plan=made, **options)


def info(cluster: Cluster, schedule: int) -> ScheduleInfo:
    found = Schedules(cluster.store).get(schedule)
    assert found is not None
    return found


def fire(cluster: Cluster, schedule: int, at: int | None = None) -> tuple[str, int]:
    """Fire for the time that is due, as a node does."""
    one = info(cluster, schedule)
    at = one.next_ms if at is None else at
    return Schedules(cluster.store).fire(one, at, 0, one.next_ms + MINUTE)


def test_all_keys(cluster: Cluster) -> None:
    found = cluster.once(lambda: plan(cluster, token="t"))
    assert {k: v for k, v in found.items() if not k.startswith(("s:1/", "meta"))} == {
        "beats/1": float(START_MS), "schedules/1": 1.0, "tok:t": b"1",
    }  # fmt: skip
    assert found["s:1/next"] == str(START_MS) and found["s:1/left"] == "-1"
    assert cluster.store.jobs() == []
    assert cluster.call("promote") == [0, 0, 1]
    found = cluster.once(lambda: fire_once(cluster, 1, START_MS))
    uid = firing_uid("uid-of-t", START_MS)
    assert found["j:2/uid"] == uid
    assert {k: v for k, v in found.items() if not k.startswith(("j:2/", "meta"))} == {
        "active/2": 2.0, f"lane:{LANE}/2": 2.0, f"lanes/{LANE}": 2.0, "fires:1/2": float(START_MS),
        "beats/1": float(START_MS + MINUTE), "s:1/next": str(START_MS + MINUTE),
        "s:1/last": "2", "s:1/last_due": str(START_MS), "s:1/fired": "1",
    }  # fmt: skip
    signed = cluster.store.signed_spec(2)
    assert (signed.uid, signed.schedule_uid, signed.due_ms) == (uid, "uid-of-t", START_MS)
    assert cluster.store.job(2).schedule == 1
    assert cluster.call("promote") == [0, START_MS + MINUTE]


def fire_once(cluster: Cluster, schedule: int, due: int) -> None:
    uid = cluster.field(f"s:{schedule}", "uid")
    cluster.call("fire", schedule, uid, due, due, 0, due + MINUTE)


def test_an_idle_node_asks_for_the_first_time(cluster: Cluster, node: Node) -> None:
    """None of them knows it; the first of `--every 1s` would be missed."""
    node.claim()
    before = cluster.dump()
    schedule = plan(cluster)
    assert cluster.dump()["inbox:uid-a"] == ["3"]
    assert before["idle/uid-a"] == cluster.dump()["idle/uid-a"], "it is idle all the same"
    assert cluster.call("promote")[2:] == [schedule]


def test_its_job_is_one_like_others(cluster: Cluster, node: Node) -> None:
    schedule = plan(cluster, count=1, priority=3, limit=0)
    fire(cluster, schedule)
    [batch] = node.claim()
    assert batch.uid == firing_uid(info(cluster, schedule).uid, START_MS)
    node.end(batch)
    job = cluster.store.job(batch.job)
    assert (job.state, job.priority, job.name) == (State.COMPLETED, 3, "j")


def test_one_node_is_told_at_once(cluster: Cluster, node: Node) -> None:
    """When a time comes sooner than nodes know; else they would look two seconds later."""

    def hints() -> list[str]:
        found = cluster.dump().get(f"inbox:{node.uid}", [])
        cluster.link.command("DEL", cluster.prefix + f"inbox:{node.uid}")
        return found

    schedule, schedules = plan(cluster, overlap=QUEUE), Schedules(cluster.store)
    assert hints() == ["3"]
    assert fire(cluster, schedule)[1]
    cluster.set_clock(START_MS + MINUTE)
    assert fire(cluster, schedule) == ("ok", 0)
    [batch] = node.claim()
    assert "3" not in hints()
    node.end(batch)
    assert hints() == ["3"], "the next one waited for this"
    schedules.change(schedule, "hold")
    assert hints() == []
    schedules.change(schedule, "release")
    schedules.change(schedule, "release")
    assert hints() == ["3"]


def test_who_comes_second_or_too_early_does_nothing(cluster: Cluster) -> None:
    schedule = plan(cluster)
    old = info(cluster, schedule)
    assert fire(cluster, schedule)[0] == "ok"
    again = cluster.changes(
        lambda: Schedules(cluster.store).fire(old, old.next_ms, 0, old.next_ms + MINUTE)
    )
    assert again == {}
    assert cluster.changes(lambda: fire(cluster, schedule)) == {}, "it is not due"
    early = info(cluster, schedule)
    wrong = cluster.changes(
        lambda: Schedules(cluster.store).fire(early, early.next_ms, 0, early.next_ms + 1)
    )
    assert wrong == {}, "a node's wrong clock"


def test_overlap_skip(cluster: Cluster, node: Node) -> None:
    schedule = plan(cluster)
    _, first = fire(cluster, schedule)
    cluster.set_clock(START_MS + MINUTE)
    assert fire(cluster, schedule) == ("ok", 0)
    one = info(cluster, schedule)
    assert (one.fired, one.skipped, one.last_job) == (1, 1, first)
    node.end(node.claim()[0])
    cluster.set_clock(START_MS + 2 * MINUTE)
    assert fire(cluster, schedule)[1] > first


def test_overlap_allow(cluster: Cluster) -> None:
    schedule = plan(cluster, overlap=ALLOW)
    for number in range(3):
        cluster.set_clock(START_MS + number * MINUTE)
        assert fire(cluster, schedule)[1]
    assert len(cluster.store.jobs()) == 3


def test_overlap_queue(cluster: Cluster, node: Node) -> None:
    schedule = plan(cluster, overlap=QUEUE)
    fire(cluster, schedule)
    for number in (1, 2):
        cluster.set_clock(START_MS + number * MINUTE)
        assert fire(cluster, schedule) == ("ok", 0)
    assert info(cluster, schedule).waiting == 2
    for number in (1, 2):
        [batch] = node.claim()
        assert cluster.call("promote")[2:] == []
        node.end(batch)
        assert cluster.call("promote")[2:] == [schedule], "whoever looks next starts the next one"
        one = info(cluster, schedule)
        assert Schedules(cluster.store).fire(one, 0, 0, one.next_ms)[1]
        assert info(cluster, schedule).last_due_at == (START_MS + number * MINUTE) / 1000
        assert info(cluster, schedule).next_ms == START_MS + 3 * MINUTE
    node.end(node.claim()[0])
    assert cluster.call("promote")[2:] == []


def test_times_and_end(cluster: Cluster, node: Node) -> None:
    schedule = plan(cluster, times=2)
    for number in range(2):
        cluster.set_clock(START_MS + number * MINUTE)
        fire(cluster, schedule)
        node.end(node.claim()[0])
    one = info(cluster, schedule)
    assert (one.fired, one.left, one.next_ms, one.ended_at > 0) == (2, 0, 0, True)
    assert Schedules(cluster.store).all() == []
    assert [s.id for s in Schedules(cluster.store).all(ended=True)] == [schedule]
    assert cluster.call("promote")[2:] == []


def test_the_last_one_may_wait_for_the_one_before(cluster: Cluster, node: Node) -> None:
    schedule = plan(cluster, times=2, overlap=QUEUE)
    fire(cluster, schedule)
    cluster.set_clock(START_MS + MINUTE)
    fire(cluster, schedule)
    assert not info(cluster, schedule).ended_at
    node.end(node.claim()[0])
    assert Schedules(cluster.store).fire(info(cluster, schedule), 0, 0, 0)[1]
    assert info(cluster, schedule).ended_at
    node.end(node.claim()[0])


def test_hold_release_end(cluster: Cluster) -> None:
    schedule, schedules = plan(cluster), Schedules(cluster.store)
    assert cluster.once(lambda: schedules.change(schedule, "hold")) == {
        f"s:{schedule}/held": "1", f"beats/{schedule}": None,
    }  # fmt: skip
    assert fire(cluster, schedule) == ("gone", 0)
    cluster.set_clock(START_MS + 10 * MINUTE + 5000)
    assert cluster.once(lambda: schedules.change(schedule, "release"))[f"s:{schedule}/held"] == "0"
    one = info(cluster, schedule)
    assert schedules.fire(one, START_MS + 10 * MINUTE, 10, START_MS + 11 * MINUTE) == ("ok", 0)
    one = info(cluster, schedule)
    assert (one.fired, one.missed, one.next_ms) == (0, 0, START_MS + 11 * MINUTE)
    cluster.once(lambda: schedules.change(schedule, "end", by="ann"))
    one = info(cluster, schedule)
    assert (one.reason, one.next_ms, schedules.all()) == ("cancelled by ann", 0, [])
    assert schedules.change(schedule, "hold")[0] == 0
    assert schedules.change(99, "hold")[0] == -1


def test_missed_times_are_counted(cluster: Cluster) -> None:
    schedule = plan(cluster)
    cluster.set_clock(START_MS + 10 * MINUTE + 5000)
    one = info(cluster, schedule)
    look = Rule(every_ms=MINUTE).look(one.next_ms, cluster.now_ms)
    assert Schedules(cluster.store).fire(one, look.fire_ms, look.missed, look.next_ms)[1]
    one = info(cluster, schedule)
    assert (one.fired, one.missed) == (1, 10)
    assert one.last_due_at == (START_MS + 10 * MINUTE) / 1000
    assert one.next_ms == START_MS + 11 * MINUTE


def test_the_last_hundred_are_kept(cluster: Cluster, node: Node) -> None:
    schedule = plan(cluster)
    for number in range(103):
        cluster.set_clock(START_MS + number * MINUTE)
        assert fire(cluster, schedule)[1]
        node.end(node.claim()[0])
    assert len(Schedules(cluster.store).firings(schedule)) == 100
    cluster.store.purge(1.0)
    assert len(cluster.store.jobs(ended=True)) == 100


def test_what_it_needs_lives_as_long_as_its_jobs(cluster: Cluster, node: Node) -> None:
    schedule = plan(cluster, function=b"f" * 100_000, times=1)
    fire(cluster, schedule)
    [batch] = node.claim()
    assert cluster.store.function(batch.job) == b"f" * 100_000
    node.end(batch)
    cluster.store.purge(cluster.now_ms / 1000 + 10)
    assert [name for name in cluster.dump() if name[:4] not in ("meta", "node", "slot", "name")
            and not name.startswith(("known", "idle", "inbox", "own:"))] == []  # fmt: skip


def test_damage_is_no_schedule(cluster: Cluster) -> None:
    schedule = plan(cluster)
    one = info(cluster, schedule)
    cluster.link.command("DEL", f"{cluster.prefix}s:{schedule}")
    assert Schedules(cluster.store).fire(one, one.next_ms, 0, 0) == ("gone", 0)
    assert cluster.call("promote") == [0, 0]
    cluster.link.command("ZREM", cluster.prefix + "schedules", schedule)
    with pytest.raises(JobNotFound):
        cluster.store.job(schedule)
