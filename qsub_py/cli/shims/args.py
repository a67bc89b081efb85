"""The command lines of other systems' tools, taken apart by a table of their options.

Pure. Slurm's are those of getopt_long (clusters, attached values, `--name=value`, abbreviations,
options behind words), PBS's of getopt, Grid Engine's are words with one dash.
"""

from __future__ import annotations

import getopt
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qsub_py.errors import SpecError
from qsub_py.text import quoted


@dataclass(frozen=True, slots=True)
class Args:
    """What a command line says: values by the option's first name ("" of a flag), other words."""

    options: Mapping[str, tuple[str, ...]]
    words: tuple[str, ...]

    def has(self, name: str) -> bool:
        """Whether an option was given."""
        return name in self.options

    def last(self, name: str, default: str = "") -> str:
        """Return the value that was given last."""
        return self.options.get(name, (default,))[-1]

    def all(self, name: str) -> tuple[str, ...]:
        """Return all values, those of one word split at commas."""
        values = ",".join(self.options.get(name, ()))
        return tuple(part for part in values.split(",") if part)


#: Names of one option -> how many words follow (0 or 1).
Table = Sequence[tuple[str, int]]


def read_getopt(words: Sequence[str], table: Table, *, stops: bool = False) -> Args:
    """Take apart a command line as getopt_long does; raises SpecError.

    `stops`: the first word that is no option ends them (a command follows).
    """
    names = {name: (group.split()[0], takes) for group, takes in table for name in group.split()}
    short = "".join(f"{n[1]}{':' * takes}" for n, (_, takes) in names.items() if len(n) == 2)
    long = [f"{n[2:]}{'=' * takes}" for n, (_, takes) in names.items() if n.startswith("--")]
    try:
        pairs, rest = (getopt.getopt if stops else getopt.gnu_getopt)(list(words), short, long)
    except getopt.GetoptError as error:
        raise SpecError(str(error), hint="it is not known here") from None
    options: dict[str, tuple[str, ...]] = {}
    for name, value in pairs:
        first = names[name][0]
        options[first] = (*options.get(first, ()), value)
    return Args(options, tuple(rest))


def read_words(words: Sequence[str], table: Table) -> Args:
    """Take apart a command line of Grid Engine; raises SpecError."""
    names = {name: (group.split()[0], takes) for group, takes in table for name in group.split()}
    options: dict[str, tuple[str, ...]] = {}
    rest, others = deque(words), []
    while rest:
        word = rest.popleft()
        if not word.startswith("-") or word == "-":
            others.append(word)
            continue
        if word not in names:
            raise SpecError(f"option {quoted(word)} is not known here")
        first, takes = names[word]
        if takes and not rest:
            raise SpecError(f"option {word} needs a value")
        options[first] = (*options.get(first, ()), rest.popleft() if takes else "")
    return Args(options, tuple(others))
