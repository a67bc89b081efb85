"""Reading retry policies, and judging ends by them."""

from __future__ import annotations

import pytest

from qsub_py.errors import SpecError
from qsub_py.model import JobSpec
from qsub_py.policy import HOLD, REQUEUE, TRY_AGAIN, Notice, Retry, make_retry
from qsub_py.policy_text import (
    parse_backoff,
    parse_factor,
    parse_notice,
    parse_retry_on,
    signal_number,
)


@pytest.mark.parametrize(("text", "reasons"), [
    ("exit=75", ("exit=75",)),
    ("exit=75,77,oom,timeout,signal=9,node,any-failure",
     ("exit=75", "exit=77", "oom", "timeout", "signal=9", "node", "any-failure")),
    ("signal=KILL,SIGSEGV", ("signal=9", "signal=11")),
    ("exit=64-66, oom", ("exit=64", "exit=65", "exit=66", "oom")),
    ("oom,oom", ("oom",)),
])  # fmt: skip
def test_retry_on(text: str, reasons: tuple[str, ...]) -> None:
    assert parse_retry_on(text) == reasons


@pytest.mark.parametrize(
    "text", ["", "75", "exit=", "exit=x", "oom,75", "exit=75,,oom", "exit=300"]
)
def test_bad_retry_on(text: str) -> None:
    with pytest.raises(SpecError):
        parse_retry_on(text)


def test_wishes() -> None:
    retry = Retry(3, on=("exit=75", "signal=9", "oom"))
    assert retry.wish("FAILED", 75, 0) == TRY_AGAIN
    assert retry.wish("FAILED", 76, 0) == 0
    assert retry.wish("FAILED", 0, 9) == TRY_AGAIN
    assert retry.wish("FAILED", 75, 15) == 0, "a signal is no exit code"
    assert retry.wish("OUT_OF_MEMORY", 0, 9) == TRY_AGAIN
    assert retry.wish("TIMEOUT", 0, 15) == 0
    assert Retry(1).wish("TIMEOUT", 0, 15) == TRY_AGAIN
    assert Retry(1).wish("CANCELLED", 0, 15) == 0
    assert Retry(1).wish("LOST", 0, 0) == 0, "the store decides"
    assert Retry(0).wish("FAILED", 1, 0) == 0
    obeys = Retry(obeys_exit=True)
    assert [obeys.wish("FAILED", code, 0) for code in (99, 100, 98)] == [REQUEUE, HOLD, 0]
    assert Retry(2).wish("FAILED", 99, 0) == TRY_AGAIN


def test_growth() -> None:
    retry = Retry(5, mem_factor=2.0, time_factor=1.5)
    assert retry.grown(100, 10.0, 0) == (100, 10.0)
    assert retry.grown(100, 10.0, 2 * 16 + 1) == (400, 15.0)
    assert Retry(5, mem_factor=2.0).grown(100, 10.0, 16 + 3) == (200, 10.0)


def test_what_options_make() -> None:
    assert make_retry() is None
    assert make_retry(count=0, mem_factor=2.0) is None
    assert make_retry(count=2) == Retry(2)
    assert make_retry(mem_factor=2.0) == Retry(5, on=("oom",), mem_factor=2.0)
    made = make_retry(count=2, on=("exit=3",), time_factor=2.0)
    assert made == Retry(2, on=("exit=3", "timeout"), time_factor=2.0)
    assert make_retry(obeys_exit=True) == Retry(0, on=(), obeys_exit=True)
    assert make_retry(count=1, on=("node",)) == Retry(1, on=("node",))


def test_small_words() -> None:
    assert parse_backoff("10s") == (10.0, 3600.0)
    assert parse_backoff("2") == (2.0, 3600.0)
    assert parse_backoff("2h") == (7200.0, 7200.0)
    assert parse_backoff("1s,5m") == (1.0, 300.0)
    assert parse_factor("mem*1.5", "mem") == 1.5
    assert parse_factor(" time * 2 ", "time") == 2.0
    assert (signal_number("usr1"), signal_number("SIGTERM"), signal_number("40")) == (10, 15, 40)
    assert parse_notice("USR1") == Notice(10, 60.0)
    assert parse_notice("B:12@5m") == Notice(12, 300.0, is_shell_only=True)
    for bad in ("mem*0.5", "mem*x", "mem2", "time*2", "mem*1000"):
        with pytest.raises(SpecError):
            parse_factor(bad, "mem")
    for bad in ("", "65", "0", "SIG", "SIG_IGN", "SIGSTKSZ", "BUS1", "²"):
        with pytest.raises(SpecError):
            signal_number(bad)


def test_a_spec_keeps_them() -> None:
    spec = JobSpec("command", "j", "ann", retry=Retry(2, on=("oom",)), notice=Notice(10, 60.0))
    assert JobSpec.from_bytes(spec.to_bytes()) == spec
    plain = JobSpec("command", "j", "ann")
    assert JobSpec.from_bytes(plain.to_bytes()) == plain
    assert b"retry" not in plain.to_bytes(), "a node of an older version takes it"
