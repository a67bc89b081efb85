"""A connection to a server over TCP or TLS, by redis-py, in the shape of resp.py's.

Only its connection is used: its pool and its retries send a script again whose reply came
late, and connect again without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from qsub_py.resp import Argument, Refusal


class TcpConnection:
    """A connection to redis://[user:password@]host[:port][/db], or rediss:// with TLS.

    The server's certificate must be valid for its name; `?ssl_ca_certs=FILE` says who may have
    signed it.
    """

    def __init__(self, url: str, password: str, timeout_s: float) -> None:
        options: dict[str, Any] = {
            "socket_timeout": timeout_s,
            "socket_connect_timeout": min(5.0, timeout_s),
            "socket_keepalive": True,
            "retry": Retry(NoBackoff(), 0),
            "retry_on_error": [],
            "health_check_interval": 0,
            "protocol": 2,
        }
        if password:
            options["password"] = password
        if url.startswith("rediss:"):
            # Said here, since older releases of redis-py do not look at the name by default.
            options |= {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
        self._connection: Any = redis.ConnectionPool.from_url(url, **options).make_connection()

    def connect(self) -> None:
        """Connect and authenticate; OSError, Refusal."""
        self._run(self._connection.connect)

    def disconnect(self) -> None:
        """Close it; the next `connect` begins anew."""
        self._connection.disconnect()

    def fileno(self) -> int:
        """Return the socket's descriptor; redis-py does not show it in public."""
        return int(self._connection._sock.fileno())

    def send(self, commands: Iterable[Sequence[Argument]]) -> None:
        """Send commands in one write."""
        packed = self._connection.pack_commands(commands)
        self._run(lambda: self._connection.send_packed_command(packed, check_health=False))

    def read(self, timeout_s: float | None) -> Any:
        """Return the next reply (bytes, int, None, lists), waiting as long as told."""
        options = {} if timeout_s is None else {"timeout": timeout_s}
        return self._run(lambda: self._connection.read_response(disable_decoding=True, **options))

    def _run(self, action: Any) -> Any:
        try:
            return action()
        except redis.exceptions.BusyLoadingError as error:
            raise Refusal(f"LOADING {error}") from error
        except redis.exceptions.AuthenticationError as error:
            raise Refusal(f"WRONGPASS {error}") from error
        except redis.exceptions.TimeoutError as error:
            raise TimeoutError(str(error)) from error
        except redis.exceptions.ConnectionError as error:
            raise ConnectionError(str(error)) from error
        except redis.exceptions.NoScriptError as error:
            raise Refusal(f"NOSCRIPT {error}") from error
        except redis.exceptions.OutOfMemoryError as error:
            raise Refusal(f"OOM {error}") from error
        except redis.exceptions.NoPermissionError as error:
            raise Refusal(f"NOPERM {error}") from error
        except redis.exceptions.ReadOnlyError as error:
            raise Refusal(f"READONLY {error}") from error
        except redis.exceptions.ResponseError as error:
            raise Refusal(str(error)) from error
