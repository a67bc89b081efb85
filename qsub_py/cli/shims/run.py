"""Where the programs that `qsub-py shims` writes begin: which function is which tool."""

from __future__ import annotations

import importlib
import sys
from typing import NoReturn

from qsub_py.cli import common

_SLURM = {
    "sbatch": "slurm_submit", "srun": "slurm_run", "squeue": "slurm_look", "sacct": "slurm_look",
    "sinfo": "slurm_nodes", "scancel": "slurm_change", "scontrol": "slurm_control",
}  # fmt: skip
_ACTS = ("qdel", "qhold", "qrls", "qalter")


def main(system: str, tool: str) -> NoReturn:
    """Run a tool of a batch system on the process's arguments and exit with its code."""
    sys.exit(run(system, tool, sys.argv[1:]))


def run(system: str, tool: str, words: list[str]) -> int:
    """Run a tool of a batch system; return its exit code."""
    if words[:1] == ["--version"]:
        from qsub_py import __version__

        print(f"qsub_py {__version__} as {system}")
        return 0
    return common.framed(common.Session(tool), lambda: _call(system, tool, words))


def _call(system: str, tool: str, words: list[str]) -> int:
    family = "slurm" if system == "slurm" else "sge" if system == "sge" else "pbs"
    name = _SLURM.get(tool) or f"{family}_{_part(tool)}"
    module = importlib.import_module(f"qsub_py.cli.shims.{name}")
    code: int = getattr(module, tool)(words) if family != "pbs" else (
        getattr(module, tool)(words, system)
    )  # fmt: skip
    return code


def _part(tool: str) -> str:
    return "submit" if tool == "qsub" else "change" if tool in _ACTS else "look"
