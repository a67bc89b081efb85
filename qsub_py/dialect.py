"""What the options of other batch systems mean here: how a table of them is read.

Pure. A dialect is one table (dialect_slurm, dialect_pbs, dialect_sge) from each option of that
system to ours: honoured with a translation, harmless, or refused with the reason. What is in no
table is an error, so that nothing is misread in silence. Knows no files and no server.
"""

from __future__ import annotations

import re
import shlex
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from qsub_py.errors import SpecError
from qsub_py.text import NAME_GRAMMAR, quoted

#: A value only behind `=`: `--exclusive`, `--exclusive=user`.
OPTIONAL = -1
#: What is told beside our options: see Reading.
EXTRAS = ("tasks", "at_once", "procs", "shell", "umask", "soft_signal", "program")


class Found:
    """What the lines of one system come to so far, in our options.

    `facts` are what needs other lines to be understood; `settle` of the dialect does that.
    """

    def __init__(self, is_dir: Callable[[str], bool]) -> None:
        self.options: dict[str, list[str | None]] = {}
        self.facts: dict[str, str] = {}
        self.is_dir = is_dir
        #: What the option that is being read came to.
        self.trail: list[str] = []

    def say(self, option: str, value: str | None = None) -> None:
        """Set one of our options; what was said of it before is gone: later lines win."""
        other = option.replace("--no-", "--", 1) if option.startswith("--no-") else (
            f"--no-{option[2:]}"
        )  # fmt: skip
        self.options.pop(other, None)
        self.options[option] = [value]
        self.trail.append(written(option, value))

    def add(self, option: str, value: str) -> None:
        """Give one of our options once more."""
        self.options.setdefault(option, []).append(value)
        self.trail.append(written(option, value))

    def drop(self, option: str) -> None:
        """Take one of our options back."""
        self.options.pop(option, None)

    def note(self, fact: str, value: str, *, shown: str = "") -> None:
        """Keep what only other lines make a sense of."""
        self.facts[fact] = value
        if shown:
            self.trail.append(shown)

    def last(self, option: str) -> str:
        """Return what was said of an option, "" for nothing."""
        values = self.options.get(option)
        return (values[-1] or "") if values else ""


def written(option: str, value: str | None) -> str:
    """Return an option with its value as one word."""
    return option if value is None else f"{option}={value}"


Read = Callable[[Found, str], None]


@dataclass(frozen=True, slots=True)
class Rule:
    """What one option (or resource) of another system comes to here: one of the three."""

    read: Read | None = None
    harmless: str = ""
    refused: str = ""
    #: How many words follow: 0, 1, 2, or OPTIONAL.
    takes: int = 1
    cure: str = "leave it out"

    def apply(self, found: Found, text: str, value: str) -> None:
        """Take up what the option says; raises SpecError."""
        if self.refused:
            raise SpecError(f"`{text}`: {self.refused}", hint=self.cure)
        if self.read is not None:
            self.read(found, value)


@dataclass(frozen=True, slots=True)
class Dialect:
    """A batch system's way to write options."""

    name: str
    #: In messages.
    title: str
    #: Whose variables its scripts want: slurm, pbs, sge.
    system: str
    #: What stands behind the comment sign of a directive.
    marker: str
    rules: Mapping[str, Rule] = field(repr=False)
    settle: Callable[[Found], None]
    #: getopt_long: a long option may be cut short.
    abbreviates: bool = False
    #: getopt: the value may stick to a short option.
    attaches: bool = True
    #: Of ours, in force for every script with directives of this dialect.
    always: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """One option of a dialect as it was written."""

    dialect: Dialect
    name: str
    value: str
    text: str
    #: "job.sh, line 3", "" for the command line.
    where: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """What became of one option: our options, or why it has no effect."""

    where: str
    text: str
    meaning: str
    is_harmless: bool = False
    #: Names of our options that came of it.
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """All that was said, in our words."""

    #: `--name` or `--name=value`, one word each.
    options: tuple[str, ...] = ()
    said: tuple[Said, ...] = ()
    #: tasks: processes, each with so many cpus (Slurm's -n); at_once: tasks of the array at
    #: once; procs: lines of the node file; shell, umask; soft_signal: of no effect without a
    #: time limit; program: the words are a command.
    extras: dict[str, str] = field(default_factory=dict)

    @property
    def is_program(self) -> bool:
        """Whether the words behind the options are a command, whatever they look like."""
        return "program" in self.extras


def placed(where: str, error: SpecError) -> SpecError:
    """Return an error that says where the mistake is."""
    return SpecError(f"{where}: {error}" if where else str(error), hint=error.hint)


def split_line(text: str, where: str, marker: str) -> list[str]:
    """Return the words of a directive; ` # ...` is a comment. Raises SpecError."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        words = list(lexer)
    except ValueError as error:
        raise SpecError(f"{where}: #{marker} {text.strip()}: {error}") from None
    for at, word in enumerate(words):
        if word.startswith("#"):
            return words[:at]
    return words


def take(dialect: Dialect, rest: deque[str], where: str = "") -> Item:
    """Take one option with its values off the front of `rest`; raises SpecError."""
    word = rest.popleft()
    name, attached = _spelled(dialect, word)
    rule = dialect.rules[name]
    values = [] if attached is None else [attached]
    if attached is not None and rule.takes == 0:
        raise SpecError(f"`{name}` of {dialect.title} takes no value: {quoted(word)}")
    for _ in range(rule.takes - len(values)):
        if not rest or rest[0] in dialect.rules:
            raise SpecError(f"`{name}` of {dialect.title} needs a value", hint=_hint(dialect))
        values.append(rest.popleft())
    text = shlex.join([word, *(values[1:] if attached is not None else values)])
    return Item(dialect, name, " ".join(values), text, where)


def _spelled(dialect: Dialect, word: str) -> tuple[str, str | None]:
    """Return (option as in the table, value attached to it or None); raises SpecError."""
    if word in dialect.rules:
        return word, None
    if not word.startswith("-") or word in ("-", "--"):
        raise SpecError(f"{quoted(word)} is no option of {dialect.title}", hint=_hint(dialect))
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        return _long(dialect, name), value if equals else None
    rule = dialect.rules.get(word[:2])
    if dialect.attaches and rule is not None and rule.takes > 0 and word[2] != "=":
        return word[:2], word[2:]
    raise SpecError(f"{dialect.title} has no option {quoted(word)}", hint=_hint(dialect))


def _long(dialect: Dialect, name: str) -> str:
    if name in dialect.rules:
        return name
    longer = sorted(known for known in dialect.rules if known.startswith(name) and len(name) > 3)
    if not dialect.abbreviates or not longer:
        raise SpecError(f"{dialect.title} has no option {quoted(name)}", hint=_hint(dialect))
    if len(longer) > 1:
        raise SpecError(f"{quoted(name)} could be {' or '.join(longer[:3])}")
    return longer[0]


def _hint(dialect: Dialect) -> str:
    return f"correct or leave it out, or read no #{dialect.marker} lines: --ignore-directives"


def take_all(dialect: Dialect, words: Sequence[str], where: str) -> list[Item]:
    """Return the options of one directive line; raises SpecError that says where."""
    rest, items = deque(words), []
    while rest:
        try:
            items.append(take(dialect, rest, where))
        except SpecError as error:
            raise placed(where, error) from None
    return items


def understand(items: Iterable[Item], is_dir: Callable[[str], bool]) -> Reading:
    """Return what options of dialects come to; raises SpecError that says where.

    `is_dir` tells whether a path is a directory here: output may be sent to one.
    """
    found, said = Found(is_dir), []
    dialects: dict[str, Dialect] = {}
    for item in items:
        dialects.setdefault(item.dialect.name, item.dialect)
        rule, found.trail = item.dialect.rules[item.name], []
        try:
            rule.apply(found, item.text, item.value)
        except SpecError as error:
            raise placed(item.where, error) from None
        trail = tuple(dict.fromkeys(found.trail))
        names = tuple(word.partition("=")[0] for word in trail if word.startswith("--"))
        reason = rule.harmless or "as it is here anyway"
        said.append(
            Said(item.where, item.text, " ".join(trail) or reason, not trail, options=names)
        )
    for dialect in dialects.values():
        dialect.settle(found)
    extras = {name: found.facts[name] for name in EXTRAS if name in found.facts}
    return Reading(_options(found), tuple(said), extras)


def _options(found: Found) -> tuple[str, ...]:
    """Return our options, those that are lists joined."""
    options = []
    for name, values in found.options.items():
        if name == "--dependency":
            options.append(written(name, ",".join(str(value) for value in values)))
        else:
            options += [written(name, value) for value in values]
    return tuple(options)


# -- what tables are made of ---------------------------------------------------------------


def to(option: str, check: Callable[[str], object] | None = None) -> Rule:
    """Return the rule of an option that only has another name here."""

    def read(found: Found, value: str) -> None:
        if check is not None:
            check(value)
        found.say(option, value)

    return Rule(read)


def flag(option: str) -> Rule:
    """Return the rule of a flag that only has another name here."""
    return Rule(lambda found, value: found.say(option), takes=0)


def by(read: Read, takes: int = 1) -> Rule:
    """Return the rule of an option that needs a translation."""
    return Rule(read, takes=takes)


def harmless(reason: str, takes: int = 1) -> Rule:
    """Return the rule of an option without effect here."""
    return Rule(harmless=reason, takes=takes)


def refused(reason: str, cure: str = "leave it out", takes: int = 1) -> Rule:
    """Return the rule of an option that asks for what cannot be had."""
    return Rule(refused=reason, cure=cure, takes=takes)


def table(*parts: tuple[str, Rule]) -> dict[str, Rule]:
    """Return a table from (`-o --output`, rule) pairs."""
    return {name: rule for names, rule in parts for name in names.split()}


def read_resources(text: str, rules: Mapping[str, Rule], found: Found, *, system: str) -> None:
    """Read `mem=4gb,walltime=1:00:00`; raises SpecError for what is not in the table."""
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        if name not in rules:
            raise SpecError(f"{quoted(name)} is no resource of {system} that is known here",
                            hint="leave it out, or write --cpus, --mem, --time")  # fmt: skip
        rules[name].apply(found, part.strip(), value.strip("'\""))


def name_job(found: Found, text: str) -> None:
    """Take a job's name, with `_` for what names cannot have here."""
    name = re.sub(r"[^\w.+@:=-]", "_", text.strip())[:128].lstrip("-")
    if not name:
        raise SpecError(f"bad name {quoted(text)}: {NAME_GRAMMAR}")
    found.say("--name", name)


def count(text: str, what: str) -> int:
    """Read a whole number from 1 on; raises SpecError."""
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or int(text) == 0:
        raise SpecError(f"{what} is a whole number from 1 on, not {quoted(text)}")
    return int(text)


def whole(text: str, what: str) -> int:
    """Read a whole number that may be below 0; raises SpecError."""
    if not re.fullmatch(r"[+-]?\d{1,9}", text, re.ASCII):
        raise SpecError(f"{what} is a whole number, not {quoted(text)}")
    return int(text)


def all_cpus(found: Found, number: int) -> None:
    """Take the cpus of a task, whatever else is said of its processes."""
    found.say("--cpus", str(number))
    found.note("tasks", "1")


def notice(found: Found, text: str) -> None:
    """Take a signal before the time limit, which need not be there."""
    found.note("soft_signal", text, shown=f"--signal={text}")


def export(found: Found, text: str) -> None:
    """Take variables (`A=1,B`) beside those that are exported anyway."""
    if not text:
        raise SpecError("no variable is named")
    found.options.setdefault("--export", ["ALL"])
    found.add("--export", text)


def export_all(found: Found, text: str) -> None:
    """Take the whole environment, which is exported anyway unless someone else says NONE."""
    found.options.setdefault("--export", ["ALL"])
    found.trail.append("--export=ALL")
