"""The lab itself: hosts that share nothing, faults that can be undone, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import lab as labs
import lab_linux as linux
from lab import Lab
from lab_host import Host
from waiting import wait_until

CLONE = Path(__file__).parents[2]
_PING = ["ssh", "-o", "ConnectTimeout=1", "-o", "BatchMode=yes"]


def reaches(lab: Lab, host: Host) -> bool:
    """Whether a new connection from the head gets an answer."""
    return lab.head.run([*_PING, host.name, "true"], check=False).returncode == 0


# -- what hosts are --------------------------------------------------------------------------


def test_ssh_from_the_head(lab3: Lab) -> None:
    for name in lab3.hosts:
        said = lab3.head.ssh(name, "hostname; id -un; echo $HOME; pwd").stdout.split()
        assert said == [name, "ann", "/home/ann", "/home/ann"]


def test_hosts_share_no_files(lab3: Lab) -> None:
    places = ["/home/ann", "/tmp", "/var/tmp", "/dev/shm"]
    lab3.head.ssh("h1", "; ".join(f"touch {place}/mark" for place in places))
    lab3["h1"].run("touch /root/mark /run/mark", user="root")
    for other in ("h2", "h3", "head"):
        found = lab3[other].run("ls /home/ann /tmp /var/tmp /dev/shm /root /run", user="root",
                                check=False).stdout.split()  # fmt: skip
        assert "mark" not in found
    assert not Path("/tmp/mark").exists()


def test_hosts_see_nothing_of_this_machine(lab3: Lab) -> None:
    for path in (CLONE, Path(sys.prefix), lab3.state, Path(labs.__file__), Path.home()):
        assert lab3["h1"].run(["test", "-e", path], check=False, user="root").returncode
    done = lab3.head.ssh("h1", "python3 -c 'import click, redis, qsub_py'", check=False)
    assert "ModuleNotFoundError" in done.stderr
    assert lab3["h1"].run("touch /usr/mark", user="root", check=False).returncode


def test_the_head_has_the_clone_and_a_home_of_its_own(lab3: Lab) -> None:
    said = lab3.head.run("hostname; echo ~; echo ~root; pwd; id -u").stdout.split()
    home = str(lab3.head.home)
    assert said == ["head", home, home, home, "0"]
    assert lab3.head.ours("qnode", "--help").stdout


def test_hosts_have_processes_of_their_own(lab3: Lab) -> None:
    lab3.head.ssh("h1", "setsid sleep 4321 > /dev/null 2>&1 < /dev/null &")
    wait_until(lambda: [p.argv for p in lab3["h1"].processes("ann")] == ["sleep 4321"],
               what="it outlives the session, and nothing else is left")  # fmt: skip
    assert "4321" not in lab3["h2"].run("ps ax").stdout
    assert "4321" not in lab3.head.run("ps ax").stdout
    assert not lab3["h2"].processes()


def test_orphans_are_reaped(lab3: Lab) -> None:
    host = lab3["h1"]
    host.run("for i in 1 2 3 4 5; do (setsid true &) ; done")
    wait_until(lambda: "<defunct>" not in host.run("ps ax").stdout, what="no zombie is left")


def test_each_host_is_a_machine_of_its_own(lab3: Lab) -> None:
    for path in ("/proc/sys/kernel/random/boot_id", "/etc/machine-id", "/etc/hostname"):
        seen = {host.run(["cat", path]).stdout for host in lab3.hosts.values()}
        assert len(seen) == 3
        assert Path(path).read_text() not in seen if Path(path).exists() else True


def test_they_share_the_clock(lab3: Lab) -> None:
    first, second = (float(lab3[name].path("/proc/uptime").read_text().split()[0])
                     for name in ("h1", "h2"))  # fmt: skip
    assert 0 <= second - first < 60


def test_the_machines_own_network_is_left_alone(lab3: Lab) -> None:
    shown = subprocess.run(["ip", "link"], capture_output=True, text=True).stdout
    assert "p-h1" not in shown
    assert "br0" not in shown


# -- faults ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["both", "in", "out", "down"])
def test_cut_and_heal(lab3: Lab, way: str) -> None:
    assert reaches(lab3, lab3["h1"])
    lab3["h1"].cut(way)
    assert not reaches(lab3, lab3["h1"])
    assert reaches(lab3, lab3["h2"])
    lab3["h1"].heal()
    wait_until(lambda: reaches(lab3, lab3["h1"]), what="h1 answers again")


@pytest.mark.parametrize("way", ["both", "in", "out"])
def test_a_cut_is_silent(lab3: Lab, way: str) -> None:
    """A connection does not end by it, and goes on after."""
    session = lab3.head.start([*_PING, "h1", "cat"], stdin=subprocess.PIPE)
    assert session.stdin and session.stdout
    session.stdin.write("before\n")
    session.stdin.flush()
    assert session.stdout.readline() == "before\n"
    lab3["h1"].cut(way)
    session.stdin.write("through\n")
    session.stdin.flush()
    assert not reaches(lab3, lab3["h1"])
    assert session.poll() is None
    lab3["h1"].heal()
    assert session.stdout.readline() == "through\n"
    session.communicate()


def test_a_reboot_keeps_the_home_alone(lab3: Lab) -> None:
    host = lab3["h1"]
    lab3.head.ssh("h1", "touch ~/kept /tmp/gone; setsid sleep 4321 >/dev/null 2>&1 </dev/null &")
    before, key = host.run("cat /proc/sys/kernel/random/boot_id").stdout, host.host_key()
    host.kill()
    assert not host.processes()
    assert not reaches(lab3, host)
    assert (host.home / "kept").exists()
    host.boot()
    assert lab3.head.ssh("h1", "ls ~ /tmp").stdout.split() == ["/home/ann:", "kept", "/tmp:"]
    assert host.run("cat /proc/sys/kernel/random/boot_id").stdout == host.boot_id + "\n" != before
    assert host.host_key() == key
    assert not host.processes()


def test_a_power_cut_is_silent(lab3: Lab) -> None:
    session = lab3.head.start([*_PING, "h1", "echo up; cat"], stdin=subprocess.PIPE)
    assert session.stdout
    assert session.stdout.readline() == "up\n"
    lab3["h1"].kill()
    with pytest.raises(subprocess.TimeoutExpired):
        session.wait(0.5)
    session.kill()
    session.communicate()


def test_sshd_dies_and_comes_back(lab3: Lab) -> None:
    session = lab3.head.start([*_PING, "h1", "echo up; cat"], stdin=subprocess.PIPE)
    assert session.stdout
    assert session.stdout.readline() == "up\n"
    lab3["h1"].stop_sshd()
    assert session.wait(20) == 255
    session.communicate()
    assert "Connection refused" in lab3.head.ssh("h1", "true", check=False).stderr
    lab3["h1"].start_sshd()
    assert reaches(lab3, lab3["h1"])


def test_sshd_says_nothing(lab3: Lab) -> None:
    lab3["h1"].freeze_sshd()
    done = lab3.head.run([*_PING, "h1", "true"], check=False)
    assert "timed out" in done.stderr


# -- hosts that are not as one would wish ----------------------------------------------------


def test_a_changed_host_key(lab3: Lab) -> None:
    lab3["h1"].new_host_key()
    assert "IDENTIFICATION HAS CHANGED" in lab3.head.ssh("h1", "true", check=False).stderr
    lab3.head.trust()
    assert "verification failed" in lab3.head.ssh("h1", "true", check=False).stderr
    lab3.head.trust(lab3["h1"])
    lab3.head.ssh("h1", "true")


def test_options_of_sshd(lab3: Lab) -> None:
    lab3["h1"].sshd("AllowTcpForwarding no", "PubkeyAuthentication no")
    assert "Permission denied" in lab3.head.ssh("h1", "true", check=False).stderr
    lab3["h1"].sshd()
    lab3.head.ssh("h1", "true")


def test_a_password(lab3: Lab) -> None:
    lab3["h1"].set_password("secret words")
    lab3["h1"].sshd("UsePAM yes", "KbdInteractiveAuthentication yes", "PasswordAuthentication yes",
                    "PubkeyAuthentication no")  # fmt: skip
    ask = lab3.head.home / "ask"
    ask.write_text("#!/bin/sh\necho secret words\n")
    ask.chmod(0o700)
    env = {"SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"}
    for method in ("keyboard-interactive", "password"):
        words = ["ssh", "-o", f"PreferredAuthentications={method}", "h1", "id -un"]
        assert lab3.head.run(words, env=env).stdout == "ann\n"


@pytest.mark.parametrize("shell", ["sh", "tcsh", "fish"])
def test_another_login_shell(lab3: Lab, shell: str) -> None:
    try:
        lab3["h1"].set_shell(shell)
    except LookupError as error:
        pytest.skip(str(error))
    assert lab3.head.ssh("h1", "echo $SHELL").stdout.endswith(f"/{shell}\n")


def test_noise_at_login(lab3: Lab) -> None:
    lab3["h1"].set_noisy()
    done = lab3.head.ssh("h1", "echo real")
    assert done.stdout.startswith("Welcome")
    assert done.stdout.endswith("real\n")


def test_homes_that_take_no_files(lab3: Lab) -> None:
    lab3["h1"].remount("/home/ann", "ro")
    lab3["h2"].fill()
    lab3["h3"].remount("/home/ann", "noexec")
    words = "echo '#!/bin/sh' > run; chmod +x run; ./run"
    said = [lab3.head.ssh(name, words, check=False).stderr for name in lab3.hosts]
    assert "Read-only file system" in said[0]
    assert "No space left on device" in said[1]
    assert "Permission denied" in said[2]


def test_hosts_without_a_python(lab3: Lab) -> None:
    lab3["h1"].hide_python()
    lab3["h2"].set_old_python()
    words = "command -v python3; python3 -c 'import sys; print(sys.version_info[:2])'; ls -d /"
    assert lab3.head.ssh("h1", words).stdout == "/\n"
    assert lab3.head.ssh("h2", words).stdout == "/usr/bin/python3\n(3, 8)\n/\n"
    piped = lab3.head.ssh("h2", "python3 - a b", input="import sys; print(sys.argv)")
    assert piped.stdout == "['-', 'a', 'b']\n"


def test_reset_undoes_all(lab3: Lab) -> None:
    host = lab3["h1"]
    host.set_noisy()
    host.hide_python()
    host.fill()
    host.sshd("PubkeyAuthentication no")
    host.new_host_key()
    host.cut("out")
    host.run("setsid sleep 4321 >/dev/null 2>&1 </dev/null & touch /tmp/mark")
    lab3["h2"].kill()
    lab3.head.run("touch ~/mark")
    lab3.reset()
    assert lab3.head.ssh("h1", "ls ~ /tmp; python3 -c 'print(1)'").stdout == (
        "/home/ann:\n\n/tmp:\n1\n"
    )
    assert lab3.head.run("ls").stdout == ""
    assert not [p for p in host.processes("ann") if "sleep" in p.argv]
    assert reaches(lab3, lab3["h2"])


# -- the end ---------------------------------------------------------------------------------


def test_down_leaves_nothing(make_lab: Callable[[int], Lab]) -> None:
    lab = make_lab(2)
    for name in lab.hosts:
        lab.head.ssh(name, "setsid sleep 4321 >/dev/null 2>&1 </dev/null & touch file")
    lab.head.run("setsid sleep 4321 >/dev/null 2>&1 </dev/null &")
    inits, mounts = [machine.pid for machine in lab.machines], Path("/proc/mounts").read_text()
    lab.down()
    assert not any(Path(f"/proc/{pid}").exists() for pid in inits)
    assert not lab.state.exists()
    assert Path("/proc/mounts").read_text() == mounts
    assert str(lab.state) not in mounts


def test_two_labs_at_a_time(make_lab: Callable[[int], Lab]) -> None:
    first, second = make_lab(1), make_lab(1)
    first.head.ssh("h1", "touch mark")
    assert second.head.ssh("h1", "ls").stdout == ""
    first.down()
    second.head.ssh("h1", "true")


def test_more_hosts_join(make_lab: Callable[[int], Lab]) -> None:
    lab = make_lab(1)
    (added,) = lab.add()
    assert lab.head.ssh(added.name, "getent hosts h1 | wc -l").stdout == "1\n"
    assert "h2" in lab["h1"].run("cat /etc/hosts").stdout


_CRASH = """
import os, sys
sys.path[:0] = {path!r}
from lab import Lab
lab = Lab.up(1)
lab.head.ssh("h1", "setsid sleep 4321 >/dev/null 2>&1 </dev/null &")
print(lab.name, *(machine.pid for machine in lab.machines), flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_lab_ends_with_its_owner(can_lab: None) -> None:
    done = subprocess.run([sys.executable, "-c", _CRASH.format(path=sys.path)],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    name, *pids = done.stdout.split()
    wait_until(lambda: not any(linux.runs(int(pid)) for pid in pids), what="it ended")
    labs.sweep()
    assert not (labs.where() / f"qsub-lab-{name}").exists()


@pytest.fixture
def by_hand(can_lab: None) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    name = f"test{os.getpid()}"

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([CLONE / "scripts/lab", "--lab", name, *words], text=True,
                              capture_output=True, stdin=subprocess.DEVNULL)  # fmt: skip

    yield run
    run("down")


def test_by_hand(by_hand: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert "no lab" in by_hand("exec", "h1", "true").stderr
    assert by_hand("up", "2").returncode == 0
    assert "is up already" in by_hand("up", "2").stderr
    assert by_hand("exec", "head", "ssh", "h2", "hostname").stdout == "h2\n"
    assert by_hand("exec", "h1", "id", "-un").stdout == "ann\n"
    assert by_hand("exec", "--root", "h1", "id", "-un").stdout == "root\n"
    assert by_hand("exec", "h1", "sh", "-c", "exit 3").returncode == 3
    ping = ["exec", "head", *_PING, "h1", "true"]
    for wrong, right in (("cut", "heal"), ("kill", "boot")):
        assert by_hand(wrong, "h1").returncode == 0
        assert by_hand(*ping).returncode == 255
        assert by_hand(right, "h1").returncode == 0
        wait_until(lambda: by_hand(*ping).returncode == 0)
    assert "h1     10.77.0.1" in by_hand("status").stdout
    assert "no host 'h9'" in by_hand("cut", "h9").stderr
    assert by_hand("down").returncode == 0
    assert "no lab" in by_hand("down").stderr
