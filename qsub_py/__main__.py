"""Run the commands: `python -m qsub_py VERB`."""

from __future__ import annotations

from qsub_py.cli.main import main

if __name__ == "__main__":
    main()
