"""What all commands share: their frame (errors, exit codes, --debug) and the way to the server.

Only this package prints and exits. Data go to standard output; hints go to standard error and
only when that is a terminal. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from qsub_py.errors import QsubError, SpecError
from qsub_py.text import safe

if TYPE_CHECKING:
    from qsub_py.client import Client

Command = TypeVar("Command", bound=Callable[..., Any])
T = TypeVar("T")

EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


@dataclass
class Session:
    """What one run of a command was told by the options that every command has."""

    name: str
    is_debug: bool = False


def options(command: Command) -> Command:
    """Add `--version` and `--debug`."""
    for decorate in (
        click.option("--debug", is_flag=True, expose_value=False, is_eager=True,
                     callback=_set_debug, help="Show the traceback of an error."),
        click.option("--version", is_flag=True, expose_value=False, is_eager=True,
                     callback=_print_version, help="Show the version and exit."),
    ):  # fmt: skip
        command = decorate(command)
    return command


def _set_debug(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value and isinstance(context.obj, Session):
        context.obj.is_debug = True


def _print_version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if not value or context.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("qsub_py")
    except PackageNotFoundError:
        number = "(not installed)"
    click.echo(f"{context.info_name} (qsub_py) {number}")
    context.exit()


def main(command: click.Command, words: Sequence[str] | None = None) -> NoReturn:
    """Run `command` on the process's arguments and exit with its code."""
    sys.exit(run(command, sys.argv[1:] if words is None else words))


def run(command: click.Command, words: Sequence[str]) -> int:
    """Run `command` and return its exit code; every error becomes one line on standard error."""
    session = Session(command.name or "qsub")
    return framed(session, lambda: _invoke(command, words, session))


def framed(session: Session, action: Callable[[], int]) -> int:
    """Return the exit code of `action`; every error becomes one line on standard error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a Latin-1 or C locale must not end a command
            stream.reconfigure(errors="backslashreplace")
    try:
        code = action()
        sys.stdout.flush()
        return code
    except BaseException as error:
        return _report(error, session)


def _invoke(command: click.Command, words: Sequence[str], session: Session) -> int:
    """Run the command, or complete one for a shell. Not `command.main`: it hides EPIPE."""
    variable = f"_{session.name}_COMPLETE".replace("-", "_").upper()
    if instruction := os.environ.get(variable):
        from click.shell_completion import shell_complete

        return shell_complete(command, {}, session.name, variable, instruction)
    try:
        with command.make_context(session.name, list(words), obj=session) as context:
            code = command.invoke(context)
    except click.exceptions.Exit as ending:
        return ending.exit_code
    return code if isinstance(code, int) else 0


def _report(error: BaseException, session: Session) -> int:
    """Print what went wrong, return the exit code; lets SystemExit pass."""
    if isinstance(error, SystemExit):
        raise error
    if isinstance(error, BrokenPipeError):
        _silence_stdout()
        return EXIT_BROKEN_PIPE
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return EXIT_INTERRUPTED
    if session.is_debug or os.environ.get("QSUB_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    message, hint, code = _described(error, session.name)
    complain(f"{session.name}: {message}" + (f"; {hint}" if hint else ""))
    return code


def _described(error: BaseException, name: str) -> tuple[str, str, int]:
    """Return (message, hint, exit code) of an error."""
    if isinstance(error, QsubError):
        return str(error), error.hint, error.exit_code
    if isinstance(error, click.ClickException):
        return error.format_message().rstrip("."), f"see {name} --help", error.exit_code
    if isinstance(error, OSError) and error.strerror:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        return f"{where}{error.strerror}", "", 1
    return f"internal error: {type(error).__name__}: {error}", "--debug shows where", 1


def _silence_stdout() -> None:
    """Keep the interpreter from complaining about the closed pipe when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def complain(line: str) -> None:
    """Print one line to standard error, whatever that is."""
    with contextlib.suppress(OSError):  # nobody reads it: the exit code says it
        print(safe(line), file=sys.stderr, flush=True)


def hint(line: str) -> None:
    """Print a line of advice to standard error when a person reads it."""
    if sys.stderr.isatty():
        complain(line)


def id_as_json(job: int) -> str:
    """Return a job's id as `qsub --json` prints it."""
    return f'{{"id": {job}}}'


def connect() -> Client:
    """Return a client of the configured server; starts the embedded one when none is named."""
    from qsub_py.client import Client  # here: redis takes longer to import than --help may take

    return Client.connect()


def read(option: str, parse: Callable[[str], T], text: str) -> T:
    """Read an option's text; the SpecError names the option."""
    try:
        return parse(text)
    except SpecError as error:
        raise SpecError(f"{option}: {error}", hint=error.hint) from None


def whole(text: str, option: str, *, least: int, most: int = 10**6) -> int:
    """Read a whole number; raises SpecError naming the option."""
    digits = text.strip().removeprefix("-").removeprefix("+")
    if not (digits.isascii() and digits.isdigit()):
        raise SpecError(f"{option} takes a whole number, not {safe(text)!r}")
    number = int(text)
    if not least <= number <= most:
        raise SpecError(f"{option} takes a number from {least} to {most}, not {number}")
    return number
