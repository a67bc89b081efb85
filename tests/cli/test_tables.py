"""The texts of tables and JSON, from jobs that never were."""

from __future__ import annotations

import io
import re
import time
from dataclasses import replace

import pytest

from qsub_py import render
from qsub_py.cli import columns, node_table, shapes, tasks
from qsub_py.cli.shapes import LONG, SHORT
from qsub_py.model import JobInfo, NodeInfo, Outcome, State, TaskInfo
from qsub_py.reasons import Why

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
JOB = JobInfo(
    id=12, uid="u", name="train.py", owner="ann", queue="main", kind="command", priority=0,
    cpus=3, mem_bytes=2**31, gpus=0, time_s=3600.0, submitted_at=1000.0, started_at=1010.0,
    ended_at=None, counts={State.PENDING: 4, State.RUNNING: 2, State.COMPLETED: 3, State.FAILED: 1},
    limit=2, is_held=False, is_open=False, is_array=True, begin_at=0.0, exit_code=7,
    nodes=("n1", "n2"), reason="", unfit={}, lane="",
)  # fmt: skip
PLAIN = replace(
    JOB, id=3, name="x", counts={State.PENDING: 1}, is_array=False, nodes=(), started_at=None,
    exit_code=None, mem_bytes=0, time_s=0.0,
)  # fmt: skip
ENDED = replace(
    JOB, id=104, counts={State.CANCELLED: 1}, is_array=False, nodes=(), ended_at=1130.0,
    reason="cancelled by bob", exit_code=None,
)  # fmt: skip
WHY = Why("Resources", "the nodes that suit it are busy")


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def text(names: tuple[str, ...], *, header: bool = True) -> str:
    rows = shapes.rows([(JOB, None), (PLAIN, WHY), (ENDED, None)], names, now=1071.0)
    return "\n".join(render.lines(columns.make_table(names, rows), header=header))


def test_jobs() -> None:
    assert (
        text(SHORT)
        == """\
JOBID  NAME      USER  ST  TIME  CPUS  TASKS  NODELIST(REASON)
   12  train.py  ann   R   1:01     3   4/10  n1,n2
    3  x         ann   PD  0:00     3      1  (Resources)
  104  train.py  ann   CA  2:00     3      1  (cancelled by bob)"""
    )


def test_jobs_without_headings() -> None:
    assert text(SHORT, header=False).splitlines()[0] == (
        " 12  train.py  ann  R   1:01  3  4/10  n1,n2"
    )


def test_jobs_with_more_columns() -> None:
    assert text(LONG).splitlines()[:2] == [
        "JOBID  NAME      USER  QUEUE  PRIO  ST  TIME    LIMIT  CPUS    MEM  GPUS  TASKS  FAILED"
        "  SUBMITTED    NODELIST(REASON)",
        "   12  train.py  ann   main      0  R   1:01  1:00:00     3     2G     0   4/10       1"
        "  01-01T00:16  n1,n2",
    ]


def test_formats() -> None:
    assert columns.parse_format("id, user,STATE").names == ("id", "owner", "state")
    chosen = columns.parse_format("%.6i|%-j".replace("-", "") + "|%3T;")
    rows = shapes.rows([(JOB, None), (ENDED, None)], chosen.names, now=1071.0)
    table = columns.make_table(chosen.names, rows)
    assert chosen.lines(table, header=True) == [
        " JOBID|NAME|STA;", "    12|train.py|RUN;", "   104|train.py|CAN;",
    ]  # fmt: skip


def test_every_column_has_its_own_letter() -> None:
    letters = [letter for _, letter, _ in shapes.COLUMNS.values()]
    assert len(set(letters)) == len(letters)


def test_names_cannot_drive_the_terminal() -> None:
    table = render.Table(("NAME",), (("a\x1b[31mb\u202e",),))
    assert list(render.lines(table)) == ["NAME", "a\\x1b[31mb\\u202e"]


class Terminal(io.StringIO):
    """Standard output as a terminal has it."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", ["0", "1", "30", "200"])
def test_on_a_terminal_of_any_width(monkeypatch: pytest.MonkeyPatch, width: str) -> None:
    shown = Terminal()
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setenv("TERM", "xterm")
    names = SHORT
    render.show(columns.make_table(names, shapes.rows([(JOB, None)], names, now=1071.0)))
    text = _COLOURS.sub("", shown.getvalue())
    rows = [line.split() for line in text.splitlines() if line.split()[:1] == ["12"]]
    assert len(rows) == (1 if width == "200" else 2), "what is too wide goes on below"
    assert [word for row in rows for word in row] == [
        "12", "train.py", "ann", "R", "1:01", "3", *["12"] * (len(rows) - 1), "4/10", "n1,n2",
    ]  # fmt: skip
    assert max(map(len, text.splitlines())) <= max(int(width), render.LEAST_WIDTH)


def test_no_part_of_a_wide_table_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    render.show(render.Table(("A", "B", "C", "NOTE"), (("1", "b" * 30, "c" * 30, ""),)))
    assert _COLOURS.sub("", shown.getvalue()).split() == [
        "A", "B", "1", "b" * 30, "A", "C", "NOTE", "1", "c" * 30,
    ]  # fmt: skip
    shown.truncate(0)
    render.show(render.Table(("A", "B", "NOTE IT"), (("1", "b" * 33, ""),)))
    assert "NOTE" not in shown.getvalue()


def test_job_as_json() -> None:
    found = shapes.job_json(JOB, None)
    assert list(found)[:17] == (
        [
            "id",
            "name",
            "owner",
            "queue",
            "kind",
            "state",
            "reason",
            "priority",
            "cpus",
            "mem_bytes",
            "gpus",
            "submitted_at",
            "started_at",
            "ended_at",
            "nodes",
            "exit_code",
            "tasks",
        ]
    )
    counts = dict(found["tasks"])
    assert counts.pop("total") == sum(counts.values()) == 10
    assert set(counts) == set(
        [
            "pending",
            "running",
            "suspended",
            "completing",
            "completed",
            "failed",
            "cancelled",
            "timeout",
            "out_of_memory",
            "node_fail",
            "dep_failed",
        ]
    )
    assert (found["state"], found["exit_code"], found["nodes"]) == ("RUNNING", 7, ["n1", "n2"])
    assert shapes.job_json(PLAIN, WHY)["reason"] == "Resources"
    assert shapes.job_json(PLAIN, WHY)["exit_code"] is None
    done = replace(PLAIN, counts={State.COMPLETED: 1}, ended_at=5.0)
    assert shapes.job_json(done, None)["exit_code"] == 0


OUTCOME = Outcome(
    1, State.FAILED, attempt=2, exit_code=7, node="n1", started_at=1010.0, ended_at=1010.25,
    cpu_s=0.2, max_rss_bytes=2**24, reason="exit code 7",
)  # fmt: skip
KILLED = replace(OUTCOME, signal=9, exit_code=0, ended_at=1100.0, reason="killed by signal 9")
NEVER = Outcome(2, State.CANCELLED, reason="cancelled by bob")


def test_task_as_json() -> None:
    task = TaskInfo(12, 1, 2, State.FAILED, 2, outcome=OUTCOME)
    assert shapes.task_json(task) == {
        "job": 12, "index": 2, "state": "FAILED", "exit_code": 7, "signal": None, "node": "n1",
        "attempt": 2, "started_at": 1010.0, "ended_at": 1010.25, "wall_s": 0.25, "cpu_s": 0.2,
        "max_rss_bytes": 2**24, "params": {}, "reason": "exit code 7",
    }  # fmt: skip
    killed = shapes.task_json(replace(task, outcome=KILLED))
    assert (killed["exit_code"], killed["signal"]) == (None, 9)
    never = shapes.task_json(replace(task, outcome=NEVER))
    unknown = ("exit_code", "signal", "node", "started_at", "ended_at", "wall_s", "cpu_s")
    assert all(never[name] is None for name in unknown)


def test_tasks() -> None:
    found = [
        TaskInfo(12, 0, 1, State.RUNNING, 1, "n1", 1010.0),
        TaskInfo(12, 1, 2, State.FAILED, 2, outcome=OUTCOME),
        TaskInfo(12, 2, 3, State.FAILED, 2, outcome=KILLED),
        TaskInfo(12, 3, 4, State.CANCELLED, 1, outcome=NEVER),
        *(TaskInfo(12, at, at + 1, State.PENDING, 0) for at in range(4, 10)),
    ]
    table = tasks.tasks_table([(JOB, "JobArrayTaskLimit", found)], now=1071.0)
    assert (
        "\n".join(render.lines(table))
        == """\
      JOBID  ST  NODE  ATTEMPT      EXIT   WALL    CPU  RSS  REASON
       12_1  R   n1          1             1:01
       12_2  F   n1          2         7  0.25s  0.20s  16M  exit code 7
       12_3  F   n1          2  signal 9   1:30  0.20s  16M  killed by signal 9
       12_4  CA              1                               cancelled by bob
12_[5-10%2]  PD                                              (JobArrayTaskLimit)"""
    )


@pytest.mark.parametrize(
    ("indices", "shown"),
    [
        ([5], "12_5"),
        ([5, 6], "12_[5-6%2]"),
        ([1, 2, 3, 7, 9], "12_[1-3,7,9%2]"),
        ([1, 4, 7], "12_[1-7:3%2]"),
        ([*range(0, 40, 2), 41], "12_[0,2,4,6,8,10,12,14,16,18,20,22,24,26,28,...%2]"),
    ],
)
def test_waiting_tasks(indices: list[int], shown: str) -> None:
    assert tasks.pending_id(JOB, indices) == shown
    assert tasks.pending_id(PLAIN, [0]) == "3"


NODE = NodeInfo(
    uid="u", name="n1", host="h", state="up", cpus=8, cpus_free=3, mem_bytes=2**34,
    mem_free_bytes=2**33, gpus=1, features=("ssd", "fast"), queues=("main",),
    pythons=("3.9", "3.11", "3.12"), running=5, version="0.1.0", lease_left_s=58.4, reason="",
    user="ann", gpus_free=(0,), load=2.5, way="tunnel", alias="lab1", boot="b",
)  # fmt: skip


def test_nodes() -> None:
    lost = replace(NODE, name="old", state="lost", load=None, way="")
    shown = "\n".join(render.lines(node_table.table((NODE, lost))))
    assert (
        shown
        == """\
NAME  STATE  CPUS     MEM  GPUS  LOAD  RUNNING  PYTHON         VERSION  LEASE  WAY     REASON
n1    up      5/8  8G/16G   0/1  2.50        5  3.9,3.11-3.12  0.1.0      58s  tunnel
old   lost      8     16G     1     -        -  3.9,3.11-3.12  0.1.0        -  -"""
    )


def test_nodes_say_what_is_wrong() -> None:
    busy = replace(NODE, gpus=3, gpus_free=(0, 2), gpus_busy=(0,), state="draining", reason="fan")
    assert node_table._cells(busy)["REASON"] == "fan; gpu 0 is used outside of the queue"
    assert node_table._cells(busy)["GPUS"] == "1/3"
    mute = replace(NODE, gpus_busy=(0, 1), gpus_why="nvidia-smi does not answer")
    assert "nvidia-smi does not answer" in node_table._cells(mute)["REASON"]
    row = node_table.table((NODE,), is_long=True).rows[0]
    assert row[-5:] == ("lab1", "ann", "main", "ssd,fast", "")


def test_node_as_json() -> None:
    found = shapes.node_json(NODE)
    assert list(found)[:11] == [
        "name",
        "state",
        "cpus",
        "cpus_free",
        "mem_bytes",
        "gpus",
        "features",
        "running",
        "version",
        "lease_s_left",
        "reason",
    ]
    assert (found["lease_s_left"], found["features"]) == (58.4, ["ssd", "fast"])
