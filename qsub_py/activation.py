"""Virtual and conda environments: where one is, and what activating it changes.

Used where a job is submitted (`qsub --env`) and on the node (`qnode start --env`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping

from qsub_py.errors import SpecError
from qsub_py.text import quoted


def find_environment(text: str | None, environ: Mapping[str, str]) -> str:
    """Return the directory of `--env DIR|conda:NAME`, "" when not given; raises SpecError."""
    if text is None:
        return ""
    kind, colon, name = text.partition(":")
    if colon and kind == "conda":
        directory = _conda_environment(name, environ)
    else:
        directory = os.path.abspath(os.path.expanduser(text))
    if not os.path.isdir(directory):
        raise SpecError(f"--env: no such directory: {directory}", hint="write DIR or conda:NAME")
    if not os.access(os.path.join(directory, "bin", "python"), os.X_OK):
        raise SpecError(
            f"--env: {directory} has no bin/python", hint="name an environment's directory"
        )
    return directory


def _conda_environment(name: str, environ: Mapping[str, str]) -> str:
    """Return where conda keeps the environment `name`, without running conda (it takes 1 s)."""
    for root in _conda_roots(environ):
        directory = root if name == "base" else os.path.join(root, "envs", name)
        if name and os.path.isdir(directory):
            return directory
    raise SpecError(
        f"--env: no conda environment {quoted(name)} found", hint="see conda env list, or write DIR"
    )


def _conda_roots(environ: Mapping[str, str]) -> Iterator[str]:
    for program in (environ.get("CONDA_EXE"), environ.get("MAMBA_EXE"), shutil.which("conda")):
        if program:
            yield os.path.dirname(os.path.dirname(os.path.realpath(program)))
    if root := environ.get("MAMBA_ROOT_PREFIX"):
        yield root
    for name in ("miniforge3", "mambaforge", "miniconda3", "anaconda3", "micromamba", ".conda"):
        yield os.path.join(os.path.expanduser("~"), name)


def activated(env: Mapping[str, str], directory: str) -> dict[str, str]:
    """Return `env` as the activation script of the environment in `directory` would leave it."""
    if not directory:
        return dict(env)
    path = os.pathsep.join([os.path.join(directory, "bin"), env.get("PATH", os.defpath)])
    changed = {**env, "PATH": path}
    changed.pop("PYTHONHOME", None)
    if os.path.isdir(os.path.join(directory, "conda-meta")):
        changed |= {"CONDA_PREFIX": directory, "CONDA_DEFAULT_ENV": os.path.basename(directory)}
    else:
        changed["VIRTUAL_ENV"] = directory
    return changed


#: Variables that an active environment sets to its directory.
_ACTIVE = ("VIRTUAL_ENV", "CONDA_PREFIX")


def active_here(env: Mapping[str, str]) -> bool:
    """Whether variables name an active environment, and its directory exists on this host."""
    return any(os.path.isdir(env.get(name, "") or "/dev/null") for name in _ACTIVE)


def stripped(env: Mapping[str, str]) -> dict[str, str]:
    """Return `env` without the environments that are active in it and not on this host."""
    gone = [env[name] for name in _ACTIVE if env.get(name) and not os.path.isdir(env[name])]
    kept = {name: text for name, text in env.items() if name not in _ACTIVE or text not in gone}
    if not gone:
        return kept
    if "CONDA_PREFIX" not in kept:
        kept.pop("CONDA_DEFAULT_ENV", None)
    parts = kept.get("PATH", os.defpath).split(os.pathsep)
    below = tuple(f"{directory.rstrip('/')}/" for directory in gone)
    left = [part for part in parts if not f"{part}/".startswith(below)]
    kept["PATH"] = os.pathsep.join(left) or os.defpath
    return kept
