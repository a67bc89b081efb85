"""qstat: show jobs, tasks, and why they wait."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from qsub_py import render
from qsub_py.cli import common, ids
from qsub_py.cli.columns import Format, make_table, parse_format
from qsub_py.cli.ids import Picked
from qsub_py.cli.shapes import LONG, SHORT, job_json, task_json
from qsub_py.cli.shapes import rows as cells
from qsub_py.config import user_name
from qsub_py.errors import SpecError
from qsub_py.limits import Limits
from qsub_py.model import JobInfo, NodeInfo, State, TaskInfo
from qsub_py.reasons import Line, Why, explain
from qsub_py.store_limits import read_limits
from qsub_py.text import safe

if TYPE_CHECKING:
    from qsub_py.client import Client
    from qsub_py.units import JobRef


_TEXT_ONLY = ("--why", "--tree", "--watch")


@dataclass(frozen=True, slots=True)
class View:
    """What is to be shown, checked."""

    refs: tuple[JobRef, ...]
    user: str | None
    shows_ended: bool
    states: frozenset[State] | None
    names: frozenset[str]
    format: Format

    def takes(self, job: JobInfo) -> bool:
        """Whether a job passes the filters."""
        if self.names and job.name not in self.names:
            return False
        if self.states is not None and not any(job.counts.get(state) for state in self.states):
            return False
        return bool(self.refs) or self.user is None or job.owner == self.user


@dataclass(frozen=True, slots=True)
class Scene:
    """What the store said at one moment."""

    picked: tuple[Picked, ...]
    whys: dict[int, Why]
    nodes: tuple[NodeInfo, ...]
    now: float
    limits: Limits


@click.command("qstat", context_settings={"max_content_width": 100})
@click.argument("jobs", nargs=-1, metavar="[JOB]...")
@click.option("-u", "--user", metavar="USER", help="Jobs of this user (mine).")
@click.option("--all-users", is_flag=True, help="Jobs of everybody.")
@click.option("-a", "-x", "--all", "ended", is_flag=True, help="Also jobs that have ended.")
@click.option("-t", "--tasks", is_flag=True, help="Show tasks.")
@click.option("-l", "--long", is_flag=True, help="Show more columns.")
@click.option("-f", "--full", is_flag=True, help="Show all of each job.")
@click.option("-s", "--states", metavar="STATES", help="Jobs with tasks in these states: PD,R,F.")
@click.option("-n", "--name", metavar="NAME", multiple=True, help="Jobs of this name.")
@click.option("-w", "--watch", is_flag=True, help="Show the table again and again.")
@click.option("-i", "--interval", metavar="SECONDS", help="How often, with --watch (2).")
@click.option("--why", is_flag=True, help="Explain why the jobs wait, node by node.")
@click.option(
    "-o",
    "--format",
    "columns",
    metavar="FORMAT",
    help="Columns: id,name,state or squeue's '%i %j %T'.",
)
@click.option("--periodic", is_flag=True, help="Show what runs again and again (my schedules).")
@click.option("--start", is_flag=True, help="Show when waiting jobs start at the latest.")
@click.option(
    "--outcome", is_flag=True, help="Print one word for tools: running, success or failed."
)
@click.option("--noheader", is_flag=True, help="Leave the headings out.")
@click.option("--tree", is_flag=True, help="Draw what waits for what.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@common.options
def qstat(jobs: tuple[str, ...], user: str | None, all_users: bool, ended: bool, tasks: bool,
          long: bool, full: bool, states: str | None, name: tuple[str, ...], watch: bool,
          interval: str | None, why: bool, columns: str | None, periodic: bool, start: bool,
          outcome: bool, noheader: bool, tree: bool, as_json: bool) -> None:  # fmt: skip
    """Show my active jobs, or the JOBs named (12, 12_3, 12_[1-5], 12-20, last)."""
    modes = {"--why": why, "--full": full, "--tree": tree, "--start": start, "--tasks": tasks,
             "--periodic": periodic, "--watch": watch, "--outcome": outcome}  # fmt: skip
    _check_modes([option for option, is_said in modes.items() if is_said], as_json=as_json)
    if outcome:
        from qsub_py.cli.outcome import show as show_outcome

        show_outcome(jobs)
        return
    chosen = Format(LONG if long else SHORT) if columns is None else parse_format(columns)
    view = View(
        tuple(ids.parse(jobs)), None if all_users else user or user_name(), ended,
        read_states(states), frozenset(name), chosen,
    )  # fmt: skip
    pause = _interval(interval)
    client = common.connect()
    if periodic:
        from qsub_py.cli.periodic import show

        show(client, view.refs, user=view.user, ended=ended, as_json=as_json, header=not noheader)
        return
    if watch:
        _watch(client, view, pause)
        return
    scene = look(client, view)
    if why or (full and not as_json):
        from qsub_py.cli.explain import show_full, show_why

        (show_why if why else show_full)(client, scene)
        return
    if tree:
        from qsub_py.cli.tree import lines

        for line in lines(client, scene.picked, scene.whys):
            print(line)
    elif start:
        from qsub_py.cli.starts import show_starts

        show_starts(client, scene, header=not noheader, as_json=as_json)
    elif tasks:
        _show_tasks(client, scene, as_json=as_json, header=not noheader)
    elif as_json:
        render.show_json([job_json(p.job, scene.whys.get(p.job.id)) for p in scene.picked])
    else:
        _show_jobs(scene, view, header=not noheader)
    _remark(client, scene, view, as_json=as_json)


def _check_modes(modes: Sequence[str], *, as_json: bool) -> None:
    """Raise SpecError when two ways to show the jobs are asked for."""
    if len(modes) > 1:
        raise SpecError(f"{modes[0]} and {modes[1]} exclude each other", hint="choose one")
    if as_json and modes and modes[0] in _TEXT_ONLY:
        raise SpecError(f"{modes[0]} prints no JSON", hint="leave --json or it out")


def look(client: Client, view: View) -> Scene:
    """Ask the store for all that is shown; raises JobNotFound before anything is."""
    store_nodes = client.ask(lambda store: store.nodes(gone=True))
    now = client.ask(lambda store: store.now())
    active = client.ask(lambda store: store.jobs(active=True, ended=False))
    if view.refs:
        picked = [found for ref in view.refs for found in ids.find(client, ref)]
    elif view.shows_ended or (view.states and any(state.is_terminal for state in view.states)):
        picked = [Picked(job) for job in client.ask(lambda s: s.jobs(active=True, ended=True))]
    else:
        picked = [Picked(job) for job in active]
    picked = [found for found in picked if view.takes(found.job)]
    limits = client.ask(lambda store: read_limits(store, [found.job for found in picked]))
    whys, line = {}, Line(active, store_nodes, now=now)
    for found in picked:
        # A job that runs explains itself; only what waits whole is asked why.
        why = explain(found.job, store_nodes, now=now, line=line, limits=limits)
        if why is not None and found.job.state is State.PENDING:
            whys[found.job.id] = why
    return Scene(tuple(picked), whys, tuple(store_nodes), now, limits)


def _table(scene: Scene, view: View) -> render.Table:
    names = view.format.names
    pairs = [(found.job, scene.whys.get(found.job.id)) for found in scene.picked]
    return make_table(names, cells(pairs, names, now=scene.now))


def _show_jobs(scene: Scene, view: View, *, header: bool) -> None:
    table = _table(scene, view)
    if view.format.between:
        for line in view.format.lines(table, header=header):
            print(safe(line))
    elif table.rows:
        render.show(table, header=header)


def _show_tasks(client: Client, scene: Scene, *, as_json: bool, header: bool) -> None:
    from qsub_py.cli.tasks import tasks_of, tasks_table

    groups = []
    for found in scene.picked:
        why = explain(found.job, scene.nodes, now=scene.now, limits=scene.limits)
        tasks = list(tasks_of(client, found, all_params=as_json))
        groups.append((found.job, why.reason if why else "", tasks))
    if as_json:
        rows = [task_json(t, _reason(job, why, t)) for job, why, group in groups for t in group]
        render.show_json(rows)
    elif any(group for _, _, group in groups):
        render.show(tasks_table(groups, now=scene.now), header=header)


def _reason(job: JobInfo, why: str, task: TaskInfo) -> str:
    """Return why a task waits, or ended without having started."""
    if task.state is State.PENDING:
        return why
    return job.reason if task.state.is_terminal else ""


def _watch(client: Client, view: View, pause: float) -> None:
    try:
        render.watch(lambda: _table(look(client, view), view), interval_s=pause, title="qstat")
    except KeyboardInterrupt:
        return


def _remark(client: Client, scene: Scene, view: View, *, as_json: bool) -> None:
    """Say on standard error what an empty or odd table means."""
    health = client.ask(lambda store: store.health())
    if health.is_recovering:
        common.complain("qstat: the server lost some of its last writes; waiting for all nodes to"
                        " report what they run")  # fmt: skip
    if health.lapsed_together:
        common.complain("qstat: most nodes fell silent together: the server or network may be at"
                        " fault, so their jobs are not started elsewhere yet")  # fmt: skip
    if not scene.picked and not as_json:
        common.complain(_nothing(view) + _elsewhere(view))
    elif scene.whys and not any(node.state in ("up", "draining") for node in scene.nodes):
        common.hint("qstat: no node is running; start one with `qnode start`")


def _nothing(view: View) -> str:
    what = "no jobs" if view.shows_ended else "no active jobs"
    if view.user is not None and not view.refs:
        what += f" of {view.user}"
    if view.states is not None or view.names:
        what += " that match"
    return what


def _elsewhere(view: View) -> str:
    """Return for a person where ended jobs are to be seen."""
    is_told = sys.stderr.isatty() and not (view.refs or view.shows_ended)
    return "; `qstat -a` shows ended ones" if is_told else ""


def read_states(text: str | None, option: str = "--states") -> frozenset[State] | None:
    """Return the states that a list names, None for all; raises SpecError."""
    if text is None or text.lower() == "all":
        return None
    return frozenset(_state(word.strip().upper(), option) for word in text.split(","))


def _state(word: str, option: str) -> State:
    for state in State:
        if word in (state.short, state.name):
            return state
    known = " ".join(state.short for state in State)
    raise SpecError(f"{option}: no state {word!r}", hint=f"known: {known}")


def _interval(text: str | None) -> float:
    from qsub_py.units import parse_duration

    if text is None:
        return 2.0
    is_decimal = re.fullmatch(r"\d+\.\d*|\.\d+", text, re.ASCII)
    try:
        seconds = float(text) if is_decimal else parse_duration(text, bare_s=1.0)
    except SpecError as error:
        raise SpecError(f"--interval: {error}") from None
    if seconds < 0.1:
        raise SpecError("--interval must be at least 0.1", hint="write -i 2")
    return seconds


def main(words: Sequence[str] | None = None) -> None:
    """Run qstat (console script)."""
    common.main(qstat, words)


if __name__ == "__main__":
    sys.exit(common.run(qstat, sys.argv[1:]))
