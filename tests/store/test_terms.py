"""Terms in lanes: nodes that are excluded, features that are asked for."""

from __future__ import annotations

import pytest

from qsub_py.terms import Terms
from store.audit import problems
from store.driver import Cluster


def test_a_lane_without_terms_is_as_ever(cluster: Cluster) -> None:
    cluster.submit()
    cluster.submit(terms=Terms(exclude=("a", "b")))
    cluster.submit(terms=Terms(constraint="x|y"))
    assert {n for n in cluster.dump() if n.startswith("lanes/")} == {
        "lanes/1|0|0|main|||ann", "lanes/1|0|0|main|||ann|a,b", "lanes/1|0|0|main|||ann||x/y",
    }  # fmt: skip


def test_an_excluded_node_gets_nothing(cluster: Cluster) -> None:
    a, b = cluster.node("a"), cluster.node("b")
    job = cluster.submit(terms=Terms(exclude=("a", "c")))
    assert a.claim() == []
    assert [batch.job for batch in b.claim()] == [job]
    assert problems(cluster) == []


@pytest.mark.parametrize(
    ("features", "constraint", "may"),
    [
        ("fast,gpu", "gpu", True),
        ("fast,gpu", "fast&gpu", True),
        ("fast", "fast&gpu", False),
        ("fast", "fast&gpu|fast&big|fast", True),
        ("fast", "big|gpu", False),
        ("faster", "fast", False),
        ("", "fast", False),
    ],
)
def test_a_constraint(cluster: Cluster, features: str, constraint: str, may: bool) -> None:
    node = cluster.node(features=features)
    cluster.submit(terms=Terms(constraint=constraint))
    assert bool(node.claim()) == may


def test_only_a_node_that_fits_is_woken(cluster: Cluster) -> None:
    a, b = cluster.node("a", features="fast"), cluster.node("b")
    a.claim(), b.claim()
    cluster.submit(terms=Terms(constraint="fast"))
    woken = {name for name in cluster.dump() if name.startswith("inbox")}
    assert woken == {"inbox:uid-a"}


def test_a_job_that_no_node_left_can_start_ends(cluster: Cluster) -> None:
    node = cluster.node("a", features="fast")
    cluster.node("b")
    job = cluster.submit(terms=Terms(constraint="fast"))
    [batch] = node.claim()
    node.store.give_back(batch, bytes([14]), "no such directory")
    assert cluster.states(job) == "F"
