"""The tree of errors a user can meet.

Each class fixes the exit code of the command that ends with it; `hint` is one line that
says what to do next. Only the command line prints them and exits.
"""

from __future__ import annotations


class QsubError(Exception):
    """Something went wrong."""

    exit_code = 1

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").rstrip("."))
        self.hint = hint


class SpecError(QsubError):
    """The request makes no sense as written (an option, an array, a size, an id)."""

    exit_code = 2


class ConfigError(QsubError):
    """The configuration, a key file or the state directory cannot be used."""

    exit_code = 78


class StoreError(QsubError):
    """The server refused or damaged something."""


class StoreUnavailable(StoreError):
    """The server cannot be reached."""

    exit_code = 69


class StoreBusy(StoreError):
    """The server cannot take this now (memory, loading, recovery); try again later."""

    exit_code = 75


class DataGone(StoreError):
    """What a job needs is not on the server any more; asking again does not bring it back."""


class StoreMismatch(StoreError):
    """The server or its data do not suit this version of qsub_py."""

    exit_code = 78


class PayloadError(QsubError):
    """A function, argument or result cannot travel, or its signature is wrong."""


class SignatureError(PayloadError):
    """Bytes from the server were not signed with this cluster's key."""


class NodeError(QsubError):
    """A node could not be started, stopped or reached."""


class SshError(NodeError):
    """A host could not be used over SSH; the message names the host and the cause."""


class HostUnreachable(SshError):
    """No SSH server answers: name, network, refused, silent or not SSH. Worth another try."""

    exit_code = 75


class HostKeyUnknown(SshError):
    """The host's key is in no known_hosts file; `ssh.trust` adds it."""

    def __init__(
        self,
        message: str = "",
        *,
        hint: str = "",
        hostname: str = "",
        port: int = 22,
        key_type: str = "",
        fingerprint: str = "",
        key_line: str = "",
        file: str = "",
        may_ask: bool = True,
    ) -> None:
        super().__init__(message, hint=hint)
        self.hostname, self.port = hostname, port
        self.key_type, self.fingerprint = key_type, fingerprint
        #: What `ssh.trust` appends, and to which file.
        self.key_line, self.file = key_line, file
        #: False where the configuration says StrictHostKeyChecking yes: refuse, do not ask.
        self.may_ask = may_ask

    @property
    def can_be_kept(self) -> bool:
        """Whether there is a file to keep it in: many set UserKnownHostsFile to /dev/null."""
        return not self.file.startswith("/dev/")


class HostKeyChanged(SshError):
    """The host shows another key than known_hosts has for it, or a revoked one."""

    exit_code = 77


class AuthenticationFailed(SshError):
    """The host accepts none of the keys and answers it was offered."""

    exit_code = 77


class ForwardRefused(SshError):
    """The host's SSH server forbids to forward ports."""


class SshLost(SshError):
    """A connection that stood is gone."""

    exit_code = 75


class JobError(QsubError):
    """A job did not do what was asked."""


class JobNotFound(JobError):
    """No such job."""


class JobCancelled(JobError):
    """The task was cancelled."""

    exit_code = 3
