"""What a command printed as its result: its last line of JSON. Pure."""

from __future__ import annotations

import json

#: How much of the end of an output is looked through, and how many lines that begin an object.
LOOK_BYTES = 64 * 1024
_MOST_TRIES = 32


def last_json(data: bytes) -> bytes | None:
    """Return the last line that is JSON: an object anywhere, another value only at the end."""
    lines = data.rstrip().split(b"\n")
    tries = 0
    for at, line in enumerate(reversed(lines)):
        line = line.strip()
        if at and not line.startswith(b"{"):
            continue
        tries += 1
        if tries > _MOST_TRIES:
            return None
        if _is_json(line):
            return line
    return None


def _is_json(line: bytes) -> bool:
    if not line or line[:1] not in b'{["-0123456789tfnNI':
        return False
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
