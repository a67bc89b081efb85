"""What `doctor` finds: the words of its verdicts."""

from __future__ import annotations

OK, WARN, BAD = "ok", "warn", "bad"
#: What a look at something yields: verdict, detail, cure ("" when nothing is to be done).
Finding = tuple[str, str, str]
