"""The variables of a task, and of the batch system that its job was written for (dialect_env)."""

from __future__ import annotations

import os
from pathlib import Path

from qsub_py import dialect_env
from qsub_py.dialect_env import Facts
from qsub_py.model import JobSpec


def job_variables(
    job: int, spec: JobSpec, env: dict[str, str], node_dir: Path
) -> dict[str, str]:  # fmt: skip
    """Return what all tasks of a job get; `env` is what they have otherwise."""
    if not spec.compat:
        return {}
    parts = spec.segments.parts
    host = os.uname().nodename
    return dialect_env.of_job(spec.compat, Facts(
        job=job, name=spec.name, owner=spec.owner, queue=spec.queue, account=spec.account,
        cwd=spec.cwd, script_path=spec.script_path, host=host, cpus=spec.cpus,
        procs=spec.procs, mem_bytes=spec.mem_bytes, time_s=spec.time_s, is_array=spec.is_array,
        count=spec.segments.count, first=min(part[0] for part in parts),
        last=max(part[1] for part in parts), step=parts[0][2],
        host_file=_host_file(spec, host, node_dir), path=env.get("PATH", ""),
        home=env.get("HOME", ""), shell=env.get("SHELL", ""),
    ))  # fmt: skip


def _host_file(spec: JobSpec, host: str, node_dir: Path) -> str:
    """Write the file that names this host, once for all jobs of the same size."""
    text = dialect_env.host_lines(spec.compat, host, spec.cpus, spec.procs, spec.queue)
    if not text:
        return ""
    name = f"{spec.compat}.{spec.cpus}.{spec.procs}.{spec.queue}"
    path = node_dir / "hosts" / name
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        new = path.with_name(f"{name}.{os.getpid()}.new")
        new.write_text(text)
        os.replace(new, path)
    return str(path)


def attempt_variables(spec: JobSpec, attempt: int, env: dict[str, str]) -> dict[str, str]:
    """Return what all tasks of a batch get; `env` are our own variables of it."""
    if not spec.compat:
        return {}
    gpus, scratch = env.get("CUDA_VISIBLE_DEVICES", ""), env.get("QSUB_SCRATCH", "")
    return dialect_env.of_attempt(spec.compat, attempt, gpus if spec.gpus else "", scratch)


def task_variables(job: int, spec: JobSpec, position: int) -> dict[str, str]:
    """Return what one task gets: our own variable, and those of the other system."""
    index = spec.index(position)
    env = {"QSUB_TASK_ID": str(index)}
    if spec.compat:
        env |= dialect_env.of_task(spec.compat, job, index, is_array=spec.is_array)
    return env
