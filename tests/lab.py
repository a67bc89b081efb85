"""A lab of real hosts on this machine: h1..hN and the head, in namespaces of their own.

Each host has its own network address, name, process space, home and /tmp, and a real OpenSSH
server; hosts share the operating system's programs and nothing else. All that runs in a lab is
in one PID namespace and all it mounts in one mount namespace, so its end leaves nothing behind.
By hand: `scripts/lab`. In tests: the fixtures of tests/cluster/conftest.py.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import lab_linux as linux
from lab_host import HEAD, UID, USER, Head, Host
from waiting import wait_until

_PREFIX = "qsub-lab-"
_TOOLS = ("ip", "sshd", "ssh", "ssh-keygen", "nsenter", "setpriv", "mount")
_HEAD_NUMBER = 255 * 250 + 1


def where() -> Path:
    """The directory that holds the directories of all labs."""
    return Path(tempfile.gettempdir())


def missing_tools() -> list[str]:
    """Programs that a lab needs and that are not installed."""
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    return [name for name in _TOOLS if not shutil.which(name, path=path)]


def why_not() -> str:
    """Why no lab can be had here, in a line; empty when one can."""
    if not sys.platform.startswith("linux"):
        return "a lab needs Linux"
    if os.geteuid():
        return "a lab needs root"
    if missing := missing_tools():
        return (
            f"a lab needs {', '.join(missing)} (Debian: openssh-server, openssh-client, iproute2)"
        )
    done = subprocess.run(
        ["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--mount-proc", "sh",
         "-c", "ip link add v0 type veth peer name v1 && ip link add b0 type bridge"],
        capture_output=True, text=True,
    )  # fmt: skip
    return f"no namespaces here: {done.stderr.strip()}" if done.returncode else ""


class Lab:
    """One lab. `Lab.up` makes it, `Lab.attach` finds one that is up, `down` ends it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = where() / f"{_PREFIX}{name}"
        self.pid = 0
        self.owner: tuple[int, int] | None = None
        self.hosts: dict[str, Host] = {}
        self.head = Head(self, HEAD, _HEAD_NUMBER)
        self._launcher: subprocess.Popen[str] | None = None

    # -- life ------------------------------------------------------------------------------

    @classmethod
    def up(cls, count: int, *, name: str = "", owned: bool = True) -> Lab:
        """Bring up a lab of `count` hosts and its head. An owned one ends with this process;
        another one with `down`. Labs whose owner died are cleaned away first."""
        sweep()
        lab = cls(name or uuid.uuid4().hex[:8])
        try:
            lab.state.mkdir(mode=0o700)
        except FileExistsError:
            raise FileExistsError(f"lab {lab.name!r} is up already") from None
        lab.owner = (os.getpid(), linux.started(os.getpid()))
        lab.save()
        try:
            lab._start_switch(owned=owned)
            lab._make_key()
            lab.boot([lab.head])
            lab.add(count)
        except BaseException:
            lab.down()
            raise
        if not owned:
            lab.owner = None
            lab.save()
        return lab

    @classmethod
    def attach(cls, name: str) -> Lab:
        """Find a lab that is up by its name."""
        lab = cls(name)
        lab._load(json.loads((lab.state / "lab.json").read_text()))
        return lab

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.down()

    def down(self) -> None:
        """End all that runs in the lab, and remove its directory."""
        if self.pid and linux.runs(self.pid):
            # The kernel ends all of its PID namespace before it can be waited for.
            os.kill(self.pid, signal.SIGKILL)
            wait_until(lambda: not linux.runs(self.pid), what=f"lab {self.name} ends")
        if self._launcher:
            if self._launcher.stdin:
                self._launcher.stdin.close()
            self._launcher.wait()
        shutil.rmtree(self.state, ignore_errors=True)
        self.pid = 0

    def _start_switch(self, *, owned: bool) -> None:
        (self.state / "disks").mkdir()
        program = Path(__file__).with_name("lab_inside.py")
        words = [sys.executable, str(program), str(self.state), "owned" if owned else "free"]
        with (self.state / "log").open("w") as log:
            self._launcher = subprocess.Popen(
                words, stdin=subprocess.PIPE if owned else subprocess.DEVNULL, text=True,
                stdout=subprocess.PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip
        assert self._launcher.stdout
        said = [self._launcher.stdout.readline() for _ in range(2)]
        if "ready\n" not in said:
            raise RuntimeError(f"the lab did not start: {(self.state / 'log').read_text()}")
        self.pid = int(next(line for line in said if line.startswith("pid ")).split()[1])
        self.save()

    def _make_key(self) -> None:
        folder = self.state / "key"
        folder.mkdir(mode=0o700)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "user@head",
                        "-f", str(folder / "id_ed25519")], check=True)  # fmt: skip

    # -- hosts -----------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Host:
        return self.head if name == HEAD else self.hosts[name]

    @property
    def machines(self) -> list[Host]:
        """All hosts, and the head."""
        return [*self.hosts.values(), self.head]

    def add(self, count: int = 1) -> list[Host]:
        """Bring up some more hosts, at the same time."""
        last = len(self.hosts)
        added = [Host(self, f"h{n}", n) for n in range(last + 1, last + count + 1)]
        self.hosts.update({host.name: host for host in added})
        for machine in self.machines:
            if machine not in added:
                machine.path("/etc/hosts").write_text(self._hosts())
        for host in added:
            host.write_sshd_config()
            host.fresh_home()
        self.boot(added)
        self.head.fresh_home()
        return added

    def boot(self, hosts: Sequence[Host]) -> None:
        """Switch hosts on, at the same time."""
        asked = []
        for host in hosts:
            assert not host.pid, f"{host.name} is on"
            asker = socket.socket(socket.AF_UNIX)
            asker.connect(str(self.state / "control"))
            # The process number comes with the message, as we see it.
            asker.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            asker.sendall(json.dumps(host.new_boot()).encode() + b"\n")
            asked.append((host, asker))
        for host, asker in asked:
            host.pid = _await_up(host, asker)
        self.save()

    def reset(self) -> None:
        """Make all as it was when the lab came up: homes, shells, sshd, network, what runs."""
        for host in self.hosts.values():
            host.reset()
        self.head.reset()

    # -- what hosts are made of ------------------------------------------------------------

    @property
    def sshd_extra(self) -> str:
        """Return configuration that this machine's version of sshd needs."""
        return sshd_extra()

    def inside(self, path: Path) -> Path:
        """Return where a file in the lab's mount namespace is found from here."""
        return Path(f"/proc/{self.pid}/root", str(path).lstrip("/"))

    @property
    def public_key(self) -> str:
        """The public key of the user on the head."""
        return (self.state / "key/id_ed25519.pub").read_text()

    def passwd(self, shell: str, *, root_home: str = "/root") -> str:
        """Return a host's /etc/passwd: the system's users, root and ann."""
        lines = [f"root:x:0:0:root:{root_home}:/bin/bash"]
        lines += [line for line in _lines("passwd", field=2) if not line.startswith("root:")]
        return "\n".join([*lines, f"{USER}:x:{UID}:{UID}:Ann:/home/{USER}:{shell}"]) + "\n"

    def etc(self, host: Host) -> dict[str, str]:
        """Return the files of a host's own in /etc."""
        root_home = str(host.home) if host.is_head else "/root"
        return {
            "passwd": self.passwd(host.shell, root_home=root_home),
            "group": "\n".join([*_lines("group", field=2), f"{USER}:x:{UID}:"]) + "\n",
            "shadow": f"root:*:19000:0:99999:7:::\n{USER}:*:19000:0:99999:7:::\n",
            "hosts": self._hosts(),
            "hostname": host.name + "\n",
            "machine-id": uuid.uuid5(uuid.NAMESPACE_DNS, f"{self.name}.{host.name}").hex + "\n",
            "resolv.conf": "",
        }

    def hidden(self) -> list[str]:
        """Directories that no host may see, though they might lie in the operating system's."""
        clone = Path(__file__).parents[1]
        return [str(path) for path in (clone, Path(sys.prefix)) if path.is_relative_to("/usr")
                and path not in (Path("/usr"), Path("/usr/local"))]  # fmt: skip

    def _hosts(self) -> str:
        lines = [f"{host.address} {host.name}" for host in self.machines]
        return "\n".join(["127.0.0.1 localhost", "::1 ip6-localhost", *lines]) + "\n"

    # -- the record ------------------------------------------------------------------------

    def save(self) -> None:
        """Write down what is needed to find and to end the lab."""
        record = {
            "pid": [self.pid, linux.started(self.pid)],
            "owner": self.owner,
            "hosts": [
                {"name": host.name, "number": host.number, "pid": host.pid, "boot_id": host.boot_id,
                 "shell": host.shell, "sshd_options": host.sshd_options, "undo": host._undo}
                for host in self.machines
            ],
        }  # fmt: skip
        path = self.state / "lab.json"
        path.with_suffix(".new").write_text(json.dumps(record))
        path.with_suffix(".new").replace(path)

    def _load(self, record: dict[str, Any]) -> None:
        pid, began = record["pid"]
        self.pid = pid if began and linux.started(pid) == began else 0
        self.owner = tuple(record["owner"]) if record["owner"] else None
        for saved in record["hosts"]:
            kind = Head if saved["name"] == HEAD else Host
            undo = saved.pop("undo")
            host = kind(self, **saved)
            host._undo.extend(undo)
            if host.is_head:
                self.head = host
            else:
                self.hosts[host.name] = host

    @property
    def is_stale(self) -> bool:
        """Whether nobody will ever end it: its owner, or all that ran in it, is gone."""
        if self.owner:
            return linux.started(self.owner[0]) != self.owner[1]
        return not self.pid


def sweep() -> None:
    """Clean away labs that nobody owns any more."""
    for state in where().glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            lab = Lab.attach(state.name.removeprefix(_PREFIX))
            if lab.is_stale:
                lab.down()


def labs() -> list[Lab]:
    """Return the labs that are up."""
    found = []
    for state in sorted(where().glob(f"{_PREFIX}*")):
        with contextlib.suppress(OSError, ValueError, KeyError):
            found.append(Lab.attach(state.name.removeprefix(_PREFIX)))
    return found


@functools.cache
def sshd_extra() -> str:
    """Return configuration that only newer versions of sshd know."""
    said = subprocess.run(["ssh", "-V"], capture_output=True, text=True).stderr
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", said)
    is_new = found and (int(found[1]), int(found[2])) >= (9, 8)
    # It would shut out the head after a few failures.
    return "PerSourcePenalties no\n" if is_new else ""


def _lines(name: str, *, field: int) -> list[str]:
    """Lines of /etc/passwd or group that belong to the system: numbers below 1000, nobody."""
    lines = Path("/etc", name).read_text().splitlines()
    return [
        line for line in lines
        if line.count(":") >= field and line.split(":")[field].isdigit()
        and not 1000 <= int(line.split(":")[field]) < 65000
    ]  # fmt: skip


def _await_up(host: Host, asker: socket.socket) -> int:
    """Return the process number of a host's process 1 when the host is up."""
    text, pid = b"", 0
    with asker:
        while not text.endswith(b"\n"):
            data, ancillary, _, _ = asker.recvmsg(65536, socket.CMSG_SPACE(12))
            if not data:
                break
            text += data
            for _level, _kind, value in ancillary:
                pid = struct.unpack("3i", value)[0]
    answer = json.loads(text or b"{}")
    if answer.get("up") != host.name:
        raise RuntimeError(f"{host.name} did not boot: {answer.get('error', 'no answer')}")
    return pid
