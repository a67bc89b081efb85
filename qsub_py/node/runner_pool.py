"""Runners kept warm for the next batch that suits them.

A runner is kept for its interpreter, environment, directory, umask and import path.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from qsub_py.node.batch import Batch, Unfit, excuse
from qsub_py.node.runners import Runner, RunnerKey
from qsub_py.node.workplace import Workplace, now

IDLE_S = 300.0
_STILLBORN = 3


def runner_key(batch: Batch) -> RunnerKey:
    """Return what a runner must agree with to run this batch."""
    common = batch.common
    env = common.get("_runner_env")
    if env is None:  # kept beside what it was made from
        env = common["_runner_env"] = _lasting(common["env"])
    path = tuple(common.get("path") or ())
    return common["python"], common["cwd"], common["umask"], path, env + _lasting(batch.env)


def _lasting(env: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the variables that a runner is started with; QSUB_* are set for each batch."""
    return tuple(sorted(item for item in env.items() if not item[0].startswith("QSUB_")))


@dataclass(slots=True)
class RunnerPool:
    """Runners by key; the idle ones wait for the next batch that suits them."""

    place: Workplace
    max_idle: int
    #: Numbers runners and batches; starts at the time, so that no earlier keeper's come again.
    serial: int
    running: list[Runner] = field(default_factory=list)
    idle: list[Runner] = field(default_factory=list)
    #: Job uid -> runners killed before they could begin anything of it, in a row.
    stillborn: dict[str, int] = field(default_factory=dict)

    def next_serial(self) -> int:
        """Return a number nobody had before."""
        self.serial += 1
        return self.serial

    def take(self, batch: Batch) -> Runner:
        """Return a runner for the batch, a warm one if there is; raise Unfit."""
        key, count = runner_key(batch), len(batch.positions())
        most = batch.common.get("most_calls") or math.inf
        for runner in self.idle[::-1]:
            if runner.key == key and not runner.retired:
                self.idle.remove(runner)
                if runner.calls + count > most:
                    runner.retire()
                    continue
                if runner.uid != batch.uid:
                    runner.sweep_strays()
                break
        else:
            runner = self._start(key)
        runner.uid = batch.uid
        runner.calls += count
        return runner

    def _start(self, key: RunnerKey) -> Runner:
        serial = self.next_serial()
        cookie = f"runner.{serial}"
        try:
            self.place.ledger.runner_starts(cookie)
            runner = Runner(self.place, serial, key, self._gone)
        except OSError as error:
            raise Unfit(excuse(error, self.place.node_dir)) from error
        self.running.append(runner)
        return runner

    def is_hopeless(self, uid: str, *, killed: bool) -> bool:
        """Note a runner that ended before it could begin; whether this job cannot run here.

        One that was killed says little: somebody may have killed it. Three in a row say enough.
        """
        self.stillborn[uid] = self.stillborn.get(uid, 0) + 1
        return not killed or self.stillborn[uid] >= _STILLBORN

    def begins_well(self, uid: str) -> None:
        """Note that calls of the job do run here."""
        self.stillborn.pop(uid, None)

    def give(self, runner: Runner) -> None:
        """Put a runner back; the one idle for longest makes room."""
        runner.caller = None
        if runner.retired:
            return
        runner.idle_since = now()
        self.idle.append(runner)
        if len(self.idle) > self.max_idle:
            self.idle.pop(0).retire()

    def retire_idle(self) -> None:
        """Let go of runners that were idle for long; call now and then."""
        moment = now()
        for runner in [r for r in self.idle if moment - r.idle_since > IDLE_S]:
            self.idle.remove(runner)
            runner.retire()

    def _gone(self, runner: Runner) -> None:
        self.running.remove(runner)
        if runner in self.idle:
            self.idle.remove(runner)
        self.place.ledger.runner_gone(runner.cookie.decode())

    def cookies(self) -> list[str]:
        """Return the cookies of all that live."""
        return [runner.cookie.decode() for runner in self.running]
