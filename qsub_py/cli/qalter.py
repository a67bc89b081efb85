"""qalter: change jobs that were submitted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from qsub_py.cli import common, ids, options, spec
from qsub_py.cli.confirming import confirm
from qsub_py.cli.draft import Work
from qsub_py.cli.options import Request
from qsub_py.cli.times import read_begin, read_deadline
from qsub_py.errors import JobNotFound, PayloadError, SpecError
from qsub_py.model import JobInfo, JobSpec, State
from qsub_py.signing import sign
from qsub_py.store_alter import Change, alter
from qsub_py.store_limits import check_licenses
from qsub_py.terms import NO_TERMS
from qsub_py.units import is_per_task

if TYPE_CHECKING:
    from qsub_py.client import Client

#: What qsub takes and does not change what runs.
_ALTERABLE = """
    name comment account cpus mem mem_per_cpu gpus gres time begin deadline priority queue
    nodelist requeue grace output error retries backoff retry_on on_oom on_timeout requeue_exit
    signal exclude constraint licenses rate
""".split()  # noqa: SIM905 - a list of words is read as words
#: What may change while tasks run, and what the store has beside the spec.
_ANY_TIME = ("time", "name", "comment", "account", "priority", "limit", "deadline")
_BESIDE_SPEC = ("priority", "begin", "limit", "deadline")
#: Fields of the spec that are not called as their options.
_FIELDS = {"mem": "mem_bytes", "mem_per_cpu": "mem_bytes", "gres": "gpus", "time": "time_s",
           "grace": "grace_s"}  # fmt: skip
_TERMS = ("exclude", "constraint", "licenses", "rate")
#: What `none` takes away, and the options' values then.
_REMOVABLE: dict[str, Any] = {
    "nodelist": (), "exclude": (), "constraint": None, "licenses": (), "rate": None,
}  # fmt: skip
_FAILURE = ("retries", "backoff", "retry_on", "on_oom", "on_timeout", "requeue_exit")


@click.command("qalter", context_settings={"max_content_width": 100})
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@click.option("--array-limit", "--tc", "limit", metavar="N", help="So many tasks at once (none).")
@common.options
def qalter(jobs: tuple[str, ...], limit: str | None, **asked: Any) -> int:
    """Change JOBS that wait: all that these options say; of a job that has begun its time limit,
    priority, name, comment, account, deadline and limit of tasks. A new time limit also holds for
    the tasks that run. `none` takes away a deadline, nodelist, exclude, constraint, licenses, rate
    or array-limit."""
    request = options.request_of(asked)
    said = _said(request) | ({"limit"} if limit is not None else set())
    if not said:
        raise SpecError("nothing to change", hint="see qalter --help")
    most = _limit(limit)
    _check(request)
    refs = ids.parse(jobs)
    for ref in refs:
        if not ref.is_whole:
            raise SpecError(f"{ref}: tasks are altered with their whole job")
    client, code = common.connect(), 0
    for ref in refs:
        try:
            for found in ids.find(client, ref):
                code = max(code, _alter(client, found.job, request, said, most))
        except JobNotFound as error:
            common.complain(f"qalter: {error}")
            code = max(code, 1)
    return code


#: Of a job with a limit that a warning before it is in.
_SAMPLE = JobSpec("command", "sample", "nobody", mem_bytes=2**30, time_s=86400.0 * 36500)
qalter.params[:] = [
    *(option for option in options.make_options() if option.name in _ALTERABLE), *qalter.params,
]  # fmt: skip


def _said(request: Request) -> set[str]:
    return {
        name for name in Request.__dataclass_fields__ if getattr(request, name) not in (None, ())
    }


def _check(request: Request) -> None:
    """Raise SpecError for what makes no sense, before anything is done."""
    _altered(_SAMPLE, request)
    spec.read_priority(request.priority)
    _with_times(Change(b""), request, now=time.time())


def _with_times(
    change: Change, request: Request, *, now: float, job: JobInfo | None = None
) -> Change:
    """Add --begin and --deadline, of which the one that stays counts too; raises SpecError."""
    begin_at = job.begin_at if job else 0.0
    if request.begin is not None:
        begin_at = read_begin(request.begin, now=now)
        change = replace(change, begin_at=begin_at)
    if request.deadline == "none":
        return replace(change, deadline_at=0.0)
    if request.deadline is not None:
        deadline_at = read_deadline(request.deadline, now=now, begin_at=begin_at)
        return replace(change, deadline_at=deadline_at)
    if job and request.begin is not None and 0 < job.deadline_at <= begin_at:
        raise SpecError(f"--begin: the deadline of job {job.id} is before it",
                        hint="add --deadline WHEN, or --deadline none")  # fmt: skip
    return change


def _limit(text: str | None) -> int | None:
    if text is None or text == "none":
        return None if text is None else 0
    return common.whole(text.removeprefix("%"), "--array-limit", least=0)


def _alter(
    client: Client, job: JobInfo, request: Request, said: set[str], limit: int | None
) -> int:
    """Change one job; return the exit code."""
    is_pending = job.counts.get(State.PENDING, 0) == job.total
    if job.has_ended:
        return _refused(f"job {job.id} has ended already ({job.state.name})")
    only_pending = bool(said - set(_ANY_TIME))
    if only_pending and not is_pending:
        return _begun(job)
    signed = client.ask(lambda store: store.signed_spec(job.id))
    data = signed.check(client.ring, client.cluster)
    change = Change(signed.signature, limit=limit, is_for_pending=only_pending)
    if "priority" in said:
        change = replace(change, priority=spec.read_priority(request.priority))
    if said & {"begin", "deadline"}:
        now = client.ask(lambda store: store.now())
        change = _with_times(change, request, now=now, job=job)
    if said - set(_BESIDE_SPEC):
        if signed.schedule_uid:
            return _refused(f"job {job.id} was made by schedule {job.schedule}: only --priority,"
                            " --begin, --deadline and --array-limit can be changed")  # fmt: skip
        new = _altered(_spec(job, data), request)
        if "licenses" in said and new.terms:
            licenses = new.terms.licenses
            client.ask(lambda store: check_licenses(store, licenses))
        change = _with_spec(client, job, new, change, has_new_time="time" in said)
    return _done(client, job, change)


def _with_spec(
    client: Client, job: JobInfo, new: JobSpec, change: Change, *, has_new_time: bool
) -> Change:
    data = new.to_bytes()
    signature = sign(client.ring.current, "spec", client.cluster, job.uid, data)
    return replace(
        change, spec=new, spec_bytes=data, signature=signature, has_new_time=has_new_time
    )


def _done(client: Client, job: JobInfo, change: Change) -> int:
    altered = client.ask(lambda store: alter(store, job, change))
    if altered.word == "lost":
        common.complain(f"qalter: job {job.id} was changed by another meanwhile; try again")
        return 75
    if altered.word == "begun":
        return _begun(job)
    if altered.word != "ok":
        return _refused(f"job {job.id} has ended already")
    code = confirm(client, "qalter", altered.orders)
    common.hint(f"qalter: job {job.id} is changed")
    return code


def _begun(job: JobInfo) -> int:
    return _refused(f"job {job.id} has begun: only --time, --priority, --name, --comment,"
                    " --account, --deadline and --array-limit can be changed")  # fmt: skip


def _refused(text: str) -> int:
    common.complain(f"qalter: {text}")
    return 1


def _spec(job: JobInfo, data: bytes) -> JobSpec:
    try:
        return JobSpec.from_bytes(data)
    except (TypeError, ValueError, KeyError) as error:
        raise PayloadError(f"job {job.id} was made by another version of qsub_py") from error


def _altered(old: JobSpec, request: Request) -> JobSpec:
    """Return a spec changed as asked for; raises SpecError naming the option."""
    said = _said(request)
    none = {name for name in _REMOVABLE if getattr(request, name) in ("none", ("none",))}
    request = replace(request, **{name: _REMOVABLE[name] for name in none})
    # Memory per cpu is of the cpus that it has.
    request = replace(request, cpus=request.cpus or str(old.cpus))
    asked = spec.base(request, Work(shown=old.name))
    elsewhere = {*_BESIDE_SPEC, *_FAILURE, *_TERMS, "signal"}
    fields = {_FIELDS.get(name, name) for name in said - elsewhere}
    new = replace(old, **{field: getattr(asked, field) for field in fields})
    if said & set(_TERMS):
        terms = spec.terms(request) or NO_TERMS
        changed = {name: getattr(terms, name) for name in said & set(_TERMS)}
        new = replace(new, terms=replace(old.terms or NO_TERMS, **changed))
    if said & {"output", "error"}:
        is_own = is_per_task if new.sweep is None else lambda _: True  # {lr} in it may tell
        spec.check_outputs(new, is_own)
    if said & set(_FAILURE):
        new = replace(new, retry=spec.with_failure(new, replace(request, signal=None)).retry)
    if "signal" in said:
        new = replace(new, notice=spec.with_failure(new, _only_signal(request)).notice)
    return new


def _only_signal(request: Request) -> Request:
    return Request(signal=request.signal)


def main(words: Sequence[str] | None = None) -> None:
    """Run qalter (console script)."""
    common.main(qalter, words)
