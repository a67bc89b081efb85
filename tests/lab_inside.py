"""The processes with number 1 of a lab: of the lab itself (the switch), and of each host.

The switch owns the bridge and the hosts' disks, and boots hosts on request; all that runs in
the lab is in its PID namespace, so its death ends everything at once. Each host has process,
mount, name and network spaces of its own: a root directory made afresh at each boot, with the
operating system below /usr (read-only) and nothing else of the machine. The head is such a
host too, but with the machine's own file system.

Started by lab.py as `python lab_inside.py STATE_DIR owned|free`; standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import lab_linux as linux

BRIDGE = "br0"
#: Of the machine's /etc, a host has its own; the rest it sees as it is.
OWN_ETC = {
    "passwd", "group", "shadow", "gshadow", "hosts", "hostname", "machine-id", "resolv.conf",
    "ssh", "mtab", "passwd-", "group-", "shadow-", "gshadow-", "fstab", "sudoers", "sudoers.d",
}  # fmt: skip
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def ip_batch(*lines: str) -> None:
    """Run `ip` commands in one go."""
    done = subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True,
                          capture_output=True)  # fmt: skip
    if done.returncode:
        raise OSError(f"ip: {done.stderr.strip()}: {lines}")


def reap() -> None:
    """Collect what has ended; whoever asks already may have got there first."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


# -- the switch ----------------------------------------------------------------------------


def launch(state: Path, *, owned: bool) -> int:
    """Start the switch in a PID namespace of its own and wait for its end."""
    linux.unshare(linux.CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        run_switch(state, owned=owned)
        os._exit(0)
    print(f"pid {pid}", flush=True)
    os.dup2(os.open("/dev/null", os.O_RDWR), 1)
    os.waitpid(pid, 0)
    return 0


def run_switch(state: Path, *, owned: bool) -> None:
    """Boot hosts on request, until the owner (who holds our standard input) has gone."""
    linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWIPC)
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("proc", "/proc", kind="proc")
    linux.tmpfs(state / "disks")
    ip_batch("link set lo up", f"link add {BRIDGE} type bridge", f"link set {BRIDGE} up")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(state / "control"))
    listener.listen(100)
    signal.signal(signal.SIGCHLD, lambda *_: reap())
    print("ready", flush=True)
    os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
    watched = [listener.fileno(), *([0] if owned else [])]
    while True:
        ready, _, _ = select.select(watched, [], [])
        if 0 in ready and not os.read(0, 1):
            return
        if listener.fileno() in ready:
            _boot_in_a_child(listener.accept()[0], state)


def _boot_in_a_child(asker: socket.socket, state: Path) -> None:
    if os.fork() == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            boot(asker, state)
        except BaseException:
            asker.sendall(json.dumps({"error": traceback.format_exc()}).encode() + b"\n")
        os._exit(0)
    asker.close()


def boot(asker: socket.socket, state: Path) -> None:
    """Start a host as asked, and plug it into the bridge."""
    spec = json.loads(asker.makefile().readline())
    born, plugged = os.pipe(), os.pipe()
    linux.unshare(linux.CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        try:
            os.close(plugged[1])
            linux.unshare(
                linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWUTS | linux.CLONE_NEWIPC
            )
            os.write(born[1], b".")
            if os.read(plugged[0], 1):
                run_host(asker, state, spec)
        except BaseException:
            asker.sendall(json.dumps({"error": traceback.format_exc()}).encode() + b"\n")
        os._exit(1)
    os.close(born[1])
    if os.read(born[0], 1):
        plug(spec, pid)
        os.write(plugged[1], b".")


def plug(spec: dict[str, Any], pid: int) -> None:
    """Give a host its network device: one end at the bridge, one in its namespace."""
    port = f"p-{spec['name']}"
    # Of a host that was killed a moment ago, whose device the kernel has yet to remove.
    subprocess.run(["ip", "link", "del", port], capture_output=True)
    ip_batch(
        f"link add {port} type veth peer name eth0 address {spec['mac']} netns /proc/{pid}/ns/net",
        f"link set {port} master {BRIDGE} up",
    )


# -- a host --------------------------------------------------------------------------------


def run_host(asker: socket.socket, state: Path, spec: dict[str, Any]) -> None:
    """Become process 1 of a host: set it up, tell that it is up, then reap for ever."""
    os.setsid()
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    socket.sethostname(spec["name"])
    ip_batch(f"addr add {spec['address']}/16 dev eth0", "link set eth0 up", "link set lo up")
    if spec["is_head"]:
        _dress_head(spec)
    else:
        linux.enter_root(build_root(state, spec))
        _start_sshd()
    # The sender's number as the receiver sees it goes with the message.
    asker.sendall(json.dumps({"up": spec["name"]}).encode() + b"\n")
    asker.close()
    _let_go()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        reap()
        signal.sigwait({signal.SIGCHLD})


def _let_go() -> None:
    """Keep nothing open of those who started us."""
    null = os.open("/dev/null", os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    os.closerange(3, 256)


def _dress_head(spec: dict[str, Any]) -> None:
    for name, source in spec["files"].items():
        linux.bind(source, name)
    linux.mount("proc", "/proc", kind="proc")


def build_root(state: Path, spec: dict[str, Any]) -> Path:
    """Make the root directory of a host: the system's programs, its own home and names."""
    disk = state / "disks" / spec["name"]
    root = disk / "root"
    for folder in (root, disk / "home", disk / "ssh"):
        folder.mkdir(parents=True, exist_ok=True)
    linux.tmpfs(root)
    for name in ("proc", "sys", "dev", "home", "root", "tmp", "run/sshd", "run/lock", "var/tmp",
                 "var/log", "var/lib", "mnt", "srv", "opt", "etc", ".lab/etc"):  # fmt: skip
        (root / name).mkdir(parents=True)
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    (root / "root").chmod(0o700)
    (root / "var/run").symlink_to("/run")
    _show_system(root, spec)
    _fill_etc(root, spec)
    linux.bind(disk / "ssh", root / "etc/ssh")
    linux.bind(disk / "home", root / "home")
    _make_devices(root / "dev")
    linux.mount("/sys", root / "sys", flags=linux.MS_BIND | linux.MS_REC)
    linux.mount("proc", root / "proc", kind="proc")
    (root / ".lab/boot_id").write_text(spec["boot_id"] + "\n")
    linux.bind(root / ".lab/boot_id", root / "proc/sys/kernel/random/boot_id")
    return root


def _show_system(root: Path, spec: dict[str, Any]) -> None:
    """Programs and libraries of the machine, without Python packages that somebody added."""
    for name in ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        source = Path("/", name)
        if source.is_symlink():
            (root / name).symlink_to(os.readlink(source))
        elif source.is_dir():
            (root / name).mkdir()
            linux.bind(source, root / name, readonly=True)
    empty = root / ".lab/empty"
    empty.mkdir()
    for pattern in ("lib/python3*/*-packages", "local/lib/python3*/*-packages"):
        for packages in (root / "usr").glob(pattern):
            linux.bind(empty, packages, readonly=True)
    for hidden in spec["hidden"]:
        if Path(root, hidden.lstrip("/")).is_dir():
            linux.bind(empty, Path(root, hidden.lstrip("/")), readonly=True)


def _fill_etc(root: Path, spec: dict[str, Any]) -> None:
    linux.bind("/etc", root / ".lab/etc", readonly=True)
    etc = root / "etc"
    for name in os.listdir("/etc"):
        if name not in OWN_ETC:
            (etc / name).symlink_to(f"/.lab/etc/{name}")
    (etc / "ssh").mkdir()
    for name, text in spec["etc"].items():
        path = etc / name
        path.write_text(text)
        path.chmod(0o600 if name == "shadow" else 0o644)


def _make_devices(dev: Path) -> None:
    linux.tmpfs(dev)
    for name in DEVICES:
        (dev / name).touch()
        linux.bind(f"/dev/{name}", dev / name)
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"),
                         ("stderr", "fd/2"), ("ptmx", "pts/ptmx")):  # fmt: skip
        (dev / name).symlink_to(target)
    (dev / "pts").mkdir()
    linux.mount("devpts", dev / "pts", kind="devpts", data="newinstance,ptmxmode=0666,mode=0620")
    (dev / "shm").mkdir()
    linux.tmpfs(dev / "shm", mode="1777")


def _start_sshd() -> None:
    if not Path("/etc/ssh/ssh_host_ed25519_key").exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", socket.gethostname(),
                        "-f", "/etc/ssh/ssh_host_ed25519_key"], check=True)  # fmt: skip
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")
    assert sshd, "no sshd"
    subprocess.run([sshd, "-E", "/var/log/sshd.log"], check=True, stdin=subprocess.DEVNULL)
    # It writes the file once it listens.
    while not Path("/run/sshd.pid").exists():
        time.sleep(0.005)


if __name__ == "__main__":
    sys.exit(launch(Path(sys.argv[1]), owned=sys.argv[2] == "owned"))
