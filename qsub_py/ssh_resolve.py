"""From an alias to a Route, as OpenSSH reads the user's configuration.

Part of `ssh`. `ssh -G` does the reading where there is an ssh command: only it knows all of
Include, Match and CanonicalizeHostname. Else paramiko's parser, which does not know Include.
"""

from __future__ import annotations

import getpass
import os
import pwd
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from qsub_py.errors import SshError
from qsub_py.ssh_route import CONNECT_TIMEOUT_S, Route, check_host, check_user

#: Seconds for `ssh -G`; a `Match exec` line may take its time.
CONFIG_TIMEOUT_S = 20
#: More hosts on the way than this are a mistake.
MAX_JUMPS = 8
#: One host of a ProxyJump line: [user@]host[:port], also [::1]:port.
JUMP = re.compile(
    r"(?:ssh://)?(?:(?P<user>[^@]+)@)?(?:\[(?P<six>[^]]+)\]|(?P<host>[^:]+))(?::(?P<port>\d+))?/?\Z"
)

Settings = Mapping[str, list[str]]


def resolve(alias: str, *, user: str = "", port: int = 0, address: str = "") -> Route:
    """Return how to reach a host; what is given by hand wins over the configuration.

    Raises SshError for names that cannot be hosts', for a configuration that ssh refuses, and
    for jumps that go round in circles.
    """
    return _resolve(alias, user, port, address, jumped=())


def _resolve(
    alias: str, user: str, port: int, address: str, *, jumped: tuple[str, ...], jumps: bool = True
) -> Route:
    check_host(alias)
    check_user(user)
    if address:
        check_host(address, what="host address")
    if not 0 <= port < 65536:
        raise SshError(f"{alias}: {port} is not a port", hint="1 to 65535")
    if alias in jumped or len(jumped) > MAX_JUMPS:
        way = " -> ".join((*jumped, alias))
        raise SshError(
            f"{alias}: ProxyJump goes round in circles: {way}",
            hint="correct the ProxyJump lines in ~/.ssh/config",
        )
    settings, note = _settings(alias, user, port, address)
    return _route(alias, settings, note, jumped=jumped, jumps=jumps)


def _route(
    alias: str, settings: Settings, note: str, *, jumped: tuple[str, ...], jumps: bool
) -> Route:
    def first(name: str, default: str = "") -> str:
        found = settings.get(name) or [default]
        return default if found[0].lower() == "none" else found[0]

    hostname = check_host(first("hostname", alias), what="host name (of HostName)")
    user, port = check_user(first("user") or getpass.getuser()), int(first("port", "22"))
    expand = _expander(alias, hostname, user, port)
    agent = settings.get("identityagent", [""])[0]
    jump = first("proxyjump") if jumps else ""
    command = first("proxycommand") if not jump else ""
    if command and _is_on(first("proxyusefdpass")):
        raise SshError(f"{alias}: ProxyUseFdpass is not supported", hint="use ProxyJump")
    return Route(
        alias=alias,
        hostname=hostname,
        user=user,
        port=port,
        identity_files=_files(settings.get("identityfile", []), expand),
        certificate_files=_files(settings.get("certificatefile", []), expand),
        identities_only=_is_on(first("identitiesonly")),
        identity_agent=_agent(agent, expand),
        known_hosts=_known_hosts(settings, expand),
        host_key_alias=first("hostkeyalias"),
        hash_known_hosts=_is_on(first("hashknownhosts")),
        proxy_command=expand(command) if command else "",
        jumps=_jumps(jump, (*jumped, alias)) if jump else (),
        strict=_strict(first("stricthostkeychecking", "ask")),
        may_ask=not _is_on(first("batchmode")),
        connect_timeout_s=float(first("connecttimeout") or CONNECT_TIMEOUT_S),
        note=note,
    )


def _is_on(value: str) -> bool:
    return value.lower() in ("yes", "true")


def _strict(value: str) -> str:
    """Return the word of StrictHostKeyChecking; without a check there is none: "ask"."""
    known = {"yes": "yes", "true": "yes", "accept-new": "accept-new"}
    return known.get(value.lower(), "ask")


# -- the hosts on the way --------------------------------------------------------------------


def _jumps(text: str, jumped: tuple[str, ...]) -> tuple[Route, ...]:
    """Return the hosts on the way, nearest first.

    The first is reached by its own configuration, the others from the one before, whatever
    ProxyJump they have: as `ssh -J a,b` does it.
    """
    way: list[Route] = []
    for spec in text.split(","):
        found = JUMP.match(spec.strip())
        if not found:
            raise SshError(f"{jumped[-1]}: {spec!r} is no host to jump over", hint="see ProxyJump")
        name, port = found["six"] or found["host"], int(found["port"] or 0)
        hop = _resolve(name, found["user"] or "", port, "", jumped=jumped, jumps=not way)
        way += [*hop.jumps, hop.alone(with_proxy=not way)]
    return tuple(way)


# -- files and tokens ------------------------------------------------------------------------


def _expander(alias: str, hostname: str, user: str, port: int) -> Callable[[str], str]:
    """Return what replaces the tokens (%h, ...) of ssh_config(5)."""
    here = socket.gethostname()
    tokens = {
        **{"%": "%", "h": hostname, "n": alias, "p": str(port), "r": user, "k": alias},
        **{"d": str(Path.home()), "u": getpass.getuser(), "i": str(os.getuid())},
        **{"l": here, "L": here.split(".")[0]},
    }

    def replaced(found: re.Match[str]) -> str:
        return tokens.get(found[1], found[0])

    return lambda text: re.sub(r"%(.)", replaced, text)


def _files(paths: list[str], expand: Callable[[str], str]) -> tuple[str, ...]:
    there = [_file(path, expand) for path in paths if path.lower() != "none"]
    return tuple(dict.fromkeys(there))


def _file(path: str, expand: Callable[[str], str]) -> str:
    path = os.path.expanduser(os.path.expandvars(expand(path.strip().strip('"'))))
    if (home := _other_home()) and path.startswith(f"{home}/"):
        return str(Path.home()) + path[len(home) :]
    return path


def _agent(value: str, expand: Callable[[str], str]) -> str:
    if value in ("", "SSH_AUTH_SOCK"):
        return ""
    return value.lower() if value.lower() == "none" else _file(value, expand)


def _known_hosts(settings: Settings, expand: Callable[[str], str]) -> tuple[str, ...]:
    """Return the user's files, then the machine's. Names with spaces are told apart by "/"."""
    named = [
        *settings.get("userknownhostsfile", ["~/.ssh/known_hosts ~/.ssh/known_hosts2"]),
        *settings.get("globalknownhostsfile", ["/etc/ssh/ssh_known_hosts"]),
    ]
    return _files([path for text in named for path in re.split(r"\s+(?=[\"/~%])", text)], expand)


def _other_home() -> str:
    """Return the home directory of the password database if HOME says another, else ""."""
    try:
        home = pwd.getpwuid(os.getuid()).pw_dir.rstrip("/")
    except KeyError:
        return ""
    return home if home and Path(home) != Path.home() else ""


# -- reading the configuration ---------------------------------------------------------------


def _settings(alias: str, user: str, port: int, address: str) -> tuple[Settings, str]:
    ssh = shutil.which("ssh")
    if ssh:
        return _by_openssh(ssh, alias, user, port, address), ""
    return _by_paramiko(alias, user, port, address)


def _by_openssh(ssh: str, alias: str, user: str, port: int, address: str) -> Settings:
    argv = [ssh, "-G", "-T"]
    if _other_home():  # ssh asks the password database, so it would read another's files
        config = Path.home() / ".ssh/config"
        argv += ["-F", str(config) if config.exists() else "none"]
    argv += ["-p", str(port)] if port else []
    argv += ["-l", user] if user else []
    argv += ["-o", f"HostName={address}"] if address else []
    try:
        done = subprocess.run(
            [*argv, "--", alias],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CONFIG_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise SshError(
            f"{alias}: ssh -G did not end within {CONFIG_TIMEOUT_S} s",
            hint="a Match exec line in ~/.ssh/config may hang",
        ) from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        raise SshError(f"{alias}: ssh -G failed: {said[0]}", hint="correct ~/.ssh/config")
    found: dict[str, list[str]] = {}
    for line in os.fsdecode(done.stdout).splitlines():
        name, _, value = line.partition(" ")
        found.setdefault(name.lower(), []).append(value)
    return found


def _by_paramiko(alias: str, user: str, port: int, address: str) -> tuple[Settings, str]:
    import paramiko

    path = Path.home() / ".ssh/config"
    text = path.read_text(errors="surrogateescape") if path.exists() else ""
    try:
        found = dict(paramiko.SSHConfig.from_text(text).lookup(alias))
    except paramiko.ConfigParseError as error:
        raise SshError(f"{alias}: {path}: {error}", hint="correct ~/.ssh/config") from None
    by_hand = {"user": user, "port": str(port or ""), "hostname": address}
    found.update({name: value for name, value in by_hand.items() if value})
    names = ("rsa", "ecdsa", "ed25519")
    found.setdefault("identityfile", [f"~/.ssh/id_{name}" for name in names])
    note = ""
    if re.search(r"^\s*include\b", text, re.IGNORECASE | re.MULTILINE):
        note = f"there is no ssh command here, so the Include lines of {path} are not read"
    return {k: v if isinstance(v, list) else [str(v)] for k, v in found.items()}, note
