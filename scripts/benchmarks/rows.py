"""What is measured: groups of figures that one measurement gives, and who takes part.

The goals are those of the design; a figure is never asserted, only shown beside its goal.
"""

from __future__ import annotations

from dataclasses import dataclass, field

OURS = "qsub_py"
#: Needs the environment of the peers (--peers).
PEERS = ("celery", "rq", "huey", "loky")
#: In the order of the table.
CONTENDERS = (OURS, *PEERS, "futures", "xargs", "parallel", "spawn", "lua", "python")


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    key: str
    title: str
    unit: str
    #: More is better (a rate), else less (a time, a size).
    is_rate: bool = False
    goal: float | None = None
    #: The contender that no batch system can beat here.
    limit: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Figures that come from one measurement, `Contender.<name>(n)`."""

    name: str
    figures: tuple[Figure, ...]
    #: Contender -> n of one block.
    sizes: dict[str, int] = field(default_factory=dict)
    blocks: int = 3
    #: n is a number of repetitions, which a quick run may cut but never below this.
    least: int = 1


def _rate(key: str, title: str, goal: float, limit: str) -> Figure:
    return Figure(key, title, "/s", is_rate=True, goal=goal, limit=limit)


GROUPS = (
    Group(
        "submit",
        (_rate("submit", "no-op calls by submit, one future each", 22_000, "lua"),),
        {OURS: 20_000, "celery": 2_000, "rq": 400, "huey": 4_000, "loky": 10_000,
         "futures": 10_000, "lua": 40_000},
        least=200,
    ),
    Group(
        "map",
        (_rate("map", "no-op calls by map", 100_000, "lua"),),
        {OURS: 100_000, "celery": 2_000, "loky": 100_000, "futures": 100_000, "lua": 100_000},
        least=200,
    ),
    Group(
        "grid",
        (
            Figure("grid_short", "GridSearchCV of 300 short fits (naive Bayes, digits)", "s"),
            Figure("grid_long", "GridSearchCV of 30 longer fits (SVC, digits)", "s"),
        ),
        {OURS: 300, "loky": 300}, least=30,
    ),
    Group(
        "roundtrip",
        (
            Figure("roundtrip_p50", "round trip of one call when idle, p50", "ms", goal=1.0,
                   limit="lua"),
            Figure("roundtrip_p95", "the same, p95", "ms", limit="lua"),
        ),
        {OURS: 300, "celery": 300, "rq": 60, "huey": 40, "loky": 300, "futures": 300, "lua": 300},
        least=20,
    ),
    Group(
        "true",
        (_rate("true", "/bin/true, an array of 2,000, 2 slots", 1_500, "spawn"),),
        {OURS: 2_000, "celery": 1_000, "rq": 300, "huey": 1_000, "xargs": 2_000,
         "parallel": 1_000, "spawn": 2_000},
        least=100,
    ),
    Group(
        "memory",
        (
            Figure("bytes_pending", "server bytes of a pending call of two numbers", "B", goal=80),
            Figure("bytes_ended", "server bytes of an ended call with its result", "B", goal=150),
            Figure("bytes_command", "server bytes of an ended task of an array", "B", goal=150),
        ),
        {OURS: 20_000, "celery": 2_000, "rq": 400, "huey": 4_000, "lua": 20_000},
        blocks=1, least=200,
    ),
    Group(
        "array",
        (
            Figure("array_10", "an array of 10 accepted", "ms"),
            Figure("array_1m", "an array of 1,000,000 accepted", "ms"),
            Figure("array_bytes", "server bytes of those 1,000,000 pending tasks", "B"),
            Figure("array_look", "one look at all jobs meanwhile", "ms"),
            Figure("array_cancel", "cancel of all of it", "ms"),
            Figure("array_hold", "longest command in the server, with it and running", "ms",
                   goal=5),
        ),
        {OURS: 9}, least=3,
    ),
    Group(
        "array_cli",
        (
            Figure("cli_array_10", "process: qsub -a 1-10 true", "ms", goal=100, limit="python"),
            Figure("cli_array_1m", "process: qsub -a 1-1000000 true", "ms", goal=100,
                   limit="python"),
            Figure("cli_array_qstat", "process: qstat meanwhile", "ms", goal=100, limit="python"),
            Figure("cli_array_cancel", "process: qcancel of a running million", "ms",
                   limit="python"),
        ),
        {OURS: 3, "python": 5},
    ),
    Group(
        "sweep_cli",
        tuple(
            Figure(f"sweep{step}_{size}", f"process: {what} a sweep of {points}", "ms")
            for step, what in (("", "submit"), ("_look", "qstat of"), ("_extend", "extend"),
                               ("_cancel", "cancel"))
            for size, points in (("10", "10"), ("1m", "1,000,000"))
        ),
        {OURS: 5},
    ),
    Group(
        "cli",
        (
            Figure("cli_qsub", "process: qsub true", "ms", goal=100, limit="python"),
            Figure("cli_qstat", "process: qstat", "ms", goal=100, limit="python"),
            Figure("cli_help", "process: qsub --help", "ms", goal=100, limit="python"),
        ),
        {OURS: 7, "celery": 3, "rq": 3, "python": 7}, least=3,
    ),
    Group(
        "recovery",
        (
            Figure("kill_runner", "SIGKILL of a runner until its call runs again", "s", goal=1),
            Figure("kill_keeper", "SIGKILL of a keeper until its call runs again", "s", goal=5),
            Figure("kill_agent", "SIGKILL of an agent: its command stops for", "s", goal=0),
            Figure("agent_back", "the same: until a new call has its result", "s"),
        ),
        {OURS: 1},
    ),
    Group(
        "recovery_peers",
        (Figure("kill_worker", "SIGKILL of a peer's worker until its call runs again", "s"),),
        {"celery": 30, "rq": 30, "huey": 30},
        blocks=1, least=5,
    ),
)  # fmt: skip
