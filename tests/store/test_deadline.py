"""promote.lua: what has not begun by its deadline is cancelled, once; what has goes on."""

from __future__ import annotations

import pytest

from qsub_py.model import State
from qsub_py.periodic import Rule
from qsub_py.policy import Retry
from qsub_py.store_alter import Change, alter
from qsub_py.store_schedules import Schedules
from store.driver import CD, LOST, RETURNED, START_MS, Cluster, F

LANE = "1|0|0|main|||ann"
LATE = "not begun by its deadline"
SOON_S = (START_MS + 5000) / 1000


def pass_deadline(cluster: Cluster) -> None:
    """Let the time come, look, and do what follows."""
    cluster.set_clock(START_MS + 5000)
    cluster.call("promote")
    while cluster.call("tend"):
        pass


def test_all_keys(cluster: Cluster) -> None:
    job = cluster.submit(1_000_000, deadline_at=SOON_S)
    assert (
        cluster.link.command("ZSCORE", cluster.prefix + "due", job) == str(START_MS + 5000).encode()
    )
    assert cluster.store.job(job).deadline_at == SOON_S
    cluster.set_clock(START_MS + 4999)
    assert cluster.call("promote") == [0, START_MS + 5000]
    cluster.set_clock(START_MS + 5000)
    changed = cluster.once(lambda: cluster.call("promote"))
    assert {k: v for k, v in changed.items() if not k.startswith("meta")} == {
        "j:1/fate": "5", "j:1/c5": "1000000", "j:1/expire": "0", "j:1/why": LATE, "j:1/rseq": "2",
        "j:1/ended": str(START_MS + 5000), "res:1/1-0": {"x": "1"}, "res:1/2-0": {"x": "1"},
        "active/1": None, "ended/1": float(START_MS + 5000), "due/1": None,
        f"lane:{LANE}/1": None, f"lanes/{LANE}": None,
    }  # fmt: skip
    assert (cluster.store.job(job).reason, cluster.store.job(job).state) == (LATE, State.CANCELLED)


def test_nothing_starts_after_it_though_nobody_looked(cluster: Cluster) -> None:
    node, job = cluster.node(), cluster.submit(3, deadline_at=SOON_S)
    [batch] = node.claim()
    cluster.set_clock(START_MS + 5000)
    assert node.claim(2) == []
    node.end(batch)
    assert cluster.states(job) == "CD PD PD"
    cluster.call("promote")
    assert cluster.states(job) == "CD CA CA"


def test_what_runs_goes_on(cluster: Cluster) -> None:
    """An array that has begun: what is past the cursor ends at once, however long it is."""
    node, job = cluster.node(cpus=4), cluster.submit(1_000_000, deadline_at=SOON_S)
    one, two = node.claim(2, {job: 3})
    node.finish(one, [CD, RETURNED, RETURNED])
    cluster.set_clock(START_MS + 5000)
    changed = cluster.once(lambda: cluster.call("promote"))
    assert (changed["j:1/cx"], changed["j:1/c5"]) == ("6-999999", "999994")
    assert changed["todo"] == [f"expire|1|0|5|{LATE}"]
    pass_deadline(cluster)
    assert [s for s, _ in cluster.bytes_of(job)[:7]] == ["CD", "CA", "CA", "R", "R", "R", "CA"]
    assert cluster.store.job(job).reason == LATE
    assert node.end(two) == 3
    assert cluster.store.job(job).has_ended


def test_what_had_an_attempt_may_run_again(cluster: Cluster) -> None:
    node = cluster.node(cpus=4)
    job = cluster.submit(4, deadline_at=SOON_S, retry=Retry(2, 10, 10))
    batches = node.claim(3)
    node.end(batches[0], 16 + F)
    node.end(batches[1], LOST)
    pass_deadline(cluster)
    assert cluster.bytes_of(job) == [("PD", 1), ("PD", 1), ("R", 1), ("CA", 0)]
    assert [(b.first, b.attempt) for b in node.claim(4)] == [(1, 2)]
    cluster.set_clock(START_MS + 30_000)
    cluster.call("promote")
    assert [(b.first, b.attempt) for b in node.claim(4)] == [(0, 2)]


@pytest.mark.parametrize("options", [
    {"is_held": True}, {"begin_at": SOON_S - 1}, {"limit": 1}, {"cpus": 100},
], ids=lambda options: next(iter(options)))  # fmt: skip
def test_whatever_it_waits_for(cluster: Cluster, options: dict[str, object]) -> None:
    job = cluster.submit(2, deadline_at=SOON_S, **options)
    pass_deadline(cluster)
    assert cluster.states(job) == "CA CA"
    assert cluster.store.job(job).reason == LATE


def test_dependants_hear_of_it(cluster: Cluster) -> None:
    job = cluster.submit(2, deadline_at=SOON_S)
    child, other = cluster.after(f"afterok:{job}"), cluster.after(f"afterany:{job}")
    pass_deadline(cluster)
    assert (cluster.states(child), cluster.states(other)) == ("DF", "PD")


def test_what_waits_for_others(cluster: Cluster) -> None:
    node, job = cluster.node(), cluster.submit()
    child = cluster.after(f"afterok:{job}", deadline_at=SOON_S)
    node.claim()
    pass_deadline(cluster)
    assert (cluster.states(child), cluster.states(job)) == ("CA", "R")


@pytest.mark.parametrize("is_over", [False, True])
def test_a_tree_that_is_run_again(cluster: Cluster, is_over: bool) -> None:
    """Its deadline holds, unless it is over: who runs it again wants it to run."""
    node, job = cluster.node(), cluster.submit()
    child = cluster.after(f"afterok:{job}", deadline_at=SOON_S)
    node.end(node.claim()[0], F)
    assert cluster.states(child) == "DF"
    if is_over:
        cluster.set_clock(START_MS + 6000)
    cluster.store.rerun_tree(job)
    assert cluster.store.job(child).deadline_at == (0 if is_over else SOON_S)
    node.end(node.claim()[0])
    assert [batch.job for batch in node.claim()] == [child]


def test_run_again_without_it(cluster: Cluster) -> None:
    node, job = cluster.node(), cluster.submit(2, deadline_at=SOON_S)
    pass_deadline(cluster)
    cluster.store.requeue(job, [(0, 1)], {State.CANCELLED})
    assert cluster.states(job) == "PD PD"
    cluster.call("promote")
    assert len(node.claim(2)) == 2
    assert cluster.store.job(job).reason == ""


def test_altered(cluster: Cluster) -> None:
    job = cluster.submit(2)
    info = cluster.store.job(job)
    changed = cluster.once(lambda: alter(cluster.store, info, Change(b"sig", deadline_at=SOON_S)))
    assert (changed["j:1/expire"], changed["due/1"]) == (str(START_MS + 5000), START_MS + 5000.0)
    changed = cluster.once(lambda: alter(cluster.store, info, Change(b"sig", deadline_at=0.0)))
    assert (changed["j:1/expire"], changed["due/1"]) == ("0", None)
    pass_deadline(cluster)
    assert cluster.states(job) == "PD PD"


def test_ended_before(cluster: Cluster) -> None:
    node, job = cluster.node(), cluster.submit(deadline_at=SOON_S)
    node.end(node.claim()[0])
    pass_deadline(cluster)
    assert (cluster.states(job), cluster.store.job(job).reason) == ("CD", "")
    assert "due/1" not in cluster.dump()


def test_firings_count_from_their_due_time(cluster: Cluster) -> None:
    rule = Rule(every_ms=60_000)
    plan = (rule.to_bytes(), cluster.now_ms, 0, rule.overlap)
    schedule = cluster.submit(plan=plan, deadline_at=5.0)
    cluster.set_clock(START_MS + 2000)
    info = Schedules(cluster.store).get(schedule)
    assert info is not None
    _, job = Schedules(cluster.store).fire(info, START_MS, 0, START_MS + 60_000)
    assert cluster.store.job(job).deadline_at == SOON_S
    assert cluster.states(job) == "PD"
    pass_deadline(cluster)
    assert cluster.states(job) == "CA"
