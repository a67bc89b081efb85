"""The options of qsub, in the sections of its help; values are text, `spec.py` reads them.

One frozen `Request` holds what was asked for, merged from the command line and a script's
`#QSUB` lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import click

from qsub_py.cli.words import Option


class SectionOption(click.Option):
    """An option that says under which heading of the help it stands."""

    def __init__(self, *args: Any, section: str = "Other", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for, as text; None (or an empty tuple) where nothing was said."""

    name: str | None = None
    comment: str | None = None
    account: str | None = None
    cpus: str | None = None
    mem: str | None = None
    mem_per_cpu: str | None = None
    gpus: str | None = None
    gres: str | None = None
    time: str | None = None
    array: str | None = None
    sweep: tuple[str, ...] = ()
    zip: bool | None = None
    sample: str | None = None
    seed: str | None = None
    each_line: str | None = None
    from_csv: str | None = None
    from_json: str | None = None
    extend: str | None = None
    max_fails: str | None = None
    skip_if_exists: str | None = None
    dependency: str | None = None
    after: tuple[str, ...] = ()
    begin: str | None = None
    deadline: str | None = None
    hold: bool | None = None
    priority: str | None = None
    queue: str | None = None
    nodelist: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    constraint: str | None = None
    licenses: tuple[str, ...] = ()
    rate: str | None = None
    requeue: bool | None = None
    grace: str | None = None
    chdir: str | None = None
    output: str | None = None
    error: str | None = None
    export: tuple[str, ...] = ()
    python: str | None = None
    env: str | None = None
    ship: tuple[str, ...] = ()
    ship_ignore: tuple[str, ...] = ()
    gitignore: bool | None = None
    fetch: tuple[str, ...] = ()
    wrap: str | None = None
    wait: bool | None = None
    follow: bool | None = None
    dry_run: bool | None = None
    json: bool | None = None
    key: str | None = None
    every: str | None = None
    cron: str | None = None
    timezone: str | None = None
    until: str | None = None
    times: str | None = None
    overlap: str | None = None
    catch_up: str | None = None
    retries: str | None = None
    backoff: str | None = None
    retry_on: str | None = None
    on_oom: str | None = None
    on_timeout: str | None = None
    requeue_exit: bool | None = None
    signal: str | None = None
    dialect: str | None = None
    ignore_directives: bool | None = None
    compat: str | None = None
    to: str | None = None
    #: What dialects say beside these options: see dialect.Reading.
    tasks: str | None = None
    at_once: str | None = None
    procs: str | None = None
    shell: str | None = None
    umask: str | None = None
    soft_signal: str | None = None

    @property
    def is_sweep(self) -> bool:
        """Whether something was said of a sweep."""
        said = (self.zip, self.sample, self.seed, self.each_line, self.from_csv, self.from_json)
        return bool(self.sweep) or any(value is not None for value in said)

    def over(self, weaker: Request, *, is_slurms: bool = False) -> Request:
        """Return this request, completed from `weaker` where it says nothing.

        `is_slurms`: cpus of the one are for each of the other's processes, as in Slurm; else who
        says one of the two has said both.
        """
        groups = _ALTERNATIVES if is_slurms else (*_ALTERNATIVES, {"cpus", "tasks", "procs"})
        said = {name for name in self.__dataclass_fields__ if _is_said(getattr(self, name))}
        settled = said.union(*(names for names in groups if said & names))
        return Request(**{
            name: getattr(self if name in settled else weaker, name)
            for name in self.__dataclass_fields__
        })  # fmt: skip

    def differing(self, other: Request) -> tuple[str, str] | None:
        """Return two fields, of this and of the other, that say two things of one matter."""
        for name in self.__dataclass_fields__:
            if not _is_said(getattr(self, name)):
                continue
            alike = next((names for names in _ALTERNATIVES if name in names), {name})
            for rival in sorted(alike):
                theirs = getattr(other, rival)
                if _is_said(theirs) and (rival, theirs) != (name, getattr(self, name)):
                    return name, rival
        return None


#: Who says one of them has said it: what a weaker source says of the others does not count.
_ALTERNATIVES = (
    {"mem", "mem_per_cpu"}, {"gpus", "gres"}, {"every", "cron"}, {"signal", "soft_signal"},
)  # fmt: skip


def _is_said(value: object) -> bool:
    return value is not None and value != ()


def _value(section: str, *names: str, metavar: str, help: str, **kwargs: Any) -> SectionOption:
    return SectionOption(list(names), section=section, metavar=metavar, help=help, **kwargs)


def _flag(section: str, *names: str, help: str) -> SectionOption:
    return SectionOption(list(names), section=section, is_flag=True, default=None, help=help)


def make_options() -> list[click.Parameter]:
    """Return qsub's options, in the order of the help."""
    return [
        *_naming(), *_resources(), *_sweeping(), *_scheduling(), *_periodic(), *_failure(),
        *_surroundings(), *_files(), *_dialects(), *_waiting(),
    ]  # fmt: skip


def _naming() -> list[click.Parameter]:
    at = "Job"
    return [
        _value(at, "--name", "-J", "-N", "--job-name", metavar="NAME",
               help="Name of the job (default: of the script, command or function)."),
        _value(at, "--wrap", metavar="LINE", help="Run this shell line as the script."),
        _value(at, "--comment", metavar="TEXT", help="A remark, kept with the job."),
        _value(at, "--account", "-A", metavar="NAME", help="An account, kept with the job."),
        _value(at, "--key", metavar="KEY",
               help="Submit once: a second qsub with this key prints the first one's id."),
    ]  # fmt: skip


def _resources() -> list[click.Parameter]:
    at = "Resources of each task"
    return [
        _value(at, "--cpus", "-c", "--cpus-per-task", metavar="N", help="Processors (1)."),
        _value(at, "--mem", metavar="SIZE",
               help="Memory: 500M, 4G; a bare number is MB (the node's share per cpu)."),
        _value(at, "--mem-per-cpu", metavar="SIZE", help="Memory for each cpu."),
        _value(at, "--gpus", "-G", metavar="N", help="GPUs (0)."),
        _value(at, "--gres", metavar="gpu:N", help="The same in Slurm's words."),
        _value(at, "--time", "-t", metavar="LIMIT",
               help="Time limit: 90s, 30m, 2h, 1-12:00:00; a bare number is minutes (none)."),
    ]  # fmt: skip


def _sweeping() -> list[click.Parameter]:
    at = "Sweeps: a task for each point"
    return [
        _value(at, "--sweep", metavar="NAME=VALUES", multiple=True,
               help="A parameter: a,b,c, 1:10, 0:1:0.1, linspace(0,1,11), logspace(-4,-1,4). May be"
               " repeated: all combinations. {NAME} in arguments and -o is its value; a function"
               " gets NAME=value."),
        _flag(at, "--zip", help="Run the parameters side by side, no combinations."),
        _value(at, "--sample", metavar="N", help="Draw so many of the points, by chance."),
        _value(at, "--seed", metavar="S", help="Draw the same points as with this number before."),
        _value(at, "--each-line", metavar="FILE", help="A task for each line: {line}."),
        _value(at, "--from-csv", metavar="FILE", help="A task for each row; columns by name."),
        _value(at, "--from-json", metavar="FILE", help="A task for each object of a list."),
        _value(at, "--extend", metavar="JOB",
               help="Give this sweep the points that it does not have yet."),
        _value(at, "--max-fails", metavar="N|N%",
               help="Cancel the rest when more tasks than that have failed."),
        _value(at, "--skip-if-exists", metavar="FILE",
               help="A task whose file is there already ends at once: 'out/{lr}.npz', 'out/%a'."),
    ]  # fmt: skip


def _scheduling() -> list[click.Parameter]:
    at = "Array, place and order"
    return [
        _value(at, "--array", "-a", metavar="SET",
               help="One task for each number: 1-100, 0,3,7-9, 1-100:2; %8 runs 8 at once, also"
               " alone, of a sweep."),
        _value(at, "--dependency", "-d", metavar="LIST",
               help="Start when afterok:12, afterany:12_3, afternotok:, aftercorr:, singleton;"
               " several with `,` (all) or `?` (any)."),
        _value(at, "--after", metavar="JOB...", multiple=True,
               help="Start when these jobs have completed: --after 12 13 is afterok:12:13."),
        _value(at, "--begin", "-b", metavar="WHEN",
               help="Start no earlier: 16:00, tomorrow, now+1hour, 2027-01-20T12:34:00."),
        _value(at, "--deadline", metavar="WHEN",
               help="Cancel what has not begun by then; as --begin."),
        _flag(at, "--hold", "-H", help="Submit, but do not start before qrls."),
        _value(at, "--priority", metavar="N", help="Higher starts earlier (0)."),
        _value(at, "--queue", "-q", "-p", "--partition", metavar="NAME", help="Queue (main)."),
        _value(at, "--nodelist", "-w", metavar="NODE,...", multiple=True,
               help="Run only on these nodes: ws1, ws[1-3]."),
        _value(at, "--exclude", "-x", metavar="NODE,...", multiple=True,
               help="Run on any node but these."),
        _value(at, "--constraint", "-C", metavar="FEATURE",
               help="Run only on nodes with this feature: a, 'a&b', 'a|b'."),
        _value(at, "--licenses", "-L", metavar="NAME[:N],...", multiple=True,
               help="Hold so many of these while a task runs: see qnode limits."),
        _value(at, "--rate", metavar="[NAME:]N/TIME",
               help="Start at most so many tasks: 10/s, 10/m, 10/30s; all jobs of NAME together."),
        SectionOption(["--requeue/--no-requeue"], section=at, default=None,
                      help="Whether a task runs again when its node is lost (yes)."),
    ]  # fmt: skip


def _periodic() -> list[click.Parameter]:
    at = "Again and again"
    return [
        _value(at, "--every", metavar="TIME", help="A job now and after each TIME: 5s, 30m, 1d."),
        _value(at, "--cron", metavar="LINE",
               help="A job at '3 17 * * sun' (minute hour day month weekday), or @daily."),
        _value(at, "--timezone", metavar="ZONE", help="Of --cron: Europe/Berlin (this host's)."),
        _value(at, "--until", metavar="WHEN", help="No job after this time, as --begin."),
        _value(at, "--times", metavar="N", help="At most so many jobs."),
        _value(at, "--overlap", metavar="skip|queue|allow",
               help="When the job before still runs: leave it out, wait, or start all the same."),
        _value(at, "--catch-up", metavar="one|none",
               help="When times were missed (no node was up): one job for all of them, or none."),
    ]  # fmt: skip


def _failure() -> list[click.Parameter]:
    at = "When it fails"
    return [
        _value(at, "--retries", metavar="N",
               help="Try a task that failed so many times again (0); lost nodes do not count."),
        _value(at, "--backoff", metavar="TIME[,MOST]",
               help="Wait so long, twice as long each time, up to MOST (10s,1h)."),
        _value(at, "--retry-on", metavar="REASON,...",
               help="exit=75,77 signal=KILL oom timeout node any-failure (any-failure)."),
        _value(at, "--on-oom", metavar="mem*F",
               help="Out of memory: try again with so many times the memory."),
        _value(at, "--on-timeout", metavar="time*F",
               help="Time limit: try again with so many times the time."),
        _flag(at, "--requeue-exit",
              help="Exit 99 means: run me again; 100: hold me until qrls."),
        _value(at, "--signal", metavar="[B:]SIG[@TIME]",
               help="Signal so long before the time limit (60s); B: the script's shell only."),
    ]  # fmt: skip


def _surroundings() -> list[click.Parameter]:
    at = "Surroundings"
    return [
        _value(at, "--chdir", "-D", metavar="DIR", help="Run here (where qsub was run)."),
        _value(at, "--output", "-o", metavar="FILE",
               help="Where output goes (kept by the node: see qlog); %j job, %a task, %x name."),
        _value(at, "--error", "-e", metavar="FILE", help="Where errors go (to the output)."),
        _value(at, "--export", metavar="VARS", multiple=True,
               help="Environment: ALL, NONE, A,B=1 or ALL,-TOKEN (ALL)."),
        _value(at, "--python", metavar="PYTHON", help="Interpreter for .py scripts and functions."),
        _value(at, "--env", metavar="DIR|conda:NAME", help="Virtual or conda environment."),
        _value(at, "--grace", metavar="TIME",
               help="Time between the request to end and the kill (10s)."),
    ]  # fmt: skip


def _files() -> list[click.Parameter]:
    at = "Files, where hosts share no disk"
    return [
        _value(at, "--ship", metavar="PATH", multiple=True,
               help="Take this file or folder along as it is now; may be repeated. The job runs in"
               " a private directory that holds it under the same name (. is all that is here)."),
        _value(at, "--ship-ignore", metavar="GLOB", multiple=True,
               help="Leave this out of what is shipped; a rule as in .gitignore."),
        _flag(at, "--gitignore", help="Leave .git out, and what the .gitignore files say."),
        _value(at, "--fetch", metavar="GLOB", multiple=True,
               help="Bring back the files that match when a task ends: with -W or -f into the"
               " directory here, else qfetch gets them."),
    ]  # fmt: skip


def _dialects() -> list[click.Parameter]:
    at = "Scripts of other batch systems"
    return [
        _value(at, "--dialect", metavar="slurm|pbs|torque|sge",
               help="Read the options that follow, and the script, as this system does; without it"
               " lines #QSUB, #SBATCH, #PBS, #$ are read, each in its own meaning."),
        _flag(at, "--ignore-directives", help="Read no such lines."),
        _value(at, "--compat", metavar="slurm|pbs|sge|none",
               help="Give the job this system's variables (that of its lines, or of the ids that"
               " the script names)."),
        _value(at, "--to", metavar="slurm",
               help="Print the job as a script for sbatch; submit nothing."),
    ]  # fmt: skip


def _waiting() -> list[click.Parameter]:
    at = "Waiting"
    return [
        _flag(at, "--wait", "-W", help="Return when the job ends, with its exit code."),
        _flag(at, "--follow", "-f", help="Print the job's output while it runs."),
        _flag(at, "--dry-run", "--test-only", help="Check everything, say what would run."),
        _flag(at, "--json", help='Print the id as JSON: {"id": 12}.'),
    ]


def table_of(params: list[click.Parameter]) -> dict[str, Option]:
    """Return every spelling of the options among `params` -> what it is."""
    table: dict[str, Option] = {}
    for param in params:
        if not isinstance(param, click.Option):
            continue
        for group in (param.opts, param.secondary_opts):
            if group:
                name = next(word for word in group if word.startswith("--"))
                for word in group:
                    table[word] = Option(name, not param.is_flag)
    return table


def request_from(words: Iterable[str], params: list[click.Parameter]) -> Request:
    """Return the request of options that stand in one word each (`--name=value`)."""
    fields: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        for param in params:
            if not isinstance(param, click.Option) or param.name is None:
                continue
            if name in param.opts or name in param.secondary_opts:
                given = value if equals else name in param.opts
                fields[param.name] = (*fields.get(param.name, ()), given) if param.multiple else (
                    given
                )  # fmt: skip
    return request_of(fields)


def request_of(params: Mapping[str, Any]) -> Request:
    """Return the request that click's parsed parameters describe."""
    known = {name: params[name] for name in Request.__dataclass_fields__ if name in params}
    return Request(**known)
