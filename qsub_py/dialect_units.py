"""Times, sizes, dates and file names as PBS and Grid Engine write them, in our words.

Pure. Both count in seconds and bytes where Slurm (and qsub) count in minutes and megabytes.
"""

from __future__ import annotations

import re

from qsub_py.dialect import Found
from qsub_py.errors import SpecError
from qsub_py.text import quoted
from qsub_py.units import parse_begin

_COLONS = re.compile(r"(?:(?:(?:(\d{0,5}):)?(\d{0,9}):)?(\d{0,9}):)?(\d{0,12})(?:\.\d+)?", re.ASCII)
_PBS_SIZE = re.compile(r"(\d{1,16})([kmgtp]?)(b?)", re.ASCII)
_SGE_SIZE = re.compile(r"(\d{1,16}(?:\.\d{1,6})?)([kKmMgGtT]?)([bB]?)", re.ASCII)
_NEVER = ("infinity", "infinite", "unlimited")
_VARIABLE = re.compile(r"\$(\{\w+\}|\w+)|\^array_index\^", re.ASCII)
_DATE = re.compile(
    r"(?:(?:(\d\d)?(\d\d))?(\d\d)(\d\d))?([01]\d|2[0-3])([0-5]\d)(?:\.([0-5]\d))?", re.ASCII
)


def limit(found: Found, text: str) -> None:
    """Take a time limit: seconds, or `[[[D:]H:]M:]S`; raises SpecError."""
    found.say("--time", "UNLIMITED" if text.lower() in _NEVER else f"{seconds(text)}s")


def seconds(text: str) -> int:
    """Return a time limit in seconds, from 1 on; raises SpecError."""
    match = _COLONS.fullmatch(text)
    parts = [int(part or 0) for part in match.groups()] if match else [0]
    total = 0
    for part, room in zip(parts, (0, 24, 60, 60), strict=False):
        total = total * room + part
    if total == 0:
        raise SpecError(f"{quoted(text)} is no time limit: write seconds or HH:MM:SS")
    return total


def pbs_size(text: str) -> str:
    """Return a size of PBS (`8gb`, bare is bytes; powers of 1024) as ours; raises SpecError."""
    match = _PBS_SIZE.fullmatch(text.lower())
    if not match or not int(match[1]):
        raise SpecError(f"{quoted(text)} is no size: write 8gb or 800mb")
    return size_text(int(match[1]) * 1024 ** " kmgtp".index(match[2] or " "))


def sge_size(text: str) -> int:
    """Return a size of Grid Engine in bytes: `4G` is 1024^3, `4g` 1000^3; raises SpecError.

    See sge_types(5), memory_specifier.
    """
    match = _SGE_SIZE.fullmatch(text)
    if not match or not float(match[1]):
        raise SpecError(f"{quoted(text)} is no size: write 4G or 800M")
    step = 1024 if match[2].isupper() else 1000
    return int(float(match[1]) * step ** " KMGT".index(match[2].upper() or " "))


def size_text(size_bytes: int) -> str:
    """Return a size exactly, in the largest unit that fits."""
    for power, unit in ((4, "T"), (3, "G"), (2, "M"), (1, "K")):
        if size_bytes % 1024**power == 0:
            return f"{size_bytes // 1024**power}{unit}"
    return f"{size_bytes}B"


def begin(found: Found, text: str) -> None:
    """Take a start time `[[[CC]YY]MMDD]hhmm[.SS]` (local time); raises SpecError."""
    match = _DATE.fullmatch(text)
    if not match:
        raise SpecError(f"{quoted(text)} is no start time: write [[CC]YY]MMDDhhmm or hhmm")
    century, year, month, day, hour, minute, second = match.groups()
    clock = f"{hour}:{minute}" + (f":{second}" if second else "")
    if year:
        clock = f"{century or '20'}{year}-{month}-{day}T{clock}"
    elif month:
        clock = f"{month}/{day} {clock}"
    parse_begin(clock, now=0.0)  # is there such a day?
    found.say("--begin", clock)


def path(text: str, names: dict[str, str]) -> str:
    """Return `[host:]path` with its variables as our placeholders; raises SpecError.

    `names` are the variables that are known (`JOB_ID` -> `%A`).
    """
    text = re.sub(r"^[\w.-]*:", "", text)
    if not text:
        raise SpecError("the name of the file is empty")

    def fill(match: re.Match[str]) -> str:
        name = (match[1] or "array_index").strip("{}")
        if name not in names:
            raise SpecError(f"{quoted(match[0])} cannot be filled in in {quoted(text)}")
        return names[name]

    return _VARIABLE.sub(fill, text.replace("%", "%%")).replace("//", "/")


def place_outputs(found: Found, joined: str) -> None:
    """Settle where output goes: joined files, and files of their own in directories.

    `joined`: `oe` to the output's file, `eo` to that of errors, "" as it is.
    """
    if joined == "eo" and "--error" in found.options:
        found.options["--output"] = found.options["--error"]
    if joined:
        found.drop("--error")
    for option, letter in (("--output", "o"), ("--error", "e")):
        at = found.last(option)
        if at and (at.endswith("/") or found.is_dir(at.replace("%%", "%"))):
            own = f"%x.{letter}%A.%a" if "--array" in found.options else f"%x.{letter}%j"
            found.options[option] = [f"{at.rstrip('/')}/{own}"]
