"""What users write of nodes, licences and rates."""

from __future__ import annotations

import dataclasses

import pytest

from qsub_py.errors import SpecError
from qsub_py.model import JobSpec
from qsub_py.terms import Terms, lane_parts, meets, shown_rate, terms_of_lane
from qsub_py.terms_text import (
    AskedTerms,
    parse_constraint,
    parse_licenses,
    parse_nodes,
    parse_rate,
    read_terms,
)

ALL = Terms(("a", "b"), "x&y|z", ("ansys:2", "matlab:1"), "web:10/60000")


def test_nodes() -> None:
    assert parse_nodes("a, b,a") == ("a", "b")
    assert parse_nodes("ws[1-3],x[01,03]") == ("ws1", "ws2", "ws3", "x01", "x03")
    for bad in ("", "a,", "a b", "ws[1-", "-a"):
        with pytest.raises(SpecError):
            parse_nodes(bad)


def test_constraints() -> None:
    assert parse_constraint(" b & a") == "a&b"
    assert parse_constraint("z|b&a|z") == "a&b|z"
    for bad in ("", "a&", "!a", "(a|b)&c", "[a|b]", "a*2", "a,b", "a/b"):
        with pytest.raises(SpecError):
            parse_constraint(bad)


def test_a_node_meets_a_constraint() -> None:
    assert meets("", ())
    assert meets("a&b|z", ("z",)) and meets("a&b|z", ("b", "a"))
    assert not meets("a&b|z", ("a",)) and not meets("a", ("aa",))


def test_licenses() -> None:
    assert parse_licenses("matlab, ansys:2,matlab") == ("ansys:2", "matlab:2")
    for bad in ("", "a:", "a:0", "a:-1", "a b", "a|b", "a:1:2", ","):
        with pytest.raises(SpecError):
            parse_licenses(bad)


def test_rates() -> None:
    for text, rate in {
        "10/m": ":10/60000", "1/s": ":1/1000", "10/30s": ":10/30000", "web:5/h": "web:5/3600000",
    }.items():  # fmt: skip
        assert parse_rate(text) == rate
        assert shown_rate(rate) == text
    for bad in ("", "10", "0/s", "10/", "/m", "10/x", "-1/s", "a b:1/s", ":1/s", "1.5/s", "1/0s"):
        with pytest.raises(SpecError):
            parse_rate(bad)


def test_a_mistake_names_its_option() -> None:
    for asked, option in (
        (AskedTerms(exclude=("a b",)), "--exclude"), (AskedTerms(constraint="!a"), "--constraint"),
        (AskedTerms(licenses=("a:x",), dashes=""), "licenses"), (AskedTerms(rate="x"), "--rate"),
    ):  # fmt: skip
        with pytest.raises(SpecError, match=f"^{option}: "):
            read_terms(asked)
    assert read_terms(AskedTerms()) is None


def test_lanes() -> None:
    assert lane_parts(None, "u") == lane_parts(Terms(), "u") == ()
    assert lane_parts(Terms(("a",)), "u") == ("a",)
    assert lane_parts(ALL, "u") == ("a,b", "x&y/z", "ansys:2,matlab:1", "web:10/60000")
    assert lane_parts(Terms(rate=":1/1000"), "u") == ("", "", "", "u:1/1000")
    head = ("1", "0", "0", "main", "", "", "ann")
    assert terms_of_lane("|".join((*head, *lane_parts(ALL, "u")))) == ALL
    assert terms_of_lane("|".join(head)) == Terms()


def test_travels_in_the_spec() -> None:
    spec = JobSpec("command", "j", "ann", terms=ALL)
    assert JobSpec.from_bytes(spec.to_bytes()) == spec
    plain = dataclasses.replace(spec, terms=None)
    assert b"terms" not in plain.to_bytes() and JobSpec.from_bytes(plain.to_bytes()) == plain
