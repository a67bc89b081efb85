"""srun: run one command, inside a job as a part of it, elsewhere as a job that is waited for."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence

from qsub_py.cli.shims import args
from qsub_py.cli.shims.args import Args
from qsub_py.dialect_slurm import SLURM
from qsub_py.errors import SpecError
from qsub_py.text import quoted

#: Of no effect inside a job: one process on this node, with what the job has.
_IDLE = """
    -c --cpus-per-task|-N --nodes|--ntasks-per-node|--mem|--mem-per-cpu|-t --time|-p --partition
    |-A --account|-J --job-name|--cpu-bind --cpu_bind|--mem-bind|--gpus -G|--gpus-per-node
    |--gpus-per-task|--gres|--mpi|--hint|-w --nodelist|-x --exclude|-C --constraint|-d --dependency
    |-q --qos|--wckey|--comment|--signal|-K --kill-on-bad-exit|-W --wait|--distribution -m
    |--jobid|--ntasks-per-core|--ntasks-per-socket|--threads-per-core|-B --extra-node-info
    |--cores-per-socket|--gpu-bind|--tres-per-task|-L --licenses|-r --relative|--het-group
    |--profile|--propagate|-T --threads|--network|--cpu-freq
""".replace("\n", " ")
_IDLE_FLAGS = """
    -u --unbuffered|-l --label|-Q --quiet|-v --verbose|--overlap|--exact|--exclusive|-s
    --oversubscribe|-O --overcommit|--export-all|-k --no-kill|-X --disable-status|--pty
    |--multi-prog|--interactive|--preserve-env -E|--contiguous|-H --hold|-Z --no-allocate
""".replace("\n", " ")
_READ = (
    ("-o --output", 1), ("-e --error", 1), ("-i --input", 1), ("-D --chdir", 1), ("-n --ntasks", 1),
    ("--open-mode", 1), ("--export", 1),
)  # fmt: skip
_REFUSED = ("--pty", "--multi-prog")
_INSIDE = (
    *_READ,
    *((" ".join(names.split()), 1) for names in _IDLE.split("|")),
    *((" ".join(names.split()), 0) for names in _IDLE_FLAGS.split("|")),
)


def srun(words: Sequence[str]) -> int:
    """Run a command in place of this process inside a job; outside follow it as a job."""
    if os.environ.get("QSUB_JOB_ID"):
        run_inside(words, os.environ)
    from qsub_py.cli.shims import sending
    from qsub_py.cli.submitting import submit

    asked = sending.read(SLURM, words, is_command=True)
    return submit(asked.draft, does_wait=False, does_follow=True)


def run_inside(words: Sequence[str], environ: Mapping[str, str]) -> None:
    """Become the command, with its output where --output and --error say; raises SpecError."""
    asked = args.read_getopt(words, _INSIDE, stops=True)
    for option in _REFUSED:
        if asked.has(option):
            raise SpecError(f"srun {option} is not known here")
    if not asked.words:
        raise SpecError("nothing to run", hint="write srun COMMAND")
    _check_count(asked.last("-n") or environ.get("SLURM_NTASKS") or "1")
    if asked.has("-D"):
        os.chdir(asked.last("-D"))
    env = {**environ, "SLURM_STEP_ID": "0", "SLURM_STEPID": "0"}
    _check_export(asked, env)
    program = shutil.which(asked.words[0])
    if program is None:
        raise SpecError(f"there is no program {quoted(asked.words[0])} here")
    _redirect(asked, environ)
    os.execve(program, list(asked.words), env)


def _check_count(text: str) -> None:
    if text.isdigit() and int(text) != 1:
        raise SpecError(
            f"srun starts one process here, not {text}",
            hint="write `srun -n 1 COMMAND` for one with all cpus, `mpirun -n N COMMAND` for many",
        )


def _check_export(asked: Args, env: dict[str, str]) -> None:
    for item in asked.all("--export"):
        name, equals, value = item.partition("=")
        if equals:
            env[name] = value
        elif name not in ("ALL", *env):
            raise SpecError(f"srun --export={name}: write ALL or NAME=VALUE")


def _redirect(asked: Args, environ: Mapping[str, str]) -> None:
    """Put files in the place of this process's streams; both may be one file."""
    flags = os.O_WRONLY | os.O_CREAT
    flags |= os.O_TRUNC if asked.last("--open-mode").startswith("t") else os.O_APPEND
    paths = [asked.last("-o"), asked.last("-e") or asked.last("-o")]
    for stream, text in enumerate(paths, 1):
        if text and text != "none":
            _put(path_of(text, environ), flags, stream)
    source = asked.last("-i")
    if source and source not in ("all", "none"):
        _put(path_of(source, environ), os.O_RDONLY, 0)


def _put(path: str, flags: int, stream: int) -> None:
    opened = os.open(path, flags, 0o666)
    os.dup2(opened, stream, inheritable=True)
    os.close(opened)


def path_of(pattern: str, environ: Mapping[str, str]) -> str:
    """Return a path with Slurm's placeholders filled in from a job's variables."""
    job = environ.get("SLURM_JOB_ID") or environ.get("QSUB_JOB_ID", "")
    words = {
        "j": job, "J": job, "A": environ.get("SLURM_ARRAY_JOB_ID", job),
        "a": environ.get("SLURM_ARRAY_TASK_ID", "0"), "t": "0", "n": "0", "s": "0", "%": "%",
        "N": environ.get("SLURMD_NODENAME", ""), "x": environ.get("SLURM_JOB_NAME", ""),
        "u": environ.get("SLURM_JOB_USER", ""), "r": environ.get("SLURM_RESTART_COUNT", "0"),
    }  # fmt: skip

    def fill(match: re.Match[str]) -> str:
        if match[2] not in words:
            raise SpecError(f"{quoted(match[0])} cannot be filled in in {quoted(pattern)}")
        return words[match[2]].zfill(int(match[1] or 0))

    return re.sub(r"%(\d{0,2})(.?)", fill, pattern)
