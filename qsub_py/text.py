"""Text that came from people: names, output patterns, and what may reach a terminal.

Pure. Knows nothing of jobs or of the terminal it protects.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from qsub_py.errors import SpecError

NAME_GRAMMAR = "1 to 128 letters, digits or . _ + @ : = -, not starting with '-'"
PATTERN_GRAMMAR = "%j job or task id, %A job, %a task, %x name, %u user, %N node, %% a percent sign"
#: A wider number than Slurm's own limit of 10 digits is a typing error.
MAX_PADDING = 10

_NAME = re.compile(r"(?!-)[\w.+@:=-]{1,128}")
_PLACEHOLDER = re.compile(r"%(\d*)(.?)", re.ASCII | re.DOTALL)
#: C0, DEL, C1, line and paragraph separators, bidirectional marks, lone surrogates.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: show the byte it stands for
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def safe(text: str, *, keep: str = "") -> str:
    """Return `text` with everything that could drive a terminal shown as `\\x1b`.

    `keep` names characters to leave alone ("\\n\\t" for the lines of a log). See CWE-150.
    """
    if not keep:
        return _UNSAFE.sub(_visible, text)
    return _UNSAFE.sub(lambda match: match[0] if match[0] in keep else _visible(match), text)


def quoted(text: str, *, width: int = 60) -> str:
    """Return `text` in quotes for an error message: safe, and shortened to `width`."""
    shown = safe(text if len(text) <= width else text[: width - 3] + "...")
    return f"'{shown}'"


def check_name(text: str, *, what: str = "name") -> str:
    """Return `text` when it can name a job or a node; raises SpecError."""
    if _NAME.fullmatch(text) and text.isprintable():
        return text
    raise SpecError(f"bad {what} {quoted(text)}: {NAME_GRAMMAR}")


def expand_pattern(
    pattern: str, *, job: int, index: int, name: str, user: str, node: str, is_array: bool
) -> str:
    """Return an output path with its placeholders filled in; raises SpecError.

    `%j` is the id as users write it (`12`, in an array `12_3`), so it is a file of its own
    for each task. A number pads with zeros: `%4a` is `0003`. Words never add a directory:
    a slash in them becomes `_`.
    """
    numbers = {"A": f"{job}", "a": f"{index}", "j": f"{job}"}
    words = {"x": name, "u": user, "N": node, "%": "%"}

    def fill(match: re.Match[str]) -> str:
        width, letter = match[1], match[2]
        if letter in words:
            return words[letter].replace("/", "_")
        if letter not in numbers or len(width) > 2 or int(width or 0) > MAX_PADDING:
            raise SpecError(f"unknown {quoted(match[0])} in {quoted(pattern)}: {PATTERN_GRAMMAR}")
        number = numbers[letter].zfill(int(width or 0))
        return f"{number}_{index}" if letter == "j" and is_array else number

    return _PLACEHOLDER.sub(fill, pattern)


def check_pattern(pattern: str) -> str:
    """Return `pattern` when every placeholder in it is known; raises SpecError."""
    expand_pattern(pattern, job=1, index=0, name="n", user="u", node="h", is_array=True)
    if "\0" in pattern:
        raise SpecError(f"a path cannot contain a NUL: {quoted(pattern)}")
    return pattern


def is_per_task(pattern: str) -> bool:
    """Whether the tasks of an array get a file each from `pattern` (it has %a or %j)."""
    return any(match[2] in ("a", "j") for match in _PLACEHOLDER.finditer(pattern))


_PASSWORD = re.compile(r"(://[^:/@]*):(.*)@")
_PASSWORD_QUERY = re.compile(r"([?&]password=)[^&]*")


def has_password(url: str) -> bool:
    """Whether an URL carries a password."""
    return bool(_PASSWORD.search(url) or _PASSWORD_QUERY.search(url))


def redact(url: str) -> str:
    """Return an URL that can be shown: its password is `***`."""
    return _PASSWORD_QUERY.sub(r"\1***", _PASSWORD.sub(r"\1:***@", url))


def did_you_mean(word: str, known: Iterable[str], *, alike: float = 0.6) -> str:
    """Return `did you mean NAME?` for the known name nearest to `word`, "" when none is near."""
    import difflib  # 2 ms that only a mistake has to pay

    near = difflib.get_close_matches(word, list(known), 1, alike)
    return f"did you mean {near[0]}?" if near else ""
