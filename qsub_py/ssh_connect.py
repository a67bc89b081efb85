"""Opening a connection: each host on the way reached, its key checked, the user logged in.

Part of `ssh`. Each phase has its own time limit and its own line for what goes wrong in it.
A server that hangs up on newcomers (MaxStartups) is tried again a few times.
"""

from __future__ import annotations

import random
import threading
import time

import paramiko

from qsub_py.errors import HostKeyUnknown, HostUnreachable, SshError, SshLost
from qsub_py.ssh_auth import login
from qsub_py.ssh_connection import Connection
from qsub_py.ssh_known import KnownHosts, trust
from qsub_py.ssh_route import Route
from qsub_py.ssh_secrets import Asker, Secrets
from qsub_py.ssh_transport import Transport
from qsub_py.ssh_wire import ProcessWire, Wire, over_process, over_tcp
from qsub_py.text import quoted, safe

#: How often a host that hangs up on newcomers is tried, and the first pause in between.
TRIES = 6
FIRST_PAUSE_S = 0.2
#: How many logins may be cut off.
LOSSES = 3
#: The name of ours in the server's log.
CLIENT = "qsub_py"


class _HungUp(HostUnreachable):
    """The server closed the connection at once: too many of them begin at the same time."""


def connect(
    route: Route, *, secrets: Secrets, asker: Asker | None = None, accept_new: bool = False
) -> Connection:
    """Open a connection, over the jumps of the route.

    Raises HostUnreachable, HostKeyUnknown, HostKeyChanged, AuthenticationFailed, ForwardRefused
    (by a jump host) and SshLost.
    """
    top: Connection | None = None
    try:
        for hop in (*route.jumps, route):
            top = _patiently(hop, top, secrets, asker, accept_new)
    except BaseException:
        if top:
            top.close()
        raise
    assert top is not None
    return top


def _patiently(
    hop: Route, below: Connection | None, secrets: Secrets, asker: Asker | None, accept_new: bool
) -> Connection:
    """Connect to one host; again after a pause when it hangs up on newcomers.

    A login that was cut off is tried again: others may have kept the prompt for longer than
    the server waits, and what was answered is known by now.
    """
    pause_s, losses_left = FIRST_PAUSE_S, LOSSES
    for tries_left in reversed(range(TRIES)):
        try:
            return _once(hop, below, secrets, asker, accept_new)
        except (_HungUp, SshLost) as error:
            losses_left -= isinstance(error, SshLost)
            if not tries_left or not losses_left or (below and not below.is_alive()):
                raise
        time.sleep(pause_s * random.uniform(0.5, 1.5))
        pause_s *= 2
    raise AssertionError("unreachable")


def _once(
    hop: Route, below: Connection | None, secrets: Secrets, asker: Asker | None, accept_new: bool
) -> Connection:
    wire = _wire(hop, below)
    try:
        transport = Transport(wire)
        known = KnownHosts(hop)
        transport.prefer_keys(known.key_types())
        _shake_hands(transport, hop)
        _check_key(transport, hop, known, accept_new=accept_new)
        login(transport, hop, secrets, asker)
    except BaseException:
        wire.close()
        raise
    wire.guarded = True
    return Connection(hop, transport, below)


def _wire(hop: Route, below: Connection | None) -> Wire:
    if below is not None:
        return Wire(below.open_channel_to(hop.hostname, hop.port))
    return over_process(hop) if hop.proxy_command else over_tcp(hop)


# -- greeting and key exchange ---------------------------------------------------------------


def _shake_hands(transport: Transport, hop: Route) -> None:
    """Exchange greetings and keys; raises HostUnreachable with what happened instead."""
    limit_s = hop.connect_timeout_s
    transport.local_version = f"SSH-2.0-{CLIENT}"
    transport.banner_timeout = transport.handshake_timeout = limit_s
    done = threading.Event()
    transport.start_client(event=done)
    done.wait(2 * limit_s)
    if transport.is_active() and transport.initial_kex_done:
        return
    error = transport.get_exception()
    # By the greeting, since paramiko tells all of these apart by text alone, if at all.
    transport.wire.close()
    raise _no_greeting(transport, hop, error)


def _no_greeting(transport: Transport, hop: Route, error: Exception | None) -> SshError:
    wire, limit_s = transport.wire, hop.connect_timeout_s
    greeting = wire.greeting.decode("utf-8", "replace")
    if isinstance(wire, ProcessWire) and not greeting:
        said = wire.words.last()
        return HostUnreachable(
            f"{hop}: the ProxyCommand brings no connection" + (f": {safe(said)}" if said else ""),
            hint="see ProxyCommand in ~/.ssh/config",
        )
    if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
        return HostUnreachable(
            f"{hop}: no common way to encrypt: {safe(str(error))}",
            hint="its sshd is too old or too strict; see Ciphers, KexAlgorithms and MACs there",
        )
    if "MaxStartups" in greeting or "Not allowed at this time" in greeting:
        return _hung_up(hop, f": {safe(greeting.strip())}")
    if greeting and "SSH-" not in greeting:
        return HostUnreachable(
            f"{hop}: what answers on port {hop.port} is not SSH: it says "
            f"{quoted(greeting.splitlines()[0])}",
            hint="is the port right? (Port in ~/.ssh/config)",
        )
    if not wire.has_ended:
        phase = "the key exchange does not end" if greeting else "it accepts and says nothing"
        return HostUnreachable(
            f"{hop}: port {hop.port} is open, but {phase} (within {limit_s:g} s)",
            hint="sshd there hangs, or the host is overloaded or out of memory",
        )
    return _hung_up(hop, " during the key exchange" if greeting else " at once")


def _hung_up(hop: Route, how: str) -> _HungUp:
    return _HungUp(
        f"{hop}: its sshd hangs up on new connections{how} (tried {TRIES} times)",
        hint="it may be busy (MaxStartups), or block this address (fail2ban, PerSourcePenalties)",
    )


# -- the host's key --------------------------------------------------------------------------


def _check_key(transport: Transport, hop: Route, known: KnownHosts, *, accept_new: bool) -> None:
    """Check the key before anything else is said; raises HostKeyUnknown and HostKeyChanged."""
    key = transport.get_remote_server_key()
    try:
        known.check(key.get_name(), key.asbytes())
    except HostKeyUnknown as unknown:
        if not accept_new and hop.strict != "accept-new":
            raise
        # As OpenSSH: where it cannot be kept, it is accepted for this time.
        if unknown.can_be_kept:
            trust([unknown])
