"""The module that Huey's workers and its client import."""

from __future__ import annotations

import os

from huey import RedisHuey

from benchmarks import work

_SERVER = "unix://:{BENCH_PASSWORD}@{BENCH_SOCKET}?db=5".format_map(os.environ)
huey = RedisHuey("bench", url=_SERVER)
add = huey.task()(work.add)
true = huey.task()(work.true)
mark = huey.task()(work.mark)
