"""The rules of a .gitignore file: which files are left out. Pure; see gitignore(5).

The last rule that matches decides. What lies in an ignored folder is never looked at, so it
cannot be named again with `!`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """One line: a pattern over paths relative to `base`."""

    #: The folder of the file the line stands in, "" for the root.
    base: str
    pattern: re.Pattern[str]
    is_exception: bool
    only_folders: bool


def read_rules(lines: Iterable[str], base: str = "") -> list[Rule]:
    """Return the rules that lines of a .gitignore in the folder `base` make."""
    return [rule for line in lines if (rule := _rule(line, base))]


def is_ignored(path: str, rules: Iterable[Rule], *, is_folder: bool) -> bool:
    """Whether the rules (the weakest first) leave this path out."""
    found = False
    for rule in rules:
        if rule.only_folders and not is_folder:
            continue
        if rule.base and not path.startswith(rule.base + "/"):
            continue
        rest = path[len(rule.base) + 1 :] if rule.base else path
        if rule.is_exception == found and rule.pattern.fullmatch(rest):
            found = not rule.is_exception
    return found


def _rule(line: str, base: str) -> Rule | None:
    text = _without_spaces(line.rstrip("\r\n"))
    if not text or text.startswith("#"):
        return None
    is_exception = text.startswith("!")
    text = text[is_exception:]
    only_folders = text.endswith("/")
    text = text.rstrip("/") if only_folders else text
    if not text:
        return None
    is_anchored = "/" in text
    pattern = _translate(text.lstrip("/"))
    if not is_anchored:
        pattern = "(?:.*/)?" + pattern
    try:
        return Rule(base, re.compile(pattern, re.DOTALL), is_exception, only_folders)
    except re.error:
        return None


def _without_spaces(text: str) -> str:
    """Drop trailing spaces that no backslash keeps."""
    bare = text.rstrip(" ")
    backslashes = len(bare) - len(bare.rstrip("\\"))
    return bare + " " if backslashes % 2 and len(bare) < len(text) else bare


def _translate(text: str) -> str:
    """Return a pattern as a regular expression over whole paths."""
    if text == "**":
        return ".*"
    head = tail = ""
    if text.startswith("**/"):
        head, text = "(?:.*/)?", text[3:]
    if text.endswith("/**"):
        tail, text = "/.+", text[:-3]
    middle = "/(?:.*/)?".join(_translate_part(part) for part in re.split(r"/(?:\*\*/)+", text))
    return head + middle + tail


def _translate_part(text: str) -> str:
    out, at = [], 0
    while at < len(text):
        char = text[at]
        at += 1
        if char == "*":
            out.append("[^/]*")
            while text[at : at + 1] == "*":
                at += 1
        elif char == "?":
            out.append("[^/]")
        elif char == "[":
            found, at = _bracket(text, at)
            out.append(found)
        elif char == "\\" and at < len(text):
            out.append(re.escape(text[at]))
            at += 1
        else:
            out.append(re.escape(char))
    return "".join(out)


_CLASSES = {
    "alpha": "a-zA-Z", "digit": "0-9", "alnum": "a-zA-Z0-9", "upper": "A-Z", "lower": "a-z",
    "space": r"\s", "xdigit": "0-9a-fA-F", "punct": r"!-/:-@\[-`{-~", "blank": r" \t",
}  # fmt: skip


def _bracket(text: str, at: int) -> tuple[str, int]:
    """Read a bracket expression from behind its `[`; one without an end matches nothing."""
    negated = text[at : at + 1] in ("!", "^")
    at += negated
    out: list[str] = []
    start = at
    while at < len(text) and (text[at] != "]" or at == start):
        if match := re.compile(r"\[:(\w+):\]").match(text, at):
            out.append(_CLASSES.get(match[1], ""))
            at = match.end()
            continue
        if text[at] == "\\" and at + 1 < len(text):
            at += 1
            out.append(re.escape(text[at]))
        elif text[at] == "-":
            out.append("-" if out and at + 1 < len(text) and text[at + 1] != "]" else r"\-")
        else:
            out.append(re.escape(text[at]))
        at += 1
    if at >= len(text):
        return "(?!)", at
    inside = "".join(out)
    if not inside:
        return ("[^/]" if negated else "(?!)"), at + 1
    return (f"[^/{inside}]" if negated else f"(?!/)[{inside}]"), at + 1
