"""Serve a cluster to hosts that come by SSH: `python -m qsub_py.serving`, run by the head.

It reads one JSON object from standard input (`cluster`, `state_dir`), sees to it that the
embedded server of this host runs with a loopback port, and answers with the port and the
password, which only the SSH connection carries.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qsub_py.config import load
from qsub_py.errors import ConfigError, QsubError
from qsub_py.reach import open_port
from qsub_py.text import check_name


def serve(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return {"port", "password"} of this host's server, which runs then; QsubError."""
    config = load()
    config = replace(
        config,
        url="",
        cluster=check_name(str(message.get("cluster") or config.cluster), what="cluster name"),
        state_dir=str(message.get("state_dir") or config.state_dir),
    )
    if config.upstream_path().exists():
        raise ConfigError(
            f"cluster {config.cluster} is served to this host by another one",
            hint=f"delete {config.upstream_path()} to serve it here",
        )
    found = open_port(config)
    return {"port": found.port, "password": found.password}


def main() -> None:
    """Obey one JSON object on standard input."""
    try:
        answer = serve(json.loads(sys.stdin.buffer.read(2**20)))
    except QsubError as error:
        sys.exit(f"{error}; {error.hint}" if error.hint else str(error))
    except (ValueError, AttributeError) as error:
        sys.exit(f"the message makes no sense: {error!r}")
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
