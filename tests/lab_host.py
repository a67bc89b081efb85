"""One host of the lab, from outside: run programs there, break things, put them right again.

What a test breaks here (shell, home, python3, sshd, network) is undone by `reset`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from waiting import wait_until

if TYPE_CHECKING:
    from lab import Lab

USER = "ann"
UID = 1000
HEAD = "head"
#: Nobody has it: what is sent there is lost without a word.
_NOWHERE = "02:00:00:00:00:99"
_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
_SSHD = """\
Port 22
HostKey /etc/ssh/ssh_host_ed25519_key
PidFile /run/sshd.pid
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
UseDNS no
PrintMotd no
AcceptEnv LANG LC_*
LogLevel VERBOSE
MaxStartups 100:30:200
Subsystem sftp internal-sftp
"""
#: A python3 that says it is of another version, and behaves as if, as far as scripts can ask.
_FAKE_PYTHON = """\
#!/.lab/python3
import runpy, sys
version = {version}
sys.version_info = (*version, "final", 0)
sys.hexversion = (version[0] << 24) + (version[1] << 16) + (version[2] << 8) + 0xF0
sys.version = ".".join(map(str, version)) + " (default, Jan 1 2020, 00:00:00)\\n[GCC 9.4.0]"
words = sys.argv[1:]
while words and words[0].startswith("-") and words[0] not in ("-", "-c", "-m", "-V", "--version"):
    words.pop(0)
sys.argv = words or ["-"]
if sys.argv[0] in ("-V", "--version"):
    print("Python", ".".join(map(str, version)))
elif sys.argv[0] == "-m":
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
elif sys.argv[0] == "-c":
    exec(compile(sys.argv.pop(1), "<string>", "exec"), {{"__name__": "__main__"}})
elif sys.argv[0] == "-":
    exec(compile(sys.stdin.read(), "<stdin>", "exec"), {{"__name__": "__main__"}})
else:
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True, slots=True)
class Process:
    """One process on a host, as the host numbers it."""

    pid: int
    parent: int
    uid: int
    #: As ps shows it: R, S, D, T.
    state: str
    argv: str


@dataclass
class Host:
    """A host: its name, address and what differs from the others. Off while `pid` is 0."""

    lab: Lab
    name: str
    number: int
    pid: int = 0
    boot_id: str = ""
    shell: str = "/bin/bash"
    sshd_options: str = ""
    _undo: list[list[str]] = field(default_factory=list)

    # -- what it is ------------------------------------------------------------------------

    @property
    def is_head(self) -> bool:
        """Whether it is the host that has the machine's own file system."""
        return self.name == HEAD

    @property
    def address(self) -> str:
        """Its address in the lab's network."""
        return f"10.77.{self.number // 250}.{self.number % 250}"

    @property
    def mac(self) -> str:
        """Its hardware address, kept over reboots."""
        return f"02:00:00:00:{self.number // 250:02x}:{self.number % 250:02x}"

    @property
    def disk(self) -> Path:
        """What a reboot keeps (home/, ssh/), readable also while the host is off."""
        return self.lab.inside(self.lab.state / "disks" / self.name)

    @property
    def home(self) -> Path:
        """The user's home directory, as seen from here, also while the host is off."""
        return self.disk / "home" / USER

    def path(self, path: str | Path) -> Path:
        """Return where a file of the running host is found from here (no absolute links in it)."""
        return Path(f"/proc/{self.pid}/root", str(path).lstrip("/"))

    # -- running programs ------------------------------------------------------------------

    def argv(
        self, command: str | Sequence[str | Path | int], *, user: str = USER, cwd: str = "",
        env: dict[str, str] | None = None,
    ) -> list[str]:  # fmt: skip
        """Return the words that run a command (a string: a line for /bin/sh) on this host. It
        dies with the process that was started with them; what it leaves in the background stays."""
        words = ["sh", "-c", command] if isinstance(command, str) else [str(w) for w in command]
        home = "/root" if user == "root" else f"/home/{user}"
        values = {"PATH": _PATH, "HOME": home, "USER": user, "LOGNAME": user, "LANG": "C.UTF-8",
                  "SHELL": self.shell, **(env or {})}  # fmt: skip
        become = [] if user == "root" else [f"--reuid={user}", f"--regid={user}", "--init-groups"]
        return [
            "nsenter", f"--target={self.pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--",
            "setpriv", *become, "--pdeathsig", "KILL", "--",
            "env", "-i", f"--chdir={cwd or home}", *(f"{k}={v}" for k, v in values.items()), *words,
        ]  # fmt: skip

    def start(
        self, command: str | Sequence[str | Path | int], *, user: str = USER, cwd: str = "",
        env: dict[str, str] | None = None, **options: Any,
    ) -> subprocess.Popen[str]:  # fmt: skip
        """Start a command on this host, its output in pipes unless told otherwise."""
        assert self.pid, f"{self.name} is off"
        for stream in ("stdout", "stderr"):
            options.setdefault(stream, subprocess.PIPE)
        options.setdefault("stdin", subprocess.DEVNULL)
        words = self.argv(command, user=user, cwd=cwd, env=env)
        return subprocess.Popen(words, text=True, errors="replace", **options)

    def run(
        self, command: str | Sequence[str | Path | int], *, user: str = USER, cwd: str = "",
        env: dict[str, str] | None = None, check: bool = True, timeout: float = 60,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run a command on this host (not by ssh) and return it with its output."""
        assert self.pid, f"{self.name} is off"
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        words = self.argv(command, user=user, cwd=cwd, env=env)
        done = subprocess.run(words, capture_output=True, text=True, errors="replace",
                              timeout=timeout, **options)  # fmt: skip
        if check and done.returncode:
            raise AssertionError(
                f"{self.name}: {command!r} exited {done.returncode}: {done.stdout}{done.stderr}"
            )
        return done

    def processes(self, user: str = "") -> list[Process]:
        """Return what runs there (zombies do not), but for process 1 and the sshd that listens;
        with a user's name, what runs as that user."""
        uid = {"": -1, "root": 0, USER: UID}[user]
        found = [process for entry in self._entries() if (process := _read_process(entry))]
        listener = self.sshd_pid()
        return [
            process for process in found
            if process.pid not in (1, listener) and uid in (-1, process.uid)
        ]  # fmt: skip

    def _entries(self) -> list[Path]:
        try:
            return [path for path in self.path("/proc").iterdir() if path.name.isdigit()]
        except OSError:
            return []

    def kill_processes(self, user: str = USER) -> None:
        """End all processes of a user at once by SIGKILL ("root": all but process 1)."""
        if self.pid:
            self.run("kill -KILL -1", user=user, check=False, cwd="/")
            wait_until(lambda: not self.processes("" if user == "root" else user),
                       what=f"processes of {user} on {self.name} end")  # fmt: skip

    # -- power -----------------------------------------------------------------------------

    def kill(self) -> None:
        """Cut its power: all its processes are gone at once, and nobody is told."""
        if self.pid:
            self._switch(f"link set p-{self.name} down", check=False)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            gone = self.pid
            wait_until(lambda: not Path(f"/proc/{gone}").exists(), what=f"{self.name} is off")
            self.pid = 0
            self._undo.clear()
            self.lab.save()

    def boot(self) -> None:
        """Switch it on: a new boot id, /tmp and /run empty, home and host keys as they were."""
        self.lab.boot([self])

    def reboot(self) -> None:
        """Cut its power and switch it on again."""
        self.kill()
        self.boot()

    # -- network ---------------------------------------------------------------------------

    def cut(self, way: str = "both") -> None:
        """Part it from the network without a word: nothing it sends arrives ("out"), nothing
        that is sent to it does ("in"), or "both"; "down" takes the link away, which it sees."""
        if way == "both":
            self._switch(f"link set p-{self.name} nomaster")
        elif way == "down":
            self._switch(f"link set p-{self.name} down")
        elif way == "out":
            peers = [peer for peer in self.lab.machines if peer is not self]
            self._ip(*(_blind(peer) for peer in peers))
        elif way == "in":
            for peer in self.lab.machines:
                if peer is not self and peer.pid:
                    peer._ip(_blind(self))
        else:
            raise ValueError(f"cut: {way!r} is none of both, in, out, down")

    def heal(self) -> None:
        """Undo every cut of this host."""
        if not self.pid:
            return
        self._switch(f"link set p-{self.name} master br0 up")
        self._ip("neigh flush dev eth0 nud permanent")
        for peer in self.lab.machines:
            if peer is not self and peer.pid:
                peer._ip(f"neigh flush to {self.address} dev eth0 nud permanent")

    def _ip(self, *lines: str) -> None:
        words = ["nsenter", f"--target={self.pid}", "--net", "--", "ip", "-batch", "-"]
        subprocess.run(words, input="\n".join(lines), text=True, check=True, capture_output=True)

    def _switch(self, line: str, *, check: bool = True) -> None:
        words = ["nsenter", f"--target={self.lab.pid}", "--net", "--", "ip", *line.split()]
        subprocess.run(words, check=check, capture_output=True)

    # -- sshd ------------------------------------------------------------------------------

    def sshd_pid(self) -> int:
        """Return the process number there of the sshd that listens; 0 when there is none."""
        with contextlib.suppress(OSError, ValueError):
            return int(self.path("/run/sshd.pid").read_text())
        return 0

    def sshd_log(self) -> str:
        """Return what its sshd has logged since it was switched on."""
        return self.path("/var/log/sshd.log").read_text()

    def stop_sshd(self, *, sessions: bool = True) -> None:
        """Kill its sshd, with the sessions that it serves unless told not to."""
        doomed = [self.sshd_pid()]
        if sessions:
            doomed += [
                p.pid for p in self.processes() if p.argv.startswith(("sshd", "/usr/sbin/sshd"))
            ]
        self.run(f"kill -KILL {' '.join(map(str, doomed))}", user="root", check=False)
        self.path("/run/sshd.pid").unlink(missing_ok=True)

    def start_sshd(self) -> None:
        """Start sshd again and return when it listens."""
        if not self.sshd_pid():
            self.run(
                [shutil.which("sshd", path=_PATH) or "sshd", "-E", "/var/log/sshd.log"], user="root"
            )
            wait_until(self.sshd_pid, what=f"sshd of {self.name} listens")

    def freeze_sshd(self) -> None:
        """Stop the sshd that listens: connections are taken, and never greeted."""
        self.run(f"kill -STOP {self.sshd_pid()}", user="root")

    def sshd(self, *options: str) -> None:
        """Give sshd these lines of configuration, before its others, and restart what listens;
        sessions go on. "UsePAM yes" and passwords work too (see `set_password`)."""
        self.sshd_options = "".join(f"{line}\n" for line in options)
        self.write_sshd_config()
        self.stop_sshd(sessions=False)
        self.start_sshd()

    def write_sshd_config(self) -> None:
        """Write the configuration that its sshd reads at the next start."""
        folder = self.disk / "ssh"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sshd_config").write_text(self.sshd_options + _SSHD + self.lab.sshd_extra)

    def new_host_key(self) -> str:
        """Give it another host key, as a host that was set up anew; return the public half."""
        for path in (self.disk / "ssh").glob("ssh_host_*"):
            path.unlink()
        self.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name,
                  "-f", "/etc/ssh/ssh_host_ed25519_key"], user="root")  # fmt: skip
        self.stop_sshd(sessions=False)
        self.start_sshd()
        return self.host_key()

    def host_key(self) -> str:
        """Return its public host key: type and base64."""
        words = (self.disk / "ssh/ssh_host_ed25519_key.pub").read_text().split()
        return " ".join(words[:2])

    def set_password(self, password: str) -> None:
        """Give the user a password; sshd must be told to ask for it."""
        salted = subprocess.run(["openssl", "passwd", "-6", "-stdin"], input=password, text=True,
                                check=True, capture_output=True).stdout.strip()  # fmt: skip
        shadow = self.path("/etc/shadow")
        lines = shadow.read_text().splitlines()
        kept = [line for line in lines if not line.startswith(f"{USER}:")]
        shadow.write_text("\n".join([*kept, f"{USER}:{salted}:19000:0:99999:7:::"]) + "\n")

    # -- what users' machines are like -----------------------------------------------------

    def set_shell(self, name: str) -> None:
        """Make another shell the user's login shell (the package must be on the machine)."""
        path = shutil.which(name, path=_PATH)
        if not path:
            raise LookupError(f"no {name} on this machine")
        self.shell = path
        self.path("/etc/passwd").write_text(self.lab.passwd(self.shell))

    def set_noisy(self) -> None:
        """Let the user's start-up files print, ask and set strange things."""
        for name in (".bashrc", ".profile", ".cshrc"):
            noise = 'echo "Welcome to the machine!"\nprintf "\\033[31mquota: 97%%\\033[0m\\n"\n'
            noise += 'echo "module: command not found" >&2\n' if name != ".cshrc" else ""
            path = self.home / name
            path.write_text(noise + (path.read_text() if path.exists() else ""))

    def remount(self, where: str, *options: str) -> None:
        """Mount a directory again with other options: "ro", "noexec"."""
        words = ",".join(("remount", "bind", *options))
        self._mount(["--bind", where, where], where)
        self.run(["mount", "-o", words, where], user="root")

    def fill(self, where: str = "", *, kbytes: int = 64) -> None:
        """Leave a directory (the home) on a disk so small that nothing more goes in."""
        where = where or f"/home/{USER}"
        self.run(f"rm -rf /run/kept; cp -a {where} /run/kept", user="root")
        options = f"size={kbytes}k,mode=0755,uid={UID},gid={UID}"
        self._mount(["-t", "tmpfs", "-o", options, "tmpfs", where], where)
        self.run(f"cp -a /run/kept/. {where}/; head -c {kbytes}k /dev/zero > {where}/ballast; true",
                 user="root")  # fmt: skip

    def hide(self, program: str) -> None:
        """Make a program one that cannot be run."""
        self._mount(["--bind", "/dev/null", program], program)

    def hide_python(self) -> None:
        """Take every python out of the search path."""
        self.replace_python("")

    def replace_python(self, program: str) -> None:
        """Take every python out of the search path, and put this script there as python3."""
        for folder in ("/usr/bin", "/usr/local/bin"):
            self.run(_FARM.format(folder=folder), user="root")
            if program and folder == "/usr/bin":
                path = self.path(f"/.lab/farm{folder}/python3")
                path.write_text(program)
                path.chmod(0o755)
            self._mount(["--bind", f"/.lab/farm{folder}", folder], folder)

    def set_old_python(self, *version: int) -> None:
        """Have only a python3 that says it is this version (3, 8, 10)."""
        self.replace_python(_FAKE_PYTHON.format(version=version or (3, 8, 10)))

    def _mount(self, words: list[str], where: str) -> None:
        self.run(["mount", *words], user="root")
        self._undo.append(["umount", "--lazy", where])

    # -- cleaning up -----------------------------------------------------------------------

    def fresh_home(self) -> None:
        """Make the user's home as it was on the first day."""
        self.home.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.home, ignore_errors=True)
        skeleton = Path("/etc/skel")
        if skeleton.is_dir():
            shutil.copytree(skeleton, self.home)
        (self.home / ".ssh").mkdir(parents=True, mode=0o700)
        (self.home / ".ssh/authorized_keys").write_text(self.lab.public_key)
        for path in (self.home, *self.home.rglob("*")):
            os.chown(path, UID, UID, follow_symlinks=False)

    def reset(self) -> None:
        """Make it as it was when the lab came up, but for its boot id and its host key."""
        is_new = not self.pid
        self.shell, self.sshd_options = "/bin/bash", ""
        self.write_sshd_config()
        if is_new:
            self.fresh_home()
            self.boot()
            return
        self.kill_processes("root")
        for words in reversed(self._undo):
            self.run(words, user="root")
        self._undo.clear()
        self.fresh_home()
        litter = "/tmp/* /tmp/.[!.]* /var/tmp/* /dev/shm/* /run/sshd.pid /run/kept"
        self.run(f"rm -rf {litter}", user="root")
        for name, text in self.lab.etc(self).items():
            self.path(f"/etc/{name}").write_text(text)
        self.heal()
        self.start_sshd()

    def new_boot(self) -> dict[str, Any]:
        """Return what the switch must know to start this host."""
        self.boot_id = str(uuid.uuid4())
        return {
            "name": self.name, "is_head": self.is_head, "address": self.address, "mac": self.mac,
            "boot_id": self.boot_id, "etc": self.lab.etc(self), "hidden": self.lab.hidden(),
            "files": {},
        }  # fmt: skip


#: A directory of links to all of a directory of programs but Python.
_FARM = textwrap.dedent("""\
    mkdir -p /.lab/os{folder} /.lab/farm{folder}
    test -e /.lab/python3 || {{
      touch /.lab/python3
      mount --bind "$(readlink -f "$(command -v python3)")" /.lab/python3
    }}
    mountpoint -q /.lab/os{folder} || mount --bind {folder} /.lab/os{folder}
    cd /.lab/os{folder}
    for name in *; do case $name in python*|'*') ;; *) echo "/.lab/os{folder}/$name" ;; esac; done |
      xargs -r ln -sft /.lab/farm{folder}
    rm -f /.lab/farm{folder}/python*
""")


def _blind(peer: Host) -> str:
    return f"neigh replace {peer.address} lladdr {_NOWHERE} dev eth0 nud permanent"


def _is_sshd(process: Process) -> bool:
    return process.argv.startswith(("sshd", "/usr/sbin/sshd", "/usr/lib/openssh/sshd"))


def _read_process(entry: Path) -> Process | None:
    try:
        lines = (entry / "status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        words = (entry / "cmdline").read_bytes().split(b"\0")
        argv = b" ".join(words).decode(errors="replace").strip()
        state = status["State"][0]
        if state in "ZX":
            return None
        uid = int(status["Uid"].split()[0])
        name = argv or f"[{status['Name']}]"
        return Process(int(entry.name), int(status["PPid"]), uid, state, name)
    except (OSError, ValueError, KeyError):
        return None


class Head(Host):
    """The host where the user sits: the machine's file system, so the clone and its Python; its
    own home, with a key that the others accept."""

    @property
    def home(self) -> Path:
        """The home directory there, a plain directory of the machine."""
        return self.lab.state / HEAD

    def argv(
        self, command: str | Sequence[str | Path | int], *, user: str = "root", cwd: str = "",
        env: dict[str, str] | None = None,
    ) -> list[str]:  # fmt: skip
        """As a host's, as root with our interpreter's programs on PATH."""
        values = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        values["PATH"] = f"{Path(sys.executable).parent}:{values.get('PATH', '')}:{_PATH}"
        values["HOME"] = str(self.home)
        return super().argv(
            command, user="root", cwd=cwd or str(self.home), env={**values, **(env or {})}
        )

    def start(
        self, command: str | Sequence[str | Path | int], **options: Any
    ) -> subprocess.Popen[str]:
        """As a host's."""
        return super().start(command, **{"user": "root", **options})

    def run(
        self, command: str | Sequence[str | Path | int], **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """As a host's."""
        return super().run(command, **{"user": "root", **options})

    def ours(
        self, command: str, *words: str | Path | int, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run one of our commands as a user would: ours("qnode", "start", "h1")."""
        return self.run([sys.executable, "-m", "qsub_py", command, *words], **options)

    def qsub(self, *words: str | Path | int, **options: Any) -> int:
        """Submit and return the job's id."""
        return int(self.ours("qsub", *words, **options).stdout)

    def ssh(
        self, host: str, command: str, *, options: Sequence[str] = (), **rest: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command line on a host by OpenSSH's own client."""
        return self.run(["ssh", "-o", "BatchMode=yes", *options, host, command], **rest)

    def trust(self, *hosts: Host) -> None:
        """Write known_hosts anew, with these hosts alone (none: empty)."""
        lines = [f"{host.name},{host.address} {host.host_key()}\n" for host in hosts]
        (self.home / ".ssh/known_hosts").write_text("".join(lines))

    def fresh_home(self) -> None:
        """Make a home with nothing in it but the key, the configuration and known_hosts of ssh."""
        shutil.rmtree(self.home, ignore_errors=True)
        folder = self.home / ".ssh"
        folder.mkdir(parents=True, mode=0o700)
        self.home.chmod(0o700)
        for name in ("id_ed25519", "id_ed25519.pub"):
            shutil.copy(self.lab.state / "key" / name, folder / name)
        (folder / "id_ed25519").chmod(0o600)
        (folder / "config").write_text(f"Host h*\n  User {USER}\n")
        self.trust(*(host for host in self.lab.hosts.values() if host.pid))

    def write_sshd_config(self) -> None:
        """The head has no sshd."""

    def start_sshd(self) -> None:
        """The head has no sshd."""

    def reset(self) -> None:
        """End what runs there and make its home anew."""
        self.kill_processes("root")
        self.fresh_home()
        self.heal()

    def new_boot(self) -> dict[str, Any]:
        """Return what the switch must know to start it."""
        files = {}
        for name in ("passwd", "hosts"):
            path = self.lab.state / f"etc-{name}"
            path.write_text(self.lab.etc(self)[name])
            files[f"/etc/{name}"] = str(path)
        return {**super().new_boot(), "files": files}
