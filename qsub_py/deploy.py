"""Nodes on many hosts at once: reach them, send what they need, start, and say how it went.

One thread a host, so one slow or broken host delays no other. Knows nothing of terminals: what
happens is told to callbacks, what must be asked is asked through an `Asker`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from qsub_py import bundle, far_server, fleet, ssh, tunnel, upstream
from qsub_py import config as configuration
from qsub_py.bundle import Bundle
from qsub_py.config import Config
from qsub_py.crew import Crew, Relay
from qsub_py.errors import HostKeyUnknown, NodeError, QsubError
from qsub_py.far_server import FarServer
from qsub_py.fleet import Member
from qsub_py.hosts import Host
from qsub_py.reach import endpoint
from qsub_py.remote import Remote
from qsub_py.ssh import Asker, Route, Secrets
from qsub_py.units import parse_size

if TYPE_CHECKING:
    from qsub_py.ssh import Connection

T = TypeVar("T")

#: How many hosts are worked on at once. More gain nothing: sshd and this process are the limit.
_AT_ONCE = 16
_TUNNEL_S = 30.0

#: Told a host's name and what is being done there.
Told = Callable[[str, str], None]
#: Shown unknown host keys; whether they may be trusted.
Confirm = Callable[[Sequence[HostKeyUnknown]], bool]


@dataclass(frozen=True, slots=True)
class Started:
    """A node that is up on a host."""

    name: str
    cpus: int
    mem_bytes: int
    gpus: int
    #: The Python that runs the node, "3.11.2".
    python: str
    way: str
    was_running: bool
    #: Its agent was started anew; what it runs was not touched.
    was_restarted: bool = False
    #: It ran another version before.
    was_upgraded: bool = False
    warning: str = ""


@dataclass(frozen=True, slots=True)
class Way:
    """How hosts reach the server: a tunnel from here, or a URL of its own."""

    #: "tunnel", "direct", "ssh" (to a server that we put on another host), "local" (that host).
    kind: str
    url: str = ""
    password: str = field(default="", repr=False)
    #: Text of the authority's certificate, for TLS.
    ca: str = ""


@dataclass
class Deployment:
    """What all hosts of one `qnode` command have in common."""

    config: Config
    told: Told = lambda name, what: None
    asker: Asker | None = None
    confirm: Confirm = lambda unknown: False
    accepts_new: bool = False
    #: Told after Ctrl-C how many hosts are still at work.
    finishing: Callable[[int], None] = lambda count: None
    secrets: Secrets = field(default_factory=Secrets)

    # -- reaching hosts --------------------------------------------------------------------

    def connect(self, hosts: Sequence[Host]) -> dict[str, Connection | QsubError]:
        """Connect to hosts at once; unknown host keys are shown together and asked for once."""
        found = self._each(hosts, self._connect, finishes=False)
        unknown = {
            name: error
            for name, error in found.items()
            if isinstance(error, HostKeyUnknown) and error.may_ask and error.can_be_kept
        }
        if unknown and self.confirm(list(unknown.values())):
            ssh.trust(list(unknown.values()))
            again = [host for host in hosts if host.name in unknown]
            found |= self.connect(again)
        return found

    def _connect(self, host: Host) -> Connection:
        self.told(host.name, "connecting")
        return ssh.connect(
            route_of(host), secrets=self.secrets, asker=self._relay, accept_new=self.accepts_new
        )

    @cached_property
    def _relay(self) -> Relay | None:
        return Relay(self.asker) if self.asker else None

    def _each(
        self,
        hosts: Sequence[Host],
        action: Callable[[Host], T],
        done: Callable[[str, T | QsubError], None] = lambda name, result: None,
        *,
        finishes: bool = True,
    ) -> dict[str, T | QsubError]:
        """Do it for every host at once, tell `done` of each; a host's error is its result.

        Ctrl-C begins no other host, and waits for those that are at it if it `finishes`.
        """
        finishing = self.finishing if finishes else None
        crew = Crew(lambda host: _guarded(host, action), hosts, at_once=_AT_ONCE)
        results = crew.run(
            lambda host, result: done(host.name, result), relay=self._relay, finishing=finishing
        )
        return dict(zip((host.name for host in hosts), results, strict=True))

    @contextlib.contextmanager
    def remote(self, host: Host) -> Iterator[Remote]:
        """Run our code on one host for a while; raises SshError, NodeError."""
        found = self.connect([host])[host.name]
        if isinstance(found, QsubError):
            raise found
        with contextlib.closing(self._enter(host, found)) as remote:
            yield remote

    def _enter(self, host: Host, connection: Connection) -> Remote:
        try:
            remote = Remote(host, connection)
            remote.enter(self.bundle)
            return remote
        except BaseException:
            connection.close()
            raise

    @cached_property
    def bundle(self) -> Bundle:
        """What hosts are sent; the same for all of them."""
        return bundle.build(self.config.state_path() / "bundles")

    def serve_on(self, host: Host) -> None:
        """Put the cluster's server on a host, or find it there; NodeError, SshError."""
        far_server.check(self.config, host)
        configuration.load_key(self.config.cluster, create=True)
        with self.remote(host) as remote:
            self.told(host.name, "starting the server")
            far_server.serve(self.config, remote, remote.connection.route, self.secrets)

    def stop_server(self, far: FarServer) -> bool:
        """Stop the server on its host, until `serve_on`; whether it ran. NodeError, SshError."""
        far_server.close(self.config, far)
        with self.remote(far.place) as remote:
            self.told(far.name, "stopping the server")
            return bool(remote.ask({"op": "unserve", "cluster": self.config.cluster})["was"])

    def forget(self, hosts: Sequence[Host]) -> dict[str, QsubError | None]:
        """Let hosts without a node forget the server, and end what kept their way to it."""
        links = self.connect(hosts)

        def forget(host: Host) -> None:
            link = links[host.name]
            if isinstance(link, QsubError):
                raise link
            with contextlib.closing(self._enter(host, link)) as remote:
                remote.ask({"op": "forget", "cluster": self.config.cluster})

        return self._each(hosts, forget)

    # -- starting --------------------------------------------------------------------------

    def start(
        self,
        hosts: Sequence[Host],
        options: Mapping[str, Mapping[str, Any]],
        done: Callable[[str, Started | QsubError], None],
        *,
        restarts: bool = False,
    ) -> dict[str, Started | QsubError]:
        """Start a node on each host (or upgrade it); `done` hears of each as it is decided."""
        hosts = [fleet.settled(self.config, host) for host in hosts]
        options = {
            host.name: fleet.kept_options(self.config, host.name, options[host.name])
            for host in hosts
        }
        way = way_of(self.config)
        configuration.load_key(self.config.cluster, create=True)
        links = self.connect(hosts)
        far = far_server.load(self.config) if way.kind == "ssh" else None

        def start(host: Host) -> Started:
            link = links[host.name]
            if isinstance(link, QsubError):
                raise link
            mine = Way("local") if far and far.name == host.name else way
            return self._start(host, link, mine, options[host.name], restarts=restarts)

        return self._each(hosts, start, done)

    def _start(
        self,
        host: Host,
        connection: Connection,
        way: Way,
        options: Mapping[str, Any],
        *,
        restarts: bool,
    ) -> Started:
        self.told(host.name, "preparing")
        remote = self._enter(host, connection)
        with contextlib.closing(remote):
            request = {"cluster": self.config.cluster, "name": host.name}
            secrets = {"keys": configuration.key_text(self.config.cluster),
                       "password": way.password, "ca": way.ca}  # fmt: skip
            ready = {"op": "prepare", **request, "url": way.url}
            place = remote.ask(ready, json.dumps(secrets).encode())
            member = Member(host, connection.route, way.kind, self.bundle.hash, dict(options))
            with self._recorded(member):
                had_tunnel = self._lay_way(host, remote, way, place)
                try:
                    self.told(host.name, "starting")
                    wanted = _options(host, way, options)
                    answer = remote.ask(
                        {"op": "start", **request, "options": wanted, "restarts": restarts}
                    )
                except BaseException:
                    if way.kind == "tunnel" and not had_tunnel:
                        tunnel.remove(self.config, host.name)
                    raise
        return Started(
            name=host.name,
            cpus=answer["cpus"],
            mem_bytes=answer["mem_bytes"],
            gpus=answer["gpus"],
            python=remote.facts["python"],
            way=way.kind,
            was_running=answer["was_running"],
            was_restarted=answer["was_restarted"],
            was_upgraded=answer["was_upgraded"],
            warning=_warning(remote.facts),
        )

    @contextlib.contextmanager
    def _recorded(self, member: Member) -> Iterator[None]:
        """Record a host before it is worked on: so `qnode stop` finds what a start that was
        killed has left. One that fails by itself leaves the record as it was."""
        before = fleet.members(self.config).get(member.host.name)
        fleet.put(self.config, member)
        try:
            yield
        except BaseException:
            if before:
                fleet.put(self.config, before)
            else:
                fleet.drop(self.config, member.host.name)
            raise

    def _lay_way(self, host: Host, remote: Remote, way: Way, place: Mapping[str, Any]) -> bool:
        """Open a tunnel to the server, if it needs one; returns whether there was one before."""
        if way.kind == "ssh":
            self._join(host, way, remote)
        if way.kind != "tunnel":
            return False
        self.told(host.name, "opening the tunnel")
        had_one = host.name in tunnel.status(self.config)
        message = {"cluster": self.config.cluster, "state_dir": place["state_dir"],
                   "server": configuration.host_name()}  # fmt: skip
        tunnel.add(
            self.config, host.name, remote.connection.route, self.secrets, place["argv"], message
        )
        found = tunnel.await_up(self.config, [host.name], timeout_s=_TUNNEL_S).get(host.name)
        if found is None or found.state != "up":
            if not had_one:
                tunnel.remove(self.config, host.name)
            why = found.error if found else "the tunnel did not come up"
            raise NodeError(f"{host.name}: {why}")
        return had_one

    def _join(self, host: Host, way: Way, remote: Remote) -> None:
        """Let a host reach the far server by its own ssh."""
        self.told(host.name, "opening its way to the server")
        far = far_server.load(self.config)
        assert far is not None
        request = {"op": "join", "cluster": self.config.cluster, "server": far.request()}
        told = {"private_key": far.private_key, "password": way.password}
        remote.ask(request, json.dumps(told).encode())


def _guarded(host: Host, action: Callable[[Host], T]) -> T | QsubError:
    try:
        return action(host)
    except QsubError as error:
        return error
    except TimeoutError:
        return NodeError(f"{host.name}: it stopped answering", hint="try again")
    except OSError as error:
        return NodeError(f"{host.name}: {error.strerror or type(error).__name__}", hint="try again")
    except Exception as error:  # the others go on
        return NodeError(f"{host.name}: internal error: {type(error).__name__}: {error}")


def route_of(host: Host) -> Route:
    """Return the way to a host, by OpenSSH's configuration and what hosts.toml says; SshError."""
    given = host.options
    return ssh.resolve(host.name, user=given.user, port=given.port, address=given.address)


def way_of(config: Config) -> Way:
    """Return how hosts will reach the server, which runs when this returns.

    Raises NodeError on a host that is not the head of its cluster.
    """
    if config.url and not config.url.startswith("unix:"):
        upstream.with_ca(config.url, config.ca)  # it can be read, or says so
        url, password = upstream.split_password(config.url)
        place = urlsplit(url).hostname or ""
        if place == "localhost" or place.startswith("127.") or place == "::1":
            raise NodeError(f"the server of the configuration is at {place}, where only this host "
                            "reaches it", hint="give another address in url, or none")  # fmt: skip
        pem = Path(config.ca).expanduser().read_text("ascii") if config.ca else ""
        return Way("direct", url, password, pem)
    record = None if config.url else upstream.read(config)
    if record and far_server.load(config):
        endpoint(config)
        return Way("ssh", password=record.password)
    if record:
        raise NodeError(
            f"this host belongs to the cluster of {record.server}", hint="start nodes from there"
        )
    endpoint(config)
    return Way("tunnel")


def _options(host: Host, way: Way, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `node.local.start` is told: the command line over hosts.toml over defaults."""
    own = host.options
    chosen: dict[str, Any] = {
        "cpus": own.cpus or None,
        "mem_bytes": parse_size(own.mem) if own.mem else None,
        "gpus": own.gpus if own.gpus >= 0 else None,
        "features": own.features,
        "queues": own.queues,
        "env": own.env,
        "avoid_busy_gpus": own.avoid_busy_gpus,
    }
    chosen |= {name: value for name, value in options.items() if value is not None}
    return {**chosen, "name": host.name, "alias": host.name, "way": way.kind}


def _warning(facts: Mapping[str, Any]) -> str:
    if facts.get("noexec"):
        return f"{facts['cache']} is mounted noexec: programs that are shipped cannot run there"
    return ""
