"""Submit from a web page, show the state on another: a Flask application without a worker.

    flask --app flask_app run
    curl -X POST 'localhost:5000/primes?below=1000000'     {"id":12,"state":"PENDING"}
    curl localhost:5000/jobs/12                            {"id":12,"result":78498,"state":...}
    curl -X DELETE localhost:5000/jobs/12

A view only submits, and keeps nothing but the job's id, which the client holds: so any number
of processes may serve, and each of them may be restarted while jobs run. Needs flask here; the
nodes need nothing.
"""

from __future__ import annotations

from typing import Any

from flask import Flask, abort, request, url_for

import qsub_py
from qsub_py.errors import JobNotFound

NAME = "count_primes"
MOST = 100_000_000
app = Flask(__name__)


def count_primes(below: int) -> int:
    """Return how many primes there are below a number; runs on a node."""
    sieve = bytearray([1]) * below
    sieve[:2] = bytes(min(below, 2))
    for n in range(2, int(below**0.5) + 1):
        if sieve[n]:
            sieve[n * n :: n] = bytes(len(range(n * n, below, n)))
    return sum(sieve)


@app.post("/primes")
def submit() -> Any:
    below = request.args.get("below", type=int)
    if below is None or not 0 <= below <= MOST:
        abort(400, f"below: a number up to {MOST}")
    # Not qsub_py.submit: its calls go into one job that lives as long as this process.
    number = qsub_py.map(count_primes, [below], name=NAME, mem="500M", time="5m").job
    where = url_for("show", number=number)
    return {"id": number, "state": "PENDING"}, 202, {"Location": where}


@app.get("/jobs/<int:number>")
def show(number: int) -> dict[str, Any]:
    job = own_job(number)
    info = job.info()
    shown: dict[str, Any] = {"id": number, "state": info.state.name}
    if info.has_ended:
        (result,) = job.results()
        is_error = isinstance(result, BaseException)
        shown |= {"error": str(result)} if is_error else {"result": result}
    return shown


@app.delete("/jobs/<int:number>")
def cancel(number: int) -> dict[str, Any]:
    own_job(number).cancel()
    return show(number)


def own_job(number: int) -> qsub_py.Job:
    """Return a job that this application made: ids can be guessed."""
    try:
        job = qsub_py.Job(number)
    except JobNotFound:
        abort(404)
    if job.info().name != NAME:
        abort(404)
    return job


@app.errorhandler(qsub_py.QsubError)
def unavailable(error: qsub_py.QsubError) -> Any:
    """Say it when the server is away (69) or full (75)."""
    return {"error": str(error)}, 503 if error.exit_code in (69, 75) else 500
