"""Fire schedules whose time has come: any node does it, whichever looks first.

Two that look at once ask the store the same; it lets one through. A node that cannot compute the
next time (no time zone data) says so and leaves it to the others.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from qsub_py.errors import QsubError, SignatureError, StoreError
from qsub_py.periodic import Look, Rule
from qsub_py.signing import Keyring
from qsub_py.store_node import NodeStore
from qsub_py.store_schedules import ScheduleInfo, Schedules

log = logging.getLogger("qsub_py.agent")


class Beat:
    """What an agent does about schedules."""

    def __init__(self, store: NodeStore, ring: Keyring, node_name: str) -> None:
        self._store, self._ring, self._name = store, ring, node_name
        #: Rules whose signature was verified, by schedule uid.
        self._rules: dict[str, Rule] = {}
        self._cannot: set[str] = set()

    def fire(self, ids: Sequence[int], now_at: float) -> None:
        """Fire these schedules as far as they are due at this time of the server's."""
        schedules = Schedules(self._store)
        found = schedules.many(list(ids))
        for gone in set(ids) - {info.id for info in found}:
            schedules.forget(gone)
        for info in found:
            try:
                rule = self._rule(info)
                look = _look(rule, info, int(now_at * 1000))
            except StoreError:
                raise
            except (QsubError, ValueError, TypeError, OverflowError) as error:
                self._give_up(schedules, info, error)
                continue
            word, job = schedules.fire(info, look.fire_ms, look.missed, look.next_ms)
            if job:
                log.info("schedule %d fired job %d", info.id, job)
            elif word == "full":
                log.warning("schedule %d cannot fire: the server is full", info.id)

    def _rule(self, info: ScheduleInfo) -> Rule:
        rule = self._rules.get(info.uid)
        if rule is None:
            self._verify(info)
            rule = Rule.from_bytes(info.rule)
            if len(self._rules) > 1000:
                self._rules.clear()
            self._rules[info.uid] = rule
        return rule

    def _verify(self, info: ScheduleInfo) -> None:
        from qsub_py.signing import verify

        if len(info.uid) != 16:
            raise SignatureError("its uid is none")
        verify(self._ring, info.signature, "schedule", self._store.cluster, info.uid, info.rule,
               info.spec)  # fmt: skip

    def _give_up(self, schedules: Schedules, info: ScheduleInfo, error: Exception) -> None:
        if info.uid not in self._cannot:
            self._cannot.add(info.uid)
            log.warning("schedule %d cannot be fired here: %s", info.id, error)
            schedules.complain(info.id, f"node {self._name}: {error}")


def _look(rule: Rule, info: ScheduleInfo, now_ms: int) -> Look:
    if 0 < info.next_ms <= now_ms:
        return rule.look(info.next_ms, now_ms)
    # Woken for a firing that waited: the time to come stays.
    return Look(0, 0, info.next_ms)
