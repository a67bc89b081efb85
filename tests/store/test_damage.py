"""What is wrong in the keys of one job is that job's trouble alone."""

from __future__ import annotations

from importlib import resources

import pytest

from qsub_py.errors import JobNotFound, StoreError, StoreMismatch
from store.driver import Cluster

SCRIPTS = sorted(
    entry.name[:-4]
    for entry in (resources.files("qsub_py") / "lua").iterdir()
    if entry.name.endswith(".lua")
)
KEYS = ["j", "st", "again", "on", "at", "ct"]


def spoil(cluster: Cluster, name: str) -> None:
    """Make a key something that it never is."""
    key = cluster.prefix + name
    cluster.link.command("DEL", key)
    if name.startswith("again"):
        cluster.link.command("SET", key, "garbage")
    else:
        cluster.link.command("RPUSH", key, "garbage")


@pytest.mark.parametrize("kind", KEYS)
def test_others_are_claimed(bare: Cluster, kind: str) -> None:
    node = bare.node()
    bad, good = bare.submit(), bare.submit()
    spoil(bare, f"{kind}:{bad}")
    found = node.claim(2) + node.claim(2)
    assert good in [b.job for b in found]


@pytest.mark.parametrize("kind", KEYS)
def test_lapsed_nodes_are_swept(bare: Cluster, kind: str) -> None:
    node, other = bare.node("a"), bare.node("b")
    bad, good = bare.submit(), bare.submit()
    assert len(node.claim(2)) == 2
    spoil(bare, f"{kind}:{bad}")
    node.lapse()
    assert good in [b.job for b in other.claim(2)]


@pytest.mark.parametrize("kind", ["j", "st", "res"])
def test_fan_outs_go_on(bare: Cluster, kind: str) -> None:
    node = bare.node(cpus=10)
    jobs = [bare.submit(600), bare.submit(600)]
    node.claim_all(dict.fromkeys(jobs, 256))
    for job in jobs:
        bare.call("cancel", job, 0, 599, "ann")
    spoil(bare, f"{kind}:{jobs[0]}")
    for _ in range(6):
        node.store.renew([])
    assert bare.states(jobs[1]) == " ".join(["CG"] * 600)


def test_clear_error(bare: Cluster) -> None:
    job = bare.submit(3)
    bare.node().claim()
    spoil(bare, f"st:{job}")
    with pytest.raises(StoreError, match="WRONGTYPE"):
        bare.states(job)
    spoil(bare, f"j:{job}")
    with pytest.raises(JobNotFound):
        bare.store.hold(job)


@pytest.mark.parametrize("name", SCRIPTS)
def test_another_schema_is_refused(bare: Cluster, name: str) -> None:
    bare.link.command("HSET", bare.store.keys.meta, "schema", 2)
    before = bare.dump()
    with pytest.raises(StoreMismatch, match="schema 2"):
        bare.call(name, *[1] * 14)
    assert bare.dump() == before
