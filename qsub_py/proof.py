"""Whether a job's spec was signed: for the job itself, or for the schedule that made it.

The spec of a schedule is signed once, with the rule and the schedule's uid. A job that it makes
has a uid which follows from that uid and the time, so nobody needs the key to make one, and nobody
without it can make another. Pure.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from qsub_py.errors import SignatureError
from qsub_py.signing import Key, Keyring, sign, verify


@dataclass(frozen=True, slots=True)
class SignedSpec:
    """A spec as the store has it, and what proves it."""

    data: bytes
    signature: bytes
    uid: str
    #: Of the firing of a schedule: its uid, the time (ms) and the rule; else "".
    schedule_uid: str = ""
    due_ms: int = 0
    rule: bytes = b""
    #: The schedule's number.
    schedule: int = 0
    #: How often it was altered.
    version: int = 0

    def check(self, ring: Keyring, cluster: str) -> bytes:
        """Return the spec's bytes; raises SignatureError unless they were signed for this job."""
        if not self.schedule_uid:
            verify(ring, self.signature, "spec", cluster, self.uid, self.data)
            return self.data
        if self.uid != firing_uid(self.schedule_uid, self.due_ms):
            raise SignatureError("the job is not one that its schedule makes")
        verify(ring, self.signature, "schedule", cluster, self.schedule_uid, self.rule, self.data)
        return self.data


def firing_uid(schedule_uid: str, due_ms: int) -> str:
    """Return the uid of the job that a schedule makes for a time; fire.lua makes the same."""
    return hashlib.sha1(f"{schedule_uid}:{due_ms}".encode()).hexdigest()[:16]


def sign_schedule(key: Key, cluster: str, uid: str, rule: bytes, spec: bytes) -> bytes:
    """Return the signature over a schedule and the spec of all that it makes."""
    return sign(key, "schedule", cluster, uid, rule, spec)
