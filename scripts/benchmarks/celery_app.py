"""The module that Celery's workers and its client import."""

from __future__ import annotations

import os

from celery import Celery

from benchmarks import work

_SERVER = "redis+socket://:{password}@{socket}?virtual_host=".format(
    password=os.environ["BENCH_PASSWORD"], socket=os.environ["BENCH_SOCKET"]
)
app = Celery("bench", broker=_SERVER + "1", backend=_SERVER + "2")
# Late acknowledgement is what gives Celery a chance to run a lost task again.
app.conf.update(
    task_acks_late=bool(os.environ.get("BENCH_LATE")), broker_connection_retry_on_startup=True
)
add = app.task(name="add")(work.add)
true = app.task(name="true")(work.true)
mark = app.task(name="mark")(work.mark)
