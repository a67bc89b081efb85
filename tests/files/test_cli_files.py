"""--ship, --fetch and qfetch as a user meets them, on a node that lacks the submit directory."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from env import Env, wait_until
from qsub_py.model import State


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory that the test submits from."""
    path = tmp_path / "submit"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


@pytest.fixture
def node(cluster_env: Env, here: Path) -> Env:
    """Return a system with one node of two cpus."""
    return cluster_env


def log(env: Env, *words: str | int) -> str:
    return env.run("qlog", *words).stdout


def scratch(env: Env) -> list[str]:
    return os.listdir(env.node_dirs["n1"] / "scratch")


def submit_and_leave(env: Env, here: Path, *words: str | int) -> int:
    """Submit held, delete the submit directory, let the job go; return its id."""
    job = env.qsub("-H", *words)
    os.chdir("/")
    shutil.rmtree(here)
    env.run("qrls", job)
    return job


def test_a_script_with_its_files(node: Env, here: Path) -> None:
    (here / "data" / "in").mkdir(parents=True)
    (here / "data" / "in" / "x").write_text("input\n")
    (here / "tool").write_text("#!/bin/sh\necho tool $1\n")
    (here / "tool").chmod(0o755)
    (here / "helper.py").write_text("word = 'helped'\n")
    (here / "main.py").write_text(
        "import os, pathlib, subprocess, helper\n"
        "print(helper.word, open('data/in/x').read().strip(), flush=True)\n"
        "subprocess.run(['./tool', 'ran'])\n"
        "print(os.environ['QSUB_SUBMIT_DIR'], os.getcwd() == os.environ['QSUB_SCRATCH'])\n"
        "print(pathlib.Path(__file__).parent == pathlib.Path.cwd())\n"
    )
    job = submit_and_leave(node, here, "--ship", ".", "main.py")
    assert node.wait_job(job).state is State.COMPLETED
    assert log(node, job) == f"helped input\ntool ran\n{here} True\nTrue\n"
    wait_until(lambda: scratch(node) == [], what="the private directory is gone")


def test_commands_arrays_and_a_fresh_directory_each(node: Env, here: Path) -> None:
    (here / "d").mkdir()
    (here / "d" / "f").write_text("as shipped")
    line = "ls; cat d/f; echo changed > d/f; touch trace"
    job = submit_and_leave(node, here, "-a", "1-20", "--ship", "d", "--wrap", line)
    assert node.wait_job(job).counts[State.COMPLETED] == 20
    for task in (1, 7, 20):
        assert log(node, f"{job}_{task}") == "d\nas shipped"
    wait_until(lambda: scratch(node) == [], what="the private directories are gone")


def test_a_shipped_program_and_a_missing_one(node: Env, here: Path) -> None:
    (here / "bin").mkdir()
    shutil.copy("/bin/echo", here / "bin" / "say")
    job = submit_and_leave(node, here, "--ship", "bin", "bin/say", "hello")
    assert node.wait_job(job).state is State.COMPLETED
    assert log(node, job) == "hello\n"
    here.mkdir()
    os.chdir(here)
    (here / "d").mkdir()
    job = node.qsub("--ship", "d", "--", "./nowhere")
    info = node.wait_job(job)
    assert info.state is State.FAILED
    assert "./nowhere on this node" in info.unfit["n1"]


def test_without_a_shared_disk_it_says_so(node: Env, here: Path) -> None:
    node.start_node("n2", cpus=1)
    job = submit_and_leave(node, here, "-a", "1-3", "true")
    info = node.wait_job(job)
    assert info.counts[State.FAILED] == 3
    assert set(info.unfit) == {"n1", "n2"}
    for reason in info.unfit.values():
        assert reason == f"no such directory: {here} on this node (submit with --ship . or -D DIR)"
    shown = node.run("qstat", "--why", job).stdout
    assert "--ship . or -D DIR" in shown


def test_a_call_needs_no_directory(node: Env, here: Path) -> None:
    (here / "m.py").write_text(
        "import os\ndef f(x):\n    here = os.listdir('.')\n    open('t', 'w').close()\n"
        "    return x, here, os.getcwd() == os.environ['QSUB_SCRATCH']\n"
    )
    job = submit_and_leave(node, here, "m.py:f", 3)
    assert node.wait_job(job).state is State.COMPLETED
    assert node.run("qresult", job).stdout == "(3, [], True)\n"


def test_a_call_with_a_directory_of_its_own_is_unfit(node: Env, here: Path) -> None:
    (here / "m.py").write_text("def f():\n    return 1\n")
    job = submit_and_leave(node, here, "-D", here, "m.py:f")
    assert node.wait_job(job).state is State.FAILED


# -- results -------------------------------------------------------------------------------


def test_waiting_brings_the_files_home(node: Env, here: Path) -> None:
    (here / "in.txt").write_text("mine")
    (here / "old").write_text("before")
    os.utime(here / "old", (1, 1))
    done = node.run(
        *("qsub", "-W", "--ship", ".", "--fetch", "out/**", "--fetch", "*", "-o", "out/log-%j"),
        *("--wrap", "mkdir -p out/deep; echo 1 > out/deep/r; echo after > old; echo said"),
    )
    job = int(done.stdout)
    assert (here / "out" / "deep" / "r").read_text() == "1\n"
    assert (here / "old").read_text() == "after\n"
    assert (here / "out" / f"log-{job}").read_text() == "said\n"
    assert log(node, job) == "said\n"
    files = json.loads(node.run("qfetch", "--list", "--json", job).stdout)
    paths = [file["path"] for file in files]
    assert paths == ["old", "out/deep/r", f"out/log-{job}"], "what was shipped stays where it was"


def test_what_changed_here_meanwhile_stays(node: Env, here: Path) -> None:
    (here / "f").write_text("before")
    done = node.run(
        *("qsub", "-W", "--ship", "f", "--fetch", "f", "--wrap"),
        f"echo theirs > f; sleep 0.1; echo mine > {here}/f", check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "is there and differs" in done.stderr
    assert (here / "f").read_text() == "mine\n"
    job = int(done.stdout)
    assert node.run("qfetch", job, check=False).returncode == 1
    node.run("qfetch", job, "--force")
    assert (here / "f").read_text() == "theirs\n"


def test_an_array_and_its_failures(node: Env, here: Path) -> None:
    line = 'mkdir out; echo $QSUB_TASK_ID > out/r; [ "$QSUB_TASK_ID" != 4 ]'
    job = node.qsub("-a", "2-6:2", "--ship", ".", "--fetch", "out/*", "--wrap", line)
    node.run("qwait", job, check=False)
    done = node.run("qfetch", job, "-o", "got")
    assert done.stdout.split() == ["got/2/out/r", "got/4/out/r", "got/6/out/r"]
    assert [(here / f"got/{n}/out/r").read_text() for n in (2, 4, 6)] == ["2\n", "4\n", "6\n"]
    assert node.run("qfetch", f"{job}_4", "-o", "one").stdout.split() == ["one/4/out/r"]
    (here / "got" / "4" / "out" / "r").write_text("edited")
    done = node.run("qfetch", job, "-o", "got", check=False)
    assert done.returncode == 1
    assert f"{job}_4: 'got/4/out/r' is there and differs" in done.stderr
    assert node.run("qfetch", job, "-o", "none", "out/nothing*", check=False).returncode == 1
    node.run("qfetch", "--force", job, "-o", "got", "out/*")
    assert (here / "got" / "4" / "out" / "r").read_text() == "4\n"


def test_of_a_running_task_and_after_it_was_cancelled(node: Env, here: Path) -> None:
    (here / "given").write_text("shipped")
    job = node.qsub(
        *("--ship", ".", "--fetch", "*", "--wrap"),
        "echo part > r; : > ready; trap 'echo ended > r; exit 1' TERM; while :; do sleep 0.1; done",
    )
    ready = node.node_dirs["n1"] / "scratch"
    wait_until(lambda: list(ready.glob("*/ready")), what="the job runs")
    done = node.run("qfetch", job, "-o", "a", check=False)
    assert (done.returncode, done.stdout) == (75, "")
    done = node.run("qfetch", "--now", job, "-o", "a")
    assert (here / "a" / "r").read_text() == "part\n"
    assert not (here / "a" / "given").exists()
    assert node.run("qfetch", "--now", job, "-o", "b", "r").stdout == "b/r\n"
    node.run("qcancel", "--wait", job)
    node.run("qfetch", job, "-o", "c")
    assert (here / "c" / "r").read_text() == "ended\n"


def test_after_the_time_limit_also_of_calls(node: Env, here: Path) -> None:
    (here / "m.py").write_text(
        "import time\ndef f():\n    open('r', 'w').write('part')\n    time.sleep(60)\n"
    )
    command = ("--wrap", "echo part > r; sleep 60")
    for words in (command, ("m.py:f",)):
        job = node.qsub("-t", "1s", "--grace", "0", "--ship", "m.py", "--fetch", "r", *words)
        assert node.wait_job(job).state is State.TIMEOUT
        node.run("qfetch", job, "-o", f"got{job}")
        assert (here / f"got{job}" / "r").read_text().strip() == "part"
    wait_until(lambda: not [n for n in scratch(node) if n.endswith("trash")])


def test_too_much_stays_on_the_node(node: Env, here: Path) -> None:
    os.environ["QSUB_JOB_FETCH_LIMIT"] = "1M"
    os.environ["QSUB_JOB_FETCH_TOTAL"] = "1M"
    try:
        line = "head -c $((QSUB_TASK_ID * 600000)) /dev/urandom > big; sha256sum big"
        job = node.qsub("-a", "1-2", "--ship", ".", "--fetch", "big", "--wrap", line)
        second = node.qsub("-a", "0-1%1", "--ship", ".", "--fetch", "big", "--wrap",
                           "head -c 700000 /dev/urandom > big")  # fmt: skip
    finally:
        del os.environ["QSUB_JOB_FETCH_LIMIT"], os.environ["QSUB_JOB_FETCH_TOTAL"]
    node.wait_job(job)
    node.wait_job(second)
    node.run("qfetch", job, "-o", "got")
    import hashlib

    for task in (1, 2):
        said = log(node, f"{job}_{task}").split()[0]
        data = (here / "got" / str(task) / "big").read_bytes()
        assert hashlib.sha256(data).hexdigest() == said
    node.run("qfetch", second, "-o", "more")
    assert {p.stat().st_size for p in (here / "more").glob("*/big")} == {700_000}
    out = node.node_dirs["n1"] / "out"
    wait_until(lambda: len(list(out.glob("*.files"))) == 2,
               what="of each job the one that the server had no room for is kept")  # fmt: skip
    for path in out.glob("*.files"):
        path.unlink()
    done = node.run("qfetch", job, "-o", "again", check=False)
    assert done.returncode == 1
    assert "its files are gone from the node" in done.stderr
    assert (here / "again" / "1" / "big").exists()


def test_names_cannot_drive_a_terminal_and_survive(node: Env, here: Path) -> None:
    name = os.fsdecode(b"\xff\x1b[2Jx")
    (here / "d").mkdir()
    (here / "d" / name).write_text("in")
    job = node.qsub("--ship", "d", "--fetch", "out", "--wrap", "mkdir out; cp d/* out/")
    node.wait_job(job)
    done = node.run("qfetch", job)
    assert done.stdout == "out/\\xff\\x1b[2Jx\n"
    assert (here / "out" / name).read_text() == "in"
    assert "\x1b" not in node.run("qfetch", "--list", job).stdout


def test_a_link_here_is_not_followed(node: Env, here: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    job = node.qsub("--ship", ".", "--fetch", "out/*", "--wrap", "mkdir out; echo r > out/r")
    node.wait_job(job)
    (here / "out").symlink_to(outside)
    done = node.run("qfetch", "--force", job, check=False)
    assert (done.returncode, list(outside.iterdir())) == (1, [])
    assert "is no folder here" in done.stderr
    (here / "out").unlink()
    (here / "out").mkdir()
    (here / "out" / "r").symlink_to(outside / "r")
    assert node.run("qfetch", job, check=False).returncode == 1
    node.run("qfetch", "--force", job)
    assert not (here / "out" / "r").is_symlink()
    assert list(outside.iterdir()) == []


def test_what_is_asked_for_wrongly(node: Env, here: Path) -> None:
    cases: list[tuple[tuple[str, ...], str]] = [
        (("qsub", "--fetch", "/etc/*", "true"), "no pattern of files"),
        (("qsub", "--fetch", "../x", "true"), "no pattern of files"),
        (("qsub", "--ship", "x", "true"), "there is no 'x'"),
        (("qsub", "--ship", ".", "-D", "/tmp", "true"), "exclude each other"),
        (("qsub", "--gitignore", "true"), "need --ship"),
        (("qsub", "--ship-ignore", "x", "true"), "need --ship"),
    ]
    for words, text in cases:
        done = node.run(*words, check=False)
        assert (done.returncode, done.stdout) == (2, ""), words
        assert text in done.stderr
    job = node.qsub("true")
    node.wait_job(job)
    done = node.run("qfetch", job, check=False)
    assert (done.returncode, "without --fetch" in done.stderr) == (1, True)
    job = node.qsub("--fetch", "nothing", "true")
    node.wait_job(job)
    done = node.run("qfetch", job, check=False)
    assert (done.returncode, "brought no files" in done.stderr) == (1, True)
    shown = node.run("qsub", "--ship", ".", "--fetch", "x", "--dry-run", "true").stdout
    assert "ships        . (0 files, 0" in shown
    assert "fetches      x" in shown


def test_forged_files_are_refused(node: Env, here: Path) -> None:
    """Who can write to the server cannot change what is written here."""
    job = node.qsub("--ship", ".", "--fetch", "r", "--wrap", "head -c 100000 /dev/urandom > r")
    node.wait_job(job)
    store = node.store()
    [blob] = [
        name for name in store.link.command("SMEMBERS", f"{store.keys.prefix}blobs:{job}")
        if len(name) == 16
    ]  # fmt: skip
    key = store.keys.blob(blob.decode())
    piece = bytearray(store.pieces(blob.decode(), 0, 1)[0])
    piece[-1] ^= 1
    store.link.command("HSET", key, 0, b"R" + bytes(piece))
    done = node.run("qfetch", job, check=False)
    assert (done.returncode, os.listdir(here)) == (1, [])
    assert "not those that their node has signed" in done.stderr
    note = bytearray(store.notes(job, [0])[0])
    note[20] ^= 1
    store.link.command("HSET", store.keys.files(job), 0, bytes(note))
    done = node.run("qfetch", job, check=False)
    assert (done.returncode, os.listdir(here)) == (1, [])
    assert "sign" in done.stderr


def test_a_node_gives_files_to_nobody_without_the_key(node: Env, here: Path) -> None:
    (here / "secret").write_text("s")
    job = node.qsub("--ship", "secret", "--wrap", ": > ready; sleep 60")
    ready = node.node_dirs["n1"] / "scratch"
    wait_until(lambda: list(ready.glob("*/ready")), what="the job runs")
    store = node.store()
    [one] = store.nodes()
    uid, log_key = store.spec(job)[2], store.keys.log("abcd")
    asked = json.dumps(["abcd", 0, 1, ["*"]])
    for signature in ("", "00" * 40, "zz", b"12345678".hex() + "00" * 32):
        order = {"op": "files", "job": job, "uid": uid, "first": 0, "last": 0, "asked": asked,
                 "signature": signature}  # fmt: skip
        store.follow("abcd", "0", block_s=0.001)
        seq = store.order_node(one.uid, json.dumps(order))
        wait_until(lambda seq=seq: not store.orders_done([("n1", one.uid, seq)]))
    assert store.link.command("XLEN", log_key) == 0
    assert "secret" in node.run("qfetch", "--now", "--list", job, "*", check=False).stdout
    node.run("qcancel", "--wait", job)
    store.close()


def test_purge_takes_all(node: Env, here: Path) -> None:
    (here / "big").write_bytes(os.urandom(600_000))
    job = node.qsub("--ship", "big", "--fetch", "r", "--wrap", "cp big r")
    node.wait_job(job)
    store = node.store()
    assert store.link.command("HLEN", store.keys.prefix + "refs") == 1
    store.purge(store.now() + 1)
    left = [key for key in store.link.command("KEYS", store.keys.prefix + "*") if b"blob" in key]
    assert left == []
    assert store.link.command("EXISTS", store.keys.prefix + "refs") == 0


def test_python(node: Env, here: Path) -> None:
    script = here / "use.py"
    (here / "helper.py").write_text("word = 'helped'\n")
    (here / "d").mkdir()
    (here / "d" / "x").write_text("shipped")
    script.write_text(
        "import os, qsub_py\n"
        "def f(n):\n"
        "    import helper\n"
        "    seen = sorted(os.listdir('.'))\n"
        "    open(f'r{n}', 'w').write(open('d/x').read() * n)\n"
        "    return helper.word, seen\n"
        "with qsub_py.Executor(ship=['d', 'helper.py'], fetch='r*') as ex:\n"
        "    first = ex.submit(f, 1)\n"
        "    assert first.result() == ('helped', ['d', 'helper.py']), first.result()\n"
        "    values = ex.map(f, range(10))\n"
        "    assert {v[0] for v in values} == {'helped'}\n"
        "job = qsub_py.Job(values.job)\n"
        "assert [s for _, p, s in job.files()] == [7 * n for n in range(10)]\n"
        "paths = job.fetch('got', 'r[5-9]')\n"
        "assert [p.read_text() for p in paths] == ['shipped' * n for n in range(5, 10)]\n"
        "(paths[0]).write_text('edited')\n"
        "try:\n    job.fetch('got')\n"
        "except Exception as e:\n    print(type(e).__name__, e)\n"
        "assert len(job.fetch('got', force=True)) == 10\n"
        "print(qsub_py.submit(f, 2, ship=['d', 'helper.py']).result())\n"
    )
    import subprocess

    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("FetchError task 5: 'got/5/r5' is there and differs")
    assert second == "('helped', ['d', 'helper.py'])"
