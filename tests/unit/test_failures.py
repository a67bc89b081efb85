"""Outcomes as values and exceptions."""

from __future__ import annotations

import pickle
from concurrent.futures import BrokenExecutor, CancelledError
from typing import Any

import pytest

from qsub_py.failures import (
    DependencyFailed,
    NodeLost,
    RemoteError,
    TaskOutOfMemory,
    TaskTimeout,
    load_failure,
    load_result,
)
from qsub_py.model import RESULT_BLOB_VALUE, RESULT_ERROR, RESULT_VALUE, Outcome, State


def failed(**error: Any) -> Outcome:
    base = {"type": "E", "module": "m", "text": "", "traceback": "", "pickle": None}
    return Outcome(
        0, State.FAILED, result_kind=RESULT_ERROR, result=pickle.dumps({**base, **error})
    )


def test_values_are_returned() -> None:
    value = {"a": [1]}
    good = Outcome(0, State.COMPLETED, result_kind=RESULT_VALUE, result=pickle.dumps(value))
    assert load_result(good) == value
    assert load_result(Outcome(0, State.COMPLETED)) is None


def test_a_large_value_is_fetched_by_its_reference() -> None:
    outcome = Outcome(0, State.COMPLETED, result_kind=RESULT_BLOB_VALUE, result=b"ref")
    assert load_result(outcome, {b"ref": pickle.dumps(7)}.__getitem__) == 7


@pytest.mark.parametrize(
    ("state", "kinds"),
    [
        (State.TIMEOUT, (TaskTimeout, TimeoutError)),
        (State.OUT_OF_MEMORY, (TaskOutOfMemory, MemoryError)),
        (State.NODE_FAIL, (NodeLost, BrokenExecutor)),
        (State.CANCELLED, (CancelledError,)),
        (State.DEP_FAILED, (DependencyFailed,)),
        (State.FAILED, (RemoteError,)),
    ],
)
def test_each_end_has_its_exception(state: State, kinds: tuple[type, ...]) -> None:
    failure = load_failure(Outcome(0, state, reason="because"))
    assert all(isinstance(failure, kind) for kind in kinds)
    assert str(failure) == "because"
    if not isinstance(failure, CancelledError):
        assert str(pickle.loads(pickle.dumps(failure))) == "because"


def test_an_exception_keeps_its_type_and_its_traceback_as_text() -> None:
    outcome = failed(pickle=pickle.dumps(KeyError("k")), traceback="Traceback: line 3\n")
    with pytest.raises(KeyError) as caught:
        load_result(outcome)
    assert caught.value.args == ("k",)
    assert 'Traceback: line 3\n"""' in str(caught.value.__cause__)


class Picky(Exception):
    """Cannot be made from its own args."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} {b}")


@pytest.mark.parametrize("pickled", [None, b"broken", pickle.dumps(3), pickle.dumps(Picky(1, 2))])
def test_an_exception_that_cannot_be_rebuilt_arrives_as_text(pickled: bytes | None) -> None:
    failure = load_failure(failed(type="Picky", text="1 2", traceback="tb", pickle=pickled))
    assert isinstance(failure, RemoteError) and str(failure) == "Picky: 1 2"


def test_exit_codes_and_signals_are_said() -> None:
    assert str(load_failure(Outcome(0, State.FAILED, exit_code=3))) == "exit code 3"
    assert str(load_failure(Outcome(0, State.FAILED, signal=9))) == "ended by signal 9"
