"""A running command on a host, and bytes to and from it."""

from __future__ import annotations


class Stream:
    """A command on the host: bytes both ways, its errors kept apart."""

    def write(self, data: bytes) -> None:
        """Send all of it to the command's standard input; raises SshLost."""
        raise NotImplementedError

    def read(self, size: int = 65536, timeout_s: float | None = None) -> bytes:
        """Return up to `size` bytes of its output as soon as there are some, b"" at its end.

        Raises TimeoutError after `timeout_s`, SshLost when the connection is gone.
        """
        raise NotImplementedError

    def stderr(self) -> bytes:
        """Return the last bytes (64 kB) of what it wrote to standard error so far."""
        raise NotImplementedError

    def close_stdin(self) -> None:
        """Let the command read the end of its input."""
        raise NotImplementedError

    def exit_code(self, timeout_s: float | None = None) -> int:
        """Wait for its end and return its code, 128+n for a signal; SshLost, TimeoutError."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of it; sshd sends what still runs SIGHUP only if it has a terminal."""
        raise NotImplementedError

    def __enter__(self) -> Stream:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()
