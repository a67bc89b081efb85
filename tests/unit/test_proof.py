"""A spec counts only for the job that it was signed for, or for what its schedule makes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qsub_py.errors import SignatureError
from qsub_py.proof import SignedSpec, firing_uid, sign_schedule
from qsub_py.signing import Key, Keyring, sign

RING = Keyring(Key.new())
SCHEDULE = "0123456789abcdef"
DUE = 1_700_000_000_000


def firing() -> SignedSpec:
    signature = sign_schedule(RING.current, "c", SCHEDULE, b"rule", b"spec")
    return SignedSpec(b"spec", signature, firing_uid(SCHEDULE, DUE), SCHEDULE, DUE, b"rule", 7)


def test_a_job() -> None:
    signed = SignedSpec(b"spec", sign(RING.current, "spec", "c", "u", b"spec"), "u")
    assert signed.check(RING, "c") == b"spec"
    for wrong in (replace(signed, data=b"other"), replace(signed, uid="v"),
                  replace(signed, schedule_uid=SCHEDULE, uid=firing_uid(SCHEDULE, 0))):  # fmt: skip
        with pytest.raises(SignatureError):
            wrong.check(RING, "c")


@pytest.mark.parametrize("change", [
    {"data": b"other"}, {"rule": b"other"}, {"uid": "0" * 16}, {"due_ms": DUE + 1},
    {"schedule_uid": "f" * 16}, {"schedule_uid": ""},
    {"schedule_uid": "f" * 16, "uid": firing_uid("f" * 16, DUE)},
])  # fmt: skip
def test_a_firing(change: dict[str, object]) -> None:
    assert firing().check(RING, "c") == b"spec"
    with pytest.raises(SignatureError):
        replace(firing(), **change).check(RING, "c")  # type: ignore[arg-type]
    with pytest.raises(SignatureError):
        firing().check(Keyring(Key.new()), "c")
    with pytest.raises(SignatureError):
        firing().check(RING, "another")


def test_every_time_has_a_uid_of_its_own() -> None:
    uids = {firing_uid(SCHEDULE, DUE + 1000 * n) for n in range(1000)}
    assert len(uids) == 1000
    assert all(len(uid) == 16 for uid in uids)
