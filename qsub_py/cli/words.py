"""The rules by which the words of a qsub command line are told apart (DESIGN section 6).

Options before the first word are qsub's; after a script or function a short list still is;
after a command nothing is. Short options never cluster and nothing may be abbreviated. Pure:
which word is a file is decided by `target.py`; words of other systems that can only be theirs
are handed on, what could mean two things is refused (`refused.py`).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qsub_py.cli import refused
from qsub_py.errors import SpecError
from qsub_py.text import did_you_mean
from qsub_py.waits import is_id

if TYPE_CHECKING:
    from qsub_py.dialect import Dialect, Item

#: What qsub still takes after a SCRIPT or FUNCTION.
LATE_OPTIONS = (
    "--cpus", "--mem", "--gpus", "--time", "--array", "--sweep", "--wait", "--follow", "--dry-run",
)  # fmt: skip

#: Ours, and another system's before what begins like this.
_SHARED = {"-W": re.compile(r"\w+="), "-J": re.compile(r"\d+-"), "-b": re.compile("[yn]")}
_NUMBER = re.compile(r"-\.?\d")


@dataclass(frozen=True, slots=True)
class Option:
    """One option as it may be spelled: the name the parser knows it by, and its shape."""

    name: str
    takes_value: bool


@dataclass(frozen=True, slots=True)
class Split:
    """A command line taken apart; `options` are `--name` or `--name=value`, one word each."""

    options: tuple[str, ...]
    words: tuple[str, ...]
    #: The words came after `--`: they are a command, not looked up here.
    is_dashed: bool = False
    #: Options of other systems.
    foreign: tuple[Item, ...] = ()


def split(
    argv: Sequence[str], table: Mapping[str, Option], dialect: Dialect | None = None
) -> Split:
    """Separate qsub's options from the words; raises SpecError for what is no option.

    With a dialect (or from `--dialect` on) words are read in its meaning first.
    """
    options: list[str] = []
    foreign: list[Item] = []
    rest = deque(argv)
    has_short = False
    while rest:
        word = rest.popleft()
        if word == "--" or word == "-" or not word.startswith("-"):
            words = tuple(rest) if word == "--" else (word, *rest)
            return Split(tuple(options), words, word == "--", tuple(foreign))
        system = _system(word, rest[0] if rest else "", table, dialect)
        if system is not None:
            from qsub_py.dialect import take

            rest.appendleft(word)
            foreign.append(take(system, rest))
            continue
        options.append(_take(word, rest, table))
        if options[-1].startswith("--dialect="):
            if has_short or foreign:
                raise SpecError("--dialect comes before the words that it explains")
            from qsub_py.dialect_words import named

            dialect = named(options[-1].partition("=")[2])
        has_short |= not word.startswith("--")
    return Split(tuple(options), (), False, tuple(foreign))


def _system(
    word: str, following: str, table: Mapping[str, Option], dialect: Dialect | None
) -> Dialect | None:
    """Return the dialect in which an option is to be read, None when it is our own."""
    name = word.partition("=")[0] if word.startswith("--") else word
    if dialect is not None:
        is_own = name.startswith("--") and name in table and name not in dialect.rules
        return None if is_own else dialect
    shape = _SHARED.get(name)
    if name in table and (shape is None or not shape.match(following)):
        return None
    from qsub_py.dialect_words import owner  # here: the tables are read by few submissions

    return owner(word, following, is_ours=name in table)


def split_late(
    words: Sequence[str], table: Mapping[str, Option], *, target: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (qsub's late options, the target's own arguments) of the words after `target`."""
    options: list[str] = []
    own: list[str] = []
    rest = deque(words)
    while rest:
        word = rest.popleft()
        if word == "--":
            own.extend(rest)
            break
        if word.partition("=")[0] in LATE_OPTIONS:
            options.append(_take(word, rest, table))
        elif _looks_like_option(word):
            raise _misplaced(word, target)
        else:
            own.append(word)
    return tuple(options), tuple(own)


def _take(word: str, rest: deque[str], table: Mapping[str, Option]) -> str:
    """Return the option at `word` as one word, with its value taken from `rest` if need be."""
    spelled, value = _spelled(word, table)
    refused.check_word(spelled)
    option = table.get(spelled)
    if option is None:
        raise _unknown(spelled, table)
    if not option.takes_value:
        if value is not None:
            raise SpecError(f"`{spelled}` takes no value", hint=f"write `{spelled}` alone")
        return option.name
    if value is None:
        value = _next_value(spelled, rest, table)
    if option.name == "--after":
        while rest and is_id(rest[0]):
            value += " " + rest.popleft()
    refused.check_value(spelled, value)
    return f"{option.name}={value}"


def _spelled(word: str, table: Mapping[str, Option]) -> tuple[str, str | None]:
    """Return (option as typed, value attached to it or None)."""
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        return name, value if equals else None
    if len(word) == 2:
        return word, None
    letter = word[:2]
    option = table.get(letter)
    if option is not None and option.takes_value and word[2].isdigit():
        return letter, word[2:]
    raise _clustered(word, table)


def _clustered(word: str, table: Mapping[str, Option]) -> SpecError:
    if f"-{word}" in table:
        return SpecError(f"no such option: {word}", hint=f"did you mean -{word}?")
    letters = [f"-{letter}" for letter in word[1:]]
    if all(letter in table and not table[letter].takes_value for letter in letters):
        return SpecError(f"short options do not cluster: {word}", hint=f"write {' '.join(letters)}")
    if word[:2] in table and table[word[:2]].takes_value:
        value = word[2:].removeprefix("=")
        return SpecError(f"no such option: {word}", hint=f"write {word[:2]} {value}")
    return SpecError(f"no such option: {word}", hint="see qsub --help")


def _next_value(spelled: str, rest: deque[str], table: Mapping[str, Option]) -> str:
    if not rest or rest[0] == "--":
        raise SpecError(f"`{spelled}` needs a value", hint="see qsub --help")
    if rest[0].partition("=")[0] in table:
        hint = f"if {rest[0]} is its value, write {_joined(spelled, rest[0], table)}"
        raise SpecError(f"`{spelled}` needs a value, not {rest[0]}", hint=hint)
    return rest.popleft()


def _joined(spelled: str, value: str, table: Mapping[str, Option]) -> str:
    return f"{table[spelled].name}={value}"


def _unknown(spelled: str, table: Mapping[str, Option]) -> SpecError:
    longer = sorted(name for name in table if len(spelled) > 3 and name.startswith(spelled))
    if longer:
        hint = f"options cannot be abbreviated: did you mean {' or '.join(longer)}?"
    else:
        long = [name for name in table if name[1] == "-"]
        hint = did_you_mean(spelled, long) or "see qsub --help"
    return SpecError(f"no such option: {spelled}", hint=hint)


def _looks_like_option(word: str) -> bool:
    return len(word) > 1 and word[0] == "-" and not _NUMBER.match(word)


def _misplaced(word: str, target: str) -> SpecError:
    return SpecError(
        f"{word} could be meant for qsub or for {target}",
        hint=f"write `qsub {word} ... {target}` or `qsub {target} -- {word} ...`",
    )
