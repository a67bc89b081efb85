"""qnode start on hosts as they are: other shells, no Python, no room, keys nobody knows."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from pathlib import Path

import pytest

from lab import Lab
from lab_host import Host
from waiting import wait_until


def start(
    lab: Lab, *words: str, check: bool = True, **options: object
) -> subprocess.CompletedProcess[str]:
    return lab.head.ours("qnode", "start", *words, check=check, timeout=90, **options)


def refused(lab: Lab, *words: str, code: int = 1) -> str:
    """Start what cannot be started; return the one line that says why."""
    done = start(lab, *words, check=False)
    assert done.returncode == code, done
    assert done.stdout == "" and done.stderr.count("\n") == 1, done
    assert "Traceback" not in done.stderr
    return done.stderr.rstrip()


def up(lab: Lab) -> set[str]:
    said = lab.head.ours("qnode", "list", "--json").stdout
    return {node["name"] for node in json.loads(said) if node["state"] == "up"}


def ours(host: Host) -> list[str]:
    """What of ours runs on a host."""
    return [process.argv for process in host.processes() if "-m qsub_py" in process.argv]


# -- what works ------------------------------------------------------------------------------


def test_hosts_are_up_with_a_line_each(lab3: Lab) -> None:
    done = start(lab3, "h1", "h[2-3]")
    assert sorted(re.sub(r"\d+ cpus, [\d.]+\w", "N", done.stdout).splitlines()) == [
        f"node h{n} is up: N, Python {python(lab3)} (tunnel)" for n in (1, 2, 3)
    ]
    assert done.stderr == ""
    assert up(lab3) == {"h1", "h2", "h3"}
    job = lab3.head.qsub("-a", "1-30", "--chdir", "/", "hostname")
    assert lab3.head.ours("qwait", job).returncode == 0
    again = start(lab3, "h1")
    assert again.stdout.startswith("node h1 runs already: ")
    assert lab3.head.ours("qnode", "stop", "--all").stdout.count("has stopped") == 3
    for host in lab3.hosts.values():
        wait_until(lambda host=host: not ours(host), what=f"{host.name} is clean")


def python(lab: Lab) -> str:
    return lab["h1"].run("python3 --version").stdout.split()[1]


@pytest.mark.parametrize("shell", ["tcsh", "fish", "dash"])
def test_any_login_shell_will_do(lab3: Lab, shell: str) -> None:
    try:
        lab3["h1"].set_shell(shell)
    except LookupError as error:
        pytest.skip(str(error))
    start(lab3, "h1")
    assert up(lab3) == {"h1"}


def test_noise_of_the_login_shell_is_passed_over(lab3: Lab) -> None:
    lab3["h1"].set_noisy()
    assert start(lab3, "h1").stdout.startswith("node h1 is up: ")
    assert lab3.head.ours("qnode", "logs", "h1").stdout.count("joined as h1") == 1


def test_one_bad_host_does_not_stop_the_others(lab3: Lab) -> None:
    lab3["h2"].hide_python()
    done = start(lab3, "h1", "h2", "h3", check=False)
    assert done.returncode == 1
    assert done.stdout.count("is up") == 2
    assert done.stderr.startswith("qnode: h2: there is no python3; install Python 3.10")
    assert up(lab3) == {"h1", "h3"}
    assert ours(lab3["h2"]) == []


def test_another_directory_where_the_home_is_read_only(lab3: Lab) -> None:
    host = lab3["h1"]
    host.run("mkdir -m 700 /var/tmp/ann")
    host.remount("/home/ann", "ro")
    why = refused(lab3, "h1")
    assert "h1: cannot write to /home/ann/.cache/qsub_py: Read-only file system" in why
    assert 'dir = "/scratch/you" in hosts.toml' in why
    book = lab3.head.home / "hosts.toml"
    book.write_text('[hosts.h1]\ndir = "/var/tmp/ann"\ncpus = 3\nfeatures = ["big"]\n')
    assert "3 cpus" in start(lab3, "-f", str(book)).stdout
    job = lab3.head.qsub("--chdir", "/", "hostname")
    assert lab3.head.ours("qwait", job).returncode == 0
    assert lab3.head.ours("qlog", job).stdout == "h1\n"


def test_secrets_stay_out_of_sight(lab3: Lab) -> None:
    start(lab3, "h1")
    folder = lab3["h1"].home / ".config/qsub_py/keys"
    (key,) = (path.read_text().split()[1] for path in folder.iterdir())
    state = lab3["h1"].home / ".local/state/qsub_py/h1"
    (password,) = (path.read_text().strip() for path in (state / "upstream").glob("*.password"))
    assert len(key) == 64 and len(password) > 20
    for path in [*folder.rglob("*"), *(state / "upstream").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
    secrets = (key.encode(), password.encode())
    for host in lab3.machines:
        for entry in host.path("/proc").iterdir():
            if entry.name.isdigit():
                seen = b"".join(_read(entry / name) for name in ("cmdline", "environ"))
                assert not any(secret in seen for secret in secrets), entry
    log = (state / "nodes/default.h1/agent.log").read_bytes()
    assert not any(secret in log for secret in secrets)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


# -- what does not ---------------------------------------------------------------------------


def test_what_was_said_of_a_node_is_kept_while_it_runs(lab3: Lab) -> None:
    book = lab3.head.home / "hosts.toml"
    book.write_text('[hosts.h1]\ndir = "/tmp/elsewhere"\nuser = "ann"\n')
    start(lab3, "-f", str(book), "--cpus", "1", "h1")
    again = start(lab3, "h1")  # the same place, without the file
    assert again.stdout.startswith("node h1 runs already: 1 cpus")
    for word in ("bob@h1", "h1:2222"):
        assert "node h1 was started with" in refused(lab3, word, code=2)
    book.write_text('[hosts.h1]\ndir = "/tmp/other"\n')
    assert "with dir /tmp/elsewhere" in refused(lab3, "-f", str(book), "h1", code=2)
    assert up(lab3) == {"h1"}
    # Its host was rebooted, say: it comes back as it was.
    lab3["h1"].kill_processes()
    assert start(lab3, "h1").stdout.startswith("node h1 is up: 1 cpus")
    assert lab3.head.ours("qnode", "stop", "h1").stdout == "node h1 has stopped\n"


def test_a_server_that_only_the_head_reaches(lab3: Lab) -> None:
    done = lab3.head.ours("qnode", "start", "h1", check=False,
                          env={"QSUB_URL": "redis://127.0.0.1:6379"})  # fmt: skip
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "where only this host reaches it" in done.stderr


def test_no_python(lab3: Lab) -> None:
    lab3["h1"].hide_python()
    assert refused(lab3, "h1") == (
        "qnode: h1: there is no python3; install Python 3.10 or newer there, "
        "or name one with --python PATH"
    )


def test_an_old_python(lab3: Lab) -> None:
    lab3["h1"].set_old_python(3, 8, 10)
    assert "h1: the Python there is 3.8.10, needed is 3.10 or newer" in refused(lab3, "h1")


def test_a_python_that_is_not_there(lab3: Lab) -> None:
    why = refused(lab3, "--python", "~/miniforge3/bin/python", "h1")
    assert "h1: there is no ~/miniforge3/bin/python" in why


def test_a_full_home(lab3: Lab) -> None:
    lab3["h1"].fill()
    why = refused(lab3, "h1")
    assert "h1: " in why and ("No space left" in why or "are free in" in why)
    assert "make room there" in why


def test_a_home_without_programs_is_told(lab3: Lab) -> None:
    lab3["h1"].remount("/home/ann", "noexec")
    done = start(lab3, "h1")
    assert "h1: /home/ann/.cache/qsub_py is mounted noexec" in done.stderr
    assert up(lab3) == {"h1"}


def test_no_login(lab3: Lab) -> None:
    lab3["h1"].shell = "/usr/sbin/nologin"
    lab3["h1"].path("/etc/passwd").write_text(lab3.passwd("/usr/sbin/nologin"))
    assert "h1: the host said: This account is currently not available." in refused(lab3, "h1")


def test_sshd_killed_in_the_middle(lab3: Lab) -> None:
    host = lab3["h1"]
    (host.home / ".bashrc").write_text("touch ~/began; sleep 60\n")
    lines: list[str] = []
    worker = threading.Thread(
        target=lambda: lines.append(refused(lab3, "h1", code=75)), name="qnode start"
    )
    worker.start()
    wait_until((host.home / "began").exists, what="the bootstrap runs")
    host.stop_sshd()
    worker.join(60)
    assert lines and lines[0].startswith("qnode: h1: ")
    assert ours(host) == []
    host.start_sshd()
    (host.home / ".bashrc").unlink()
    start(lab3, "h1")
    assert up(lab3) == {"h1"}


def test_unknown_keys_are_refused_without_a_terminal(lab3: Lab) -> None:
    lab3.head.trust()
    why = refused(lab3, "h1")
    assert "h1" in why and "--accept-new" in why
    assert (lab3.head.home / ".ssh/known_hosts").read_text() == ""
    start(lab3, "--accept-new", "h1")
    assert lab3["h1"].host_key() in (lab3.head.home / ".ssh/known_hosts").read_text()


def test_a_changed_key_is_never_accepted(lab3: Lab) -> None:
    lab3["h1"].new_host_key()
    before = (lab3.head.home / ".ssh/known_hosts").read_text()
    why = refused(lab3, "--accept-new", "h1", code=77)
    assert "h1" in why and "changed" in why
    assert (lab3.head.home / ".ssh/known_hosts").read_text() == before


def test_forwarding_forbidden(lab3: Lab) -> None:
    lab3["h1"].sshd("AllowTcpForwarding no")
    why = refused(lab3, "h1")
    assert "h1" in why and "forward" in why
    assert ours(lab3["h1"]) == []
    assert "h1" not in lab3.head.ours("qnode", "list").stdout


def test_names_that_do_not_exist(lab3: Lab) -> None:
    done = start(lab3, "nohost", "h1", check=False)
    assert done.returncode != 0 and "node h1 is up" in done.stdout
    assert "nohost" in done.stderr and done.stderr.count("\n") == 1
