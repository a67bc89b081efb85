"""Limits of the cluster: licences are booked by a claim and freed by whatever ends the batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qsub_py.errors import SpecError
from qsub_py.limits import Limits, blocked
from qsub_py.model import Batch
from qsub_py.store_limits import read_limits, read_use, set_limits
from qsub_py.terms import Terms
from store.driver import CD, GB, LOST, RETURNED, START_MS, Cluster, F, Node

MATLAB = Terms(licenses=("matlab:1",))
TWO = Terms(licenses=("ansys:2", "matlab:1"))


def used(cluster: Cluster) -> dict[str, int]:
    return dict(read_limits(cluster.store).licenses_used)


def test_all_keys(cluster: Cluster) -> None:
    node = cluster.node()
    assert cluster.once(
        lambda: set_limits(cluster.store, {"license:ansys": 3, "license:matlab": 1})
    ) == {"limits/license:ansys": "3", "limits/license:matlab": "1"}
    job = cluster.submit(2, terms=TWO)
    lane = "1|0|0|main|||ann|||ansys:2,matlab:1"
    changed = cluster.changes(lambda: node.claim(2))
    assert {n: v for n, v in changed.items() if n[:3] in ("lic", "slo")} == {
        "lic_used/ansys": "2", "lic_used/matlab": "1", f"lic_wait:ansys/{lane}": True,
        "slots:uid-a/1": f"1|0|1|1|0|{START_MS}|1|{2 * GB}||1||0|ann|60|ansys:2,matlab:1",
    }  # fmt: skip
    [batch] = node.held.values()
    assert node.store.slots() == [batch]
    changed = cluster.once(lambda: node.end(batch))
    assert (changed["lic_used/ansys"], changed["lic_used/matlab"]) == (None, None)
    assert [b.job for b in node.claim()] == [job]
    set_limits(cluster.store, {"license:ansys": None})
    assert "limits/license:ansys" not in cluster.dump()


def test_never_more_than_there_are(cluster: Cluster) -> None:
    set_limits(cluster.store, {"license:matlab": 3})
    nodes = [cluster.node(name, cpus=4) for name in "ab"]
    cluster.submit(9, terms=MATLAB)
    assert [len(node.claim_all()) for node in nodes] == [3, 0]
    other = cluster.submit(1)
    assert [batch.job for batch in nodes[1].claim_all()] == [other], "the lane is skipped whole"


def leave_by(name: str) -> Callable[[Cluster, Node, Batch], None]:
    def reconcile(cluster: Cluster, node: Node, batch: Batch) -> None:
        node.held.clear()
        node.join()

    def cancel_of_gone(cluster: Cluster, node: Node, batch: Batch) -> None:
        node.lapse()
        cluster.store.cancel(batch.job, None, by="ann")

    ways: dict[str, Callable[[Cluster, Node, Batch], object]] = {
        "finish": lambda c, n, b: n.end(b, CD),
        "failure": lambda c, n, b: n.end(b, F),
        "loss": lambda c, n, b: n.end(b, LOST),
        "return": lambda c, n, b: n.end(b, RETURNED),
        "give back": lambda c, n, b: n.store.give_back(b, bytes([RETURNED] * b.count), "no disk"),
        "bye": lambda c, n, b: n.store.bye(),
        "lapse": lambda c, n, b: n.lapse(),
        "reconcile": reconcile,
        "cancel": cancel_of_gone,
    }
    return lambda c, n, b: (ways[name](c, n, b), None)[1]


@pytest.mark.parametrize(
    "way",
    ["finish", "failure", "loss", "return", "give back", "bye", "lapse", "reconcile", "cancel"],
)
def test_what_leaves_frees_exactly_its_own(cluster: Cluster, way: str) -> None:
    set_limits(cluster.store, {"license:matlab": 5, "license:ansys": 5})
    node, other = cluster.node("a"), cluster.node("b")
    requeue = way != "cancel"
    cluster.submit(4, terms=TWO, requeue=requeue)
    [batch] = node.claim(1)
    [kept] = other.claim(1)
    assert used(cluster) == {"ansys": 4, "matlab": 2}
    leave_by(way)(cluster, node, batch)
    assert used(cluster) == {"ansys": 2, "matlab": 1}
    other.end(kept)
    assert used(cluster) == {}


def test_a_batch_keeps_them_until_its_last_task(cluster: Cluster) -> None:
    set_limits(cluster.store, {"license:matlab": 2})
    node = cluster.node()
    job = cluster.submit(3, terms=MATLAB)
    [batch] = node.claim(1, {job: 3})
    assert used(cluster) == {"matlab": 1}
    node.finish(batch, [CD, 0, 0])
    assert used(cluster) == {"matlab": 1}
    node.finish(batch, [0, CD, CD])
    assert used(cluster) == {}


def test_taken_back_is_booked_again(cluster: Cluster) -> None:
    set_limits(cluster.store, {"license:matlab": 1})
    node = cluster.node("a")
    cluster.submit(1, terms=MATLAB)
    [batch] = node.claim(1)
    node.lapse()
    assert used(cluster) == {}
    assert node.join() == {batch.slot: b"1"}
    assert used(cluster) == {"matlab": 1}
    node.end(batch)
    assert used(cluster) == {}


def woken(cluster: Cluster) -> set[str]:
    return {name.removeprefix("inbox:uid-") for name in cluster.dump() if name[:5] == "inbox"}


def test_who_frees_wakes_who_waits(cluster: Cluster) -> None:
    set_limits(cluster.store, {"license:matlab": 1})
    a, b = cluster.node("a"), cluster.node("b")
    cluster.submit(2, terms=MATLAB)
    [batch] = a.claim(1)
    cluster.link.command("DEL", cluster.prefix + "inbox:uid-b")
    assert b.claim() == []
    assert woken(cluster) == set()
    a.end(batch)
    assert woken(cluster) == {"b"}
    assert len(b.claim()) == 1


def test_a_raise_wakes_who_waits(cluster: Cluster) -> None:
    set_limits(cluster.store, {"license:matlab": 1})
    job = cluster.submit(1, terms=MATLAB)
    set_limits(cluster.store, {"license:matlab": 0})
    a = cluster.node("a")
    assert a.claim() == []
    set_limits(cluster.store, {"license:matlab": 1})
    assert woken(cluster) == {"a"}
    assert [batch.job for batch in a.claim()] == [job]


def test_a_lane_that_is_gone_waits_no_more(cluster: Cluster) -> None:
    set_limits(cluster.store, {"license:matlab": 1})
    a = cluster.node("a")
    cluster.submit(1, terms=MATLAB)
    other = cluster.submit(1, terms=MATLAB, cpus=2)
    b = cluster.node("b")
    [batch] = a.claim(1)
    assert b.claim() == []
    cluster.store.cancel(other, None, by="ann")
    a.end(batch)
    assert not [name for name in cluster.dump() if name.startswith("lic_")]


def test_two_licences_are_taken_together_or_not(cluster: Cluster) -> None:
    set_limits(cluster.store, {"license:ansys": 2, "license:matlab": 1})
    node = cluster.node(cpus=4)
    cluster.submit(1, terms=MATLAB)
    cluster.submit(1, terms=TWO)
    assert len(node.claim_all()) == 1
    assert used(cluster) == {"matlab": 1}


def test_what_can_never_start_is_refused(cluster: Cluster) -> None:
    for number, text in ((None, "no licence is called matlab"), (0, "1 of licence matlab")):
        set_limits(cluster.store, {"license:matlab": number})
        with pytest.raises(SpecError, match=text):
            cluster.submit(1, terms=MATLAB)
    assert not [name for name in cluster.dump() if name.startswith(("j:", "tok:"))]
    set_limits(cluster.store, {"license:matlab": 1})
    job = cluster.submit(1, terms=MATLAB, token="same")
    set_limits(cluster.store, {"license:matlab": None})
    assert cluster.submit(1, terms=MATLAB, token="same") == job


def test_why(cluster: Cluster) -> None:
    set_limits(cluster.store, {"license:ansys": 2, "license:matlab": 1})
    job = cluster.store.job(cluster.submit(1, terms=TWO))

    def why(most: dict[str, int], held: dict[str, int]) -> str:
        found = blocked(job, Limits(most, held), now=0.0)
        return found[1] if found else ""

    both = {"license:ansys": 2, "license:matlab": 1}
    assert why(both, {}) == ""
    assert why(both, {"ansys": 1}) == "1 of 2 of licence ansys are in use, it needs 2"
    assert why(both | {"license:ansys": 1}, {}) == "it needs 2 of licence ansys, there are only 1"
    assert "no licence ansys any more" in why({}, {})


def own(cluster: Cluster) -> tuple[int, float]:
    """Return cpus held and cpu seconds used of ann."""
    row = cluster.dump()
    return int(row["own:ann/cpus"]), float(row["own:ann/used"])


def test_use_is_charged_and_put_right(cluster: Cluster) -> None:
    node = cluster.node(cpus=4)
    job = cluster.submit(4, cpus=2)
    [batch] = node.claim(1, {job: 2})
    assert own(cluster) == (2, 120.0), "a minute of each cpu"
    cluster.set_clock(cluster.now_ms + 5000)
    node.finish(batch, [CD, 0])
    assert own(cluster)[0] == 2
    cluster.set_clock(cluster.now_ms + 5000)
    node.finish(batch, [0, CD])
    assert own(cluster) == (0, pytest.approx(20.0, abs=0.01))
    week_ms = 7 * 86_400_000
    cluster.set_clock(cluster.now_ms + week_ms)
    assert read_use(cluster.store, "ann", now=cluster.now_ms / 1000) == pytest.approx(10, abs=0.01)
    [batch] = node.claim(1)
    assert own(cluster) == (2, pytest.approx(130, abs=0.01)), "half is forgotten"
    node.end(batch)


def test_a_short_limit_is_charged_less(cluster: Cluster) -> None:
    node = cluster.node(cpus=4)
    cluster.submit(1, time_s=7.5, cpus=3)
    node.claim()
    assert own(cluster) == (3, 24.0)


@pytest.mark.parametrize(
    "way", ["finish", "loss", "return", "give back", "bye", "lapse", "reconcile", "cancel"]
)
def test_cpus_are_given_back(cluster: Cluster, way: str) -> None:
    node, other = cluster.node("a"), cluster.node("b")
    cluster.submit(4, cpus=2, requeue=way != "cancel")
    [batch] = node.claim(1)
    other.claim(1)
    assert own(cluster)[0] == 4
    leave_by(way)(cluster, node, batch)
    assert own(cluster)[0] == 2


def test_a_cap(cluster: Cluster) -> None:
    set_limits(cluster.store, {"owner:ann": 3, "owner:*": 1})
    a, b = cluster.node("a", cpus=8), cluster.node("b", cpus=8)
    cluster.submit(9)
    bobs = cluster.submit(9, owner="bob")
    mine = a.claim_all()
    assert len([batch for batch in mine if batch.job != bobs]) == 3
    assert len([batch for batch in mine if batch.job == bobs]) == 1
    assert b.claim_all() == []
    cluster.link.command("DEL", cluster.prefix + "inbox:uid-b")
    [bob] = [batch for batch in mine if batch.job == bobs]
    a.end(bob)
    assert woken(cluster) == {"a"}, "the first that is idle and fits"
    assert [batch.job for batch in b.claim_all()] == [bobs]


def test_a_cap_that_is_raised_or_removed(cluster: Cluster) -> None:
    set_limits(cluster.store, {"owner:*": 1})
    node = cluster.node(cpus=8)
    cluster.submit(9)
    assert len(node.claim_all()) == 1
    set_limits(cluster.store, {"owner:ann": 3})
    assert woken(cluster) == {"a"}
    assert len(node.claim_all()) == 2
    set_limits(cluster.store, {"owner:ann": None, "owner:*": None})
    assert len(node.claim_all()) == 5


def test_why_of_a_cap(cluster: Cluster) -> None:
    set_limits(cluster.store, {"owner:ann": 2})
    node = cluster.node(cpus=8)
    cluster.submit(2)
    wide = cluster.submit(1, cpus=3)
    node.claim_all()
    later = cluster.submit(1)
    jobs = [cluster.store.job(number) for number in (later, wide)]
    found = [blocked(job, read_limits(cluster.store, jobs), now=0.0) for job in jobs]
    assert found == [
        ("AssocGrpCpuLimit", "tasks of ann hold 2 cpus and may have 2"),
        ("AssocGrpCpuLimit", "it needs 3 cpus, all of ann may have 2"),
    ]
