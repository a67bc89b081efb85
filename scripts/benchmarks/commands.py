"""How our commands are run as separate processes, and what an empty one costs."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.contender import Contender, process_ms


def argv_of(command: str) -> list[str]:
    """Return the words that run a command: its console script, or what that would do."""
    script = Path(sys.executable).with_name(command)
    if script.exists():
        return [str(script)]
    return [sys.executable, "-c", f"from qsub_py.cli.{command} import main; main()"]


class PythonStart(Contender):
    """The interpreter alone: the limit of every command written in Python."""

    def cli(self, n: int) -> dict[str, float]:
        """Time an empty program."""
        empty = process_ms(n, [sys.executable, "-c", "pass"])
        return dict.fromkeys(("cli_qsub", "cli_qstat", "cli_help"), empty)

    def array_cli(self, n: int) -> dict[str, float]:
        """Time an empty program."""
        empty = process_ms(n, [sys.executable, "-c", "pass"])
        return dict.fromkeys(
            ("cli_array_10", "cli_array_1m", "cli_array_qstat", "cli_array_cancel"), empty
        )
