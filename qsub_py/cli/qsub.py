"""qsub: submit a script, a command line or a Python function as a job."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from qsub_py import config
from qsub_py.cli import common, options, words
from qsub_py.cli.options import Request, SectionOption
from qsub_py.cli.script import Script, with_shell
from qsub_py.cli.spec import build, configured
from qsub_py.cli.target import Kind, kind_of
from qsub_py.cli.work import find_script, work_of
from qsub_py.dialect_signs import directives, wanted
from qsub_py.errors import SpecError

if TYPE_CHECKING:
    from qsub_py.cli.draft import Draft
    from qsub_py.dialect import Reading, Said

_META = "qsub_py.parsed"
#: Where the words after the first are looked through for qsub's own options.
_TAKES_LATE = (Kind.FILE, Kind.FUNCTION, Kind.STDIN)


class QsubCommand(click.Command):
    """A command whose words are told apart by our rules before click reads the options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Hand click the options alone, each in one word, and the words behind `--`."""
        if ctx.resilient_parsing:  # completion: half a line need not make sense
            return super().parse_args(ctx, args)
        table = options.table_of(self.get_params(ctx))
        reading: Reading | None = None
        if os.environ.get("QSUB_DIALECT"):
            from qsub_py.cli import dialects

            parts = words.split(args, table, dialects.chosen(None, os.environ))
        else:
            parts = words.split(args, table)
        if parts.foreign:
            from qsub_py.cli import dialects

            reading = dialects.read_words(parts.foreign)
        kind: Kind | None = None
        late: tuple[str, ...] = ()
        rest = parts.words
        if parts.words and not {"--help", "--version"} & set(parts.options):
            is_command = parts.is_dashed or (reading is not None and reading.is_program)
            kind = Kind.COMMAND if is_command else kind_of(parts.words[0])
            if kind in _TAKES_LATE:
                first = parts.words[0]
                late, own = words.split_late(parts.words[1:], table, target=first)
                rest = (first, *own)
        ctx.meta[_META] = kind, reading
        return super().parse_args(ctx, [*parts.options, *late, "--", *rest])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                heading = param.section if isinstance(param, SectionOption) else "Other"
                sections.setdefault(heading, []).append(record)
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl(rows)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return what can follow `qsub`."""
        return ["[OPTIONS]", "SCRIPT|COMMAND|FILE.py:FUNCTION|MODULE:FUNCTION", "[ARGS]..."]


@click.pass_context
def _qsub(context: click.Context, /, words: tuple[str, ...], **params: Any) -> int:
    """Submit a job and print its id.

    A SCRIPT is a file here (its text is kept, so it may be edited afterwards); a COMMAND is a
    program on PATH with all words that follow; a FUNCTION is called with the words as arguments,
    NAME=VALUE as keywords. Without any, a script is read from standard input.

    Options stand before the first word. After a SCRIPT or FUNCTION qsub still takes --cpus --mem
    --gpus --time --array --sweep --wait --follow --dry-run; what follows `--` is never qsub's.
    Lines `#QSUB --option ...` at the head of a script are options, too; so are
    those of Slurm, PBS and Grid Engine.

    \b
    Examples:
      qsub job.sh                          a script
      qsub train.py --cpus 3               a Python script that needs 3 cpus
      qsub -a 1-100 ./step.sh              100 tasks; $QSUB_TASK_ID tells which
      qsub -t 2h -- rsync -a data/ host:   a command line
      qsub model.py:fit 3 lr=0.1           a call of a Python function
      qsub --sweep lr=0.1,0.01 --sweep seed=1:10 train.py -- --lr {lr} --seed {seed}
    """
    kind: Kind | None
    reading: Reading | None
    kind, reading = context.meta[_META]
    first, arguments = (words[0], words[1:]) if words else ("", ())
    asked = _asked(params, reading, context.command)
    if asked.json and (asked.dry_run or asked.to is not None):
        other = "--dry-run" if asked.dry_run else "--to"
        raise SpecError(f"--json prints a job's id, and {other} makes none", hint="leave one out")
    if asked.extend is not None:
        from qsub_py.cli.extending import extend

        return extend(asked, words)
    script = find_script(kind, first, asked.wrap)
    request, said = _completed(asked, context.command, script)
    said = (*(reading.said if reading is not None else ()), *said)
    if script is not None:
        script = with_shell(script, request.shell or "")
    if request.is_sweep:
        from qsub_py.cli.sweeps import read_sweep, swept_work

        work, sweep = swept_work(kind, first, arguments, script, read_sweep(request))
    else:
        work, sweep = work_of(kind, first, arguments, script), None
    draft = build(request, work, os.environ, config.load().job, sweep)
    return _finish(draft, request, said)


def _finish(draft: Draft, request: Request, said: tuple[Said, ...]) -> int:
    """Print the job or submit it, as was asked for; return the exit code."""
    if request.to is not None:
        from qsub_py.cli.to_slurm import script_of

        click.echo(script_of(request.to, draft, request), nl=False)
        return 0
    if request.dry_run:
        from qsub_py.cli.dry_run import describe

        click.echo(describe(draft, said))
        return 0
    from qsub_py.cli.submitting import submit

    idle = [f"{one.text} ({one.meaning})" for one in said if one.is_harmless]
    if idle:
        draft = replace(draft, notes=(*draft.notes, f"without effect: {', '.join(idle)}"))
    tell = {"told": common.id_as_json} if request.json else {}
    return submit(draft, does_wait=bool(request.wait), does_follow=bool(request.follow), **tell)


def _asked(params: dict[str, Any], reading: Reading | None, command: click.Command) -> Request:
    """Return what the command line says, in our own and in foreign words."""
    own = options.request_of(params)
    if reading is None:
        return own
    from qsub_py.cli import dialects

    return dialects.joined(own, reading, command.params)


def _completed(
    asked: Request, command: click.Command, script: Script | None
) -> tuple[Request, tuple[Said, ...]]:
    """Complete the command line by QSUB_* variables, directives and the configuration file.

    Also returns what was understood of directives.
    """
    settings = config.load()
    others = (
        configured(settings, os.environ, by_variable=True),
        configured(settings, os.environ, by_variable=False),
    )
    if not _is_foreign(asked, script):
        return asked.over(others[0]).over(others[1]), ()
    from qsub_py.cli import dialects

    return dialects.completed(asked, command.params, script, others, os.environ)


def _is_foreign(asked: Request, script: Script | None) -> bool:
    """Whether something is to be read that is not on the command line, or in another's words."""
    if asked.dialect or asked.compat or os.environ.get("QSUB_DIALECT"):
        return True
    return script is not None and bool(directives(script.readable) or wanted(script.readable))


def _complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[Any]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


qsub = common.options(
    QsubCommand(
        "qsub",
        params=[
            *options.make_options(),
            click.Argument(["words"], nargs=-1, type=click.UNPROCESSED, shell_complete=_complete),
        ],
        callback=_qsub,
        help=_qsub.__doc__,
    )
)


def main() -> None:
    """Run qsub (console script)."""
    common.main(qsub)


if __name__ == "__main__":
    sys.exit(common.run(qsub, sys.argv[1:]))
