"""qsub: submit a script, a command line or a Python function as a job."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from qsub_py import config
from qsub_py.cli import common, options, words
from qsub_py.cli.options import Request, SectionOption
from qsub_py.cli.script import Script, directives, foreign_directives
from qsub_py.cli.spec import build, configured
from qsub_py.cli.target import Kind, kind_of
from qsub_py.cli.work import find_script, work_of
from qsub_py.errors import SpecError

_META = "qsub_py.parsed"
#: Where the words after the first are looked through for qsub's own options.
_TAKES_LATE = (Kind.FILE, Kind.FUNCTION, Kind.STDIN)
_NOT_IN_SCRIPTS = ("--wrap", "--extend", "--dry-run", "--help", "--version", "--debug")


class QsubCommand(click.Command):
    """A command whose words are told apart by our rules before click reads the options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Hand click the options alone, each in one word, and the words behind `--`."""
        if ctx.resilient_parsing:  # completion: half a line need not make sense
            return super().parse_args(ctx, args)
        table = options.table_of(self.get_params(ctx))
        parts = words.split(args, table)
        kind: Kind | None = None
        late: tuple[str, ...] = ()
        rest = parts.words
        if parts.words and not {"--help", "--version"} & set(parts.options):
            kind = Kind.COMMAND if parts.is_dashed else kind_of(parts.words[0])
            if kind in _TAKES_LATE:
                first = parts.words[0]
                late, own = words.split_late(parts.words[1:], table, target=first)
                rest = (first, *own)
        ctx.meta[_META] = kind
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
    Lines `#QSUB --option ...` at the head of a script are options, too.

    \b
    Examples:
      qsub job.sh                          a script
      qsub train.py --cpus 3               a Python script that needs 3 cpus
      qsub -a 1-100 ./step.sh              100 tasks; $QSUB_TASK_ID tells which
      qsub -t 2h -- rsync -a data/ host:   a command line
      qsub model.py:fit 3 lr=0.1           a call of a Python function
      qsub --sweep lr=0.1,0.01 --sweep seed=1:10 train.py -- --lr {lr} --seed {seed}
    """
    kind: Kind | None = context.meta[_META]
    first, arguments = (words[0], words[1:]) if words else ("", ())
    asked = options.request_of(params)
    if asked.extend is not None:
        from qsub_py.cli.extending import extend

        return extend(asked, words)
    script = find_script(kind, first, asked.wrap)
    request = _completed(asked, context.command, script)
    if request.is_sweep:
        from qsub_py.cli.sweeps import read_sweep, swept_work

        work, sweep = swept_work(kind, first, arguments, script, read_sweep(request))
    else:
        work, sweep = work_of(kind, first, arguments, script), None
    draft = build(request, work, os.environ, config.load().job, sweep)
    if request.dry_run:
        from qsub_py.cli.dry_run import describe

        click.echo(describe(draft))
        return 0
    from qsub_py.cli.submitting import submit

    return submit(draft, does_wait=bool(request.wait), does_follow=bool(request.follow))


def _completed(asked: Request, command: click.Command, script: Script | None) -> Request:
    """Complete the command line by QSUB_* variables, directives and the configuration file."""
    settings = config.load()
    written = _directed(command, script) if script is not None else Request()
    by_variable = configured(settings, os.environ, by_variable=True)
    by_file = configured(settings, os.environ, by_variable=False)
    return asked.over(by_variable).over(written).over(by_file)


def _directed(command: click.Command, script: Script) -> Request:
    """Return what the `#QSUB` lines of a script ask for; raises SpecError."""
    found: list[str] = []
    table = options.table_of(command.params)
    for number, line in directives(script):
        found += _directive(number, line, table, script)
    system = foreign_directives(script)
    if system and not found:
        common.hint(
            f"qsub: the {system} lines in {script.shown} are not read yet; write #QSUB lines"
        )
    with command.make_context("qsub", found) as context:
        return options.request_of(context.params)


def _directive(
    number: int, line: Sequence[str], table: dict[str, words.Option], script: Script
) -> tuple[str, ...]:
    where = f"{script.shown}, line {number}"
    try:
        parts = words.split(line, table)
    except SpecError as error:
        raise SpecError(f"{where}: {error}", hint=error.hint) from None
    if parts.words or parts.is_dashed:
        raise SpecError(f"{where}: {parts.words[0] if parts.words else '--'!r} is no option",
                        hint="a #QSUB line holds options only")  # fmt: skip
    for option in parts.options:
        if option.partition("=")[0] in _NOT_IN_SCRIPTS:
            raise SpecError(f"{where}: {option.partition('=')[0]} belongs on the command line")
    return parts.options


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
