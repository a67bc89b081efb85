"""README's section on several machines, followed word by word."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from lab import Lab

pytestmark = pytest.mark.timeout(300)
README = Path(__file__).parents[2] / "README.rst"
_COMMANDS = ("qsub", "qstat", "qwait", "qlog", "qfetch", "qnode")


def section() -> str:
    text = README.read_text()
    return text.split("Several machines\n-----", 1)[1].split("\nSweeps\n------", 1)[0]


def blocks() -> list[str]:
    """The literal blocks of the section, not indented."""
    found = re.findall(r"::\n\n((?:    .*\n|\n)+)", section())
    return [re.sub(r"(?m)^    ", "", block).strip("\n") for block in found]


def steps() -> list[tuple[str, list[str]]]:
    """(command, what it prints) of all blocks with a prompt."""
    found = []
    for block in blocks():
        for part in block.split("$ ")[1:] if block.startswith("$ ") else []:
            command, *lines = part.rstrip("\n").split("\n")
            found.append((command, lines))
    return found


def alike(line: str, home: str) -> str:
    """A line without what differs from machine to machine and run to run."""
    line = line.replace(home, "/home/me").replace("/home/me/study", "STUDY")
    line = re.sub(r"qsub_py/[0-9a-f]{16}", "qsub_py/HASH", line)
    line = re.sub(r"\bh[123]\b", "h", line)
    line = re.sub(r"\d+(\.\d+)*[sGMKT]?\b", "N", line)
    return " ".join(line.split())


def test_the_section_on_several_machines(lab3: Lab) -> None:
    head = lab3.head
    study, programs = head.home / "study", head.home / "programs"
    (study / "data").mkdir(parents=True)
    (study / "data/table.txt").write_text("1\n2\n3\n")
    (script,) = (block for block in blocks() if block.startswith("import os, socket"))
    (study / "fit.py").write_text(script + "\n")
    programs.mkdir()
    for name in _COMMANDS:
        path = programs / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} -m qsub_py {name} "$@"\n')
        path.chmod(0o700)
    written = steps()
    assert len(written) > 10
    for command, lines in written:
        line = f"PATH={programs}:$PATH; {command}"
        done = head.run(line, cwd=str(study), check=False, timeout=120)
        said = sorted(alike(one, str(head.home)) for one in done.stdout.splitlines())
        wanted = sorted(alike(one, str(head.home)) for one in lines if one != "...")
        if "..." in lines:
            said = [one for one in said if one in wanted]
        assert said == wanted, (command, done)
